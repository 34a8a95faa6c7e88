"""Small cases of every input set, with all members by the definition."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from certsnn.inputsets import (
    InputSet,
    SpikeShift,
)

Train = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A set of spikes around x0, and each sample's members by definition, flattened in [T, ...]."""

    x0: Tensor
    input_set: InputSet
    members: list[set[Train]]
    generator: torch.Generator


def rows(x: Tensor) -> list[Train]:
    """Each sample of spikes [T, B, ...], flattened."""
    return [tuple(int(bit) for bit in row) for row in x.movedim(1, 0).flatten(1).tolist()]


@st.composite
def shift_cases(draw: st.DrawFn) -> Case:
    steps, pixels = draw(st.sampled_from([(1, 2), (3, 2), (4, 1), (5, 1)]))
    shape = (steps, draw(st.integers(1, 2)), pixels)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rate = draw(st.sampled_from([0.5, 0.2, 0.8]))
    x0 = (torch.rand(shape, generator=generator) < rate).to(
        draw(st.sampled_from([torch.float32, torch.float64]))
    )
    shift = SpikeShift(draw(st.integers(0, steps)), draw(st.integers(0, 4)))
    members = [shifts_by_definition(x0[:, b], shift) for b in range(shape[1])]
    return Case(x0, shift, members, generator)


def shifts_by_definition(x0: Tensor, shift: SpikeShift) -> set[Train]:
    """All trains that giving each spike of [T, pixels] a bit makes."""
    steps, pixels = x0.shape
    spikes = x0.nonzero().tolist()
    found = set()
    for places in product(range(steps), repeat=len(spikes)):
        moves = [to - step for to, (step, _) in zip(places, spikes, strict=True)]
        taken = {(to, pixel) for to, (_, pixel) in zip(places, spikes, strict=True)}
        moved = sum(move != 0 for move in moves)
        if (
            moved <= shift.moved
            and len(taken) == len(spikes)
            and all(abs(m) <= shift.max_shift for m in moves)
        ):
            found.add(tuple(int((t, p) in taken) for t in range(steps) for p in range(pixels)))
    return found


few = settings(max_examples=60, deadline=None)
