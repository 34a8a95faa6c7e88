r"""S-CROWN: lower bounds of linear forms, by carrying coefficients backwards through layers and time.

For each layer from the last: the coefficients on its spikes are carried to its currents by one scan over
t = T..1 (`certsnn.bounds.relaxation`), then through the affine operators for all steps at once. At the
input the set gives the exact minimum of what is left; with direct encoding the coefficients are summed
over the steps before that. Memory is linear in T. Source: design, section 5.

**Rounding.** The relaxations hold for the executed membranes, which lie within their bounds. Between them the
executed network differs from the exact one by the errors of the products, the addition and the carry of each
step, ``error``: with the coefficient k on a membrane that costs at most ``|k| error``. The float64 errors of
the backward pass itself are relative to the very same products, so they enlarge it by a factor (`lower`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.arithmetic import UNDERFLOW, Arithmetic, Interval
from certsnn.bounds.ibp import others
from certsnn.bounds.relaxation import Lines
from certsnn.bounds.sources import Layer
from certsnn.inputsets import InputSet
from certsnn.neurons import Dynamics


class Forms(NamedTuple):
    """Linear forms ``sum(coefficients * x) + constant``, S rows for each sample.

    ``coefficients [S, ...]``; ``constant [S, B]``; ``error [S, B]``: what rounding may take off.
    """

    coefficients: Tensor
    constant: Tensor
    error: Tensor


@final
@dataclass(frozen=True)
class Chain:
    """Affine operators, and the shape of one input of each."""

    operators: Sequence[Affine]
    shapes: Sequence[torch.Size]

    def pull(self, forms: Forms) -> Forms:
        """Forms of the outputs ``[S, F, B, ...]`` as forms of the inputs, ``F`` frames each."""
        y, constant, error = forms
        frames = y.shape[:3]
        y = y.flatten(0, 2)
        for operator, shape in zip(reversed(self.operators), reversed(self.shapes), strict=True):
            if operator.bias is not None:
                constant = constant + (y * operator.bias).flatten(1).sum(1).view(frames).sum(1)
            y = operator.transposed(y, shape)
        return Forms(y.unflatten(0, frames), constant, error)


def chain(operators: Sequence[Affine], x: Tensor, arithmetic: Arithmetic) -> Chain:
    """The operators in the dtype of the bounds, for inputs like one of ``x [B, ...]``."""
    shapes = []
    x = x[:0]
    for operator in operators:
        shapes.append(x.shape[1:])
        x = operator.apply(x)
    return Chain([arithmetic.operator(operator) for operator in operators], shapes)


@final
@dataclass(frozen=True)
class Level:
    """One stage as the backward pass sees it.

    ``error [T, B, ...]`` (one frame for a current that is held) bounds how far the executed membrane may be
    from ``v + W s + b`` computed exactly from what was executed before; None where rounding is left out.
    """

    chain: Chain
    lines: Lines
    error: Tensor | None


@final
@dataclass(frozen=True)
class Entry:
    """What enters the network: ``x0 [B, ...]`` or ``[T, B, ...]`` and the set around it; T steps."""

    x0: Tensor
    input_set: InputSet
    steps: int

    @property
    def held(self) -> bool:
        """Whether the same image enters at every step."""
        return self.input_set.domain == "image"

    def minimum(self, forms: Forms) -> Tensor:
        """The least value ``[S, B]`` of forms of the first frames ``[S, F, B, ...]``, less the error."""
        a = forms.coefficients
        if self.held:
            a = a[:, 0]
        elif a.shape[1] < self.steps:
            a = torch.cat([a, a.new_zeros(len(a), self.steps - a.shape[1], *a.shape[2:])], 1)
        return self.input_set.minimum(a, self.x0) + forms.constant - forms.error


def lower(entry: Entry, levels: Sequence[Level], forms: Forms) -> Tensor:
    """Lower bounds ``[S, B]`` of forms ``[S, F, B, ...]`` of the currents into the last of the levels.

    F may be less than T: then the forms are of the first F steps.
    """
    count = 0
    for level, below in zip(reversed(levels), [*reversed(levels[:-1]), None], strict=True):
        k, constant, error = forms
        if level.error is not None:
            error = error + (k.abs() * level.error[: k.shape[1]]).flatten(3).sum((1, 3))
        if below is None and entry.held:
            k = k.sum(1, keepdim=True)
        count += math.prod(k.shape[1:]) // max(k.shape[2], 1)
        a, constant, error = level.chain.pull(Forms(k, constant, error))
        count += math.prod(a.shape[1:]) // max(a.shape[2], 1)
        if below is None:
            return entry.minimum(Forms(a, constant, error * (1 + count * 2.0**-26)))
        if below.error is not None:
            error = error + 2.0**-44 * a.abs().flatten(3).sum((1, 3))
        k, more = below.lines.until(a.shape[1]).pull(a, torch.zeros_like(a[:, 0]))
        forms = Forms(k, constant + more, error)
    raise AssertionError("a network has at least one stage")


def membrane_error(
    operators: Sequence[Affine],
    magnitude: Tensor,
    membranes: Interval,
    dynamics: Dynamics,
    arithmetic: Arithmetic,
) -> Tensor | None:
    r"""`Level.error` ``[T, B, ...]``, from bounds ``[F, B, ...]`` of the inputs' magnitudes.

    .. math:: e_t = \delta_t + u |u_t| + 2 u (\max(decay, gain) |u_{t-1}| + |offset|)

    with the products' error delta: the additions and the reset round relative to their results.
    """
    if not arithmetic.unit:
        return None
    frames = magnitude.shape[:2]
    products = arithmetic.lost(operators, magnitude.flatten(0, 1)).unflatten(0, frames)
    size = arithmetic.raised(torch.maximum(-membranes.lower, membranes.upper).clamp_min(0))
    reach = torch.maximum(dynamics.decay, dynamics.gain) * size + dynamics.offset.abs()
    before = torch.cat([torch.zeros_like(reach[:1]), reach[:-1]])
    unit = arithmetic.unit * (1 + 2.0**-20)
    error: Tensor = products + unit * (size + 2 * before) + 4 * UNDERFLOW
    return error


def margin_forms(
    readout: Sequence[Affine], rate: Interval, y: Tensor, steps: int, arithmetic: Arithmetic
) -> Forms:
    """``T (logit[y] - logit[j])`` as forms ``[K-1, 1, B, ...]`` of the last layer's spikes, summed over time.

    Args:
        readout: the affine readout.
        rate: bounds ``[B, ...]`` of the last layer's mean spikes.
        y: classes ``[B]``.
        steps: T.
        arithmetic: whether to count the readout's rounding.
    """
    last = chain(readout, rate.upper, arithmetic)
    logits = rate.upper[:0]
    for operator in readout:
        logits = operator.apply(logits)
    classes = logits.shape[1]
    own = torch.nn.functional.one_hot(y, classes)
    rivals = others(y, classes).T
    specification = own - torch.nn.functional.one_hot(rivals, classes)
    rows = specification.to(arithmetic.raised(rate.upper).dtype)[:, None]
    nothing = rows.new_zeros(len(rows), len(y))
    a, constant, error = last.pull(Forms(rows, nothing, nothing))
    if arithmetic.unit:
        lost = arithmetic.lost(readout, rate.upper)
        error = lost.gather(1, y[:, None]).T + lost.gather(1, rivals.T).T
        # The rates N / T are rounded once.
        error = error + 2 * arithmetic.unit * (a[:, 0].abs() * rate.upper).flatten(2).sum(2)
    return Forms(a, steps * constant, steps * error)


def margins(entry: Entry, levels: Sequence[Level], forms: Forms) -> Tensor:
    """Lower bounds ``[B, K-1]`` of the margins from `margin_forms`."""
    a, constant, error = forms
    a = a.expand(-1, entry.steps, *a.shape[2:])
    if levels[-1].error is not None:
        error = error + 2.0**-44 * a.abs().flatten(3).sum((1, 3))
    k, more = levels[-1].lines.pull(a, torch.zeros_like(a[:, 0]))
    return lower(entry, levels, Forms(k, constant + more, error)).T / entry.steps


def magnitudes(entry: Entry, below: Layer | None) -> Tensor:
    """Bounds ``[F, B, ...]`` of the magnitudes of what enters a stage: the input, or a layer's spikes."""
    if below is not None:
        return below.spikes.upper
    low, high = entry.input_set.box(entry.x0)
    size = torch.maximum(-low, high)
    return size[None] if entry.held else size
