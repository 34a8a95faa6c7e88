"""Gradients of the scans, in torch.

They are not compiled: half of their time is the surrogate's derivative, and loops around that gained nothing
(0.7 to 1.1 times the speed on the CPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from certsnn.dynamics import (
    NUMBERS,
    Dynamics,
    Ends,
    added,
    carry_above,
    carry_below,
    edges_of,
    parameter_gradients,
    pull_back,
)
from certsnn.kernels.base import Bounds

Optional = Sequence[Tensor | None]
"""Gradients; None is zero."""


def pull_scan(
    trace: Sequence[Tensor], dynamics: Dynamics, gradients: Optional, held: bool, wanted: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of `Kernels.scan`, from those towards its membranes and spikes (``trace``).

    Returns:
        Those towards the currents (one where it is ``held``); the `NUMBERS`, where ``wanted``.
    """
    (membranes, spikes), (to_membranes, to_spikes) = trace, gradients
    to_v = torch.zeros_like(membranes[0])
    to_currents = torch.zeros_like(membranes[:1]) if held else torch.empty_like(membranes)
    sums: dict[str, Tensor] = {}
    for t in reversed(range(len(membranes))):
        u, fired = membranes[t], spikes[t]
        to_u, through = pull_back(u, fired, dynamics, at(to_spikes, t), to_v)
        if wanted:
            sums = added(sums, parameter_gradients(u, fired, dynamics, through, to_v))
        to_v = to_u if to_membranes is None else to_u.add_(to_membranes[t])
        if held:
            to_currents[0] += to_v
        else:
            to_currents[t] = to_v
    if wanted:
        sums["initial"] = to_v.sum_to_size(dynamics.initial.shape)  # it enters step 1
    return to_currents, sums


def pull_step_scan(
    bounds: Bounds,
    dynamics: Dynamics,
    gradients: tuple[Optional, Optional],
    wanted: bool,
) -> tuple[Ends, Sequence[Tensor | None]]:
    """Gradients of `Kernels.step_scan`, from those towards its results, ``bounds``.

    Returns:
        Those towards the currents; towards `edges_of` the neurons and the `NUMBERS`, where ``wanted``.
    """
    (membranes, spikes), (to_membranes, to_spikes) = bounds, gradients
    pull = Pull(dynamics, edges_of(dynamics), wanted)
    low, high = membranes
    to_currents = torch.empty_like(low), torch.empty_like(high)
    carried = [torch.zeros_like(end[0]) for end in membranes]
    for t in reversed(range(len(low))):
        here = ([x[t] for x in membranes], [x[t] for x in spikes], [at(x, t) for x in to_spikes])
        for end, to_u in enumerate(pull.step(*here, carried)):
            direct = at(to_membranes[end], t)
            carried[end] = to_u if direct is None else to_u.add_(direct)
            to_currents[end][t] = carried[end]
    pull.enter(carried)
    return to_currents, pull.towards_parameters()


