"""Results as lines of a file, written as they come, so that a verification or an evaluation can go on.

`certsnn.results.schema` has the lines' format. A line that a kill or a full disk cut short is dropped. A
sample that ended with an error may have a further line, which counts then; all others have one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, final

from certsnn.errors import UserError
from certsnn.evaluation.verification import SampleResult
from certsnn.files import check_file, write_text, write_whole
from certsnn.results.differences import differences
from certsnn.results.schema import header_from, header_line, sample_from, written

ROUNDING = 1e-6
"""The largest relative difference of two margins of a sample: batches differ in rounding."""


@final
class Gathered:
    """Samples of several places, by index in ``found``; places that have the same one must agree on it.

    A sample that ended with an error gives way. ``shared``: the number of samples found again.
    """

    def __init__(self) -> None:
        self.found: dict[int, SampleResult] = {}
        self.shared = 0
        self._places: dict[int, str] = {}

    def add(self, sample: SampleResult, place: str) -> None:
        """Take it in; raises UserError where it contradicts another place."""
        other = self.found.get(sample.index)
        if other is not None and "error" not in (other.status, sample.status):
            places = self._places[sample.index], place
            differ = differences(_compared(other), _compared(sample), *places)
            differ = differ or _margins(other, sample, *places)
            if differ:
                raise UserError(
                    f"sample {sample.index} contradicts itself: {differ}. These are not parts of one "
                    "verification; leave one of them out, or remove the file"
                )
            self.shared += 1
        if other is None or other.status == "error":
            self.found[sample.index], self._places[sample.index] = sample, place


def _compared(sample: SampleResult) -> dict[str, Any]:
    """All of a sample that its places must agree on, but for the margin."""
    attacks = {name: attempt.success for name, attempt in sample.attacks.items()}
    return {name: getattr(sample, name) for name in ("status", "correct", "label")} | {"broken by": attacks}


def _margins(one: SampleResult, other: SampleResult, first: str, second: str) -> str:
    """The difference of two margins in words; "" where it may come from rounding."""
    if one.margin == other.margin or math.isclose(one.margin, other.margin, rel_tol=ROUNDING, abs_tol=1e-9):
        return ""
    return f"margin is {one.margin:g} {first} and {other.margin:g} {second}"


@final
class Journal:
    """The samples in the file so far, ``done``; `add` appends more."""

    def __init__(self, done: Mapping[int, SampleResult], file: BinaryIO, start: str) -> None:
        self.done = dict(done)
        self._file, self._start = file, start

    def add(self, results: Sequence[SampleResult]) -> None:
        """Write a line for each, and hand them to the operating system at once; raises OSError."""
        content = (self._start + written(results)).encode()
        try:
            write_whole(self._file, content)
        except OSError as error:
            raise OSError(
                f"{self._file.name} can't be written: {error.strerror or error}. It has the samples before, "
                "the same command goes on from there"
            ) from error
        finally:  # Ctrl-C may come when they are in the file already
            self._start = ""
            self.learn(results)

    def learn(self, results: Iterable[SampleResult]) -> None:
        """Take samples as done that are written elsewhere."""
        self.done |= {result.index: result for result in results}


@contextmanager
def journal(path: Path, header: Mapping[str, Any]) -> Iterator[Journal]:
    """The file of these results, new or resumed.

    Nothing is written before the first results. Samples that ended with an error are not taken as done.

    Raises:
        UserError: if the file holds something else: other settings (naming the differences), or
            lines that are not results.
        OSError: if it can't be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found, kept = _read(path, header)
    with path.open("ab", buffering=0) as file:
        file.truncate(kept)
        yield Journal(_done(found), file, "" if kept else header_line(header))


def read(path: Path, header: Mapping[str, Any]) -> dict[int, SampleResult]:
    """The samples of a file, by index, those that ended with an error among them; raises as `journal`."""
    return _read(path, header)[0]


def header_of(path: Path) -> dict[str, Any]:
    """The header of a file of results; raises UserError for another file, OSError if it is unreadable."""
    head, newline, _ = path.read_bytes().partition(b"\n")
    try:
        if not newline:
            raise ValueError("it is no header of results")
        return header_from(head)
    except ValueError as error:
        raise _not_ours(path, 1, error) from error


def write(path: Path, header: Mapping[str, Any], results: Iterable[SampleResult]) -> None:
    """A file of these results, sorted by index; whole, or the old one is left."""
    write_text(path, header_line(header) + written(sorted(results, key=attrgetter("index"))))


def _read(path: Path, header: Mapping[str, Any]) -> tuple[dict[int, SampleResult], int]:
    """The samples of a file, and the number of its bytes in whole lines; 0 if it has to be begun."""
    check_file(path)
    content = path.read_bytes() if path.exists() else b""
    head, newline, rest = content.partition(b"\n")
    if not newline and header_line(header).encode().startswith(content):
        return {}, 0
    differ = differences(header_of(path), header)
    if differ:
        raise UserError(
            f"{path} holds other results: {differ}. Name another file with --results, or remove this one"
        )
    whole = rest[: rest.rfind(b"\n") + 1]
    samples = Gathered()
    for number, line in enumerate(whole.split(b"\n")[:-1], 2):
        try:
            sample = sample_from(line, header)
        except ValueError as error:
            raise _not_ours(path, number, error) from error
        samples.add(sample, f"in line {number} of {path}")
    return samples.found, len(head) + 1 + len(whole)


def _done(found: Mapping[int, SampleResult]) -> dict[int, SampleResult]:
    """The samples that did not end with an error."""
    return {index: result for index, result in found.items() if result.status != "error"}


def _not_ours(path: Path, line: int, reason: ValueError) -> UserError:
    """The error for a line that is none of results."""
    return UserError(
        f"line {line} of {path} is not what --results writes there: {reason}. Name another file, or remove "
        "this one"
    )
