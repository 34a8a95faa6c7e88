"""Each sample's network, cut down to what the adversary can change there.

Around one sample most neurons are stable at most steps, and most input bits are fixed. A row of coefficients
then has to be kept only for the *active* neurons of each step: those that are unstable, and the stable ones
whose membrane reaches an unstable one at a later step. Fixed inputs become part of the currents. Rows get
ten times shorter, without any loss. The samples of a batch keep different neurons, but equally many: those
with fewer are filled up with neurons that would not have to be kept; as nothing is carried on through these,
their coefficients on currents are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Arithmetic, Interval
from certsnn.bounds.linear.backward import PIECE, Chain, Coupling, Entry, Forms, Level, Spread, Whole
from certsnn.inputsets import InputSet
from certsnn.neurons import Dynamics


@final
@dataclass(frozen=True)
class Selection:
    """Some of a node's values at each frame, ``index [F, B, m]`` (flattened), and what the others are.

    ``fixed [F, B, ...]`` is shaped as the values, 0 at the selected ones. One frame of either stands for all
    steps where these are selected alike, or are the same.
    """

    index: Tensor
    fixed: Tensor

    def split(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Of coefficients ``[S, F, B, ...]``, flattened: those of selected values, and the others' terms."""
        a, frames = a.flatten(3), a.shape[1]
        kept = a.gather(3, self._places(a))
        return kept, a * self.fixed.flatten(2)[:frames]

    def whole(self, a: Tensor) -> Tensor:
        """Coefficients ``[S, F, B, m]`` of selected values as those of all, 0 at the others."""
        sample = self.fixed.shape[2:]
        flat = a.new_zeros(*a.shape[:3], sample.numel()).scatter(3, self._places(a), a)
        return flat.reshape(*a.shape[:3], *sample)

    def _places(self, a: Tensor) -> Tensor:
        return self.index[: a.shape[1]].expand(*a.shape[:2], -1, -1)


@final
@dataclass(frozen=True)
class FreeBits(Entry):
    """The selected inputs, each on its own within ``lower, upper [F, B, m]``."""

    lower: Tensor
    upper: Tensor

    def minimum(self, a: Tensor) -> Tensor:
        frames = a.shape[1]
        low, high = a * self.lower[:frames], a * self.upper[:frames]
        return torch.minimum(low, high).sum((1, 3))


@final
@dataclass(frozen=True)
class Gathered(Coupling):
    """The operators between selected neurons: ``matrix [F, B, m, n]``; the rest is in ``shift [F, B, m]``."""

    matrix: Tensor
    shift: Tensor

    def pull(self, forms: Forms) -> Forms:
        y, constant, error = forms
        frames = y.shape[1]
        a = torch.einsum("sfbm,fbmn->sfbn", y, self.matrix[:frames])
        return Forms(a, constant + (y * self.shift[:frames]).sum((1, 3)), error)


