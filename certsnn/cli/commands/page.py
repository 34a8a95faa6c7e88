"""The HTML report of `certsnn evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from certsnn.attacks import Attack
from certsnn.cli.commands.common import Setting, Task, surroundings
from certsnn.data import loader
from certsnn.files import write_text
from certsnn.report.examples import examples
from certsnn.report.page import Findings, page
from certsnn.report.stability import stability
from certsnn.results.summary import Report

LOOKED_AT = 256
"""The largest number of samples whose layers are looked at."""


def write_page(
    path: Path,
    source: str,
    work: Task,
    setting: Setting,
    attacks: Sequence[Attack],
    report: Report,
    sweep: Sequence[tuple[float, Report]],
) -> None:
    """Write the report of an evaluation; it looks at some layers and breaks some samples again for it."""
    network, part = work.model.network, work.part
    some_samples = f"The first {len(part)} samples" if work.shard is None else f"{len(part)} samples"
    threat, encoding = work.config.threat, work.config.data.encoding
    some = part.head(LOOKED_AT)
    layers = stability(network, loader(some, 64), threat, encoding=encoding, rounding=setting.bounds.rounding)
    around = surroundings(work.model, work.text, setting.device)
    versions = ", ".join(f"{name} {version}" for name, version in around["versions"].items())
    origin = {
        "model": source,
        "network": f"{work.config.network.architecture}, {work.config.steps} steps",
        "attacks": "; ".join(repr(attack) for attack in attacks),
        "versions": versions,
        "computed on": f"{around['machine']}, {around['cpu']}",
        "computed by": f"{around['device']}, {around['threads']} threads of torch",
    }
    findings = Findings(
        title=f"{source} under {report.threat}",
        data=f"the test set of {work.config.data.name}",
        samples=some_samples if work.subset else f"All {len(part)} samples",
        how=setting.bounds.describe(),
        report=report,
        flips=threat.network_input == "spikes",
        size_name=work.config.threat.size,
        sweep=sweep,
        layers=layers,
        layers_samples=len(some),
        examples=examples(network, part, threat, attacks, report.results, encoding=encoding),
        origin=origin,
        config=work.text,
    )
    write_text(path, page(findings))
