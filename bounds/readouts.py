r"""Margins of the readouts that are no mean: the sum over time, the last step, and the maximum over time.

Of z, the outputs ``[T, B, K]`` of the affine readout, the margins over a rival j are

.. math:: \sum_t (z_{y,t} - z_{j,t}), \qquad z_{y,T} - z_{j,T}, \qquad \max_t z_{y,t} - \max_{t'} z_{j,t'}.

The first two are linear in z. For the third, any step :math:`\tau(t')` that is chosen for each t' is sound:

.. math:: \max_t z_{y,t} - \max_{t'} z_{j,t'} = \min_{t'} \big(\max_t z_{y,t} - z_{j,t'}\big)
    \ge \min_{t'} \big(z_{y,\tau(t')} - z_{j,t'}\big).

Chosen is t' itself, or the step at which S-IBP has the greatest lower bound of z_y, whichever S-IBP bounds
better. The mean is in `certsnn.bounds.interval.propagate` and `certsnn.bounds.linear.backward`.
docs/theory/readouts.md has the proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from certsnn.affine import Dense
from certsnn.bounds.interval.arithmetic import UNDERFLOW, Interval
from certsnn.bounds.interval.layers import Source
from certsnn.bounds.interval.propagate import margins, merged_margins, others, read_margins
from certsnn.bounds.linear.backward import Constant, Forms, chain, magnitudes
from certsnn.bounds.linear.margins import form_margins
from certsnn.bounds.problem import Problem
from certsnn.program import hold
from certsnn.readouts import Greatest, Last, Total


@read_margins.register
def _(reading: Last, problem: Problem, sources: Sequence[Source]) -> Tensor:
    low, high = _read(problem, sources).box()
    last = Interval(low[-1], high[-1])
    return margins(problem.program.readout.operators, last, problem.y, problem.arithmetic)


@form_margins.register
def _(reading: Last, problem: Problem, sources: Sequence[Source], bound: Callable[[Forms], Tensor]) -> Tensor:
    last = torch.full((len(problem.y), problem.classes - 1), problem.steps - 1, device=problem.y.device)
    return bound(_difference(problem, sources, last, problem.steps - 1)).T


@read_margins.register
def _(reading: Total, problem: Problem, sources: Sequence[Source]) -> Tensor:
    operators, arithmetic, y = problem.program.readout.operators, problem.arithmetic, problem.y
    source, rivals = _read(problem, sources), others(problem.y, problem.classes)
    error = sum_error(problem, source)
    if operators and isinstance(operators[-1], Dense):
        # W and the bias at every step: W on the sums, and T times the bias.
        last = arithmetic.operator(operators[-1])
        assert isinstance(last, Dense)
        scaled = Dense(last.weight, None if last.shift is None else problem.steps * last.shift)
        sums = source.charge(operators[:-1], arithmetic).sums
        found = merged_margins(arithmetic, scaled, Interval(sums.lower[-1], sums.upper[-1]), y)
    else:
        low, high = (end[-1] for end in source.charge(operators, arithmetic).sums)
        found = low.gather(1, y[:, None]) - high.gather(1, rivals)
    if error is None:
        return found
    return found - error.gather(1, y[:, None]) - error.gather(1, rivals)


@form_margins.register
def _(
    reading: Total, problem: Problem, sources: Sequence[Source], bound: Callable[[Forms], Tensor]
) -> Tensor:
    rivals = others(problem.y, problem.classes)
    rows = (one_hot(problem.y, problem.classes)[:, None] - one_hot(rivals, problem.classes)).movedim(1, 0)
    error = sum_error(problem, _read(problem, sources))
    if error is not None:
        error = (error.gather(1, problem.y[:, None]) + error.gather(1, rivals)).T
    return bound(_forms(problem, sources, rows[:, None].expand(-1, problem.steps, -1, -1), error)).T


@read_margins.register
def _(reading: Greatest, problem: Problem, sources: Sequence[Source]) -> Tensor:
    found = _greatest(problem, sources)
    # Both bound the margin of the rival's step from below, so the greater one does.
    return torch.maximum(found.same, found.crossed).amin(0)


@form_margins.register
def _(
    reading: Greatest, problem: Problem, sources: Sequence[Source], bound: Callable[[Forms], Tensor]
) -> Tensor:
    found = _greatest(problem, sources)
    rows = []
    for t in range(problem.steps):
        chosen = torch.where(found.same[t] >= found.crossed[t], t, found.step[:, None])
        rows.append(bound(_difference(problem, sources, chosen, t)).T)
    return torch.stack(rows).amin(0)


class _Greatest(NamedTuple):
    """S-IBP's bounds ``[T, B, K-1]`` of ``max_t z_y - z_j`` at each step of the rival.

    ``same``: from z_y at the same step. ``crossed``: from the greatest lower bound of z_y, which is at
    ``step [B]``.
    """

    same: Tensor
    crossed: Tensor
    step: Tensor


def _greatest(problem: Problem, sources: Sequence[Source]) -> _Greatest:
    operators, source, y, steps = (
        problem.program.readout.operators,
        _read(problem, sources),
        problem.y,
        problem.steps,
    )
    low, high = (hold(end, steps) for end in source.box())
    flat = Interval(low.flatten(0, 1), high.flatten(0, 1))
    same = margins(operators, flat, y.repeat(steps), problem.arithmetic).unflatten(0, (steps, -1))
    least, most = (hold(end, steps) for end in source.currents(operators, problem.arithmetic))
    own = least.gather(2, y.expand(steps, -1)[..., None])
    rivals = most.gather(2, others(y, problem.classes).expand(steps, -1, -1))
    best, step = own[..., 0].max(0)
    return _Greatest(same, best[:, None] - rivals, step)


def _read(problem: Problem, sources: Sequence[Source]) -> Source:
    """The bounds of what the readout takes."""
    return sources[problem.program.readout.source]


def _difference(problem: Problem, sources: Sequence[Source], own: Tensor, rival: int) -> Forms:
    """``z_y - z_j`` as forms ``[K-1, F, B, ...]``: z_y at the steps ``own [B, K-1]``, z_j at ``rival``."""
    y, classes = problem.y, problem.classes
    frames = max(rival, int(own.max()) if own.numel() else 0) + 1
    at = one_hot(own, frames).movedim(2, 0).movedim(2, 0)[..., None]  # [K-1, F, B, 1]
    rows = at * one_hot(y, classes)
    rivals = others(y, classes)
    rows[:, rival] -= one_hot(rivals, classes).movedim(1, 0)
    error = None
    if problem.arithmetic.unit:
        lost = _lost(problem, sources)
        mine = lost.gather(2, y.expand(len(lost), -1)[..., None])[..., 0].gather(0, own.T)
        error = mine + lost[rival].gather(1, rivals).T
    return _forms(problem, sources, rows, error)


def _forms(problem: Problem, sources: Sequence[Source], rows: Tensor, error: Tensor | None) -> Forms:
    """Forms of the outputs, ``rows [S, F, B, K]``, as forms of what the readout takes."""
    size, link = magnitudes(_read(problem, sources)), problem.program.readout
    found = chain(link.operators, size[0], problem.arithmetic)
    coupling = Constant(found) if problem.held[link.source] else found
    rows = rows.to(problem.arithmetic.raised(size).dtype)
    nothing = rows.new_zeros(len(rows), rows.shape[2])
    return coupling.pull(Forms(rows, nothing, nothing if error is None else error))


def _lost(problem: Problem, sources: Sequence[Source]) -> Tensor:
    """How far executed outputs may be from exact ones of executed values, ``[T, B, K]``."""
    size = magnitudes(_read(problem, sources))
    lost = problem.arithmetic.lost(problem.program.readout.operators, size.flatten(0, 1))
    return hold(lost.unflatten(0, size.shape[:2]), problem.steps)


def sum_error(problem: Problem, source: Source) -> Tensor | None:
    """How far an executed sum of outputs may be from the exact one of executed values, ``[B, K]``."""
    arithmetic, operators, steps = problem.arithmetic, problem.program.readout.operators, problem.steps
    if not arithmetic.unit:
        return None
    size = magnitudes(source)
    lost = hold(arithmetic.lost(operators, size.flatten(0, 1)).unflatten(0, size.shape[:2]), steps)
    low, high = source.currents(operators, arithmetic)
    outputs = hold(torch.maximum(-low, high), steps).sum(0)
    # Each product's error, and T additions of executed outputs in any order.
    return lost.sum(0) + arithmetic.gamma(steps) * outputs + steps * UNDERFLOW
