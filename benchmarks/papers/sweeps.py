"""The papers' experiments over the size of the threat: attack and verified errors, as JSON and a picture.

    python benchmarks/papers/sweeps.py measure RUNS [ROOT]  # of `certsnn bench configs/paper --runs RUNS`
    python benchmarks/papers/sweeps.py draw                 # the picture and the table alone

Each network of seed 0, the first 500 test samples: verified by S-IBP with rounding covered, attacked by the
papers' attacks (G2S and RSF, on images their image form). ROOT is the folder of the data sets. Writes
results/sweeps.json and .md, and docs/paper-sweeps.png; groups whose networks are not in RUNS keep their
figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.progress import track

from certsnn.attacks import G2S, RSF
from certsnn.data import DEFAULT_ROOT, loader
from certsnn.evaluation import evaluate
from certsnn.inputsets import Threat
from certsnn.models import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record
from papers.paper_page import CONFIGS, TRAININGS, group_of

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


def sweep(run: Path, root: Path) -> Points:
    """The errors of a trained network at each size of its threat."""
    model = load_model(run)
    data, threat = model.config.data, model.config.threat
    test = record.test_set(model, root).head(SAMPLES)
    points = []
    for size in track(sizes(threat), run.name):
        larger = replace(threat, **{threat.size: size})  # type: ignore[type-var]
        report = evaluate(model.network, loader(test, 100), larger, attacks=ATTACKS, encoding=data.encoding)
        errors = (report.clean_error, report.attack_error, report.verified_error)
        points.append({threat.size: size, **dict(zip(ERRORS, errors, strict=True))})
    return points


def plot(found: dict[str, dict[str, Points]]) -> Figure:
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
    return figure


EXPLAINED = (
    f"Errors in percent on the first {SAMPLES} test samples, a subset (or all that there are); "
    "seed 0, S-IBP with rounding covered, the papers' attacks (G2S and RSF, on images their image form). The "
    "networks: [docs/paper.md](../../docs/paper.md). `python benchmarks/papers/sweeps.py measure RUNS ROOT`"
)


COLUMNS = record.columns(
    "group | training | eps or budget | clean | G2S/RSF | verified",
    "{group} | {training} | {size:g} | {clean:.1f} | {attack:.1f} | {verified:.1f}",
)


def page(found: dict[str, dict[str, Points]]) -> str:
    """Markdown: all points."""
    rows = [
        {"group": group, "training": training, "size": next(iter(point.values())), **point}
        for group, by_training in found.items()
        for training, points in by_training.items()
        for point in points
    ]
    table = record.table(COLUMNS, rows)
    return f"# The papers' experiments over the size of the threat\n\n{EXPLAINED}\n\n{table}"


def measure(runs: Path, root: Path = DEFAULT_ROOT) -> None:
    """Measure the groups that have trained networks."""
    torch.manual_seed(0)
    found = record.read("sweeps", {})
    for group in sorted({group_of(path.stem) for path in CONFIGS.glob("*.yaml")}):
        there = {how: runs / f"{group}-{how}-s0" for how in TRAININGS}
        done = {how: sweep(run, root) for how, run in there.items() if (run / "bench.json").exists()}
        if done:
            found[group] = done
            record.write("sweeps", found, page(found))
    draw()


def draw() -> None:
    """Write the table and the picture again."""
    found = record.read("sweeps")
    record.write("sweeps", found, page(found))
    record.draw("paper-sweeps", plot(found))


if __name__ == "__main__":
    record.run(measure, draw)
