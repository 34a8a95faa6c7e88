r"""Several processes that work on one training or one verification, and what they exchange.

Training: every process holds the same weights and computes its contiguous share of every batch. With the
shares' weights :math:`w_r = n_r / n` the loss of the whole batch is

.. math:: L = \sum_r w_r L_r, \qquad \nabla L = \sum_r \nabla (w_r L_r)

so each process takes the gradient of its own weighted loss, and the sum over processes is the gradient that
one process would have found. Quantities that are no means over single samples' losses (batch norm's
statistics, the widths and rates of regularisers) are made those of the whole batch by `batch_mean`, through
which gradients flow to all processes. Collectives are torch.distributed's, set up by accelerate.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final

import torch
import torch.distributed as dist
from torch import Tensor

from certsnn import launch
from certsnn.errors import UserError

PATIENCE = timedelta(days=30)
"""How long a process waits for another one. Shares of a verification can differ by hours; a process that
died is noticed at once, by its closed connection or by the launcher."""


class ProcessLost(UserError):
    """Another process of the same run has ended, or can't be reached any more."""


@final
@dataclass(frozen=True)
class Share:
    """The samples ``start`` to ``stop`` of a batch of ``whole`` samples."""

    start: int
    stop: int
    whole: int

    @property
    def samples(self) -> int:
        """How many samples count here; may be 0."""
        return self.stop - self.start

    @property
    def weight(self) -> float:
        """What the mean over these samples weighs in the mean over the batch."""
        return self.samples / self.whole

    @property
    def held(self) -> slice:
        """The samples to compute. A process without a share repeats a sample, with weight 0: it must take
        part in every exchange."""
        return slice(self.start, self.stop) if self.samples else slice(self.whole - 1, self.whole)

    def scaled(self, count: int) -> int:
        """A number of values that the held samples have equally many of, over the whole batch."""
        return count * self.whole // max(1, self.samples)


class Processes(ABC):
    """The processes that were launched together, seen from one of them."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where this process computes."""

    @abstractmethod
    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in the tensor itself; no gradients (see `batch_mean`)."""

    @abstractmethod
    def greatest(self, tensor: Tensor) -> Tensor:
        """The element-wise maximum over all processes, in the tensor itself."""

    @abstractmethod
    def others(self, text: str) -> list[str]:
        """What every *other* process gave, by rank; returns when all have given something."""

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
    def speak(self) -> None:
        """Called before saying why this process ends: of all processes, the first to call it is heard."""

    @final
    def share(self, samples: int) -> Share:
        """This process's contiguous share of so many samples; shares differ by at most one sample."""
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

    where: torch.device = field(default_factory=partial(torch.device, "cpu"))

    @property
    def rank(self) -> int:
        return 0

    @property
    def count(self) -> int:
        return 1

    @property
    def device(self) -> torch.device:
        return self.where

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

    def speak(self) -> None:
        return None


class Counters(Protocol):
    """What is needed of a launcher's store."""

    def add(self, key: str, amount: int, /) -> int:
        """The counter's new value."""


@final
@dataclass(frozen=True)
class Several(Processes):
    """Processes of one torch.distributed group, which exchange CPU tensors by gloo, CUDA's by NCCL.

    Args:
        where: where this process computes.
        place: its rank.
        size: how many there are.
        store: the launcher's store, for what must not need the others' help: who speaks.
    """

    where: torch.device
    place: int
    size: int
    store: Counters

    @property
    def rank(self) -> int:
        return self.place

    @property
    def count(self) -> int:
        return self.size

    @property
    def device(self) -> torch.device:
        return self.where

    def sum(self, tensor: Tensor) -> Tensor:
        with _exchange():
            dist.all_reduce(tensor)
        return tensor

    def greatest(self, tensor: Tensor) -> Tensor:
        with _exchange():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def others(self, text: str) -> list[str]:
        given = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with _exchange():
            dist.all_gather(sizes, torch.tensor([len(given)]))
            longest = int(torch.cat(sizes).max())
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(given)] = given
            gathered = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(gathered, padded)
        ends = [int(size) - 1 for size in sizes]
        texts = [bytes(part[:end].numpy()).decode() for part, end in zip(gathered, ends, strict=True)]
        return texts[: self.place] + texts[self.place + 1 :]

    def once(self, action: Callable[[], object]) -> None:
        if self.place == 0:
            action()
        self.others("")

    def own(self, path: Path) -> Path:
        return path.with_name(f"{path.name}{PART}{self.place}")

    def diverge(self, seed: int) -> None:
        if self.place > 0:
            torch.manual_seed((seed * self.size + self.place) % 2**63)

    def speak(self) -> None:
        try:
            first = self.store.add(SPOKEN, 1) == 1
            self._see_them_out()
        except RuntimeError:  # the launcher is gone, and with it the store
            first = self.place == 0
        launch.give_voice(first)

    def _see_them_out(self) -> None:
        """In the process that holds the store: give the others time to ask who speaks."""
        latest = time.monotonic() + LEAVE
        while self.place == 0 and self.store.add(SPOKEN, 0) < self.size and time.monotonic() < latest:
            time.sleep(0.05)


