"""The lines of a file of results: their one format, written here and checked here when they are read.

The first line is the header, with all that the results depend on; each further line is a sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from certsnn.bounds.cascade import STATUSES
from certsnn.evaluation.verification import Attempt, SampleResult

VERSION = 3
"""Of the lines. Version 2 did not know the status "broken"; 1 did not say its version, and knew neither the
data's digest nor the device."""

SAMPLE = {
    "index": int,
    "label": int,
    "correct": bool,
    "status": str,
    "margin": float,
    "stage": str,
    "seconds": float,
    "reason": str,
    "attacks": dict,
}
ATTEMPT = {
    "success": bool,
    "margin": float,
    "entry_change": float,
    "pixel_change": float,
    "queries": int,
    "iterations": int,
    "random": bool,
    "seconds": float,
}
"""The type of each value. Whole numbers are floats, too; no float is infinite or NaN."""
NAMES = {int: "a whole number", bool: "true or false", str: "text", float: "a number", dict: "an object"}


def header_line(header: Mapping[str, Any]) -> str:
    """The header as a line."""
    return json.dumps({"schema": VERSION, **header}, allow_nan=False) + "\n"


def header_from(line: str | bytes) -> dict[str, Any]:
    """The header of a line; raises ValueError, naming the fault, for anything else."""
    header = _parsed(line)
    if "weights" not in header:
        raise ValueError("it is no header of results")
    version = header.pop("schema", 1)
    if version != VERSION:
        raise ValueError(
            f"its format is version {json.dumps(version)}, but this certsnn reads and writes {VERSION}"
        )
    data = header.get("data")
    if not isinstance(data, dict) or type(data.get("samples")) is not int or data["samples"] < 1:
        raise ValueError("its header does not say how many samples the data have")
    return header


def row(result: SampleResult) -> dict[str, Any]:
    """A sample for JSON, which has no infinities: a margin of -inf is null. ``attacks`` only if there are."""
    values = {**vars(result), "margin": result.margin if math.isfinite(result.margin) else None}
    attacks = {name: dict(vars(attempt)) for name, attempt in values.pop("attacks").items()}
    return values | {"attacks": attacks} if attacks else values


def written(results: Sequence[SampleResult]) -> str:
    """The lines of these samples."""
    return "".join(json.dumps(row(result), allow_nan=False) + "\n" for result in results)


def read_lines(text: str) -> list[SampleResult]:
    """The samples that `written` wrote in another process; raises ValueError for other text."""
    return [sample_from(line) for line in text.splitlines()]


def sample_from(line: str | bytes, header: Mapping[str, Any] | None = None) -> SampleResult:
    """The sample of a line.

    Args:
        line: as `written` writes it.
        header: of the file; the sample must be one of its data, with all of its attacks.

    Raises:
        ValueError: naming the fault.
    """
    values = {"attacks": {}, **_parsed(line)}
    unknown = "margin" in values and values["margin"] is None
    _check_types(values | {"margin": 0.0} if unknown else values, SAMPLE)
    if values["status"] not in STATUSES:
        raise ValueError(f"status is {values['status']!r}, which is none of {', '.join(STATUSES)}")
    for attempt in values["attacks"].values():
        _check_types(attempt, ATTEMPT)
    attacks = {name: Attempt(**attempt) for name, attempt in values["attacks"].items()}
    margin = -math.inf if unknown else values["margin"]
    result = SampleResult(**values | {"margin": margin, "attacks": attacks})
    if header is not None:
        _check_belongs(result, header)
    return result


def _check_belongs(result: SampleResult, header: Mapping[str, Any]) -> None:
    """Raise ValueError unless the sample is one of the header's data, with all of its attacks."""
    samples = header["data"]["samples"]
    if result.index >= samples:
        raise ValueError(f"index is {result.index}, but the data have {samples} samples")
    due = len(header.get("attacks", ())) if result.correct else 0
    if len(result.attacks) != due:
        raise ValueError(f"it has {len(result.attacks)} attacks, but {due} were to be run on it")


def _parsed(line: str | bytes) -> dict[str, Any]:
    """The JSON object of a line; raises ValueError for anything else."""
    try:
        values = json.loads(line, parse_constant=_refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def _refuse(name: str) -> NoReturn:
    """Raise ValueError for a number that JSON does not have."""
    raise ValueError(f"it holds {name}, which is no number")


def _check_types(values: Any, types: Mapping[str, type]) -> None:
    """Raise ValueError unless the values have exactly these keys and types."""
    if not isinstance(values, dict):
        raise ValueError(f"{json.dumps(values)} is no object")
    for name in [*types, *values]:
        if name not in values or name not in types:
            raise ValueError(f"{name} {'is absent' if name in types else 'is no key of it'}")
        value, wanted = values[name], types[name]
        if not (_finite(value) if wanted is float else type(value) is wanted):
            raise ValueError(f"{name} is {json.dumps(value)}, not {NAMES[wanted]}")


def _finite(value: Any) -> bool:
    """Whether the value is a finite number."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False
