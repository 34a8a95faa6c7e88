"""`certsnn bench`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from certsnn.attacks import G2S, RSF, Attack
from certsnn.bounds.cascade import device_name
from certsnn.bounds.options import STANDARD
from certsnn.cli.commands.common import (
    DONE,
    INCOMPLETE,
    Setting,
    Task,
    check_outputs,
    console,
    identity,
    test_set,
)
from certsnn.cli.commands.evaluate import Judging, Outputs, Suite, examined
from certsnn.cli.commands.train import trained
from certsnn.cli.commands.verify import verified, write_json
from certsnn.configuration import read_config
from certsnn.errors import DataNotFound, UserError
from certsnn.evaluation.evaluation import UNSOUND, Judge
from certsnn.evaluation.verification import Bound, SampleResult
from certsnn.files import check_writable, write_text
from certsnn.networks import SpikingNetwork
from certsnn.report.bench import COLUMNS, BenchRow, NotRun, heading, lines, markdown, row_from
from certsnn.results.counterexample import FACTS
from certsnn.results.differences import differences
from certsnn.results.rates import Rate
from certsnn.results.shards import kept
from certsnn.results.summary import Report
from certsnn.train.config import RunConfig
from certsnn.train.run import check_folder

BENCH, VERIFIED, ATTACKED = "bench.json", "bench-verified.jsonl", "bench-attacked.jsonl"
"""A row in its run folder, and its samples while it is being computed."""


@final
@dataclass(frozen=True)
class Entry:
    """A row to be: a config file with a seed (``text`` is all of it), and its run folder."""

    source: Path
    config: RunConfig
    text: str
    folder: Path


@final
@dataclass(frozen=True)
class Examination:
    """What is done with every trained network: verified on the whole test set, attacked on its beginning.

    ``attacked``: how many samples are attacked; ``evidence``: where that of an unsound bound goes.
    """

    setting: Setting
    suite: Suite
    attacked: int
    evidence: Path = UNSOUND

    @property
    def identity(self) -> dict[str, Any]:
        """What a row depends on beside its config and data."""
        asked = {"attacks": self.suite.named, "attacked": self.attacked}
        return self.setting.bounds.identity | asked | {"device": device_name(self.setting.device)}

    @property
    def flags(self) -> list[str]:
        """The options that ask for it, those with a default only where they differ from it."""
        bounds, plain = self.setting.bounds.facts, STANDARD.facts
        flags = ["--method", bounds.pop("method"), "--attacked", str(self.attacked)]
        for name, value in bounds.items():
            flags += [] if value == plain[name] else [f"--{name}", str(value).lower()]
        return flags + ([] if self.suite.named is None else ["--attacks", self.suite.named])


def bench(
    configs: Sequence[Path],
    overrides: Sequence[str],
    seeds: Sequence[int],
    runs: Path,
    examination: Examination,
    table_to: Path | None = None,
    json_to: Path | None = None,
) -> int:
    """Train, verify and attack each config with each seed, and compare them; the exit status.

    Args:
        configs: config files, and folders of them.
        overrides: config keys for all of them, ``["--training.epochs", "1"]``.
        seeds: of every config; its own one if there are none.
        runs: the folder of the run folders.
        examination: what is done with the trained networks.
        table_to: a file for the table in Markdown.
        json_to: a file for all rows as JSON; ``-`` is standard output.

    Raises:
        UserError: before any work, for a config that is not valid, or a run folder that holds something else.
    """
    check_outputs({"--table": table_to, "--json": json_to})
    check_writable(examination.evidence / FACTS)
    examination.setting.cascade  # noqa: B018 (raises for an unknown method)
    examination.suite.chosen  # noqa: B018 (raises for what is no attack)
    entries = planned(configs, overrides, seeds, runs)
    before = [finished_row(entry, examination) for entry in entries]
    screen = Console(stderr=True)
    found: list[dict[str, Any]] = []
    for entry, done in zip(entries, before, strict=True):
        place = f"{entry.folder} ({len(found) + 1} of {len(entries)})"
        screen.print(place if done is None else f"{place}: done before", highlight=False, soft_wrap=True)
        try:
            found.append(attempted(entry, overrides, examination, screen) if done is None else done)
        except KeyboardInterrupt:
            rows_done = f"{len(found)} of {len(entries)} rows are done, the same command goes on from there"
            raise KeyboardInterrupt(f"stopped at {entry.folder.name}; {rows_done}") from None
    rows = [row_from(values) for values in found]
    show(rows, examination.setting, console(table_to, json_to), table_to)
    if json_to is not None:
        write_json(json_to, {"rows": found})
    return INCOMPLETE if any(isinstance(row, NotRun) for row in rows) else DONE


def planned(
    configs: Sequence[Path], overrides: Sequence[str], seeds: Sequence[int], runs: Path
) -> list[Entry]:
    """All rows, config by config; raises UserError where two would have the same run folder."""
    entries: dict[Path, Entry] = {}
    for source in files(configs):
        for flags in [[f"--seed={seed}"] for seed in seeds] or [[]]:
            config, text = read_config(source, [*overrides, *flags])
            entry = Entry(source, config, text, runs / f"{source.stem}-s{config.seed}")
            other = entries.setdefault(entry.folder, entry)
            if other is not entry:
                raise UserError(
                    f"{other.source} and {source} would both be trained in {entry.folder}; rename one of them"
                )
    return list(entries.values())


def files(configs: Sequence[Path]) -> list[Path]:
    """The config files, those of a folder by name; each once."""
    found: dict[Path, Path] = {}
    for path in configs:
        inside = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"the folder {path} holds no config: no file in it ends with .yaml")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def finished_row(entry: Entry, examination: Examination) -> dict[str, Any] | None:
    """The row that the run folder holds, if it does.

    Raises:
        UserError: if the folder holds a run of another config, or a row that was computed in another way.
    """
    check_folder(entry.folder, entry.text, "--runs")
    check_writable(entry.folder / BENCH)
    path = entry.folder / BENCH
    if not path.exists():
        return None
    advice = (
        "Remove it to compute the row anew (the trained network stays), or name another folder with --runs"
    )
    try:
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        row_from(row)
        config, there = row["config"], dict(row["examination"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a row of `certsnn bench`. {advice}") from error
    if config != yaml.safe_load(entry.text):
        raise UserError(f"{path} is a row of another config. {advice}")
    here = examination.identity | {"data": there.get("data")}
    with suppress(DataNotFound):  # a table needs no data
        here["data"] = test_set(entry.config, examination.setting.processes).digest
    differ = differences(there, here)
    if differ:
        raise UserError(f"{path} is a row of another examination: {differ}. {advice}")
    return row


def attempted(
    entry: Entry, overrides: Sequence[str], examination: Examination, screen: Console
) -> dict[str, Any]:
    """The row, or why it can't be computed; what one command would end with, is no end of the others here."""
    try:
        return computed(entry, overrides, examination)
    except (UserError, ValueError, FloatingPointError) as error:
        missing = NotRun(entry.source.stem, entry.config.seed, " ".join(str(error).split()))
        screen.print(f"certsnn: {missing}", style="yellow", markup=False, soft_wrap=True)
        return missing.as_dict()


