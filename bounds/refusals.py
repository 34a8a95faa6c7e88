"""What a method does not support, in words."""

from __future__ import annotations

from collections.abc import Mapping

from certsnn.filters import Filter
from certsnn.program import Node, Program
from certsnn.readouts import Mean
from certsnn.recurrence import RecurrentStage

KINDS: Mapping[type[Node], str] = {RecurrentStage: "recurrent layers", Filter: "filters over time"}


def beyond(program: Program, *unsupported: type[Node]) -> str:
    """Why a method that knows no such nodes, and no readout but means, can't bound it; "" if it can."""
    for node in program.nodes:
        if isinstance(node, unsupported):
            return f"does not support {KINDS[type(node)]} ({node.name}); use s-crown or auto"
    if not isinstance(program.reading, Mean):
        return f"does not support the readout {program.reading.name!r}; use s-crown or auto"
    return ""


def check_within(method: str, program: Program, *unsupported: type[Node]) -> None:
    """Raise TypeError, by the method's name, for a network that is `beyond` it; before any work."""
    why = beyond(program, *unsupported)
    if why:
        raise TypeError(f"{method} {why}")
