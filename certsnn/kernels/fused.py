"""The kernels as compiled loops, which read and write memory once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from certsnn.dynamics import CURRENT_FIRST, Dynamics, Ends, added, edges_of, parameter_gradients
from certsnn.kernels import pulls, scans
from certsnn.kernels.base import Bounds, Kernels, Optional
from certsnn.kernels.choice import laid_out
from certsnn.kernels.gradients import Pull, add_counting, counting
from certsnn.kernels.linear_fused import LinearFused
from certsnn.kernels.threads import run


class Layout(NamedTuple):
    """Neurons in memory: ``samples`` rows of ``neurons``; one row where the parameters are single numbers."""

    samples: int
    neurons: int
    shape: Sequence[int]
    """Of a sample."""

    @classmethod
    def of(cls, array: Tensor, numbers: Sequence[Tensor]) -> Layout:
        """That of an array ``[T, B, ...]``."""
        samples, *shape = array.shape[1:]
        neurons = math.prod(shape)
        if all(number.numel() == 1 for number in numbers):
            return cls(1, samples * neurons, shape)
        return cls(samples, neurons, shape)

    def array(self, tensor: Tensor) -> Any:
        """``[T, samples, neurons]`` in numpy, of one step where all are the same."""
        own = laid_out(tensor.detach())
        return own.view(len(own), self.samples, self.neurons).numpy()

    def arrays(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """`array` of each."""
        return tuple(map(self.array, tensors))

    def number(self, number: Tensor, dtype: torch.dtype) -> Any:
        """One number, or one for each neuron."""
        number = number.detach().to(dtype)
        return (number if number.numel() == 1 else number.expand(*self.shape)).reshape(-1).numpy()

    def numbers(self, dynamics: Dynamics, dtype: torch.dtype) -> tuple[Any, ...]:
        """`number` of each, in the order that the loops take."""
        d = dynamics
        return tuple(self.number(x, dtype) for x in (d.initial, d.threshold, d.decay, d.gain, d.offset))

    def run(self, loop: Callable[..., None], elements: int, *arguments: Any) -> None:
        """Do all units of work of a loop, in several threads where there is enough for them."""
        run(loop, self.samples * -(-self.neurons // scans.WIDTH), elements, *arguments)


@final
class Fused(LinearFused, Kernels):
    """Compiled loops, for contiguous arrays on the CPU."""

    def scan(self, currents: Tensor, steps: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        trace = tuple(currents.new_empty(steps, *currents.shape[1:]) for _ in range(2))
        layout = Layout.of(currents, dynamics.numbers())
        given = layout.array(currents), layout.numbers(dynamics, currents.dtype), *_ways(dynamics)
        layout.run(scans.scan, trace[0].numel(), *given, *layout.arrays(trace))
        return trace[0], trace[1]

    def pull_scan(
        self, trace: Sequence[Tensor], dynamics: Dynamics, gradients: Optional, held: bool, wanted: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        u, fired = trace
        to_currents = torch.zeros_like(u[:1]) if held or len(u) == 1 else torch.empty_like(u)
        to_v, parts = torch.zeros_like(u[:1]), _parts(u, 2, wanted)
        layout = Layout.of(u, dynamics.numbers())
        scanned, numbers = layout.arrays(trace), layout.numbers(dynamics, u.dtype)
        towards = (
            layout.arrays(_given(gradients, u)),
            *layout.arrays((to_v, to_currents)),
            layout.arrays(parts),
        )
        for t, slope in _slopes(u, dynamics):
            here = t, scanned, layout.array(slope), numbers
            layout.run(pulls.pull_scan, slope.numel(), *here, dynamics.lossless, *towards)
        sums: dict[str, Tensor] = {}
        for t in reversed(range(len(u) if wanted else 0)):
            sums = added(sums, parameter_gradients(u[t], fired[t], dynamics, parts[0][t], parts[1][t]))
        if wanted:
            sums["initial"] = to_v[0].sum_to_size(dynamics.initial.shape)
        return to_currents, sums

    def step_scan(self, currents: Ends, dynamics: Dynamics) -> Bounds:
        nothing = currents[0][:0]
        return self.step_scan_within(currents, (nothing, nothing), dynamics)

    def step_scan_within(self, currents: Ends, within: Ends, dynamics: Dynamics) -> Bounds:
        low, high = currents
        (u_low, u_high, s_low, s_high) = made = tuple(_like(end) for end in (low, high, low, high))
        layout = Layout.of(low, dynamics.numbers())
        known = *layout.arrays(currents), *layout.arrays([end.contiguous() for end in within])
        given = *known, layout.numbers(dynamics, low.dtype), *_ways(dynamics)
        layout.run(scans.step_scan, 2 * low.numel(), *given, *layout.arrays(made))
        return (u_low, u_high), (s_low, s_high)

    def pull_step_scan(
        self, bounds: Bounds, dynamics: Dynamics, gradients: tuple[Optional, Optional], wanted: bool
    ) -> tuple[Ends, Sequence[Tensor | None]]:
        membranes, spikes = bounds
        pull = Pull(dynamics, edges_of(dynamics), wanted)
        to_currents = torch.empty_like(membranes[0]), torch.empty_like(membranes[1])
        layout = Layout.of(membranes[0], dynamics.numbers())
        parts = [_parts(u, 3, wanted) for u in membranes]
        numbers = layout.numbers(dynamics, membranes[0].dtype)
        for end, u in enumerate(membranes):
            scanned, given = layout.arrays((u, *spikes)), _given([towards[end] for towards in gradients], u)
            to_v = layout.arrays((torch.zeros_like(u[:1]), to_currents[end]))
            towards = layout.arrays(given), *to_v, layout.arrays(parts[end])
            for t, slope in _slopes(u, dynamics):
                here = t, end == 1, scanned, layout.array(slope), numbers
                layout.run(pulls.pull_step_scan, slope.numel(), *here, dynamics.lossless, *towards)
        if wanted:
            for t in reversed(range(len(to_currents[0]))):
                for end, u in enumerate(membranes):
                    pull.collect(end, u[t], spikes[end][t], *(part[t] for part in parts[end]))
            pull.enter([towards[0] for towards in to_currents])
        return to_currents, pull.towards_parameters()

    def widened(self, sums: Ends, dynamics: Dynamics, unit: float, underflow: float) -> tuple[Ends, Tensor]:
        dtype, numbers = sums[0].dtype, counting(dynamics)
        low, high, error = made = tuple(_like(sums[0]) for _ in range(3))
        layout = Layout.of(low, numbers)
        given = *layout.arrays(sums), tuple(layout.number(x, dtype) for x in numbers)
        layout.run(scans.widened, 3 * low.numel(), *given, unit, underflow, *layout.arrays(made))
        return (low, high), error

    def count_scan(self, sums: Tensor, held: int | None, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        steps = len(sums) if held is None else held
        scanned = tuple(sums.new_empty(steps, *sums.shape[1:]) for _ in range(2))
        numbers = counting(dynamics)
        layout = Layout.of(sums, numbers)
        given = layout.array(sums), tuple(layout.number(x, sums.dtype) for x in numbers), held is not None
        layout.run(scans.count_scan, scanned[0].numel(), *given, *layout.arrays(scanned))
        return scanned[0], scanned[1]

    def pull_count_scan(
        self, scanned: Sequence[Tensor], held: bool, dynamics: Dynamics, to_counts: Tensor, wanted: bool
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        (u, counts), numbers = scanned, counting(dynamics)
        to_sums = torch.zeros_like(u[:1] if held else u)
        (to_u,) = _parts(u, 1, wanted)
        layout = Layout.of(u, numbers)
        own = tuple(layout.number(x, u.dtype) for x in numbers)
        towards = layout.arrays((to_counts.contiguous(), torch.zeros_like(u[:1]), to_sums, to_u))
        for t, slope in _slopes(u, dynamics):
            here = t, held, layout.array(slope), own
            layout.run(pulls.pull_count_scan, slope.numel(), *here, *towards)
        if not wanted:
            return to_sums, (None, None, None)
        sums = [torch.zeros_like(number) for number in numbers]
        for t in reversed(range(len(u))):
            add_counting(sums, to_u[t], counts[t - 1] if t else None)
        return to_sums, sums


def _like(array: Tensor) -> Tensor:
    return torch.empty_like(array, memory_format=torch.contiguous_format)


def _parts(like: Tensor, count: int, wanted: bool) -> tuple[Tensor, ...]:
    """Arrays that gradients of parameters are made of; without steps where they are not wanted."""
    return tuple(torch.empty_like(like if wanted else like[:0]) for _ in range(count))


def _given(gradients: Optional, like: Tensor) -> tuple[Tensor, ...]:
    """Gradients laid out; without steps where they are zero."""
    return tuple(like[:0] if towards is None else towards.contiguous() for towards in gradients)


def _slopes(membranes: Tensor, dynamics: Dynamics) -> Iterator[tuple[int, Tensor]]:
    """Each step, the last one first, and the surrogate's derivative ``[1, B, ...]`` there.

    Torch computes that, for it may mix the neurons of a step. Loops read it while it is in the cache.
    """
    for t in reversed(range(len(membranes))):
        yield t, dynamics.surrogate.derivative(membranes[t] - dynamics.threshold)[None].contiguous()


def _ways(dynamics: Dynamics) -> tuple[bool, bool]:
    """Whether the current comes first, and `lossless`."""
    return dynamics.order is CURRENT_FIRST, dynamics.lossless
