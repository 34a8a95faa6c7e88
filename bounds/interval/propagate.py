"""S-IBP: interval bounds of all layers, and of the margins.

Liang, Xu, Hu, Deng and Xie, *Toward Robust Spiking Neural Network Against Adversarial Perturbation*, 2022,
https://arxiv.org/abs/2205.01625, bound every step. The count domain and the flip budgets are certsnn's:
docs/theory/intervals.md and docs/theory/counts.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certsnn.affine import Affine, Dense
from certsnn.bounds.interval.arithmetic import Arithmetic, Interval
from certsnn.bounds.interval.layers import Layer, layer_of
from certsnn.bounds.interval.topk import Ranking
from certsnn.bounds.problem import Problem


def propagate(problem: Problem, ranking: Ranking) -> list[Layer]:
    """Bounds of every layer of neurons, first to last."""
    source = problem.support.start(problem.x0, problem.steps, ranking)
    layers: list[Layer] = []
    for stage in problem.program.stages:
        layers.append(layer_of(source, stage.operators, stage.neuron, problem.arithmetic))
        source = layers[-1]
    return layers


def rates(layer: Layer, dtype: torch.dtype) -> Interval:
    """Bounds ``[B, ...]`` of the mean spikes as executed: counts are exact, and division is monotone."""
    low, high = layer.totals
    return Interval(low.to(dtype) / layer.steps, high.to(dtype) / layer.steps)


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
        return _merged_margins(arithmetic, merged, rate, y)
    low, high = arithmetic.chain(readout, rate)
    rivals = high.gather(1, others(y, high.shape[1]))
    return low.gather(1, y[:, None]) - rivals


def _merged_margins(arithmetic: Arithmetic, plain: Dense, rate: Interval, y: Tensor) -> Tensor:
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


def interval_margins(problem: Problem, ranking: Ranking) -> tuple[Tensor, list[Layer]]:
    """S-IBP's lower bounds ``[B, K-1]`` of the margins, and the bounds of the layers they come from."""
    layers = propagate(problem, ranking)
    rate = rates(layers[-1], problem.x0.dtype)
    return margins(problem.program.readout, rate, problem.y, problem.arithmetic), layers
