"""Results as lines of a file, written as they come, so that a verification or an evaluation can go on.

The first line is the header: what the results depend on. Each further line is a sample. A line that a kill
cut short is dropped; where a sample has several lines, the last one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, final

from certsnn.errors import UserError
from certsnn.files import write_text
from certsnn.verification import Attempt, SampleResult

_MISSING = object()


@final
class Journal:
    """The samples in the file so far, ``done``; `add` appends more."""

    def __init__(self, done: Mapping[int, SampleResult], file: BinaryIO, start: bytes) -> None:
        self.done = dict(done)
        self._file, self._start = file, start

    def add(self, results: Sequence[SampleResult]) -> None:
        """Write a line for each, and hand them to the operating system at once."""
        content = self._start + written(results).encode()
        try:
            self._file.write(content)
            self._file.flush()
        finally:  # Ctrl-C may come when they are in the file already
            self._start = b""
            self.learn(results)

    def learn(self, results: Iterable[SampleResult]) -> None:
        """Take samples as done that are written elsewhere."""
        self.done |= {result.index: result for result in results}


@contextmanager
def journal(path: Path, header: Mapping[str, Any]) -> Iterator[Journal]:
    """The file of these results, new or to be gone on with.

    Nothing is written before the first results. Samples that ended with an error are not taken as done.

    Raises:
        UserError: if the file holds something else: other settings (naming what differs), or
            lines that are not results.
        OSError: if it can't be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found, kept = _read(path, header)
    with path.open("ab") as file:
        file.truncate(kept)
        yield Journal(_done(found), file, b"" if kept else _line(header))


def read(path: Path, header: Mapping[str, Any]) -> dict[int, SampleResult]:
    """The samples of a file, by index, those that ended with an error among them; raises as `journal`."""
    return _read(path, header)[0]


def header_of(path: Path) -> dict[str, Any]:
    """What the results of a file depend on; raises UserError if it is no such file, OSError if unreadable."""
    head, newline, _ = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(head)
    except ValueError as error:
        raise _not_ours(path, 1) from error
    if not newline or not isinstance(header, dict) or "weights" not in header:
        raise _not_ours(path, 1)
    return header


def write(path: Path, header: Mapping[str, Any], results: Iterable[SampleResult]) -> None:
    """A file of these results, sorted by index; whole, or the old one is left."""
    ordered = sorted(results, key=attrgetter("index"))
    write_text(path, _line(header).decode() + written(ordered))


def written(results: Sequence[SampleResult]) -> str:
    """The lines of these samples."""
    return "".join(json.dumps(row(result)) + "\n" for result in results)


def read_lines(text: str) -> list[SampleResult]:
    """What `written` wrote."""
    return [
        _sample(Path("<another process>"), number, line) for number, line in enumerate(text.splitlines(), 1)
    ]


def _line(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header).encode() + b"\n"


def _read(path: Path, header: Mapping[str, Any]) -> tuple[dict[int, SampleResult], int]:
    """The samples of a file, and how many of its bytes are whole lines; 0 if it has to be begun."""
    content = path.read_bytes() if path.exists() else b""
    head, newline, rest = content.partition(b"\n")
    if not newline:
        if _line(header).startswith(content):
            return {}, 0
        raise _not_ours(path, 1)
    _check_header(path, head, header)
    whole = rest[: rest.rfind(b"\n") + 1]
    samples = [_sample(path, number, line) for number, line in enumerate(whole.split(b"\n")[:-1], 2)]
    return {sample.index: sample for sample in samples}, len(head) + 1 + len(whole)


def _done(found: Mapping[int, SampleResult]) -> dict[int, SampleResult]:
    return {index: result for index, result in found.items() if result.status != "error"}


def row(result: SampleResult) -> dict[str, Any]:
    """A sample for JSON, which has no infinities; without the attacks where there were none."""
    values = asdict(result) | {"margin": result.margin if math.isfinite(result.margin) else None}
    return values if result.attacks else {name: part for name, part in values.items() if name != "attacks"}


def _sample(path: Path, number: int, line: bytes | str) -> SampleResult:
    try:
        values = json.loads(line)
        margin = -math.inf if values["margin"] is None else values["margin"]
        attacks = {name: Attempt(**outcome) for name, outcome in values.get("attacks", {}).items()}
        return SampleResult(**values | {"margin": margin, "attacks": attacks})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _not_ours(path, number) from error


def _check_header(path: Path, line: bytes, header: Mapping[str, Any]) -> None:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise _not_ours(path, 1) from error
    if not isinstance(found, dict) or not found.keys() & header.keys():
        raise _not_ours(path, 1)
    there, here = dict(_leaves(found)), dict(_leaves(json.loads(json.dumps(header))))
    names = [name for name in here | there if there.get(name, _MISSING) != here.get(name, _MISSING)]
    if names:
        differ = ", ".join(f"{n} is {_shown(there, n)} there and {_shown(here, n)} here" for n in names)
        raise UserError(
            f"{path} holds other results: {differ}. Name another file with --results, or remove this one"
        )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return json.dumps(leaves[name]) if name in leaves else "absent"


def _not_ours(path: Path, line: int) -> UserError:
    return UserError(
        f"line {line} of {path} is not what --results writes there; name another file, or remove this one"
    )
