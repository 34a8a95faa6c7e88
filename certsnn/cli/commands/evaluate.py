"""`certsnn evaluate` and `certsnn attack`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, final

import torch
from rich.console import Console
from rich.table import Table

from certsnn.attacks import Attack
from certsnn.cli.commands.common import (
    DONE,
    Setting,
    Task,
    check_outputs,
    completed,
    console,
    identity,
    stopped,
    surroundings,
    task,
)
from certsnn.cli.commands.verify import statuses, write_json
from certsnn.cli.console import duration, facts_table, rows_table, samples_progress
from certsnn.cli.sources import PLAIN, Reading
from certsnn.configuration import instances, override
from certsnn.data import Batch, LabelledDataset
from certsnn.errors import UserError
from certsnn.evaluation.evaluation import UNSOUND, Judge, clean_only, evaluated
from certsnn.evaluation.suites import check_suite, default_suite
from certsnn.evaluation.verification import SampleResult, judge
from certsnn.files import check_writable
from certsnn.results.counterexample import FACTS, saving
from certsnn.results.journal import Journal, read
from certsnn.results.rates import Rate, percent
from certsnn.results.schema import row
from certsnn.results.shards import Shard, kept
from certsnn.results.summary import AttackSummary, Report, nested
from certsnn.train.config import RunConfig

ATTACKED = 64
"""Samples that are attacked, and written down, together: few enough that progress shows."""


@final
@dataclass(frozen=True)
class Suite:
    """Which attacks to run: ``named`` as `certsnn.configuration.instances` reads them, or the default ones.

    ``seed``: of all that have one; None leaves those of named attacks as they are.
    """

    named: str | None = None
    seed: int | None = None

    def attacks(self, config: RunConfig, data: LabelledDataset, device: torch.device) -> tuple[Attack, ...]:
        """The attacks; raises UserError or ValueError if they do not fit the config's threat to the data."""
        x, _, index = data[[0]]
        x = x if config.data.encoding is None else config.data.encoding(x, index)
        _, input_set = config.threat.bind(x.to(device), index)
        chosen = self.chosen
        if chosen is None:
            chosen = default_suite(input_set, self.seed or 0)
        check_suite(chosen, input_set, config.threat)
        return chosen

    @property
    def chosen(self) -> tuple[Attack, ...] | None:
        """The attacks that are named, None without; raises UserError for what names none."""
        if self.named is None:
            return None
        chosen = tuple(self._seeded(attack) for attack in instances(Attack, self.named, "--attacks"))
        if not chosen:
            raise UserError("--attacks names no attack; leave it out for the default ones")
        return chosen

    def _seeded(self, attack: Any) -> Any:
        seeded = self.seed is not None and any(field.name == "seed" for field in fields(attack))
        return replace(attack, seed=self.seed) if seeded else attack


@final
@dataclass(frozen=True)
class Judging:
    """Where the clean and certified results of an evaluation come from.

    ``doing``: for the progress. ``depends``: what the bounds depend on; empty if nothing is to be certified.
    ``cascade``: the methods that are tried.
    """

    doing: str
    judge: Judge
    depends: dict[str, Any]
    cascade: Sequence[str]


def by_bounds(setting: Setting) -> Judging:
    """Bounds of this setting."""
    judged = partial(judge, options=setting.bounds)
    return Judging("evaluating", judged, setting.bounds.identity, setting.cascade)


UNCERTIFIED = Judging("attacking", clean_only, {}, [])
"""Nothing is certified."""


@final
@dataclass(frozen=True)
class Outputs:
    """Files that are written; None is none.

    ``json``: summary and samples at the end, "-" is standard output. ``results``: each sample as it comes.
    ``page``: the HTML report. ``evidence``: a folder, made if an unsound bound is found.
    """

    json: Path | None = None
    results: Path | None = None
    page: Path | None = None
    evidence: Path = UNSOUND

    def check(self) -> None:
        """Raise UserError if two of them are the same file, or one can't be written."""
        check_outputs({"--json": self.json, "--results": self.results, "--report": self.page})

    def results_of(self, work: Task, first: Task) -> Path | None:
        """The file of results of one threat of a sweep: that of the first one has the plain name."""
        if self.results is None or work is first:
            return self.results
        return self.results.with_stem(f"{self.results.stem}-{size_name(work)}{size_of(work):g}")


