"""The largest changes of a layer's outputs by single flips of its input bits, and how they are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.affine import Weighted
from certsnn.inputsets.flips import Kind

GAINS, CACHED_ELEMENTS = 2**22, 2**16
"""How many gains are alive at a time, and candidates ranked: bounds the memory, not the result."""
SHORT_LIST = 6
"""So many times the budget of flips, and as many more, are ranked first: those of the heaviest weights."""
WALKED = 2**11
"""Weights of an output times flips, up to which all are walked through sooner than sorted."""


class Gains(NamedTuple):
    """The largest changes ``[k, T, B, ...]`` (or broadcastable), >= 0, that single flips make."""

    rise: Tensor
    fall: Tensor


Changes = Callable[..., tuple[Tensor, Tensor]]
"""The rise and the fall of outputs by each flip, from weights and bits."""

Best = tuple[list[Tensor], list[Tensor]]
"""The best rises and falls ``[B, ...]`` so far, descending."""


class Ranking(ABC):
    """Which flips compete for a budget."""

    @abstractmethod
    def __call__(self, operator: Weighted, added: Tensor, dropped: Tensor, kind: Kind, budget: int) -> Gains:
        """The best gains of each output at each step.

        Args:
            operator: the first weighted one.
            added: bits that may be set, 0/1 ``[T, B, ...]``.
            dropped: bits that may be cleared.
            kind: whether there are both ("any") or only the former ("add") or the latter ("drop").
            budget: how many at once.
        """

    @abstractmethod
    def numbers(self, outputs: int, budget: int) -> int:
        """How many gains there are for each frame, of so many outputs."""


@final
class _FeasibleFlips(Ranking):
    def __call__(self, operator: Weighted, added: Tensor, dropped: Tensor, kind: Kind, budget: int) -> Gains:
        shape = added.shape[:2]
        added, dropped = added.flatten(0, 1), dropped.flatten(0, 1)
        size = max(1, CACHED_ELEMENTS // max(outputs_of(operator, added[:1]), 1))
        listed = _heaviest(operator.rows, budget)
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for add, drop in zip(added.split(size), dropped.split(size), strict=True):
            windows = operator.windows(add), operator.windows(drop)
            gains = _largest_gains(operator.rows, listed, *windows, budget)
            for found, part in zip(gains, parts, strict=True):
                part.append(torch.stack([operator.unwindow(best, add) for best in found]))
        return Gains(*(torch.cat(part, 1).unflatten(1, shape) for part in parts))

    def numbers(self, outputs: int, budget: int) -> int:
        return outputs * budget


@final
class _AnyWeights(Ranking):
    def __call__(self, operator: Weighted, added: Tensor, dropped: Tensor, kind: Kind, budget: int) -> Gains:
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

    def numbers(self, outputs: int, budget: int) -> int:
        return 0  # the same of all frames


feasible_flips: Ranking = _FeasibleFlips()
"""Flips that x0 admits: a 1 can fall and a 0 can rise. Tight; for verification."""
any_weights: Ranking = _AnyWeights()
"""All flips of the kind, whatever x0 is: the top weights, once an update. For training."""


def in_pieces(bits: Sequence[Tensor], numbers: int, step: Callable[..., tuple[Best, Gains]]) -> Gains:
    """Moves ``[T, B, ...]``, found some samples and steps at a time: that bounds the memory.

    Args:
        bits: ``[T, B, ...]``.
        numbers: numbers that are alive together for one frame.
        step: the moves of the next steps, from the best gains of those before and their bits; and the best
            gains so far.
    """
    steps, samples = bits[0].shape[:2]
    width = max(1, min(samples, GAINS // max(1, steps * numbers)))
    length = max(1, min(steps, GAINS // max(1, width * numbers)))
    columns = []
    for some in zip(*(part.split(width, 1) for part in bits), strict=True):
        best: Best = ([], [])
        found = []
        for piece in zip(*(part.split(length) for part in some), strict=True):
            best, gains = step(best, *piece)
            found.append([gain.expand(*piece[0].shape[:2], *gain.shape[2:]) for gain in gains])
        columns.append([_joined(side, 0) for side in zip(*found, strict=True)])
    return Gains(*(_joined(side, 1) for side in zip(*columns, strict=True)))


def outputs_of(operator: Weighted, frame: Tensor) -> int:
    """The number of outputs for one frame ``[1, ...]``."""
    return operator.rows.shape[:2].numel() * operator.windows(frame).shape[-1]


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)


def _heaviest(rows: Tensor, budget: int) -> Tensor:
    """Places ``[G O, m]`` of every output's heaviest weights, the heaviest first; m = 0 for narrow rows."""
    few = SHORT_LIST * budget + SHORT_LIST
    count = few if 2 * few < rows.shape[-1] else 0
    return rows.detach().flatten(0, 1).abs().topk(count, dim=-1).indices


