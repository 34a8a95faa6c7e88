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
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.affine import Dense, Rearranged, Weighted, apply_chain
from certsnn.bounds.interval.arithmetic import Arithmetic, Enclosure, Interval
from certsnn.bounds.interval.layers import Operators, Source, Spikes, step_numbers
from certsnn.bounds.interval.scans import Charge, Summed
from certsnn.inputsets import SpikeFlips
from certsnn.inputsets.flips import Kind
from certsnn.program import over_time

WINDOW_ELEMENTS = 2**24
"""How many candidate flips are ranked at a time: bounds the memory, not the result."""
SHORT_LIST = 6
"""So many times the budget of flips are ranked first, those of the heaviest weights."""
LARGEST_COMPOSED = 2**28
"""The largest dense matrix that layers before the first weights are composed into."""


class Gains(NamedTuple):
    """The largest changes ``[k, T, B, ...]`` (or broadcastable), >= 0, that single flips make."""

    rise: Tensor
    fall: Tensor


Ranking = Callable[[Weighted, Tensor, Tensor, Kind, int], Gains]
"""Which flips compete for a budget: the best gains of each output at each step.

The arguments: the operator, the bits that may be set, those that may be cleared (0/1 ``[T, B, ...]``),
whether there are both ("any") or only the former ("add") or the latter ("drop"), and how many at once.
"""


def feasible_flips(operator: Weighted, added: Tensor, dropped: Tensor, kind: Kind, budget: int) -> Gains:
    """A `Ranking` of flips that x0 admits: a 1 can fall and a 0 can rise. Tight; for verification."""
    shape = added.shape[:2]
    added, dropped = added.flatten(0, 1), dropped.flatten(0, 1)
    per_frame = operator.rows.numel() * operator.windows(added[:1]).shape[-1]
    size = max(1, WINDOW_ELEMENTS // max(per_frame, 1))
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for add, drop in zip(added.split(size), dropped.split(size), strict=True):
        gains = _largest_gains(operator.rows, operator.windows(add), operator.windows(drop), budget)
        for found, part in zip(gains, parts, strict=True):
            part.append(torch.stack([operator.unwindow(best, add) for best in found.unbind(-1)]))
    return Gains(*(torch.cat(part, 1).unflatten(1, shape) for part in parts))


def any_weights(operator: Weighted, added: Tensor, dropped: Tensor, kind: Kind, budget: int) -> Gains:
    """A `Ranking` of all flips of the kind, whatever x0 is: the top weights, once an update. For training."""
    rows = operator.rows
    positive, negative = rows.clamp_min(0), (-rows).clamp_min(0)
    rise, fall = {
        "any": (rows.abs(), rows.abs()),
        "add": (positive, negative),
        "drop": (negative, positive),
    }[kind]
    count = min(budget, rows.shape[-1])
    frame = added[0, :1]

    def best(gain: Tensor) -> Tensor:  # [k, 1, 1, ...], spread over the locations
        ranked = gain.topk(count, dim=-1).values  # [G, O, k]
        places = operator.windows(frame).shape[-1]
        spread = ranked.movedim(-1, 0)[..., None].expand(-1, -1, -1, places)
        return operator.unwindow(spread, frame.expand(count, *frame.shape[1:]))[:, None, None]

    return Gains(best(rise), best(fall))


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
        rise, fall = self._gains(operator, shaped)
        return Gains(rise.sum(0), fall.sum(0))

    def cumulative_moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        gains = self._gains(operator, shaped)
        return Gains(*(_best_so_far(gain, len(self.x0), self.flips.budget) for gain in gains))

    def _gains(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        allowed, dtype = self.flips.allowed(self.x0), operator.rows.dtype
        added, dropped = (shaped((allowed & (self.x0 == bit)).to(dtype)) for bit in (0, 1))
        return self.ranking(operator, added, dropped, self.flips.kind, self.flips.budget)


def _largest_gains(rows: Tensor, added: Tensor, dropped: Tensor, budget: int) -> Gains:
    """The (up to) ``budget`` largest rises and falls ``[N, G, O, L, k]`` by flips, at least 0 each.

    Ranked among the heaviest weights first: where these hold ``budget`` flips of a direction for every
    output, no lighter one is among the best.

    Args:
        rows: weights ``[G, O, n]``.
        added: bits ``[N, G, n, L]`` that may be set.
        dropped: bits that may be cleared.
        budget: flips.
    """
    changes: Callable[..., tuple[Tensor, Tensor]] = _one_way
    bits = [added - dropped]
    if bool((added * dropped).any()):  # counts of spikes, which can change either way
        changes, bits = _either_way, [added, dropped]
    bits = [part.transpose(-1, -2)[:, :, None] for part in bits]  # [N, G, 1, L, n]
    few = SHORT_LIST * budget + SHORT_LIST
    if 2 * few < rows.shape[-1]:
        heaviest = rows.detach().abs().topk(few, dim=-1).indices
        shape = (len(added), *rows.shape[:2], added.shape[-1], -1)
        places = heaviest[None, :, :, None].expand(*shape)
        heavy = [part.expand(*shape).gather(-1, places) for part in bits]
        rise, fall = changes(rows.gather(-1, heaviest)[None, :, :, None], *heavy)
        if all(bool(((part > 0).sum(-1) >= budget).all()) for part in (rise, fall)):
            return Gains(_largest(rise, budget), _largest(fall, budget))
    rise, fall = changes(rows[None, :, :, None], *bits)
    return Gains(_largest(rise, budget), _largest(fall, budget))


def _one_way(weights: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """What each flip raises and lowers outputs by; ``bits`` are 1 where one may be set, -1 cleared."""
    rise = weights * bits
    return rise, -rise


def _either_way(weights: Tensor, added: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
    """The same where a place may rise and fall."""
    up, down = weights * added, weights * dropped
    return torch.maximum(up, -down), torch.maximum(down, -up)


def _largest(change: Tensor, count: int) -> Tensor:
    """The (up to) ``count`` largest values of the last axis, at least 0 each."""
    if count == 1:  # much faster than topk
        return change.amax(-1, keepdim=True).clamp_min(0)
    return change.topk(min(count, change.shape[-1]), dim=-1).values.clamp_min(0)


def _reshaped(operators: Operators, x: Tensor) -> Tensor:
    """Rearranging operators on every frame of ``[T, B, ...]``."""
    return over_time(lambda frames: apply_chain(operators, frames), x)


def _best_so_far(gains: Tensor, steps: int, budget: int) -> Tensor:
    """The sum ``[T, B, ...]`` of the ``budget`` largest gains in steps 1..t, from those of each step."""
    gains = gains.expand(-1, steps, *gains.shape[2:])
    best, sums = gains[:, 0], []
    for step in range(steps):
        if step:
            union = torch.cat([best, gains[:, step]])
            best = union.topk(min(budget, len(union)), dim=0).values
        sums.append(best.sum(0))
    return torch.stack(sums)


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
