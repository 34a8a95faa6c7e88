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

from certsnn.cli.commands import Examination, Setting, Suite, bench, prepared
from certsnn.data import load
from certsnn.files import write_text
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


def page(rows: Sequence[record.Row]) -> str:
    """docs/studies.md."""
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    where = f"{versions}; {first['threads']} thread; {first['machine']}"
    pictures = "\n".join(f"![{', '.join(of)}](studies-{name}.png)" for name, of in PICTURES.items())
    return f"{INTRO}\n{SAYS}\n{pictures}\n\n## Figures\n\n{table(rows)}\n{HOW}\n{where}.\n"


INTRO = f"""\
# Steps and neurons

How the three errors of a certified network depend on its steps and its neuron: one factor at a time around a
base. The base is [{CONFIG.name}](../{CONFIG.as_posix()})
with T = {STEPS} and {EPOCHS} epochs: scikit-learn's digits as spikes, `CoupledBernoulli(0.05)`, 64-128-128-10
with batch norm, LIF (threshold 0.25, decay 0.25, reset to zero), membrane readout, trained on S-IBP bounds of
all {STEPS} steps.

- **T**: steps of the spike trains, in training and test; training bounds all of them.
- **T'**: training, on the clean loss too, sees only the first T' of the {STEPS} steps; the test has all.
- **threshold**, **decay**, **reset**: of every neuron. Batch norm stands before each hidden layer of them,
  and its scale can learn to make up for a threshold.
- **readout**: the mean membrane of a last affine layer, or the spike rate of a last layer of neurons (which
  has no batch norm before it).
"""

SAYS = """\
What it says, for this data set and these short trainings:

- **More steps lower all three errors**, most of it up to T = 8: verified 32, 26, 19 and 17% for T = 2, 4, 8
  and 16. More spikes say more of an image; the adversary moves the same pixels, and gets more spikes, too.
- **Training on fewer steps costs more in the bound than under attack**: T' = 4 adds two points to the
  verified error, T' = 1 nine, of which three show in the attack error.
- **Leak goes with tight bounds**: from decay 0.25 to 1 the verified error grows by six points, clean and
  attack error by less than one. That fits intervals of membranes which are carried from step to step.
- **Threshold and reset matter little** beside batch norm: thresholds of 0.5 and 1 are a point better under
  attack and not better, or worse, verified; resets to zero and by subtraction differ by a point.
- **The rate readout loses** at T = 8: counts take nine values, so logits tie, and ties are errors (a third of
  its clean error); its two seeds differ by nine points. The membrane readout has no ties.
"""

HOW = f"""\
Errors in percent on the whole test set ({ATTACKED} images): the mean, then each of the seeds {SEEDS}.
*Verified*: S-IBP, rounding covered, ties count as errors. *Attack*: the worst case over a light suite,
`{ATTACKS}`; the default suite may find more. *Ties*: the part of
the clean error where the right class shares the largest logit, the mean. {EPOCHS} epochs are half of the
config's, and T is smaller: errors are higher than in [paper.md](paper.md). With two seeds and
{ATTACKED} images, differences below about two points mean little. The best epoch of each run was chosen
on a validation split, and no default of certsnn by these figures.

`python benchmarks/papers/neuron_study.py measure` runs what is not done yet and writes this page; each row's own command is in
[study.json](../benchmarks/results/study.json).
"""


def measure() -> None:
    """Run what is not done yet, and write all."""
    record.write_json("study", measured())
    draw()


def draw() -> None:
    """Write the page and its pictures."""
    rows = record.read("study")
    write_text(record.DOCS / "studies.md", page(rows))
    for name, factors in PICTURES.items():
        record.draw(f"studies-{name}", picture(rows, factors))


if __name__ == "__main__":
    record.run(measure, draw)
