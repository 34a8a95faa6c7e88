"""`certsnn verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from certsnn import verification
from certsnn.bounds.cascade import AUTO, stages
from certsnn.commands.common import (
    DONE,
    INTERRUPTED,
    Setting,
    check_outputs,
    completed,
    identity,
    stopped,
    surroundings,
    task,
)
from certsnn.console import facts_table, percent, samples_progress
from certsnn.data import Batch, LabelledDataset
from certsnn.files import write_text
from certsnn.journal import Journal, journal, row
from certsnn.models import Model
from certsnn.train.config import RunConfig
from certsnn.verification import SampleResult, summarise


def verify(
    source: str,
    overrides: Sequence[str],
    setting: Setting,
    samples: int | None = None,
    json_to: str | None = None,
    results_to: Path | None = None,
) -> int:
    """Verify a model (see `load_model`) on the test set, or its first samples; the exit status.

    Args:
        source: a run folder, a weights file or a pretrained name.
        overrides: config keys, ``["--threat.eps", "0.03"]``.
        setting: how to verify.
        samples: only so many of the test set.
        json_to: a file for the summary and all samples as JSON; ``-`` is standard output.
        results_to: a file for each sample's result as it comes (see `certsnn.journal`); samples that are
            there already are not verified again.
    """
    check_outputs(json_to, results_to)
    stages(setting.method)  # raises for an unknown one
    work = task(source, overrides, samples)
    keeping: AbstractContextManager[Journal | None] = nullcontext()
    if results_to is not None:
        keeping = journal(results_to, identity(work.model, work.text, work.test) | setting.identity)
    with keeping as book:
        try:
            report, results = verified(work.model, work.config, work.text, work.part, setting, book)
        except KeyboardInterrupt:
            print(f"certsnn: stopped; {stopped(book, work.part)}", file=sys.stderr)
            return INTERRUPTED
    facts = facts_of(report, setting) | {"samples": work.size}
    Console(stderr=json_to == "-").print(facts_table(work.title, facts))
    if json_to is not None:
        rows = [row(result) for result in results]
        write_json(json_to, report | {"subset": work.subset, "samples": rows})
    return DONE


def write_json(place: str, values: Any) -> None:
    """JSON to a file, or to standard output for "-"."""
    written = json.dumps(values, indent=2) + "\n"
    if place == "-":
        sys.stdout.write(written)
    else:
        write_text(Path(place), written)


def verified(
    model: Model,
    config: RunConfig,
    text: str,
    data: LabelledDataset,
    setting: Setting,
    book: Journal | None = None,
) -> tuple[dict[str, Any], list[SampleResult]]:
    """Verify what the journal does not hold, showing progress: the report for JSON, and all results."""

    def run(batches: Iterable[Batch]) -> Iterator[list[SampleResult]]:
        network = model.network.to(setting.device)
        encoding = config.data.encoding
        return verification.verify(network, batches, config.threat, encoding=encoding, **setting.bounds)

    with samples_progress(Console(stderr=True), "verifying", len(data), setting.cascade) as shown:
        results = completed(data, setting.batch, run, book, shown)
    report = {
        "summary": summarise(results).as_dict(),
        "data": data.name,
        "threat": config.threat.describe(),
        "method": setting.method,
        "rounding": setting.rounding,
        "relaxation": setting.relaxation,
        "memory": setting.memory,
        "seconds": setting.seconds,
        "reasons": list(dict.fromkeys(result.reason for result in results if result.reason)),
        **surroundings(model, text, setting.device),
    }
    return report, results


def facts_of(report: dict[str, Any], setting: Setting) -> dict[str, str]:
    """A report's figures as its table shows them."""
    summary = report["summary"]
    facts = {
        "samples": str(summary["samples"]),
        "clean error": percent(summary["clean_error"]),
        "verified error": percent(summary["verified_error"]),
        "method": setting.how,
        "threat": report["threat"],
    }
    return facts | statuses(summary, setting.method, report["reasons"])


def statuses(summary: dict[str, Any], method: str, reasons: Sequence[str]) -> dict[str, str]:
    """What each stage of a cascade has certified, and what went wrong."""
    facts: dict[str, str] = {}
    if method == AUTO:
        counts = {stage.name: summary["by_stage"].get(stage.name, 0) for stage in stages(AUTO)}
        facts |= {f"certified by {name}": f"{count} samples" for name, count in counts.items()}
    odd = {status: summary[status] for status in ("timeout", "error") if summary[status]}
    facts |= {f"status {status}": f"{count} samples" for status, count in odd.items()}
    if reasons:
        facts["status error"] += f" ({reasons[0]})"
    return facts
