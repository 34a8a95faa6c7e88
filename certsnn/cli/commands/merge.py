"""`certsnn merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from certsnn.cli.commands.common import DONE, check_outputs
from certsnn.cli.console import facts_table
from certsnn.errors import UserError
from certsnn.evaluation.verification import summarise
from certsnn.results.journal import write
from certsnn.results.rates import percent
from certsnn.results.shards import merged, ranges


def merge(files: Sequence[Path], results_to: Path, samples: int | None = None) -> int:
    """Put the results of several files into one; the exit status.

    Args:
        files: files of results of one verification or evaluation.
        results_to: the file to write; if it exists, it is one of the files.
        samples: the number of samples that there should be, the first of the test set; all of it if None.

    Raises:
        UserError: if they do not belong together, or, after writing, if samples are missing.
    """
    check_outputs({"--results": results_to})
    paths = list(dict.fromkeys([*files, *([results_to] if results_to.exists() else [])]))
    found = merged(paths, samples)
    results = [found.found[index] for index in sorted(found.found)]
    write(results_to, found.header, results)
    if found.missing:
        raise UserError(
            f"{results_to} holds {len(results)} samples, but {len(found.missing)} are missing or ended with "
            f"an error: {ranges(found.missing)}. Merge the files that hold them, or go on with `certsnn "
            f"verify RUN --results {results_to}`"
        )
    summary = summarise(results)
    facts = {"samples": str(summary.samples), "clean error": percent(summary.clean_error)}
    if "method" in found.header:
        facts |= {"verified error": percent(summary.verified_error), "method": found.header["method"]}
    if found.shared:
        facts["in several files"] = f"{found.shared} samples, with the same outcome"
    Console().print(facts_table(str(results_to), facts))
    return DONE
