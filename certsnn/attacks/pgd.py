"""Projected gradient ascent on images and frames, through surrogate gradients of several widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from certsnn.attacks.base import NUMBERS, Attack
from certsnn.attacks.gradients import with_surrogate
from certsnn.attacks.losses import CrossEntropy, Loss, Margin
from certsnn.attacks.oracle import Oracle
from certsnn.encoding import check_seed
from certsnn.program import Program
from certsnn.settings import check_count, check_positive, check_share
from certsnn.surrogates import Adaptive, ArcTan, Rectangle, Surrogate


@final
@dataclass(frozen=True)
class PGD(Attack):
    r"""Steps of the gradient's sign, projected back onto the set.

    .. math:: v \leftarrow \mu v + g / \mathrm{mean}|g|, \quad
        x \leftarrow \mathrm{project}(x + \alpha_i\, r\, \mathrm{sign}(v))

    with r the radius of the set (the farthest that one entry can move) and a step size that falls linearly,
    :math:`\alpha_i = \alpha (1 - i / \mathrm{iterations})`. Counts move by one event at least; where the set
    admits fewer changes, those of the largest :math:`|v|` stay. One run for each surrogate, in turn, as a
    spiking network's gradient is only as good as its surrogate, with the next loss each time; the first run
    starts at x, the others at random.
    Sources: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, 2018,
    https://arxiv.org/abs/1706.06083; momentum: Dong et al., *Boosting Adversarial Attacks with
    Momentum*, 2018, https://arxiv.org/abs/1710.06081.

    Args:
        iterations: steps of one run.
        restarts: how often to go through all surrogates.
        step_size: the first step, relative to the radius.
        momentum: :math:`\mu`, in [0, 1].
        losses: the terms of the objectives.
        surrogates: the spikes' derivatives; None is the network's own.
        seed: of the random starts.
    """

    domains = NUMBERS

    iterations: int = 25
    restarts: int = 1
    step_size: float = 0.5
    momentum: float = 0.75
    losses: Sequence[Loss] = field(default_factory=lambda: (CrossEntropy(), Margin()))
    surrogates: Sequence[Surrogate | None] = field(
        default_factory=lambda: (None, ArcTan(5.0), Rectangle(1.0), Rectangle(0.25), Adaptive())
    )
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations)
        check_count("restarts", self.restarts)
        check_positive("step_size", self.step_size)
        check_share("momentum", self.momentum)
        check_seed(self.seed)
        for name in ("losses", "surrogates"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")

    def view(self, program: Program) -> Program:
        return program

    def search(self, oracle: Oracle) -> None:
        for run in range(self.restarts * len(self.surrogates)):
            oracle, _ = oracle.unbroken()
            if not len(oracle):
                return
            start = oracle.x0 if run == 0 else _random_start(oracle, self.seed, run)
            turn, place = divmod(run, len(self.surrogates))
            view = with_surrogate(oracle.view, self.surrogates[place])
            loss = self.losses[(place + turn) % len(self.losses)]  # another one at the next restart
            self._ascend(oracle, start, view, loss)

    def _ascend(self, oracle: Oracle, x: Tensor, view: Program, loss: Loss) -> None:
        """One run from x: `iterations` steps on the gradient of this view of the network and this loss."""
        velocity = torch.zeros_like(x)
        radius = _radius(oracle)
        for iteration in range(self.iterations):
            oracle, (x, velocity, radius) = oracle.unbroken(x, velocity, radius)
            if not len(oracle):
                return
            gradient = oracle.gradient(x, loss, view)
            mean = oracle.per_sample(gradient.abs()).mean(1).clamp_min(torch.finfo(x.dtype).tiny)
            velocity = self.momentum * velocity + gradient / oracle.aligned(mean)
            step = self.step_size * (1 - iteration / self.iterations)
            stride = (step * radius).clamp_min(oracle.input_set.grain)
            x = oracle.attempt(x + stride * velocity.sign(), velocity.abs())


def _random_start(oracle: Oracle, seed: int, run: int) -> Tensor:
    """A point of each sample's box, uniformly at random, and the member next to it."""
    lower, upper = oracle.input_set.box(oracle.x0)
    frames = 1 if oracle.input_set.batch_axis == 0 else len(oracle.x0)
    noise = oracle.uniform(frames, seed, run).to(lower.dtype).reshape(lower.shape)
    return oracle.input_set.project(oracle.x0, lower + noise * (upper - lower), noise)


def _radius(oracle: Oracle) -> Tensor:
    """The farthest that an entry of each sample can move, shaped to broadcast against x0."""
    lower, upper = oracle.input_set.box(oracle.x0)
    reach = torch.maximum(upper - oracle.x0, oracle.x0 - lower)
    return oracle.aligned(oracle.per_sample(reach).amax(1))