def every_input(input_set: InputSet, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
    """All of the samples' inputs, and the set that forms of them end at."""
    frame = x0 if input_set.domain == "image" else x0[0]
    bits = frame.flatten(1)
    index = torch.arange(bits.shape[1], device=x0.device).expand(1, len(bits), -1)
    return Selection(index, torch.zeros_like(arithmetic.raised(frame))[None]), Whole(x0, input_set)


def free_bits(input_set: InputSet, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
    """The bits that are not fixed by the box of a set of spikes, each of them on its own."""
    low, high = (arithmetic.raised(end) for end in input_set.box(x0))
    selection = select((low != high).flatten(2), low)
    ends = (end.flatten(2).gather(2, selection.index) for end in (low, high))
    return selection, FreeBits(*ends)


def positions(wanted: Tensor) -> Tensor:
    """Where ``wanted: bool [..., n]`` holds, ``[..., m]``: filled up to one number (>= 1) for all rows."""
    most = max(1, int(wanted.sum(-1).max())) if wanted.numel() else 1
    return wanted.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :most]


def select(wanted: Tensor, values: Tensor) -> Selection:
    """The entries ``wanted: bool [F, B, n]`` of ``values [F, B, ...]``."""
    index = positions(wanted)
    return Selection(index, values.flatten(2).scatter(2, index, 0.0).view_as(values))


def loose(values: Interval, arithmetic: Arithmetic) -> Selection:
    """The values ``[F, B, ...]`` that are not known at every step."""
    low, high = (arithmetic.raised(end) for end in values)
    index = positions((low != high).any(0, keepdim=True).flatten(2))
    return Selection(index, low.flatten(2).scatter(2, index.expand(len(low), -1, -1), 0.0).view_as(low))


def active(membranes: Interval, dynamics: Dynamics) -> Tensor:
    """``bool [T, B, n]``: the neurons that are unstable, or reach a later step at which they are.

    Args:
        membranes: bounds ``[T, B, ...]``.
        dynamics: the neurons.
    """
    silent, firing = membranes.upper < dynamics.threshold, membranes.lower >= dynamics.threshold
    found = ~silent & ~firing
    # What a neuron that fires carries on may be a constant: the offset of its reset.
    passing = torch.where(silent, dynamics.decay != 0, (dynamics.gain != 0) | (dynamics.offset != 0))
    for t in reversed(range(len(found) - 1)):
        found[t] |= passing[t] & found[t + 1]
    return found.flatten(2)


@final
@dataclass(frozen=True)
class Scattered(Level):
    """A level of whole values, between selections of its own values and of those of the nodes before it."""

    level: Level
    own: Selection
    sources: Sequence[Selection]

    def pull(self, forms: Forms) -> Spread:
        a, constant, error = forms
        carried, constant, error = self.level.pull(Forms(self.own.whole(a), constant, error))
        found = []
        for source, more in carried:
            kept, terms = self.sources[source].split(more)
            constant = constant + terms.sum((1, 3))
            # Of fixed values: the rounding of this sum in float64.
            error = error + 2.0**-44 * terms.abs().sum((1, 3))
            found.append((source, kept))
        return Spread(found, constant, error)


def follow(index: Tensor, neurons: int) -> Tensor:
    """Where the selected neurons ``[T, B, m]`` of each step are at the next; see `lines.Tracked`."""
    steps, batch, size = index.shape
    places = index.new_full((steps, batch, neurons), size)
    order = torch.arange(size, device=index.device).expand(steps, batch, -1)
    places.scatter_(2, index, order)
    return places[1:].gather(2, index[:-1])


@final
@dataclass(frozen=True)
class Rows:
    """The rows of a stage's matrix that may be needed, at the selected inputs of each frame.

    ``matrix [F, B, u, m]``, ``shift [F, B, u]``, of either all frames or one for all of them;
    ``place [B, n]``: the row of each neuron.
    """

    matrix: Tensor
    shift: Tensor
    place: Tensor

    def of(self, index: Tensor) -> Gathered:
        """The operators into selected neurons ``index [F, B, k]``."""
        frames, batch, _ = index.shape
        rows = self.place.expand(frames, -1, -1).gather(2, index)
        frame = torch.arange(frames, device=rows.device)[:, None, None]
        sample = torch.arange(batch, device=rows.device)[:, None]
        matrix, shift = (
            part[frame.clamp_max(len(part) - 1), sample, rows] for part in (self.matrix, self.shift)
        )
        return Gathered(matrix, shift)

    def single(self, column: Tensor, steps: int) -> Gathered:
        """The operators into one neuron for each form, ``column [S, B]``, at the first steps.

        ``matrix [F, S, B, m]`` and ``shift [F, S, B]``: to be multiplied, not pulled through.
        """
        rows = self.place.gather(1, column.T).T
        sample = torch.arange(column.shape[1], device=rows.device)
        return Gathered(self.matrix[:steps, sample, rows], self.shift[:steps, sample, rows])


def rows_of(chain: Chain, neurons: Tensor, inputs: Selection) -> Rows:
    """`Rows` of the neurons ``[B, u]`` of the layer that a chain drives."""
    count, frames = chain.outputs.numel(), len(inputs.index)
    matrix = inputs.fixed.new_empty(frames, *neurons.shape, inputs.index.shape[2])
    of_any, number = neurons.unique(return_inverse=True)
    for start in range(0, len(of_any), PIECE):
        pulled = chain.rows(of_any[start : start + PIECE], matrix).coefficients.flatten(1)
        sample, row = ((number >= start) & (number < start + PIECE)).nonzero().T
        place = (number[sample, row] - start)[None, :, None]
        matrix[:, sample, row] = pulled[place, inputs.index[:, sample]]
    shift = inputs.fixed.flatten(0, 1)
    for operator in chain.operators:
        shift = operator.apply(shift)
    frames = len(inputs.fixed)
    shift = shift.reshape(frames, len(neurons), count).gather(2, neurons.expand(frames, -1, -1))
    place = torch.zeros(len(neurons), count, dtype=torch.long, device=neurons.device)
    order = torch.arange(neurons.shape[1], device=neurons.device)
    return Rows(matrix, shift, place.scatter_(1, neurons, order.expand_as(neurons)))