SPOKEN = "certsnn.spoken"
"""The store's count of the processes that have an error to tell."""

LEAVE = 2.0
"""Seconds for which a failing process keeps the store for others that fail too."""

PART = ".part"
"""What stands between a file's name and a rank in the name of a part of it."""


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this run has ended or can't be reached any more; the same command goes on "
            "from what was saved"
        ) from error


@contextmanager
def launched(device: str) -> Iterator[Processes]:
    """The processes that a launcher started with this one; one alone without a launcher.

    An error that leaves the block is heard from one process only (`Processes.speak`).

    Args:
        device: ``cpu``, or the kind of device of which each process takes its own, ``cuda``.

    Raises:
        UserError: if there are several, and accelerate is not installed or the device names one for all.
    """
    if launch.count() == 1:
        yield Alone(torch.device(device))
        return
    try:
        processes = _joined(device)
    except UserError:
        launch.give_voice(launch.local_rank() == 0)
        raise
    try:
        yield processes
    except BaseException:
        processes.speak()
        raise
    processes.others("")
    dist.destroy_process_group()


def _joined(device: str) -> Several:
    """Meet the other processes."""
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise UserError(
            f"a launcher started {launch.count()} processes: working together needs accelerate, pip install "
            "'certsnn[scale]'; or run one process"
        ) from error
    if device not in ("cpu", "cuda"):
        raise UserError(
            f"{launch.count()} processes can't share the device {device!r}: say --device cuda, and each "
            "takes one of its machine's, or --device cpu"
        )
    threads = torch.get_num_threads()
    store, rank, count = next(dist.rendezvous("env://", timeout=timedelta(minutes=10)))  # type: ignore[attr-defined]
    backend = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}[device]
    state = PartialState(
        cpu=device == "cpu", backend=backend, store=store, rank=rank, world_size=count, timeout=PATIENCE
    )
    torch.set_num_threads(threads)  # accelerate sets a number of its own where the launcher named none
    return Several(state.device, rank, count, store)


@final
@dataclass(frozen=True)
class _Batch:
    processes: Processes
    share: Share


_BATCH: ContextVar[_Batch | None] = ContextVar("certsnn.batch", default=None)


@contextmanager
def sharing(processes: Processes, share: Share) -> Iterator[None]:
    """In the block, a training pass over ``share.held`` is a part of one over the whole batch."""
    token = _BATCH.set(_Batch(processes, share) if processes.count > 1 else None)
    try:
        yield
    finally:
        _BATCH.reset(token)


def batch_mean(mean: Tensor) -> Tensor:
    """The mean over the whole batch, from the mean over this process's samples; differentiable.

    For whatever a training pass averages over the samples and does not just add to the loss. Every process
    must call it equally often and in the same order. Itself where one process has all samples.
    """
    batch = _BATCH.get()
    if batch is None:
        return mean
    total: Tensor = _Sum.apply(batch.share.weight * mean, batch.processes)
    return total


def batch_max(greatest: Tensor) -> Tensor:
    """The maximum over the whole batch, from that over this process's samples; no gradients."""
    batch = _BATCH.get()
    return greatest if batch is None else batch.processes.greatest(greatest.detach().clone())


def batch_count(count: int) -> int:
    """The number of values in the whole batch, from that in this process's samples."""
    batch = _BATCH.get()
    return count if batch is None else batch.share.scaled(count)


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
