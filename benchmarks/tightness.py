"""How tight the proofs are: clean, attack and verified error of every pretrained model, side by side.

    python benchmarks/tightness.py DATA_ROOT [MODEL ...]  # renews rows of results/tightness.json and .md

The whole test set of digits, and the first 1,000 test samples of the data sets in DATA_ROOT, a subset. Each
model under the threat that it was trained for, by s-crown-ibp, with the default suite of attacks.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from certsnn import __version__
from certsnn.data import load, loader
from certsnn.evaluation import evaluate
from certsnn.files import write_text
from certsnn.models.pretrained import load_model, pretrained
from certsnn.results.summary import Report

RESULTS = Path(__file__).parent / "results"
BATCH, SAMPLES, METHOD = 250, 1000, "s-crown-ibp"


def measured(name: str, root: str) -> dict[str, Any]:
    """One model's errors, for JSON."""
    model = load_model(name)
    data, config = model.config.data, model.config
    test = load(data.name, "test", root if data.name != "digits" else None, frames=data.frames)
    part = test.head(SAMPLES)
    begun = time.perf_counter()
    report: Report = evaluate(
        model.network, loader(part, BATCH), config.threat, METHOD, encoding=data.encoding
    )
    return {
        "samples": f"all {len(test)}" if len(part) == len(test) else f"the first {len(part)} of {len(test)}",
        "seconds": time.perf_counter() - begun,
        **report.as_dict(),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    cores, system = os.cpu_count(), f"Python {platform.python_version()}"
    lines = [
        "# How tight the proofs are\n",
        f"Errors in percent with 95% Clopper-Pearson intervals; bounds by `{METHOD}`, rounding covered; "
        "attacks: the default suite on every sample that the network gets right, the worst case of each "
        "sample. The gap is verified minus attack error: samples that nothing breaks and nothing proves.\n",
        f"certsnn {__version__}, torch {torch.__version__}, {system}, {torch.get_num_threads()} thread(s) on "
        f"a machine with {cores} cores that did other work too. `python benchmarks/tightness.py DATA_ROOT`\n",
        "| model | threat | samples | clean | attack | verified | gap | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        errors = [_shown(row["errors"][kind]) for kind in ("clean", "attack", "verified")]
        gap = row["errors"]["gap"]["percent"]
        cells = [name, f"`{row['threat']}`", row["samples"], *errors, f"{gap:.2f}", f"{row['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "What each attack broke, of the samples that the network gets right:\n"]
    lines += ["| model | attack | broken | success | queries a sample | s |", "|---|---|---|---|---|---|"]
    for name, row in found.items():
        for attack, one in row["attacks"].items():
            success = one["success"]
            counts = f"{success['count']} of {one['attacked']}"
            cells = [name, f"`{attack}`", counts, f"{success['percent']:.2f}%"]
            cells += [f"{one['queries']:.0f}", f"{one['seconds']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(error: dict[str, Any]) -> str:
    low, high = error["interval"]
    return f"{error['percent']:.2f} ({low:.2f} to {high:.2f})"


def main(root: str, *names: str) -> None:
    torch.set_num_threads(1)
    record = RESULTS / "tightness.json"
    before: dict[str, dict[str, Any]] = json.loads(record.read_text()) if record.exists() else {}
    for name in names or pretrained():
        before[name] = measured(name, root)
        found = {model: before[model] for model in pretrained() if model in before}
        write_text(record, json.dumps(found, indent=2) + "\n")
        write_text(RESULTS / "tightness.md", table(found))
        errors = found[name]["errors"]
        shown = ", ".join(f"{kind} {errors[kind]['percent']:.2f}%" for kind in errors)
        print(f"{name}: {shown} in {found[name]['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