def evaluate(
    source: str,
    overrides: Sequence[str],
    setting: Setting,
    suite: Suite,
    outputs: Outputs,
    samples: int | None = None,
    sweep: Sequence[str] = (),
    shard: Shard | None = None,
    reading: Reading = PLAIN,
) -> int:
    """Clean, attack and verified error on the test set, or its first samples; the exit status.

    Args:
        source, reading: see `certsnn.cli.sources.opened`.
        overrides: config keys, ``["--threat.eps", "0.03"]``.
        setting: how to verify.
        suite, outputs: the attacks, and the files to write.
        samples, shard: only this part of the test set.
        sweep: further sizes of the threat, as typed.
    """
    outputs.check()
    check_writable(outputs.evidence / FACTS)
    setting.cascade  # noqa: B018 (raises for an unknown method)
    first = task(source, overrides, samples, shard, setting.processes, reading)
    works = [first, *swept(first, sweep)]
    attacks = suite.attacks(first.config, first.part, setting.device)
    judging = by_bounds(setting)
    for work in works:  # what a later one would be refused for should not come to light after hours
        if (place := outputs.results_of(work, first)) is not None:
            read(place, depends_of(work, setting, attacks, judging))
    reports = [examined(work, first, setting, attacks, outputs, judging) for work in works]
    rows = sorted(zip(map(size_of, works), reports, strict=True), key=itemgetter(0)) if sweep else []
    nested([report for _, report in rows])
    screen = console(outputs.json, outputs.page)
    screen.print(facts_table(first.title, _facts(first, reports[0], setting)))
    screen.print(attacks_table(reports[0].by_attack()))
    if sweep:
        screen.print(sweep_table(size_name(first), rows))
    values = described(reports[0], first, setting, attacks) | {
        **setting.bounds.facts,
        "sweep": [{"size": size, **report.as_dict()} for size, report in rows],
        "samples": [row(result) for result in reports[0].results],
    }
    if outputs.json is not None:
        setting.processes.once(partial(write_json, outputs.json, values))
    if outputs.page is not None:
        _write_page(outputs.page, source, first, setting, attacks, reports[0], rows)
        screen.print(f"The report is in {outputs.page}.", highlight=False, soft_wrap=True)
    return DONE


def _write_page(path: Path, source: str, work: Task, setting: Setting, *findings: Any) -> None:
    """The report as a page, written by one process."""
    from certsnn.cli.commands.page import write_page  # here: matplotlib takes a second to import

    setting.processes.once(partial(write_page, path, source, work, setting, *findings))


def attack(
    source: str,
    overrides: Sequence[str],
    setting: Setting,
    suite: Suite,
    outputs: Outputs,
    samples: int | None = None,
    shard: Shard | None = None,
    reading: Reading = PLAIN,
) -> int:
    """The attack error alone, and what each attack did; arguments as `evaluate`, without the bounds."""
    outputs.check()
    work = task(source, overrides, samples, shard, setting.processes, reading)
    attacks = suite.attacks(work.config, work.part, setting.device)
    report = examined(work, work, setting, attacks, outputs, UNCERTIFIED)
    screen = console(outputs.json, outputs.page)
    facts = {
        "samples": work.size,
        "clean error": with_interval(report.clean),
        "attack error": with_interval(report.attack),
        "threat": report.threat,
    }
    screen.print(facts_table(work.title, facts))
    screen.print(attacks_table(report.by_attack()))
    if outputs.json is not None:
        samples_done = [_without_bounds(result) for result in report.results]
        values = described(report, work, setting, attacks) | {"samples": samples_done}
        setting.processes.once(partial(write_json, outputs.json, values))
    return DONE


def described(report: Report, work: Task, setting: Setting, attacks: Sequence[Attack]) -> dict[str, Any]:
    """A report for JSON, less its samples."""
    return report.as_dict() | {
        "suite": [repr(attack) for attack in attacks],
        "subset": work.subset,
        **surroundings(work.model, work.text, setting.device),
    }


def swept(work: Task, sizes: Sequence[str]) -> list[Task]:
    """The task under other sizes of its threat; its own size is left out.

    Raises:
        UserError: for what is no size, or a threat that has none.
    """
    name = size_name(work)
    if sizes and not name:
        raise UserError(f"{work.config.threat.describe()} has no size to sweep over")
    found: dict[float, Task] = {size_of(work): work} if sizes else {}
    for size in sizes:
        config, text = override(work.text, [f"--threat.{name}", size])
        other = replace(work, config=config, text=text)
        found.setdefault(size_of(other), other)
    return [other for other in found.values() if other is not work]


def size_name(work: Task) -> str:
    """The config key, below the threat, that is its size."""
    return work.config.threat.size