def _largest_gains(rows: Tensor, listed: Tensor, added: Tensor, dropped: Tensor, budget: int) -> Gains:
    """The (up to) ``budget`` largest rises and falls ``[k, N, G, O, L]`` by flips, at least 0 each.

    Args:
        rows: weights ``[G, O, n]``.
        listed: places of the heaviest ones, see `_heaviest`.
        added: bits ``[N, G, n, L]`` that may be set.
        dropped: bits that may be cleared.
        budget: flips.
    """
    changes: Changes = _one_way
    bits = [added - dropped]
    if bool((added * dropped).any()):  # counts of spikes, which can change either way
        changes, bits = _either_way, [added, dropped]
    groups, outputs, inputs = rows.shape
    weights, group = rows.flatten(0, 1), torch.arange(groups, device=rows.device).repeat_interleave(outputs)
    count = min(budget, inputs)
    walk = partial(_walked, weights, first=group * inputs, bits=bits, changes=changes, count=count)
    every = torch.arange(inputs, device=rows.device).expand(len(weights), -1)
    quick = inputs * count <= WALKED
    if listed.shape[1]:
        found = walk(listed)
        last = weights.detach().gather(1, listed[:, -1:]).abs()[:, :, None]
        # No lighter weight is among the best where these are no smaller than the last one of the list.
        short = (found[:, -1] < last).any(0)
    else:
        found = weights.new_zeros(2, count, len(weights), len(added), added.shape[-1])
        short = torch.ones_like(found[0, 0], dtype=torch.bool)
    if quick and 8 * int(short.sum()) > short.numel():
        found, short = walk(every), torch.zeros_like(short)
    wide = [part.movedim(2, -1).contiguous() for part in bits]  # [N, G, L, n]
    for some in short.nonzero().split(max(1, CACHED_ELEMENTS // inputs)):
        output, frame, place = some.unbind(1)
        ends = changes(weights[output], *(part[frame, group[output], place] for part in wide))
        for side, change in enumerate(ends):
            found[side, :, output, frame, place] = _largest(change, count).T
    return Gains(*found.transpose(2, 3).unflatten(3, (groups, outputs)))


def _walked(
    weights: Tensor, listed: Tensor, *, first: Tensor, bits: Sequence[Tensor], changes: Changes, count: int
) -> Tensor:
    """The largest rises and falls ``[2, k, G O, N, L]`` by flips at the listed places alone.

    One place of all outputs after the other is set against their best ones so far.
    """
    rows = [part.flatten(1, 2).transpose(0, 1).contiguous() for part in bits]  # [G n, N, L]
    rises: list[Tensor] = []
    falls: list[Tensor] = []
    for places in listed.T:
        weight = weights.gather(1, places[:, None])[:, :, None]
        rise, fall = changes(weight, *(part.index_select(0, first + places) for part in rows))
        rises, falls = _inserted(rises, rise, count), _inserted(falls, fall, count)
    found: Tensor = torch.stack([*rises, *falls]).unflatten(0, (2, count))
    return found


def _inserted(best: list[Tensor], change: Tensor, count: int) -> list[Tensor]:
    """The (up to) ``count`` largest changes so far, >= 0 and descending, with one more of each output."""
    kept = []
    for one in best:
        kept.append(torch.maximum(one, change))
        change = torch.minimum(one, change)
    return kept if len(kept) == count else [*kept, change.clamp_min(0)]


def _one_way(weights: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """What each flip raises and lowers outputs by; ``bits`` are 1 where one may be set, -1 cleared."""
    rise = weights * bits
    return rise, -rise


def _either_way(weights: Tensor, added: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
    """The same where a place may rise and fall."""
    up, down = weights * added, weights * dropped
    return torch.maximum(up, -down), torch.maximum(down, -up)


def _largest(change: Tensor, count: int) -> Tensor:
    """The ``count`` largest values of the last axis, at least 0 each."""
    if count == 1:  # much faster than topk
        return change.amax(-1, keepdim=True).clamp_min(0)
    return change.topk(count, dim=-1).values.clamp_min(0)


def best_so_far(best: Best, gains: Gains, steps: int, budget: int) -> tuple[Best, Gains]:
    """The ``budget`` largest gains after some further steps, and their sums ``[T, B, ...]`` after each."""
    (rises, rise), (falls, fall) = (
        _best_so_far(one, gain, steps, budget) for one, gain in zip(best, gains, strict=True)
    )
    return (rises, falls), Gains(rise, fall)


def _best_so_far(best: list[Tensor], gains: Tensor, steps: int, budget: int) -> tuple[list[Tensor], Tensor]:
    gains, sums = gains.expand(-1, steps, *gains.shape[2:]), []
    for step in range(steps):
        for gain in gains[:, step]:
            best = _inserted(best, gain, budget)
        sums.append(torch.stack(best).sum(0))
    return best, torch.stack(sums)
