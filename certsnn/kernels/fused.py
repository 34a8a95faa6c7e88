"""The kernels as compiled loops, which read and write memory once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from certsnn.dynamics import CURRENT_FIRST, Dynamics, Ends
from certsnn.kernels import scans
from certsnn.kernels.base import Bounds, Kernels
from certsnn.kernels.choice import laid_out
from certsnn.kernels.gradients import counting
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


def _like(array: Tensor) -> Tensor:
    return torch.empty_like(array, memory_format=torch.contiguous_format)


def _ways(dynamics: Dynamics) -> tuple[bool, bool]:
    """Whether the current comes first, and `lossless`."""
    return dynamics.order is CURRENT_FIRST, dynamics.lossless
