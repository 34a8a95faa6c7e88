"""The papers' experiments over the size of the threat: attack and verified errors, as JSON and a picture.

    python benchmarks/sweeps.py RUNS [ROOT]   # RUNS: where `certsnn bench configs/paper --runs RUNS` trained
    python benchmarks/sweeps.py               # the picture and the table alone

Each network of seed 0, the first 500 test samples: verified by S-IBP with rounding covered, attacked by the
papers' attacks (G2S and RSF, on images their image form). ROOT is the folder of the data sets. Writes
results/sweeps.json and .md, and docs/paper-sweeps.png; groups whose networks are not in RUNS keep their
figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from paper import CONFIGS, TRAININGS, group_of
from rich.progress import track

from certsnn.attacks import G2S, RSF
from certsnn.data import load, loader
from certsnn.evaluation import evaluate
from certsnn.files import replacing, write_text
from certsnn.inputsets import Threat
from certsnn.models import load_model
from certsnn.report.bench import markdown

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "sweeps.json"
SAMPLES = 500
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Of the eps that was trained for."""
BUDGETS = (1, 2, 5, 10, 50)
ATTACKS = (G2S(), RSF())

ERRORS = ("clean", "attack", "verified")
Points = list[dict[str, float]]
"""The size of the threat, under its name, and the errors in percent."""


def sizes(threat: Threat) -> Sequence[float]:
    if threat.size == "budget":
        return BUDGETS
    return [round(factor * float(getattr(threat, threat.size)), 6) for factor in FACTORS]


def sweep(run: Path, root: str | None) -> Points:
    """The errors of a trained network at each size of its threat."""
    model = load_model(run)
    data, threat = model.config.data, model.config.threat
    test = load(data.name, "test", None if data.name == "digits" else root, frames=data.frames).head(SAMPLES)
    points = []
    for size in track(sizes(threat), run.name):
        larger = replace(threat, **{threat.size: size})  # type: ignore[type-var]
        report = evaluate(model.network, loader(test, 100), larger, attacks=ATTACKS, encoding=data.encoding)
        errors = (report.clean_error, report.attack_error, report.verified_error)
        points.append({threat.size: size, **dict(zip(ERRORS, errors, strict=True))})
    return points


def plot(found: dict[str, dict[str, Points]], path: Path) -> None:
    """A panel for each group, a colour for each training: attacked (dashed) and verified (solid)."""
    figure = Figure(figsize=(4.2 * len(found), 3.8), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (group, by_training) in zip(panels, found.items(), strict=True):
        for training, points in by_training.items():
            colour = f"C{TRAININGS.index(training)}"
            size = next(iter(points[0]))
            x = [point[size] for point in points]
            for error, style in (("attack", "--"), ("verified", "-")):
                label = training if error == "verified" else None
                y = [point[error] for point in points]
                axes.plot(x, y, style, color=colour, marker="o", markersize=3, label=label)
        axes.set(title=group, xlabel=size, ylim=(0, 102))
        if size == "budget":
            axes.set_xscale("log")
    panels[0].set_ylabel("error (%): verified solid, attacked dashed")
    panels[0].legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def table(found: dict[str, dict[str, Points]]) -> str:
    """All points as Markdown."""
    rows = [
        [group, training, f"{next(iter(point.values())):g}", *(f"{point[error]:.1f}" for error in ERRORS)]
        for group, by_training in found.items()
        for training, points in by_training.items()
        for point in points
    ]
    head = ["group", "training", "eps or budget", "clean", "G2S/RSF", "verified"]
    return f"# The papers' experiments over the size of the threat\n\n{EXPLAINED}\n\n{markdown(head, rows)}"


EXPLAINED = (
    f"Errors in percent on the first {SAMPLES} test samples, a subset (or all that there are); "
    "seed 0, S-IBP with rounding covered, the papers' attacks (G2S and RSF, on images their image form). The "
    "networks: [docs/paper.md](../../docs/paper.md). `python benchmarks/sweeps.py RUNS ROOT`"
)


def main(words: Sequence[str]) -> None:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if words:
        torch.manual_seed(0)
        runs, root = Path(words[0]), words[1] if len(words) > 1 else None
        for group in sorted({group_of(path.stem) for path in CONFIGS.glob("*.yaml")}):
            there = {how: runs / f"{group}-{how}-s0" for how in TRAININGS}
            done = {how: sweep(run, root) for how, run in there.items() if (run / "bench.json").exists()}
            if done:
                found[group] = done
                write_text(RESULTS, json.dumps(found, indent=2) + "\n")
    write_text(RESULTS.with_suffix(".md"), table(found))
    plot(found, HERE.parent / "docs" / "paper-sweeps.png")


if __name__ == "__main__":
    main(sys.argv[1:])
