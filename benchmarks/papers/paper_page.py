"""The papers' experiments on record: rows of `certsnn bench configs/paper`, and the page docs/paper.md.

    python benchmarks/papers/paper_page.py [RUN ...]      # log these run folders, renew the page

A RUN is a run folder with its bench.json; the row goes to benchmarks/results/paper, less local paths. It must
be of the config as it stands in configs/paper: a shortened run is no result. By patterns of names,
results/paper/notes.json says why rows are missing ("not run") and what else there is to know ("remarks").
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from certsnn.configuration import override, read_config
from certsnn.files import write_text
from certsnn.report.bench import COLUMNS, BenchRow, NotRun, lines, markdown, row_from

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import record

CONFIGS = record.CONFIGS / "paper"
ROWS = record.RESULTS / "paper"
NOTES = "notes.json"

LOCAL = ("--data.root", "--data.download")
"""Config keys that say where a machine has its data."""

TRAININGS = ("natural", "adversarial", "s-ibp", "s-crown")

PUBLISHED = {
    "mnist-fc-spike": [
        ("published, natural", "1.93", "100"),
        ("published, certified (T' = 3)", "7.13", "54.11 by S-IBP, 59.26 by S-CROWN"),
    ]
}
"""Clean and verified errors of the authors' released networks (in-512-256-10, rate readout)."""

REDUCTION = ("37.7 (at best, by the papers' attacks)", "-", "3.7")
"""Of the papers' abstract: points less attack error, for points of accuracy."""

INTRO = """\
# The papers' experiments

The data sets and threats of the S-IBP / S-CROWN papers, each network trained in four ways: naturally, on
attacks (projected ascent through surrogate gradients), on S-IBP bounds, and on S-CROWN bounds while the
threat ramps up. The neuron is the papers' (LIF, threshold 0.25, decay 0.25, reset to zero). What is not
theirs: smaller networks with batch norm and the membrane readout, few epochs, and T = 2 for digital input, so
that a row takes minutes on one CPU core. Within a group the configs differ in nothing but `training`.

Errors in percent: the mean, then each seed. *Clean* and *verified*: the whole test set, or the subset of it
whose size is given; ties count as errors, the rounding of the executed network is covered. *G2S/RSF* (the
papers' attacks: both on spikes, the image form of G2S on images) and *worst* (per sample the worst case over
the default suite): the first of these samples, where their number is given. Minutes: training, on a machine
of two cores that did other work too, so they are no benchmark.

    certsnn bench configs/paper --seeds 0,1,2 --data.root DIR

computes every row; the command of a single one is in its JSON under `benchmarks/results/paper`. This page is
written by `benchmarks/papers/paper_page.py`.
"""


@dataclass(frozen=True)
class Group:
    """The rows of a data set, an architecture and a threat, by training, in the order of `TRAININGS`."""

    name: str
    title: str
    rows: Mapping[str, Sequence[BenchRow | NotRun]]
    remark: str

    @property
    def begun(self) -> bool:
        """Whether any row was run."""
        return any(map(self.done, self.rows))

    def done(self, training: str) -> list[BenchRow]:
        """The rows of a training that were run."""
        return [row for row in self.rows[training] if isinstance(row, BenchRow)]


def log(run: Path, configs: Path = CONFIGS, rows: Path = ROWS) -> None:
    """Put a run's row on record; raises ValueError as `checked`."""
    row = json.loads((run / "bench.json").read_text())
    name = row["config_name"]
    row["config"] = yaml.safe_load(checked(row, configs))
    row["command"] = portable(row["command"], name)
    write_text(rows / f"{name}-s{row['seed']}.json", json.dumps(row, indent=2) + "\n")


def checked(row: Mapping[str, Any], configs: Path) -> str:
    """A row's config as YAML, less local paths.

    Raises:
        ValueError: if it is not the config as it stands in the folder of configs.
    """
    local = [f"{key}={value}" for key, value in zip(LOCAL, ("null", "false"), strict=True)]
    config, text = override(yaml.safe_dump(row["config"], sort_keys=False), local)
    path = configs / f"{row['config_name']}.yaml"
    if config != read_config(path, [*local, f"--seed={row['seed']}"])[0]:
        raise ValueError(
            f"{path} has changed, or the run was shortened: train {path.stem}-s{row['seed']} again"
        )
    return text


