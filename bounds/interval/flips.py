r"""Currents of the first weighted layer under a joint budget of changed spikes.

A flip of bit i moves a current by ``w_i (1 - 2 x_i)``, so within one step a current rises by at most the sum
of the ``budget`` largest gains among the flips that are allowed, and falls by at most the same of the
losses. Over several steps the gains of all steps compete for the one budget: the best k of a union are the
best k among the bests of its parts, so the top-k of the steps so far is carried along and merged with that
of each new step (a weight that can be hit at several steps enters as often). See docs/theory/intervals.md.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Dense, Rearranged, Weighted, apply_chain
from certsnn.bounds.interval.arithmetic import Arithmetic, Enclosure, Interval
from certsnn.bounds.interval.layers import Operators, Source, Spikes, step_numbers
from certsnn.bounds.interval.scans import Charge, Summed
from certsnn.bounds.interval.topk import Best, Gains, Ranking, best_so_far, in_pieces, outputs_of
from certsnn.inputsets import SpikeFlips
from certsnn.program import over_time

LARGEST_COMPOSED = 2**28
"""The largest dense matrix that layers before the first weights are composed into."""


@final
@dataclass(frozen=True)
class _FirstLayer:
    """The operators up to the first weighted one, and what the changes do to its outputs.

    ``last`` is the weighted one, with those before it composed in where they are more than rearranging, and
    ``shaped`` makes of bits ``[T, B, ...]`` what it takes; ``outputs`` is the shape of the first layer's
    outputs where ``last`` gives them flattened, else None. ``magnitude`` bounds the spikes for the rounding
    error of ``operators``; where it already covers the changed spikes, ``flipped_terms`` is 0, else the
    number of terms of the operator that they enter.
    """

    operators: Operators
    rest: Operators
    last: Weighted
    shaped: Callable[[Tensor], Tensor]
    outputs: torch.Size | None
    magnitude: Tensor
    flipped_terms: int

    def unshaped(self, gains: Gains) -> Gains:
        """Gains of ``last`` shaped as the first layer's outputs."""
        if self.outputs is None:
            return gains
        return Gains(*(gain.unflatten(-1, self.outputs) for gain in gains))


class ChangedSpikes(Source):
    """Spikes ``x0 [T, B, ...]`` that are changed within a joint budget >= 1."""

    x0: Tensor

    @property
    @final
    def steps(self) -> int:
        return len(self.x0)

    @abstractmethod
    def moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        """The largest rise and fall ``[T, B, ...]`` of the operator's outputs at each step.

        Either is at least the sum of |weight| over the bits that are added in its direction, so that both
        together bound what the added spikes add to the outputs' magnitude.

        Args:
            operator: the first weighted one.
            shaped: makes of bits ``[T, B, ...]`` what the operator takes.
        """

    @abstractmethod
    def cumulative_moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        """The same of the outputs summed over steps 1..t."""

    @final
    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        if not operators:
            return Spikes(self.box()).currents(operators, arithmetic)
        first = self._first(operators, arithmetic)
        moves = first.unshaped(self.moves(first.last, first.shaped))
        return self._moved(first, self.x0, first.magnitude, moves, None, arithmetic)

    @final
    def charge(self, operators: Operators, arithmetic: Arithmetic) -> Charge:
        if not operators:
            return Spikes(self.box()).charge(operators, arithmetic)
        first = self._first(operators, arithmetic)
        moves = first.unshaped(self.cumulative_moves(first.last, first.shaped))
        times = step_numbers(self.x0, len(self.x0)).repeat_interleave(self.x0.shape[1])
        counts, magnitude = self.x0.cumsum(0), first.magnitude.cumsum(0)
        return Summed(self._moved(first, counts, magnitude, moves, times, arithmetic))

    def _first(self, operators: Operators, arithmetic: Arithmetic) -> _FirstLayer:
        weighted = [isinstance(operator, Weighted) for operator in operators]
        end = weighted.index(True) + 1 if any(weighted) else len(operators)
        prefix, rest = tuple(operators[:end]), tuple(operators[end:])
        x0 = arithmetic.raised(self.x0)
        before, last = prefix[:-1], arithmetic.operator(prefix[-1])
        if isinstance(last, Weighted) and all(isinstance(operator, Rearranged) for operator in before):
            shaped = partial(_reshaped, before)
            return _FirstLayer(prefix, rest, last, shaped, None, x0, last.rows.shape[-1])
        matrix, shape = _composed([arithmetic.operator(operator) for operator in prefix], x0)
        dense, flat = Dense(matrix, None), partial(torch.flatten, start_dim=2)
        return _FirstLayer(prefix, rest, dense, flat, shape, arithmetic.raised(self.box().upper), 0)

    def _moved(
        self,
        first: _FirstLayer,
        sums: Tensor,
        magnitude: Tensor,
        moves: Gains,
        repeats: Tensor | None,
        arithmetic: Arithmetic,
    ) -> Interval:
        frames = arithmetic.raised(sums).flatten(0, 1)
        nominal = Enclosure(Interval(frames, frames), magnitude.flatten(0, 1))
        (low, high), size = arithmetic.enclose(first.operators, nominal, repeats)
        rise, fall = (move.expand(*sums.shape[:2], *move.shape[2:]).flatten(0, 1) for move in moves)
        rounding = arithmetic.gamma(first.flipped_terms) * (rise + fall)
        moved = Interval(low - fall - rounding, high + rise + rounding)
        if arithmetic.unit:
            size = (size + rise + fall) * (1 + 2.0**-20)
        low, high = arithmetic.resume(first.rest, Enclosure(moved, size), repeats)
        return Interval(low.unflatten(0, sums.shape[:2]), high.unflatten(0, sums.shape[:2]))