def size_of(work: Task) -> float:
    """The size of the threat."""
    return float(getattr(work.config.threat, size_name(work)))


def depends_of(work: Task, setting: Setting, attacks: Sequence[Attack], judging: Judging) -> dict[str, Any]:
    """What the results of an evaluation depend on: the header of their file."""
    what = identity(work.model, work.text, work.test, setting.device)
    return what | judging.depends | {"attacks": [repr(attack) for attack in attacks]}


def examined(
    work: Task,
    first: Task,
    setting: Setting,
    attacks: Sequence[Attack],
    outputs: Outputs,
    judging: Judging,
) -> Report:
    """Evaluate what the journal does not hold, showing progress.

    Args:
        work: what to evaluate.
        first: the first task of a sweep.
        setting, attacks, outputs: as `evaluate`.
        judging: the clean and certified results.
    """
    part, threat, encoding = work.part, work.config.threat, work.config.data.encoding
    depends = depends_of(work, setting, attacks, judging)
    network = work.model.network.to(setting.device)
    batch = setting.batch_of(work.model, work.config, part, ATTACKED)
    keeping: AbstractContextManager[Journal | None] = nullcontext()
    place = outputs.results_of(work, first)
    if place is not None:
        keeping = kept(place, depends, setting.processes)

    def run(batches: Iterable[Batch]) -> Iterator[list[SampleResult]]:
        covered = setting.bounds.rounding
        return evaluated(
            network, batches, threat, judging.judge, attacks, encoding=encoding, rounding=covered
        )

    facts = {"results": depends, **surroundings(work.model, work.text, setting.device)}
    with keeping as book, saving(outputs.evidence, network, facts):
        try:
            doing = f"{judging.doing} {threat.describe()}"
            by, screen = setting.processes, Console(stderr=True)
            with samples_progress(screen, doing, len(part), judging.cascade, by.count) as shown:
                results = completed(part, batch, run, book, shown, by)
        except KeyboardInterrupt:
            at = "" if work is first else f" at {threat.describe()}"
            left = stopped(book, part, setting.processes)
            raise KeyboardInterrupt(f"stopped{at}; {left}") from None
    names = tuple(attack.describe() for attack in attacks)
    method = setting.bounds.method if judging.depends else ""
    return Report(threat.describe(), method, setting.bounds.rounding, names, tuple(results))


def with_interval(rate: Rate) -> str:
    """A rate in percent with its confidence interval."""
    low, high = rate.interval
    return f"{percent(rate.percent)} (95% interval {low:.2f} to {high:.2f})"


def attacks_table(attacks: Sequence[AttackSummary]) -> Table:
    """What each attack did; names are wrapped, figures are not."""
    table = Table()
    table.add_column("attack", overflow="fold")
    for column in ("broken", "change", "rounds", "random", "queries", "time"):
        table.add_column(column, no_wrap=True, justify="right")
    for attack in attacks:
        table.add_row(
            attack.name,
            f"{attack.success.count}/{attack.success.total}",
            _number(attack.means.pixel_change, ".2g"),
            _number(attack.means.iterations, ".1f"),
            _number(attack.means.random_share, ".0f", " %"),
            _number(attack.means.queries, ".1f"),
            duration(attack.seconds),
        )
    return table


def sweep_table(name: str, rows: Sequence[tuple[float, Report]]) -> Table:
    """The three errors for each size of the threat."""
    columns = [name, "clean error", "attack error", "verified error", "gap"]
    return rows_table(
        columns,
        [
            [f"{size:g}", *(percent(rate.percent) for rate in (r.clean, r.attack, r.verified, r.gap))]
            for size, r in rows
        ],
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _facts(work: Task, report: Report, setting: Setting) -> dict[str, str]:
    facts = {
        "samples": work.size,
        "clean error": with_interval(report.clean),
        "attack error": with_interval(report.attack),
        "verified error": with_interval(report.verified),
        "gap": f"{percent(report.gap.percent)} neither broken nor certified",
        "method": setting.bounds.describe(),
        "threat": report.threat,
    }
    reasons = list(dict.fromkeys(result.reason for result in report.results if result.reason))
    return facts | statuses(report.summary.as_dict(), setting.cascade, reasons)


def _without_bounds(result: SampleResult) -> dict[str, Any]:
    """A sample for JSON where nothing was to be certified."""
    bounds = ("status", "margin", "stage", "seconds", "reason")
    return {name: value for name, value in row(result).items() if name not in bounds}