def pull_count_scan(
    scanned: Sequence[Tensor], held: bool, dynamics: Dynamics, to_counts: Tensor, wanted: bool
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Gradients of `Kernels.count_scan`, from those towards its counts.

    Returns:
        Those towards the sums (or the held current); those towards the initial potential, the threshold
        and the offset, where ``wanted``.
    """
    membranes, counts = scanned
    to_sums = torch.zeros_like(membranes[:1]) if held else torch.empty_like(membranes)
    to_n = torch.zeros_like(membranes[0])
    sums = [torch.zeros_like(number) for number in counting(dynamics)]
    for t in reversed(range(len(membranes))):
        to_n += to_counts[t]
        to_u = to_n * dynamics.surrogate.derivative(membranes[t] - dynamics.threshold)
        to_n.addcmul_(to_u, dynamics.offset)
        if held:
            to_sums[0].add_(to_u, alpha=t + 1)
        else:
            to_sums[t] = to_u
        if wanted:
            add_counting(sums, to_u, counts[t - 1] if t else None)
    return to_sums, sums if wanted else (None, None, None)


@final
class Pull:
    """Gradients of a scan of bounds, step by step from the last; those towards its parameters add up."""

    def __init__(self, dynamics: Dynamics, edges: Ends, wanted: bool) -> None:
        self.dynamics, self.edges, self.wanted = dynamics, edges, wanted
        self.to_edges = [torch.zeros_like(edge) for edge in edges]
        self.sums = {name: torch.zeros_like(getattr(dynamics, name)) for name in NUMBERS}

    def step(
        self,
        membranes: Sequence[Tensor],
        spikes: Sequence[Tensor],
        to_spikes: Sequence[Tensor | None],
        to_next: Sequence[Tensor],
    ) -> list[Tensor]:
        """Gradients towards one step's membranes, from those towards its spikes and the next membranes."""
        found = []
        for end, replaced in enumerate(_replaced(membranes, spikes, self.edges, self.dynamics)):
            u, fired, to_v = membranes[end], spikes[end], to_next[end]
            kept = torch.addcmul(to_v, to_v, replaced, value=-1)
            to_u, through = pull_back(u, fired, self.dynamics, to_spikes[end], kept)
            if self.wanted:
                self.collect(end, u, fired, through, kept, to_v - kept)
            found.append(to_u)
        return found

    def collect(
        self, end: int, u: Tensor, fired: Tensor, through: Tensor, kept: Tensor, dropped: Tensor
    ) -> None:
        """Add what one end of one step says of the parameters: of the gradient towards what is carried on,
        ``kept`` goes to the membrane, and ``dropped`` to the edge that replaces it."""
        self.to_edges[end] += dropped.sum_to_size(self.edges[end].shape)
        self.sums = added(self.sums, parameter_gradients(u, fired, self.dynamics, through, kept))

    def enter(self, to_first: Sequence[Tensor]) -> None:
        """The gradients towards the first membranes, which the initial potential enters."""
        if self.wanted:
            self.sums["initial"] = (to_first[0] + to_first[1]).sum_to_size(self.dynamics.initial.shape)

    def towards_parameters(self) -> tuple[Tensor | None, ...]:
        """Gradients towards the edges and the numbers."""
        if not self.wanted:
            return (None,) * (2 + len(self.sums))
        return (*self.to_edges, *self.sums.values())


def at(gradient: Tensor | None, t: int) -> Tensor | None:
    """A gradient's step; None, which is zero, stays that."""
    return None if gradient is None else gradient[t]


def _replaced(
    membranes: Sequence[Tensor], spikes: Sequence[Tensor], edges: Ends, dynamics: Dynamics
) -> tuple[Tensor, Tensor]:
    """Where a carried lower and upper bound is the one that the other branch has at the threshold (0 or 1).

    Only where the neuron is unstable: there the lower membrane is silent, and the upper one fires. (Bounds
    that cross by noise are left alone.)
    """
    unstable = torch.lt(spikes[0], spikes[1], out=torch.empty_like(spikes[0]))
    silent, fired = carry_below(membranes[0], dynamics), carry_above(membranes[1], dynamics)
    low = torch.gt(silent, edges[0], out=torch.empty_like(silent)).mul_(unstable)
    return low, torch.lt(fired, edges[1], out=torch.empty_like(fired)).mul_(unstable)


def counting(dynamics: Dynamics) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers that a count depends on: the initial potential, the threshold and the offset."""
    return dynamics.initial, dynamics.threshold, dynamics.offset


def add_counting(sums: list[Tensor], to_u: Tensor, before: Tensor | None) -> None:
    """Add those towards `counting` of a step that counts ``before`` it entered (None: no spikes yet)."""
    terms = (to_u, -to_u, torch.zeros_like(to_u) if before is None else to_u * before)
    sums[:] = [x + term.sum_to_size(x.shape) for x, term in zip(sums, terms, strict=True)]
