"""`certsnn verify`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from certsnn.cli.commands.common import (
    DONE,
    Setting,
    check_outputs,
    completed,
    console,
    identity,
    stopped,
    surroundings,
    task,
)
from certsnn.cli.console import facts_table, samples_progress
from certsnn.cli.sources import PLAIN, Reading
from certsnn.data import Batch, LabelledDataset
from certsnn.evaluation import verification
from certsnn.evaluation.verification import Keeping, SampleResult, kept_in, kept_nowhere, summarise
from certsnn.files import check_writable, write_text
from certsnn.models.pretrained import Model
from certsnn.results.journal import Journal
from certsnn.results.rates import percent
from certsnn.results.schema import row
from certsnn.results.shards import Shard, kept
from certsnn.train.config import RunConfig


def verify(
    source: str,
    overrides: Sequence[str],
    setting: Setting,
    samples: int | None = None,
    json_to: Path | None = None,
    results_to: Path | None = None,
    shard: Shard | None = None,
    adversarial: Path | None = None,
    reading: Reading = PLAIN,
) -> int:
    """Verify a network on the test set, or its first samples; the exit status.

    Args:
        source, reading: see `certsnn.cli.sources.opened`.
        overrides: config keys, ``["--threat.eps", "0.03"]``.
        setting: how to verify.
        samples: only so many of the test set.
        json_to: a file for the summary and all samples as JSON; ``-`` is standard output.
        results_to: a file for each sample's result as it comes (see `certsnn.results.journal`); samples that
            are there already are not verified again.
        shard: only this part of the samples.
        adversarial: a folder for what breaks samples, where the method attacks them.
    """
    check_outputs({"--json": json_to, "--results": results_to})
    if adversarial is not None:
        check_writable(adversarial / "sample-0.safetensors")
    setting.cascade  # noqa: B018 (raises for an unknown method)
    work = task(source, overrides, samples, shard, setting.processes, reading)
    keeping: AbstractContextManager[Journal | None] = nullcontext()
    if results_to is not None:
        header = identity(work.model, work.text, work.test, setting.device) | setting.bounds.identity
        keeping = kept(results_to, header, setting.processes)
    with keeping as book:
        try:
            keep = kept_nowhere if adversarial is None else kept_in(adversarial, work.model.network)
            report, results = verified(work.model, work.config, work.text, work.part, setting, book, keep)
        except KeyboardInterrupt:
            left = stopped(book, work.part, setting.processes)
            raise KeyboardInterrupt(f"stopped; {left}") from None
    facts = facts_of(report, setting) | {"samples": work.size}
    console(json_to).print(facts_table(work.title, facts))
    if json_to is not None:
        rows = [row(result) for result in results]
        values = report | {"subset": work.subset, "samples": rows}
        setting.processes.once(partial(write_json, json_to, values))
    return DONE


def write_json(path: Path, values: Any) -> None:
    """JSON to a file, or to standard output for ``-``."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def verified(
    model: Model,
    config: RunConfig,
    text: str,
    data: LabelledDataset,
    setting: Setting,
    book: Journal | None = None,
    keep: Keeping = kept_nowhere,
) -> tuple[dict[str, Any], list[SampleResult]]:
    """Verify what the journal does not hold, showing progress: the report for JSON, and all results."""

    def run(batches: Iterable[Batch]) -> Iterator[list[SampleResult]]:
        network = model.network.to(setting.device)
        encoding, options = config.data.encoding, setting.bounds
        return verification.verify(
            network, batches, config.threat, encoding=encoding, options=options, keep=keep
        )

    by, screen = setting.processes, Console(stderr=True)
    with samples_progress(screen, "verifying", len(data), setting.cascade, by.count) as shown:
        results = completed(data, setting.batch_of(model, config, data), run, book, shown, by)
    report = {
        "summary": summarise(results).as_dict(),
        "data": data.name,
        "threat": config.threat.describe(),
        **setting.bounds.facts,
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
        "method": setting.bounds.describe(),
        "threat": report["threat"],
    }
    return facts | statuses(summary, setting.cascade, report["reasons"])


def statuses(summary: dict[str, Any], cascade: Sequence[str], reasons: Sequence[str]) -> dict[str, str]:
    """What each stage of a cascade has certified, how many samples are broken, and what went wrong."""
    facts: dict[str, str] = {}
    if len(cascade) > 1:
        counts = {name: summary["by_stage"].get(name, 0) for name in cascade}
        facts |= {f"certified by {name}": f"{count} samples" for name, count in counts.items()}
    ends = ("broken", "timeout", "error", "overflow")
    facts |= {f"status {status}": f"{summary[status]} samples" for status in ends if summary[status]}
    if reasons:
        last = next(reversed(facts))
        facts[last] += f" ({reasons[0]})"
    return facts
