"""The processes that a launcher (torchrun, accelerate launch) started: how they meet and exchange tensors.

The one place of torch.distributed, which accelerate sets up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol, final

import torch
import torch.distributed as dist
from torch import Tensor

from certsnn.batches import BatchStatistics
from certsnn.cli import launch
from certsnn.errors import UserError
from certsnn.processes import PART, Alone, Processes, Share, SharedBatch

PATIENCE = timedelta(days=30)
"""The time for which a process waits for another one. Shares of a verification can differ by hours; a process
that died is noticed at once, by its closed connection or by the launcher."""


@final
class ProcessLost(UserError):
    """Another process of the same run has ended, or can't be reached any more."""


class Counters(Protocol):
    """The methods that are needed of a launcher's store."""

    def add(self, key: str, amount: int, /) -> int:
        """The counter's new value."""


@final
@dataclass(frozen=True)
class Several(Processes):
    """Processes of one torch.distributed group, which exchange CPU tensors by gloo, CUDA's by NCCL.

    ``store``: the launcher's, for the one question that must not need the others' help: who speaks.
    """

    store: Counters = field(kw_only=True)

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
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with _exchange():
            dist.all_gather(sizes, torch.tensor([len(given)]))
            longest = int(torch.cat(sizes).max())
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(given)] = given
            gathered = [torch.empty_like(padded) for _ in range(self.count)]
            dist.all_gather(gathered, padded)
        ends = [int(size) - 1 for size in sizes]
        texts = [bytes(part[:end].numpy()).decode() for part, end in zip(gathered, ends, strict=True)]
        return texts[: self.rank] + texts[self.rank + 1 :]

    def once(self, action: Callable[[], object]) -> None:
        if self.rank == 0:
            action()
        self.others("")

    def own(self, path: Path) -> Path:
        return path.with_name(f"{path.name}{PART}{self.rank}")

    def diverge(self, seed: int) -> None:
        if self.rank > 0:
            torch.manual_seed((seed * self.count + self.rank) % 2**63)

    def batch(self, share: Share) -> BatchStatistics:
        return SharedBatch(self, share)

    def speak(self) -> None:
        """Called before saying why this process ends: of all processes, the first to call it is heard."""
        try:
            first = self.store.add(SPOKEN, 1) == 1
            self._see_them_out()
        except RuntimeError:  # the launcher is gone, and with it the store
            first = self.rank == 0
        launch.give_voice(first)

    def _see_them_out(self) -> None:
        """In the process that holds the store: give the others time to ask who speaks."""
        latest = time.monotonic() + LEAVE
        while self.rank == 0 and self.store.add(SPOKEN, 0) < self.count and time.monotonic() < latest:
            time.sleep(0.05)


SPOKEN = "certsnn.spoken"
"""The store's count of the processes that have an error to tell."""

LEAVE = 2.0
"""Seconds for which a failing process keeps the store for others that fail too."""


@contextmanager
def _exchange() -> Iterator[None]:
    """A RuntimeError of the block becomes `ProcessLost`."""
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
    return Several(state.device, rank, count, store=store)