def computed(entry: Entry, overrides: Sequence[str], examination: Examination) -> dict[str, Any]:
    """Train, or take what is trained, verify and attack; the row, which is also left in the run folder."""
    setting, config = examination.setting, entry.config
    test = test_set(config, setting.processes)  # first: what does not fit shows before the training
    attacks = examination.suite.attacks(config, test, setting.device)
    model = trained(config, entry.text, entry.folder, setting.processes)
    work = Task(model, config, entry.text, test, samples=examination.attacked)
    samples = [entry.folder / name for name in (VERIFIED, ATTACKED)]
    depends = identity(model, entry.text, test, setting.device) | setting.bounds.identity
    with kept(samples[0], depends, setting.processes) as book:
        facts, results = verified(model, config, entry.text, test, setting, book)
    judging = Judging("attacking", looked_up(results), setting.bounds.identity, [])
    outputs = Outputs(results=samples[1], evidence=examination.evidence)
    report = examined(work, work, setting, attacks, outputs, judging)
    flags = [*overrides, *examination.flags]
    row = {
        "config_name": entry.source.stem,
        "seed": config.seed,
        "command": shlex.join(["certsnn", "bench", str(entry.source), "--seeds", str(config.seed), *flags]),
        "examination": examination.identity | {"data": test.digest},
        "samples": len(test),
        "extent": test.extent,
        "subset": test.whole is not None,
        "errors": {
            "clean": Rate(sum(not result.correct for result in results), len(test)).as_dict(),
            "verified": Rate(sum(r.status != "certified" for r in results), len(test)).as_dict(),
        },
        "attacked": attacked(report, attacks) | {"subset": work.subset},
        **facts,
    }
    write_text(entry.folder / BENCH, json.dumps(row, indent=2) + "\n")
    for path in samples:
        path.unlink(missing_ok=True)
    return row


def looked_up(results: Sequence[SampleResult]) -> Judge:
    """A judge that looks results up, so that nothing is bounded twice."""
    by_index = {result.index: result for result in results}

    def judge(network: SpikingNetwork, batch: Bound) -> list[SampleResult]:
        return [by_index[index] for index in batch.index.tolist()]

    return judge


def attacked(report: Report, attacks: Sequence[Attack]) -> dict[str, Any]:
    """The errors of the attacked samples, for JSON: ``papers`` is that under G2S and RSF together."""
    family = {attack.describe() for attack in attacks if isinstance(attack, (G2S, RSF))}
    wrong = report.clean.count
    values = report.as_dict()
    for attack in report.by_attack():
        values["attacks"][attack.name]["error"] = _rate(wrong + attack.success.count, report)
    broken = sum(not result.correct or bool(family & {*result.broken_by}) for result in report.results)
    return {
        "samples": len(report.results),
        "errors": values["errors"],
        "papers": _rate(broken, report) if family else None,
        "attacks": values["attacks"],
        "suite": [repr(attack) for attack in attacks],
    }


def _rate(count: int, report: Report) -> Mapping[str, Any]:
    return Rate(count, len(report.results)).as_dict()


def show(rows: Sequence[BenchRow | NotRun], setting: Setting, screen: Console, table_to: Path | None) -> None:
    """Print the table and, below it, what was not run; also into a file, as Markdown."""
    head = heading(rows, setting.bounds.describe())
    missing = [str(row) for row in rows if isinstance(row, NotRun)]
    screen.print(head, highlight=False)
    screen.print(screen_table(rows))
    for line in missing:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    if table_to is not None:
        notes = "".join(f"\n{line}\n" for line in missing)
        write_text(table_to, f"{head}\n\n{markdown(COLUMNS, lines(rows))}{notes}")


def screen_table(rows: Sequence[BenchRow | NotRun]) -> Table:
    """The table for a terminal: names are wrapped, figures are not, each seed's stands below the mean."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column(COLUMNS[0], overflow="fold")
    for column in COLUMNS[1:]:
        table.add_column(column, no_wrap=True)
    for name, *figures in lines(rows):
        table.add_row(name, *(figure.replace(" ", "\n") for figure in figures))
    return table
