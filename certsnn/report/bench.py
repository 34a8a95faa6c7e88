"""The table of `certsnn bench`: a line for each config, means over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from statistics import mean
from typing import Any, final

COLUMNS = ("config", "seeds", "samples", "clean", "G2S/RSF", "worst", "verified", "minutes")


@final
@dataclass(frozen=True)
class BenchRow:
    """A config with a seed: errors in percent.

    ``clean`` and ``verified`` are those on all ``samples``; ``papers`` (under G2S and RSF, the attacks of the
    papers; None if none of them ran) and ``attack`` (the worst case over the suite) those on the first
    ``attacked`` of them. ``extent``: the samples' part of the published data set, in words.
    """

    config: str
    seed: int
    samples: int
    extent: str
    attacked: int
    clean: float
    papers: float | None
    attack: float
    verified: float
    seconds: float

    @property
    def size(self) -> str:
        """The number of samples, for tables."""
        return self.extent if self.attacked == self.samples else f"{self.extent} (first {self.attacked})"


@final
@dataclass(frozen=True)
class NotRun:
    """A config with a seed that could not be computed, and why."""

    config: str
    seed: int
    reason: str

    def __str__(self) -> str:
        return f"{self.config}-s{self.seed} not run: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"config_name": self.config, "seed": self.seed, "not_run": self.reason}


def row_from(values: Mapping[str, Any]) -> BenchRow | NotRun:
    """A row from its JSON; raises KeyError or TypeError if it is none."""
    if "not_run" in values:
        return NotRun(values["config_name"], values["seed"], values["not_run"])
    attacked = values["attacked"]
    papers = attacked["papers"]
    return BenchRow(
        values["config_name"],
        values["seed"],
        values["samples"],
        values["extent"],
        attacked["samples"],
        values["errors"]["clean"]["percent"],
        None if papers is None else papers["percent"],
        attacked["errors"]["attack"]["percent"],
        values["errors"]["verified"]["percent"],
        values["training"]["training_seconds"],
    )


def heading(rows: Iterable[BenchRow | NotRun], how: str) -> str:
    """The meaning of the table's figures, in words.

    Args:
        rows: all of them.
        how: the samples were verified, in words.
    """
    done = [row for row in rows if isinstance(row, BenchRow)]
    published = all(row.extent == str(row.samples) for row in done)
    tested = "the whole test set" if published else "the test set, or a subset where its size is given"
    every = all(row.attacked == row.samples for row in done)
    attacked = "all of these" if every else "a subset, the first samples, where their number is given"
    return (
        f"Errors in percent: the mean, then each seed. Clean and verified: on {tested} ({how}). G2S/RSF "
        f"and worst (the worst case over all attacks, sample by sample): on {attacked}. Minutes: training."
    )


def lines(rows: Iterable[BenchRow | NotRun]) -> list[list[str]]:
    """The cells of `COLUMNS`, a line for each run of rows of the same config."""
    return [_line(config, list(same)) for config, same in groupby(rows, attrgetter("config"))]


def _line(config: str, rows: Sequence[BenchRow | NotRun]) -> list[str]:
    """The cells of one config's line."""
    done = [row for row in rows if isinstance(row, BenchRow)]
    if not done:
        return [config, f"0 of {len(rows)}", "not run", *["-"] * 5]
    seeds = f"{len(done)}" if len(done) == len(rows) else f"{len(done)} of {len(rows)}"
    papers = [row.papers for row in done if row.papers is not None]
    return [
        config,
        seeds,
        done[0].size,
        spread([row.clean for row in done]),
        spread(papers),
        spread([row.attack for row in done]),
        spread([row.verified for row in done]),
        f"{mean(row.seconds for row in done) / 60:.1f}",
    ]


def spread(values: Sequence[float]) -> str:
    """The mean, then the single values where there are several; "-" where there is none."""
    if not values:
        return "-"
    single = "" if len(values) == 1 else f" ({', '.join(f'{value:.2f}' for value in values)})"
    return f"{mean(values):.2f}{single}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    table = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in table)
