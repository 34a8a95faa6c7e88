"""Results as lines of a file, written as they come, so that a verification or an evaluation can go on.

The first line is the header: what the results depend on. Each further line is a sample. A line that a kill
cut short is dropped; where a sample has several lines, the last one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, final

from certsnn.errors import UserError
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
        lines = "".join(json.dumps(row(result)) + "\n" for result in results)
        self._file.write(self._start + lines.encode())
        self._file.flush()
        self._start = b""
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
    first = json.dumps(header).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    head, newline, rest = content.partition(b"\n")
    if newline:
        _check_header(path, head, header)
        whole = rest[: rest.rfind(b"\n") + 1]
        read = [_sample(path, number, line) for number, line in enumerate(whole.split(b"\n")[:-1], 2)]
        kept, start = len(head) + 1 + len(whole), b""
    elif first.startswith(content):
        read, kept, start = [], 0, first
    else:
        raise _not_ours(path, 1)
    done = {result.index: result for result in read if result.status != "error"}
    with path.open("ab") as file:
        file.truncate(kept)
        yield Journal(done, file, start)


def row(result: SampleResult) -> dict[str, Any]:
    """A sample for JSON, which has no infinities; without the attacks where there were none."""
    values = asdict(result) | {"margin": result.margin if math.isfinite(result.margin) else None}
    return values if result.attacks else {name: part for name, part in values.items() if name != "attacks"}


def _sample(path: Path, number: int, line: bytes) -> SampleResult:
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
