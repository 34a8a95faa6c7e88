"""Success statistics as attack papers report them, over the samples that the network gets right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, final

import torch
from torch import Tensor

from certsnn.attacks.base import AttackResult
from certsnn.inputsets import InputSet


@final
@dataclass(frozen=True, eq=False)
class Outcome:
    """The effects of an attack on each sample of some batch, all ``[N]`` on the CPU.

    correct: bool, whether the network gets the sample itself right (`certsnn.program.strictly_correct`).
    success, random: bool, iterations, queries: int64, as in `AttackResult`.
    entry_change: float64, mean |change| over all entries of the input; of spikes, the share that was flipped.
    pixel_change: float64, mean |change| over pixels, of spikes that of their rates over time.
    """

    correct: Tensor
    success: Tensor
    random: Tensor
    iterations: Tensor
    queries: Tensor
    entry_change: Tensor
    pixel_change: Tensor


def outcome(x0: Tensor, correct: Tensor, input_set: InputSet, result: AttackResult) -> Outcome:
    """The effects of an attack on a batch.

    Args:
        x0: the nominal input that was attacked.
        correct: bool ``[B]``, whether the network gets each sample of x0 right.
        input_set: the set it was attacked within.
        result: of the attack.
    """
    axis = input_set.batch_axis
    change = (result.adversarial - x0).double()
    moved = change if axis == 0 else change.mean(0)
    entry = change.abs().movedim(axis, 0).flatten(1).mean(1)
    pixel = moved.abs().flatten(1).mean(1)
    parts = (correct, result.success, result.random, result.iterations, result.queries, entry, pixel)
    return Outcome(*(part.cpu() for part in parts))


@final
@dataclass(frozen=True)
class AttackStatistics:
    """Means over samples; None where there is nothing to take the mean of.

    samples, correct: the number of samples, and of those that the network gets right. All that follows speaks
        of the latter alone.
    success_rate: percent of them that the attack breaks.
    random_share: percent of them in which RSF was needed.
    queries: forward passes of a sample.
    iterations, entry_change, pixel_change: of those that were broken (see `Outcome`).
    """

    samples: int
    correct: int
    success_rate: float | None
    random_share: float | None
    queries: float | None
    iterations: float | None
    entry_change: float | None
    pixel_change: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def statistics(outcomes: Iterable[Outcome]) -> AttackStatistics:
    """The statistics of all batches together.

    Raises:
        ValueError: without any batch.
    """
    parts = list(outcomes)
    if not parts:
        raise ValueError("there are no outcomes to take the mean of")
    whole = Outcome(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Outcome)))
    right, broken = whole.correct, whole.correct & whole.success
    return AttackStatistics(
        samples=len(right),
        correct=int(right.sum()),
        success_rate=_percent(whole.success[right]),
        random_share=_percent(whole.random[right]),
        queries=_mean(whole.queries[right]),
        iterations=_mean(whole.iterations[broken]),
        entry_change=_mean(whole.entry_change[broken]),
        pixel_change=_mean(whole.pixel_change[broken]),
    )


def _mean(values: Tensor) -> float | None:
    """The mean; None of no values."""
    return float(values.double().mean()) if len(values) else None


def _percent(values: Tensor) -> float | None:
    """The percentage of True; None of no values."""
    return 100 * float(values.double().mean()) if len(values) else None
