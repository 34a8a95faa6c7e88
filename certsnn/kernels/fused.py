"""The kernels as compiled loops, which read and write memory once.

Threads are Python's, as many as torch has: they hold no lock while a loop runs, need no second OpenMP beside
torch's, and a forked process makes its own. Each writes neurons of its own, so their number changes nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from certsnn.dynamics import CURRENT_FIRST, Dynamics, Ends
from certsnn.kernels import scans
from certsnn.kernels.base import Kernels
from certsnn.kernels.choice import laid_out

GRAIN = 2**16
"""Elements that a thread of its own is worth."""


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

    def number(self, number: Tensor) -> Any:
        """One number, or one for each neuron."""
        number = number.detach()
        return (number if number.numel() == 1 else number.expand(*self.shape)).reshape(-1).numpy()

    def run(self, loop: Callable[..., None], elements: int, *arguments: Any) -> None:
        """Do all units of work of a loop, in several threads where there is enough for them."""
        units = self.samples * -(-self.neurons // scans.WIDTH)
        threads = max(1, min(torch.get_num_threads(), units, elements // GRAIN))
        cuts = [units * part // threads for part in range(threads + 1)]
        (own, *others) = pairwise(cuts)
        running = [_pool(os.getpid(), threads).submit(loop, *cut, *arguments) for cut in others]
        loop(*own, *arguments)
        for part in running:
            part.result()


@lru_cache(1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "certsnn-kernels")


@final
class Fused(Kernels):
    """Compiled loops, for contiguous arrays on the CPU."""

    def step_scan(self, currents: Ends, dynamics: Dynamics) -> tuple[Ends, Ends]:
        low, high = currents
        membranes, spikes = (_like(low), _like(high)), (_like(low), _like(high))
        layout = Layout.of(low, dynamics.numbers())
        layout.run(
            scans.step_scan,
            4 * low.numel(),
            *map(layout.array, currents),
            *_constants(layout, dynamics),
            *map(layout.array, (*membranes, *spikes)),
        )
        return membranes, spikes


def _like(array: Tensor) -> Tensor:
    return torch.empty_like(array, memory_format=torch.contiguous_format)


def _constants(layout: Layout, dynamics: Dynamics) -> tuple[tuple[Any, ...], bool, bool]:
    """The numbers, in the order that the loops take; whether the current comes first; `lossless`."""
    names = (dynamics.initial, dynamics.threshold, dynamics.decay, dynamics.gain, dynamics.offset)
    return tuple(map(layout.number, names)), dynamics.order is CURRENT_FIRST, dynamics.lossless