@final
@dataclass(frozen=True)
class FlippedSpikes(ChangedSpikes):
    """Spikes ``[T, B, ...]`` of which at most ``flips.budget >= 1`` are flipped, over all steps together."""

    x0: Tensor
    flips: SpikeFlips
    ranking: Ranking

    def box(self) -> Interval:
        return Interval(*self.flips.box(self.x0))

    def moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        def step(best: Best, added: Tensor, dropped: Tensor) -> tuple[Best, Gains]:
            gains = self._ranked(operator, added, dropped)
            return best, Gains(*(gain.sum(0) for gain in gains))

        return in_pieces(self._bits(operator, shaped), self._numbers(operator, shaped), step)

    def cumulative_moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        def step(best: Best, added: Tensor, dropped: Tensor) -> tuple[Best, Gains]:
            return best_so_far(best, self._ranked(operator, added, dropped), len(added), self.flips.budget)

        return in_pieces(self._bits(operator, shaped), self._numbers(operator, shaped), step)

    def _ranked(self, operator: Weighted, added: Tensor, dropped: Tensor) -> Gains:
        return self.ranking(operator, added, dropped, self.flips.kind, self.flips.budget)

    def _bits(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The bits that may be set, and those that may be cleared."""
        allowed, dtype = self.flips.allowed(self.x0), operator.rows.dtype
        return [shaped((allowed & (self.x0 == bit)).to(dtype)) for bit in (0, 1)]

    def _numbers(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> int:
        return self.ranking.numbers(outputs_of(operator, shaped(self.x0[:1, :1])[0]), self.flips.budget)


def _reshaped(operators: Operators, x: Tensor) -> Tensor:
    """Rearranging operators on every frame of ``[T, B, ...]``."""
    return over_time(lambda frames: apply_chain(operators, frames), x)


def _composed(operators: Operators, x0: Tensor) -> tuple[Tensor, torch.Size]:
    """The operators as one matrix ``[out, in]`` on flattened inputs, and the shape of an output.

    Raises:
        ValueError: where the matrix would be too large.
    """
    inputs = x0[0, 0].numel()
    outputs = apply_chain(operators, x0[0, :1]).numel()
    if inputs * outputs > LARGEST_COMPOSED:
        raise ValueError(
            f"under a flip budget the layers before the first weights are composed into a {outputs} x "
            f"{inputs} matrix, which is too large; begin the network with its Conv2d or Linear layer"
        )
    columns = torch.eye(inputs, dtype=x0.dtype, device=x0.device).unflatten(1, x0.shape[2:])
    for operator in operators:
        columns = operator.linear(columns)
    return columns.flatten(1).T, columns.shape[1:]
