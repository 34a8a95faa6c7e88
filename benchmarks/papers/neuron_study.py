"""What steps and neurons do to the three errors: one factor at a time around a base, on digits as spikes.

    python benchmarks/papers/neuron_study.py measure # runs what is not done yet, then writes all below
    python benchmarks/papers/neuron_study.py draw    # docs/studies.md and pictures from results/study.json

Every row is a row of `certsnn bench`, in a run folder under runs/study; finished rows are not run again.
Writes results/study.json, docs/studies.md and docs/studies-*.png.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import torch
from matplotlib.figure import Figure

from certsnn.cli.commands.bench import Examination, bench
from certsnn.cli.commands.common import Setting, prepared
from certsnn.cli.commands.evaluate import Suite
from certsnn.data import load
from certsnn.models import load_model
from certsnn.report.bench import spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

CONFIG = Path("configs/paper/digits-fc-spike-s-ibp.yaml")
RUNS = Path("runs/study")
SEEDS = (0, 1)
EPOCHS, STEPS = 30, 8
ATTACKS = "RSF,G2S,{class_path: GreedyFlips, candidates: 8}"
ATTACKED = 450
ERRORS = ("clean", "attack", "verified")

T = "--threat.init_args.steps"
SHORT = "--training.objective.init_args.steps"
NEURON = "--network.neuron.init_args."
BASE = ("--training.epochs", str(EPOCHS), T, str(STEPS), SHORT, "null")

FACTORS: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "T": (T, "8", ("2", "4", "8", "16")),
    "T'": (SHORT, "8", ("1", "2", "4", "8")),
    "threshold": (NEURON + "threshold", "0.25", ("0.125", "0.25", "0.5", "1.0")),
    "decay": (NEURON + "decay", "0.25", ("0.0", "0.25", "0.5", "1.0")),
    "reset": (NEURON + "reset", "zero", ("zero", "subtract")),
    "readout": ("--network.readout", "membrane", ("membrane", "rate")),
}
"""The config key of each factor, its value in the base, and all its values."""

PICTURES = {"steps": ("T", "T'"), "neuron": ("threshold", "decay"), "kinds": ("reset", "readout")}
"""The factors in each picture."""


def variants() -> dict[str, list[str]]:
    """The config keys of each variant by its name; the base comes first."""
    found = {"base": list(BASE)}
    for factor, (key, usual, values) in FACTORS.items():
        for value in values:
            if value != usual:
                found[variant(factor, value)] = [*BASE, key, value]
    return found


def variant(factor: str, value: str) -> str:
    """The name of the variant with this value, which is "base" for the base's."""
    return "base" if value == FACTORS[factor][1] else f"{factor}={value}"


def measured() -> list[record.Row]:
    """All rows; those that a run folder holds are not run again."""
    rows: list[record.Row] = []
    with prepared("cpu", 1) as processes:
        examination = Examination(Setting(processes), Suite(ATTACKS), ATTACKED)
        for name, overrides in variants().items():
            folder = RUNS / name.replace("'", "-short").replace("=", "-")
            if bench([CONFIG], overrides, SEEDS, folder, examination) != 0:
                raise RuntimeError(f"rows of {name} could not be computed; see above")
            for seed in SEEDS:
                run = folder / f"{CONFIG.stem}-s{seed}"
                row = json.loads((run / "bench.json").read_text(encoding="utf-8"))
                rows.append(brief(name, row) | {"ties": ties(run)})
    return rows


def brief(name: str, row: record.Row) -> record.Row:
    """Of a row of `certsnn bench` what the page needs, and all that says how it came about."""
    errors = row["errors"] | {"attack": row["attacked"]["errors"]["attack"]}
    kept = ("seed", "command", "samples", "training", "versions", "device", "threads", "machine")
    return {
        "variant": name,
        "errors": {error: errors[error]["percent"] for error in ERRORS},
        **{key: row[key] for key in kept},
    }


@torch.no_grad()
def ties(run: Path) -> float:
    """The share of the test set, in percent, that is a clean error only because another logit is equal."""
    model = load_model(run)
    test = load(model.config.data.name, "test")
    x, y, index = test[range(len(test))]
    logits = model.network(model.config.threat.bind(x, index)[0])
    own, largest = logits.gather(1, y[:, None]).squeeze(1), logits.amax(1)
    tied = (own == largest) & ((logits == largest[:, None]).sum(1) > 1)
    return float(100 * tied.double().mean())


def by_variant(rows: Sequence[record.Row]) -> dict[str, list[record.Row]]:
    """The rows of each variant, by seed."""
    return {name: [row for row in rows if row["variant"] == name] for name in variants()}


def picture(rows: Sequence[record.Row], factors: Sequence[str]) -> Figure:
    """The three errors over the values of each factor: both seeds as points, a line through their means."""
    found = by_variant(rows)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    all_axes = figure.subplots(1, len(factors), sharey=True)
    top = max(row["errors"][error] for row in rows for error in ERRORS)
    for axes, factor in zip(all_axes, factors, strict=True):
        _, usual, values = FACTORS[factor]
        for error, colour in zip(ERRORS, ("tab:green", "tab:orange", "tab:blue"), strict=True):
            points = [[row["errors"][error] for row in found[variant(factor, v)]] for v in values]
            places = [place for place, at in enumerate(points) for _ in at]
            axes.plot(range(len(values)), [mean(at) for at in points], "-_", color=colour, label=error)
            axes.plot(places, [value for at in points for value in at], "o", color=colour, alpha=0.6)
        shown = [f"{value}\n(base)" if value == usual else value for value in values]
        axes.set_xticks(range(len(values)), shown)
        axes.set(xlabel=factor, xlim=(-0.3, len(values) - 0.7), ylim=(0, 1.05 * top))
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("error on the test set (%)")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(ERRORS))
    return figure


COLUMNS = {
    "factor": "{factor}",
    "value": "{value}",
    **{error: f"{{{error}}}" for error in ERRORS},
    "ties": "{ties:.2f}",
}


def table(rows: Sequence[record.Row]) -> str:
    """Markdown: a line for each value of each factor, errors as the mean and each seed's."""
    found = by_variant(rows)

    def line(factor: str, value: str, usual: str) -> record.Row:
        group = found[variant(factor, value)]
        errors = {error: spread([row["errors"][error] for row in group]) for error in ERRORS}
        shown = f"{value} (base)" if value == usual else value
        return {"factor": factor, "value": shown, **errors, "ties": mean(row["ties"] for row in group)}

    lines = [line(factor, v, usual) for factor, (_, usual, values) in FACTORS.items() for v in values]
    return record.table(COLUMNS, lines)


def figures(rows: Sequence[record.Row]) -> str:
    """Markdown: the table, and where it was made."""
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    return f"{table(rows)}\n{versions}; {first['threads']} thread; {first['machine']}.\n"


def measure() -> None:
    """Run what is not done yet, and write all."""
    record.write_json("study", measured())
    draw()


def draw() -> None:
    """Write the page and its pictures."""
    rows = record.read("study")
    record.insert("studies", figures=figures(rows))
    for name, factors in PICTURES.items():
        record.draw(f"studies-{name}", picture(rows, factors))


if __name__ == "__main__":
    record.run(measure, draw)
