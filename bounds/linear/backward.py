r"""S-CROWN: lower bounds of linear forms, by carrying coefficients backwards through layers and time.

For each node from the last: the coefficients on a layer's spikes are carried to its currents by one scan
over t = T..1 (`certsnn.bounds.linear.lines`), then through the affine operators for all steps at once. Where
several links leave a node, their coefficients on its values add up. At the input the set gives the minimum of
the form (or a lower bound of it); with direct encoding the coefficients are summed over the steps before
that. Memory is linear in T. docs/theory/backward.md has the derivation; its model for networks without time
is Zhang et al., *Efficient Neural Network Robustness Certification with General Activation Functions*, 2018
(CROWN), https://arxiv.org/abs/1811.00866.

**Rounding.** The relaxations hold for the executed membranes, which lie within their bounds. Between them the
executed network differs from the exact one by the errors of the products, the addition and the carry of each
step, ``error``: with the coefficient k on a membrane that costs at most ``|k| error``. The float64 errors of
the backward pass itself are relative to the very same products, so they enlarge it by a factor (`lower`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.interval.arithmetic import UNDERFLOW, Arithmetic, Interval
from certsnn.bounds.interval.layers import Mean, Source
from certsnn.bounds.interval.propagate import others
from certsnn.bounds.linear.lines import Lines
from certsnn.bounds.problem import Problem
from certsnn.dynamics import Dynamics
from certsnn.inputsets import InputSet
from certsnn.kernels.choice import kernels
from certsnn.readouts import Mean as MeanReadout

PIECE = 256
"""How many rows of a layer's matrix are made at a time."""


class Forms(NamedTuple):
    """Linear forms ``sum(coefficients * x) + constant``, S rows for each sample.

    ``coefficients [S, F, B, ...]`` of the first F steps (or of the one frame of a constant input);
    ``constant [S, B]``; ``error [S, B]``: what rounding may take off.
    """

    coefficients: Tensor
    constant: Tensor
    error: Tensor


class Coupling(ABC):
    """What carries forms of a stage's currents to what drives them."""

    @abstractmethod
    def pull(self, forms: Forms) -> Forms:
        """Forms of the outputs as forms of the inputs."""


@final
@dataclass(frozen=True)
class Chain(Coupling):
    """Affine operators, the shape of one input of each, and that of one output of the last."""

    operators: Sequence[Affine]
    shapes: Sequence[torch.Size]
    outputs: torch.Size

    def pull(self, forms: Forms) -> Forms:
        y, constant, error = forms
        frames = y.shape[:3]
        y = y.flatten(0, 2)
        for operator, shape in zip(reversed(self.operators), reversed(self.shapes), strict=True):
            if operator.bias is not None:
                places = y.flatten(2).sum(2) if y.ndim > 2 else y
                constant = constant + (places @ operator.bias.expand(places.shape[1])).view(frames).sum(1)
            y = operator.transposed(y, shape)
        return Forms(y.unflatten(0, frames), constant, error)

    def rows(self, places: Tensor, like: Tensor) -> Forms:
        """Single outputs, flattened ``places [u]``, as forms of an input: coefficients ``[u, 1, 1, ...]``.

        That is a matrix of all inputs for each place: ask for `PIECE` of them at a time.
        """
        outputs = torch.nn.functional.one_hot(places, self.outputs.numel()).to(like)
        nothing = outputs.new_zeros(len(places), 1)
        return self.pull(Forms(outputs.view(len(places), 1, 1, *self.outputs), nothing, nothing))


@final
@dataclass(frozen=True)
class Constant(Coupling):
    """The coupling of a current that is the same at every step: the coefficients of all steps add up."""

    coupling: Coupling

    def pull(self, forms: Forms) -> Forms:
        y, constant, error = forms
        return self.coupling.pull(Forms(y.sum(1, keepdim=True), constant, error))


def chain(operators: Sequence[Affine], x: Tensor, arithmetic: Arithmetic) -> Chain:
    """The operators in the dtype of the bounds, for inputs like one of ``x [B, ...]``."""
    shapes = []
    x = arithmetic.raised(x[:0])
    raised = [arithmetic.operator(operator) for operator in operators]
    for operator in raised:
        shapes.append(x.shape[1:])
        x = operator.apply(x)
    return Chain(raised, shapes, x.shape[1:])


class Spread(NamedTuple):
    """A node's forms carried to what it takes: coefficients for each source, by number."""

    coefficients: Sequence[tuple[int, Tensor]]
    constant: Tensor
    error: Tensor


class Level(ABC):
    """One node as the backward pass sees it."""

    @abstractmethod
    def pull(self, forms: Forms) -> Spread:
        """Forms of the node's values as forms of those of its sources."""


@final
@dataclass(frozen=True)
class Firing(Level):
    """A layer of neurons.

    ``error [T, B, ...]`` (one frame is enough for a current that is the same at every step) bounds how far
    the executed membrane may be from ``v + W s + b`` computed exactly from what was executed before; None
    where rounding is left out.
    """

    source: int
    coupling: Coupling
    lines: Lines
    error: Tensor | None

    def pull(self, forms: Forms) -> Spread:
        a, constant, error = forms.coefficients.contiguous(), forms.constant, forms.error
        k, more = self.lines.until(a.shape[1]).pull(a)
        if self.error is not None:
            error = error + missed(a, a.new_full([1] * (a.ndim - 1), 2.0**-44)) + missed(k, self.error)
        carried, constant, error = self.coupling.pull(Forms(k, constant + more, error))
        return Spread([(self.source, carried)], constant, error)


