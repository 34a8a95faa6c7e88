"""A file of results that several processes write, and results of several files put together.

While it runs, each process appends to a part of its own beside the file (``FILE.part0``, ``FILE.part1``,
...). At the end, and at the next start by however many processes, all parts become one file again: a killed
process loses at most the batch that it was at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import escape
from itertools import groupby
from pathlib import Path
from typing import Any, final

from certsnn.errors import UserError
from certsnn.evaluation.verification import SampleResult
from certsnn.processes import PART, Processes
from certsnn.results.journal import Gathered, Journal, header_of, journal, read, write
from certsnn.results.schema import header_line, read_lines, written


@final
@dataclass(frozen=True)
class Shard:
    """Every ``of``-th sample, from the ``number``-th on; numbers begin with 1."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"a shard is K/N with 1 <= K <= N, such as 2/4, not {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def positions(self, samples: int) -> range:
        """This shard's positions among a number of samples; raises UserError if there are none."""
        found = range(self.number - 1, samples, self.of)
        if not found:
            raise UserError(f"shard {self} of {samples} samples is empty; use at most {samples} shards")
        return found


@contextmanager
def kept(path: Path, header: Mapping[str, Any], processes: Processes) -> Iterator[Journal]:
    """The file of these results, as `certsnn.results.journal.journal`, written by all processes together.

    The journal takes a sample as done if any process finds it in the file, or in parts of it that were left
    behind. After the block ``done`` must hold the samples of all processes.

    Raises:
        UserError: if the file or a part of it holds something else.
        OSError: if they can't be read or written.
    """
    left = sorted(path.parent.glob(f"{escape(path.name)}{PART}*"))
    gathered = Gathered()
    for file in (path, *left):
        for sample in read(file, header).values():
            gathered.add(sample, f"in {file}")
    processes.agree(
        header_line(header), "they do not compute on the same device with the same model, data and versions"
    )
    for text in processes.others(written(list(gathered.found.values()))):
        for sample in read_lines(text):
            gathered.add(sample, "in another process")
    found = gathered.found
    processes.once(partial(_complete, path, header, found))
    for part in left:
        part.unlink(missing_ok=True)
    processes.others("")  # nobody begins a new part that another one might still remove
    own = processes.own(path)
    with journal(own, header) as book:
        book.learn(sample for sample in found.values() if sample.status != "error")
        yield book
    processes.once(partial(_complete, path, header, book.done))
    for part in {own} - {path}:
        part.unlink(missing_ok=True)


def _complete(path: Path, header: Mapping[str, Any], results: Mapping[int, SampleResult]) -> None:
    """The file with these results too; left alone where it has them all."""
    found = read(path, header)
    if any(found.get(index) != result for index, result in results.items()):
        write(path, header, (found | dict(results)).values())


@final
@dataclass(frozen=True)
class Merged:
    """Results of several files: their common ``header``, ``found`` by index, and the ``missing`` indices.

    ``shared``: the number of samples that stand in several files.
    """

    header: Mapping[str, Any]
    found: Mapping[int, SampleResult]
    missing: Sequence[int]
    shared: int


def merged(paths: Sequence[Path], samples: int | None = None) -> Merged:
    """The results of shards that were verified apart.

    Args:
        paths: their files.
        samples: the number that there should be, the first of the test set; all of it if None.

    Raises:
        UserError: if a file holds other results (naming what differs), or two files contradict each other.
        OSError: if one can't be read.
    """
    header = header_of(paths[0])
    gathered = Gathered()
    for path in paths:
        for sample in read(path, header).values():
            gathered.add(sample, f"in {path}")
    found = gathered.found
    total = header["data"]["samples"] if samples is None else min(samples, header["data"]["samples"])
    missing = [index for index in range(total) if index not in found or found[index].status == "error"]
    return Merged(header, found, missing, gathered.shared)


def ranges(indices: Sequence[int], most: int = 6) -> str:
    """Ascending numbers for a message: ``0-3, 7, 9-20, ...``."""
    runs = []
    for _, group in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        runs.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]))
    return ", ".join(runs[:most]) + (", ..." if len(runs) > most else "")