def portable(command: str, name: str) -> str:
    """A row's command as one types it in a checkout, wherever the data are."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        key, equals, _ = word.partition("=")
        if key in LOCAL:
            _ = equals or next(words)
        else:
            kept.append(f"configs/paper/{name}.yaml" if word.endswith(f"{name}.yaml") else word)
    return shlex.join(kept)


def recorded(name: str, configs: Path, rows: Path, reasons: Mapping[str, str]) -> list[BenchRow | NotRun]:
    """The rows of a config, by seed; one that is not run where there are none. Raises as `checked`."""
    found: list[BenchRow | NotRun] = []
    for path in rows.glob(f"{name}-s[0-9]*.json"):
        row = json.loads(path.read_text())
        checked(row, configs)
        found.append(row_from(row))
    if found:
        return sorted(found, key=lambda row: row.seed)
    return [NotRun(name, 0, matching(name, reasons, "not run yet"))]


def matching(name: str, texts: Mapping[str, str], otherwise: str) -> str:
    """The text of the first pattern that a name matches."""
    return next((text for pattern, text in texts.items() if fnmatch(name, pattern)), otherwise)


def groups(configs: Path = CONFIGS, rows: Path = ROWS) -> list[Group]:
    """All groups of the folder of configs, those without figures included."""
    path = rows / NOTES
    notes: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    reasons, remarks = notes.get("not run", {}), notes.get("remarks", {})
    names = sorted(path.stem for path in configs.glob("*.yaml"))
    found = []
    for name, members in groupby(names, group_of):
        by_training = {member.removeprefix(f"{name}-"): member for member in members}
        config, _ = read_config(configs / f"{name}-{TRAININGS[0]}.yaml")
        network = f"{config.network.architecture}, T = {config.steps}"
        title = f"{config.data.name}, {network}, {config.threat.describe()}"
        on_record = {how: recorded(by_training[how], configs, rows, reasons) for how in TRAININGS}
        found.append(Group(name, title, on_record, matching(name, remarks, "")))
    return found


def group_of(name: str) -> str:
    """A config's name without its training."""
    return next(name.removesuffix(f"-{how}") for how in TRAININGS if name.endswith(f"-{how}"))


def table(group: Group) -> str:
    """Markdown: a line for each training, what was published, why lines have no figures, and the remark."""
    shown: list[list[str]] = []
    missing: dict[str, list[str]] = {}
    for how, rows in group.rows.items():
        (line,) = lines(rows)
        shown.append([how, *line[1:]])
        for row in rows:
            if isinstance(row, NotRun):
                missing.setdefault(row.reason, []).append(how)
    for what, clean, verified in PUBLISHED.get(group.name, []):
        shown.append([what, "-", "-", clean, "-", "-", verified, "-"])
    notes = [f"\nNot run: {', '.join(names)} ({reason}).\n" for reason, names in missing.items()]
    notes += [f"\n{group.remark}\n"] * bool(group.remark)
    return markdown(["training", *COLUMNS[1:]], shown) + "".join(notes)


def absent(found: Sequence[Group]) -> str:
    """Markdown: the groups of which no row was run, and why."""
    reasons: dict[str, list[str]] = {}
    for group in found:
        if not group.begun:
            why = {row.reason for rows in group.rows.values() for row in rows if isinstance(row, NotRun)}
            reasons.setdefault("; ".join(sorted(why)), []).append(group.name)
    return "".join(f"- {', '.join(names)}: {reason}\n" for reason, names in reasons.items())


def reductions(group: Group) -> list[list[str]]:
    """For each robust training: points less attack error than by natural training, points more clean error.

    Raises:
        ValueError: where rows were attacked on different numbers of samples.
    """
    natural, found = group.done(TRAININGS[0]), []
    for how in TRAININGS[1:]:
        robust = group.done(how)
        if not (natural and robust):
            continue
        if len({(row.samples, row.attacked) for row in [*natural, *robust]}) > 1:
            raise ValueError(f"the rows of {group.name} were attacked on different numbers of samples")
        papers = less(natural, robust, lambda row: row.papers)
        worst = less(natural, robust, lambda row: row.attack)
        clean = less(robust, natural, lambda row: row.clean)
        found.append([group.name, how, papers, worst, clean])
    return found


def less(
    one: Sequence[BenchRow], other: Sequence[BenchRow], figure: Callable[[BenchRow], float | None]
) -> str:
    """By how many points the other rows' mean lies below the one rows' mean; "-" where a figure lacks."""
    sides = [[figure(row) for row in rows] for rows in (one, other)]
    known = [[value for value in values if value is not None] for values in sides]
    return "-" if sides != known else f"{mean(known[0]) - mean(known[1]):.1f}"


def page(found: Sequence[Group]) -> str:
    """docs/paper.md."""
    text = INTRO
    for group in found:
        if group.begun:
            text += f"\n## {group.name}\n\n{group.title}.\n\n{table(group)}"
    text += f"\n## Not run\n\n{absent(found)}" if not all(group.begun for group in found) else ""
    columns = ["group", "training", "G2S/RSF: points less", "worst: points less", "clean: points more"]
    rows = [line for group in found for line in reductions(group)]
    published = ["published", "certified", *REDUCTION]
    return f"""{text}
## Attack error reduction against natural training

By how many points the attack error is lower than that of the naturally trained network of the same group, and
for how many points of clean error; differences of means over seeds. Published, in the papers' abstract: up to
37.7 points for 3.7.

{markdown(columns, [*rows, published])}
## Over the size of the threat

![Errors over eps or budget](paper-sweeps.png)

Seed 0, on the first test samples, a subset, attacked by G2S and RSF (on images, their image form);
`benchmarks/papers/sweeps.py`, figures in [sweeps.md](../benchmarks/results/sweeps.md).
"""


def main(*runs: Path) -> None:
    for run in runs:
        log(run)
    write_text(record.DOCS / "paper.md", page(groups()))


if __name__ == "__main__":
    record.run(main)