def missed(k: Tensor, error: Tensor) -> Tensor:
    """What values that are off by up to ``error [F, B, ...]`` may take off forms of them, ``[S, B]``.

    One frame of errors stands for all.
    """
    k, error = k.contiguous(), error[: k.shape[1]]
    return kernels([k], [error]).missed(k, error).flatten(2).sum(2)


class Entry(ABC):
    """What enters the network, where the backward pass ends."""

    @abstractmethod
    def minimum(self, a: Tensor) -> Tensor:
        """The least value ``[S, B]`` of forms with the coefficients ``[S, F, B, ...]`` over the input set."""


@final
@dataclass(frozen=True)
class Whole(Entry):
    """All of an input ``x0 [B, ...]`` or ``[T, B, ...]`` and the set around it."""

    x0: Tensor
    input_set: InputSet

    def minimum(self, a: Tensor) -> Tensor:
        sample = self.x0.shape[self.input_set.batch_axis + 1 :]
        a = a.reshape(*a.shape[:3], *sample)
        if self.input_set.domain == "image":
            a = a[:, 0]
        elif a.shape[1] < len(self.x0):
            a = torch.cat([a, a.new_zeros(len(a), len(self.x0) - a.shape[1], *a.shape[2:])], 1)
        return self.input_set.minimum(a, self.x0)


def lower(entry: Entry, levels: Sequence[Level], forms: Forms) -> Tensor:
    """Lower bounds ``[S, B]`` of forms of the last level's values (of the input, where there is none).

    Level k, counted from 1, has the values of the k-th node.
    """
    a, constant, error = forms
    waiting = {len(levels): a}
    terms = 0
    for number in range(len(levels), 0, -1):
        if number not in waiting:
            continue
        a = waiting.pop(number)
        terms += _terms(a)
        carried, constant, error = levels[number - 1].pull(Forms(a, constant, error))
        for source, more in carried:
            waiting[source] = _added(waiting[source], more) if source in waiting else more
    a = waiting[0]
    terms += _terms(a)
    # Sums of this many terms in float64, which are relative to 2^24 times the error at most. A term of one of
    # N neurons meets at most 3 T + N additions: those of its neuron's intercepts, then those of the neurons.
    return entry.minimum(a) + constant - error * (1 + terms * 2.0**-26)


def _added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of coefficients ``[S, F, B, ...]`` of the first steps, of which one may have more."""
    if one.shape[1] < other.shape[1]:
        one, other = other, one
    if one.shape[1] == other.shape[1]:
        return one + other
    return torch.cat([one[:, : other.shape[1]] + other, one[:, other.shape[1] :]], 1)


def _terms(a: Tensor) -> int:
    """How many coefficients a row has for one sample."""
    return math.prod(a.shape[1:]) // max(a.shape[2], 1)


def membrane_error(
    operators: Sequence[Affine],
    magnitude: Tensor,
    membranes: Interval,
    dynamics: Dynamics,
    arithmetic: Arithmetic,
) -> Tensor | None:
    r"""`Level.error` ``[T, B, ...]``, from bounds ``[F, B, ...]`` of the inputs' magnitudes.

    .. math:: e_t = \delta_t + n u |u_t| + 2 u (\max(decay, gain) |u_{t-1}| + |offset|)

    with the products' error delta: the additions and the reset round relative to their results. Where the
    current is added first (n = 2, else 1), its sum is u_t but for the offset.
    """
    if not arithmetic.unit:
        return None
    frames = magnitude.shape[:2]
    products = arithmetic.lost(operators, magnitude.flatten(0, 1)).unflatten(0, frames)
    size = arithmetic.raised(torch.maximum(-membranes.lower, membranes.upper).clamp_min(0))
    reach = torch.maximum(dynamics.decay, dynamics.gain) * size + dynamics.offset.abs()
    before = torch.cat([torch.zeros_like(reach[:1]), reach[:-1]])
    unit = arithmetic.unit * (1 + 2.0**-20)
    error: Tensor = products + unit * (dynamics.order.additions * size + 2 * before) + 4 * UNDERFLOW
    return error


def margin_forms(problem: Problem, mean: Mean) -> Forms:
    """``T (logit[y] - logit[j])`` as forms ``[K-1, F, B, ...]`` of what the readout takes, of that mean.

    F is T, or 1 for what is the same at every step: a mean over time is then the value of any step.

    Raises:
        TypeError: for a readout that is no mean.
    """
    if not isinstance(problem.program.reading, MeanReadout):
        raise TypeError(f"the margins of the readout {problem.program.reading.name!r} are no means")
    readout, y, steps = problem.program.readout.operators, problem.y, problem.steps
    arithmetic, rate = problem.arithmetic, mean.interval
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
        lost = arithmetic.lost(readout, torch.maximum(-rate.lower, rate.upper))
        error = lost.gather(1, y[:, None]).T + lost.gather(1, rivals.T).T
        error = error + (a[:, 0].abs() * mean.lost).flatten(2).sum(2)
    a = steps * a if problem.held[problem.program.readout.source] else a.expand(-1, steps, *a.shape[2:])
    return Forms(a, steps * constant, steps * error)


def magnitudes(source: Source) -> Tensor:
    """Bounds ``[F, B, ...]`` of the magnitudes of what enters a link."""
    low, high = source.box()
    return torch.maximum(-low, high)
