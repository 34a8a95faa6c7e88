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


def all_tables(found: Sequence[Group]) -> str:
    """Markdown: the table of each group that was begun, then the groups that were not."""
    begun = [f"## {one.name}\n\n{one.title}.\n\n{table(one)}" for one in found if one.begun]
    missing = [] if all(group.begun for group in found) else [f"## Not run\n\n{absent(found)}"]
    return "\n".join([*begun, *missing])


def reduction_table(found: Sequence[Group]) -> str:
    """Markdown: `reductions` of all groups, and the published one."""
    columns = ["group", "training", "G2S/RSF: points less", "worst: points less", "clean: points more"]
    rows = [line for group in found for line in reductions(group)]
    return markdown(columns, [*rows, ["published", "certified", *REDUCTION]])


def main(*runs: Path) -> None:
    for run in runs:
        log(run)
    found = groups()
    record.insert("paper", groups=all_tables(found), reductions=reduction_table(found))


if __name__ == "__main__":
    record.run(main)
