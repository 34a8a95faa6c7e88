"""One sample's network, cut down to what the adversary can change.

Around one sample most neurons are stable at most steps, and most input bits are fixed. A row of coefficients
then has to be kept only for the *active* neurons of each step: those that are unstable, and the stable ones
whose membrane reaches an unstable one at a later step. What is fixed becomes part of the currents. Rows get
ten times shorter, without any loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.arithmetic import Arithmetic, Interval
from certsnn.bounds.crown import Chain, Coupling, Entry, Forms, Whole
from certsnn.inputsets import InputSet, SpikeBox
from certsnn.inputsets.coupled import NestedTrains
from certsnn.neurons import Dynamics

PIECE = 256
"""How many rows of a layer's matrix are made at a time."""


@final
@dataclass(frozen=True)
class Selection:
    """Some of the inputs of a stage at each frame, ``index [F, m]`` (flattened), and all the others' values.

    ``fixed [F, ...]`` is shaped as inputs of the stage, 0 at the selected ones.
    """

    index: Tensor
    fixed: Tensor


@final
@dataclass(frozen=True)
class FreeBits(Entry):
    """The selected inputs, each on its own within ``lower, upper [F, m]``."""

    lower: Tensor
    upper: Tensor

    def minimum(self, a: Tensor) -> Tensor:
        frames = a.shape[1]
        a = a[:, :, 0]
        low, high = a * self.lower[:frames], a * self.upper[:frames]
        return torch.minimum(low, high).sum((1, 2))[:, None]


@final
@dataclass(frozen=True)
class Gathered(Coupling):
    """The operators between selected neurons: ``matrix [F, m, n]``; the rest is in ``shift [F, m]``."""

    matrix: Tensor
    shift: Tensor

    def pull(self, forms: Forms) -> Forms:
        y, constant, error = forms
        frames = y.shape[1]
        a = torch.einsum("sfm,fmn->sfn", y[:, :, 0], self.matrix[:frames])
        constant = constant + (y[:, :, 0] * self.shift[:frames]).sum((1, 2))[:, None]
        return Forms(a[:, :, None], constant, error)


@singledispatch
def selected_inputs(input_set: InputSet, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
    """What of one sample's input has to be kept, and where forms of that end: all of it, by default."""
    frames = x0[None] if input_set.domain == "image" else x0
    bits = frames[:, 0].flatten(1)
    index = torch.arange(bits.shape[1], device=x0.device).expand(len(bits), -1)
    return Selection(index, torch.zeros_like(arithmetic.raised(frames[:, 0]))), Whole(x0, input_set)


@selected_inputs.register(SpikeBox)
@selected_inputs.register(NestedTrains)
def _(input_set: SpikeBox | NestedTrains, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
    low, high = (arithmetic.raised(end[:, 0]) for end in input_set.box(x0))
    selection = select((low != high).flatten(1), low)
    ends = (end.flatten(1).gather(1, selection.index) for end in (low, high))
    return selection, FreeBits(*ends)


def select(wanted: Tensor, values: Tensor) -> Selection:
    """The entries ``wanted: bool [F, n]`` of ``values [F, ...]``, filled up to one number for all frames."""
    most = max(1, int(wanted.sum(1).max()))
    index = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    fixed = values.flatten(1).scatter(1, index, 0.0).view_as(values)
    return Selection(index, fixed)


def active(membranes: Interval, dynamics: Dynamics, wanted: Tensor) -> Tensor:
    """``bool [T, n]``: the neurons of one sample that are unstable or wanted, or reach one that is.

    Args:
        membranes: bounds ``[T, 1, ...]``.
        dynamics: the neurons.
        wanted: ``bool [T, 1, ...]``.
    """
    silent = (membranes.upper < dynamics.threshold)[:, 0]
    firing = (membranes.lower >= dynamics.threshold)[:, 0]
    found = ~silent & ~firing | wanted[:, 0]
    # What a neuron that fires carries on may be a constant: the offset of its reset.
    passing = torch.where(silent, dynamics.decay != 0, (dynamics.gain != 0) | (dynamics.offset != 0))
    for t in reversed(range(len(found) - 1)):
        found[t] |= passing[t] & found[t + 1]
    return found.flatten(1)


def follow(index: Tensor, neurons: int) -> list[Tensor]:
    """Where the selected neurons of each step are at the next one; see `relaxation.scan_back`."""
    steps, size = index.shape
    places = index.new_full((steps, neurons), size)
    order = torch.arange(size, device=index.device).expand(steps, -1)
    places.scatter_(1, index, order)
    return [places[t + 1, index[t]] for t in range(steps - 1)]


@final
@dataclass(frozen=True)
class Rows:
    """The rows of a stage's matrix that may be needed, at the selected inputs of each frame.

    ``matrix [F, u, m]``, ``shift [F, u]``; ``place [n]``: the row of each neuron.
    """

    matrix: Tensor
    shift: Tensor
    place: Tensor

    def of(self, index: Tensor) -> Gathered:
        """The operators into selected neurons ``index [F, m]``."""
        rows = self.place[index]
        frame = torch.arange(len(rows), device=rows.device)[:, None]
        if len(self.matrix) == 1:
            frame = torch.zeros_like(frame)
        return Gathered(self.matrix[frame, rows], self.shift[frame, rows])


def rows_of(chain: Chain, shape: Sequence[int], neurons: Tensor, inputs: Selection) -> Rows:
    """`Rows` of the neurons ``[u]`` of a layer, each ``[*shape]``."""
    count = math.prod(shape)
    matrix = []
    for piece in neurons.split(PIECE):
        forms = torch.nn.functional.one_hot(piece, count).to(inputs.fixed).view(len(piece), 1, 1, *shape)
        nothing = forms.new_zeros(len(piece), 1)
        pulled = Chain(chain.operators, chain.shapes).pull(Forms(forms, nothing, nothing)).coefficients
        matrix.append(pulled.flatten(1)[:, inputs.index])  # [u, F, m]
    shift = inputs.fixed
    for operator in chain.operators:
        shift = operator.apply(shift)
    place = torch.zeros(count, dtype=torch.long, device=neurons.device)
    place[neurons] = torch.arange(len(neurons), device=neurons.device)
    return Rows(torch.cat(matrix).movedim(1, 0), shift.flatten(1)[:, neurons], place)
