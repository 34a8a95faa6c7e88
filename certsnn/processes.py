r"""Several processes that work on one training or one verification, and their exchanges.

Training: every process holds the same weights and computes its contiguous share of every batch. With the
shares' weights :math:`w_r = n_r / n` the loss of the whole batch is

.. math:: L = \sum_r w_r L_r, \qquad \nabla L = \sum_r \nabla (w_r L_r)

so each process takes the gradient of its own weighted loss, and the sum over processes is the gradient that
one process would have found. Quantities that are no means over single samples' losses (batch norm's
statistics, the widths and rates of regularisers) are made those of the whole batch by `SharedBatch`, through
which gradients flow to all processes. `certsnn.cli.distributed` launches them and exchanges tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from certsnn.batches import WHOLE, BatchStatistics
from certsnn.errors import UserError

PART = ".part"
"""The word between a file's name and a rank, in the name of a part of it."""


@final
@dataclass(frozen=True)
class Share:
    """The samples ``start`` to ``stop`` of a batch of ``whole`` samples."""

    start: int
    stop: int
    whole: int

    @property
    def samples(self) -> int:
        """The number of samples that count here; may be 0."""
        return self.stop - self.start

    @property
    def weight(self) -> float:
        """The weight of these samples' mean in the mean over the batch."""
        return self.samples / self.whole

    @property
    def held(self) -> slice:
        """The samples to compute. A process without a share repeats a sample, with weight 0: it must take
        part in every exchange."""
        return slice(self.start, self.stop) if self.samples else slice(self.whole - 1, self.whole)

    def scaled(self, count: int) -> int:
        """A number of values that the held samples have equally many of, over the whole batch."""
        return count * self.whole // max(1, self.samples)


@dataclass(frozen=True)
class Processes(ABC):
    """The processes that were launched together, seen from one of them.

    ``device``: of this process; ``rank``: its number, from 0; ``count``: the number of processes.
    """

    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    rank: int = 0
    count: int = 1

    @abstractmethod
    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in the tensor itself; no gradients (see `SharedBatch`)."""

    @abstractmethod
    def greatest(self, tensor: Tensor) -> Tensor:
        """The element-wise maximum over all processes, in the tensor itself."""

    @abstractmethod
    def others(self, text: str) -> list[str]:
        """The text of every *other* process, by rank; returns when all have given theirs."""

    @abstractmethod
    def once(self, action: Callable[[], object]) -> None:
        """The first process acts, the others wait until it has."""

    @abstractmethod
    def own(self, path: Path) -> Path:
        """The file that this process writes its part of the file ``path`` to."""

    @abstractmethod
    def diverge(self, seed: int) -> None:
        """Give torch's generator another seed in every process but the first."""

    @abstractmethod
    def batch(self, share: Share) -> BatchStatistics:
        """The batch that this process holds a share of."""

    @final
    def share(self, samples: int) -> Share:
        """This process's contiguous share of a number of samples; shares differ by at most one sample."""
        start, stop = (samples * rank // self.count for rank in (self.rank, self.rank + 1))
        return Share(start, stop, samples)

    @final
    def agree(self, value: str, advice: str) -> None:
        """Raise UserError with the advice where not all processes gave the same value."""
        if any(other != value for other in self.others(value)):
            raise UserError(f"the {self.count} processes of this run do not agree: {advice}")

    @final
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their sums over all processes, exchanged as one flat tensor."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


@final
@dataclass(frozen=True)
class Alone(Processes):
    """One process, without a launcher."""

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def greatest(self, tensor: Tensor) -> Tensor:
        return tensor

    def others(self, text: str) -> list[str]:
        return []

    def once(self, action: Callable[[], object]) -> None:
        action()

    def own(self, path: Path) -> Path:
        return path

    def diverge(self, seed: int) -> None:
        return None

    def batch(self, share: Share) -> BatchStatistics:
        return WHOLE


@final
@dataclass(frozen=True)
class SharedBatch(BatchStatistics):
    """A batch of which every process holds a share."""

    processes: Processes
    share: Share

    def mean(self, mean: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(self.share.weight * mean, self.processes)
        return total

    def greatest(self, greatest: Tensor) -> Tensor:
        return self.processes.greatest(greatest.detach().clone())

    def values(self, count: int) -> int:
        return self.share.scaled(count)


@final
class _Sum(torch.autograd.Function):
    """A sum over processes. Each one's loss depends on it, so gradients are summed up, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Any:
        ctx.processes = processes
        return processes.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.processes.sum(gradients[0].clone(memory_format=torch.contiguous_format)), None


def mean_figures(processes: Processes, sums: Sequence[Tensor], samples: int) -> list[float]:
    """Means over all samples, from this process's sums of scalars."""
    if not sums:
        return []
    return [float(total) / samples for total in processes.sum(torch.stack(list(sums)))]
