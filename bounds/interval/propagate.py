"""S-IBP: interval bounds of all layers, and of the margins.

Liang, Xu, Hu, Deng and Xie, *Toward Robust Spiking Neural Network Against Adversarial Perturbation*, 2022,
https://arxiv.org/abs/2205.01625, bound every step. The count domain and the flip budgets are certsnn's:
docs/theory/intervals.md and docs/theory/counts.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Tensor

from certsnn.affine import Affine, Dense
from certsnn.bounds.interval.arithmetic import Arithmetic, Interval
from certsnn.bounds.interval.joints import Part, bounded
from certsnn.bounds.interval.layers import Layer, Source
from certsnn.bounds.interval.layers import Mean as MeanBounds
from certsnn.bounds.interval.topk import Ranking
from certsnn.bounds.problem import Problem
from certsnn.program import Node
from certsnn.readouts import Mean, Readout


def propagate(problem: Problem, ranking: Ranking) -> list[Source]:
    """Bounds of the input's values and of every node's, as `Program.values` counts them."""
    sources = [problem.support.start(problem.x0, problem.steps, ranking)]
    for node in problem.program.nodes:
        sources.append(follow(node, sources, problem))
    return sources


def follow(node: Node, sources: Sequence[Source], problem: Problem) -> Source:
    """Bounds of a node's values, from those of the input and the nodes before it."""
    parts = [Part(sources[link.source], link.operators) for link in node.links]
    return bounded(node, parts, problem.arithmetic, problem.x0.dtype)


def layers_of(sources: Sequence[Source]) -> list[Layer]:
    """The layers of neurons among them, first to last."""
    return [source for source in sources if isinstance(source, Layer)]


def last_mean(problem: Problem, sources: Sequence[Source]) -> MeanBounds:
    """The mean over time of what the readout takes."""
    return sources[problem.program.readout.source].mean(problem.arithmetic, problem.x0.dtype)


def others(y: Tensor, classes: int) -> Tensor:
    """``[B, K-1]``: the classes other than y, ascending."""
    classes_but_last = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    return classes_but_last + (classes_but_last >= y[:, None])


def margins(readout: Sequence[Affine], rate: Interval, y: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Lower bounds ``[B, K-1]`` of ``logit[y] - logit[j]``, from bounds of the last layer's rates.

    A final Dense operator is merged with the specification: ``(w_y - w_j) . r + b_y - b_j`` is bounded, not
    the logits. Both logits' rounding errors are taken off, so a positive bound is a strict inequality of
    the executed logits.
    """
    if readout and isinstance(readout[-1], Dense):
        rate, merged = arithmetic.chain(readout[:-1], rate), readout[-1]
        return merged_margins(arithmetic, merged, rate, y)
    low, high = arithmetic.chain(readout, rate)
    rivals = high.gather(1, others(y, high.shape[1]))
    return low.gather(1, y[:, None]) - rivals


def merged_margins(arithmetic: Arithmetic, plain: Dense, rate: Interval, y: Tensor) -> Tensor:
    """`margins` of a single Dense operator."""
    dense = plain.to(plain.weight.dtype if arithmetic.dtype is None else arithmetic.dtype)
    rivals = others(y, len(dense.weight))
    centre, radius = (rate.upper + rate.lower) / 2, (rate.upper - rate.lower) / 2
    logits = dense.apply(centre)
    spread = _spread(dense.weight, radius, y, rivals)
    margin = logits.gather(1, y[:, None]) - logits.gather(1, rivals) - spread
    if not arithmetic.unit:
        return margin
    size = dense.magnitude(torch.maximum(-rate.lower, rate.upper))
    if dense.shift is not None:
        size = size + dense.shift.abs()
    terms = dense.terms(rate.lower.shape[1:])
    error = arithmetic.gamma(terms) * size + (terms + 2) * arithmetic.underflow
    return margin - error.gather(1, y[:, None]) - error.gather(1, rivals)


def _spread(weight: Tensor, radius: Tensor, y: Tensor, rivals: Tensor) -> Tensor:
    """``|w_y - w_j| . radius`` for the rivals j ``[B, K-1]``; weight ``[K, n]``, radius ``[B, n]``."""
    classes, features = weight.shape
    if classes > len(y):
        difference = weight[y][:, None] - weight[rivals]  # [B, K-1, n]
        return (difference.abs() @ radius[:, :, None]).squeeze(-1)
    # All pairs of classes are fewer rows than all samples' rivals, and their product is one for all samples.
    pairs = (weight[:, None] - weight).abs()  # [K, K, n]
    spreads = radius @ pairs.view(-1, features).T
    return spreads.gather(1, y[:, None] * classes + rivals)


def interval_margins(problem: Problem, ranking: Ranking) -> tuple[Tensor, list[Source]]:
    """S-IBP's lower bounds ``[B, K-1]`` of the margins, and the bounds of all values they come from."""
    sources = propagate(problem, ranking)
    return margins_of(problem, sources), sources


def margins_of(problem: Problem, sources: Sequence[Source]) -> Tensor:
    """Lower bounds ``[B, K-1]`` of the margins from the bounds of what the readout takes."""
    return read_margins(problem.program.reading, problem, sources)


@singledispatch
def read_margins(reading: Readout, problem: Problem, sources: Sequence[Source]) -> Tensor:
    """`margins_of` for a readout; register a function here to add a class of readouts.

    Raises:
        TypeError: for a readout that has no interval bounds.
    """
    raise TypeError(f"there are no interval bounds for the readout {type(reading).__name__}")


@read_margins.register
def _(reading: Mean, problem: Problem, sources: Sequence[Source]) -> Tensor:
    rate = last_mean(problem, sources).interval
    return margins(problem.program.readout.operators, rate, problem.y, problem.arithmetic)
