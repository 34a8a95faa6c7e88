"""What a tensor is while a foreign module runs: a value of the network's graph, at some time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, final

from torch import nn

BROKEN = -1
"""The node of a value that comes of an operation without a bound, which has been reported."""

Kind = Literal["held", "step", "sequence", "one", "filled", "part", "mean", "sum", "maximum"]


@final
class Unsupported(Exception):
    """A part of a foreign module that can't be imported; the message says what to do instead."""


@final
@dataclass(frozen=True)
class When:
    """The time of a value.

    ``held [B, ...]`` is the same at all steps, ``step [B, ...]`` belongs to one (``number``, from 0).
    ``sequence [T, B, ...]`` holds all steps, ``one [1, B, ...]`` a held value with an axis for them,
    ``filled`` the first ``number`` steps. ``part`` is the sum of those. The rest is read over all steps.
    """

    kind: Kind
    number: int = 0

    @property
    def lead(self) -> int:
        """The number of axes before those of a sample."""
        return 2 if self.kind in ("sequence", "one", "filled") else 1


HELD, SEQUENCE, ONE = When("held"), When("sequence"), When("one")


@final
@dataclass(frozen=True)
class Value:
    """The output of a node of the graph (0: the input) at some time."""

    node: int
    when: When


@final
@dataclass(frozen=True)
class Entry:
    """A node: its key (the path of a module, or ``=`` and an operation) and the nodes that it takes."""

    key: str
    sources: tuple[int, ...]


def together(values: Sequence[Value]) -> When:
    """The time of what is computed from several values.

    Raises:
        Unsupported: for values of different steps.
    """
    whens = {value.when for value in values}
    if len(whens) > 1:
        whens.discard(HELD)
    when = whens.pop()
    if whens or when.kind not in ("held", "step", "sequence"):
        raise Unsupported(
            "it combines values of different steps, which certsnn's graphs can't say: each step must compute "
            "the same from its own values"
        )
    return when


def free_name(base: str, taken: Collection[str]) -> str:
    """A name for a node of a `Graph` that is not taken: the base, with a number if need be."""
    name, number = base, 1
    while name in taken or hasattr(nn.ModuleDict, name):
        number += 1
        name = f"{base}_{number}"
    return name
