"""Lines with chosen slopes: from zero (S-IBP) to the slopes of the envelope (alpha-S-CROWN).

Xu et al., *Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete
Verifiers*, 2021, https://arxiv.org/abs/2011.13824, optimise the slopes of ReLU; docs/theory/alpha.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.linear.alpha_scan import ChosenScan
from certsnn.bounds.linear.lines import Pulled, Stepwise, aligned, by_step, exactly, some_steps
from certsnn.dynamics import Dynamics
from certsnn.kernels.lines import least_width


@final
@dataclass(frozen=True)
class Slack:
    r"""How `Chosen` picks its slopes: numbers in [0, 1], ``[T, S or 1, B, ...]``.

    .. math:: k = share\, (first + mix\, (last - first))

    with the slopes ``first`` and ``last`` of the envelope left and right of the threshold (equal where it is
    a chord). ``share = 0`` is S-IBP; ``share = 1`` with ``mix`` 0 or 1 are the segments of the envelope.
    """

    share: Tensor
    mix: Tensor


@final
@dataclass(frozen=True)
class Chosen(Stepwise):
    """Lines with chosen slopes (`Slack`); neurons that are stable keep their exact line.

    Any slope is sound, for `intercepts` takes the least intercept over the ends of both pieces.
    """

    initial: Tensor
    numbers: Dynamics
    """As `by_step` gives them."""
    low: Tensor
    high: Tensor
    silent: Tensor
    firing: Tensor
    share: Tensor
    mix: Tensor

    @property
    def steps(self) -> int:
        return len(self.low)

    def slopes(self, t: int, a: Tensor, c: Tensor) -> Tensor:
        low, high, (threshold, decay, gain, offset) = self.low[t], self.high[t], self._numbers(t)
        at_low, at_high = decay * low, gain * high + offset
        before, after = decay * threshold, gain * threshold + offset
        chord = (a + c * (at_high - at_low)) / (high - low)
        # A line from the lower end stays below the other points if its slope is the least towards them; from
        # the upper end, if its slope is the greatest.
        first = torch.minimum(torch.minimum(c * decay, chord), (a + c * (after - at_low)) / (threshold - low))
        last = torch.maximum(
            torch.maximum(c * gain, chord), (a + c * (at_high - before)) / (high - threshold)
        )
        k = self.share[t] * torch.lerp(first, last, self.mix[t])
        return torch.where(self.silent[t], c * decay, torch.where(self.firing[t], c * gain, k))

    def intercepts(self, t: int, a: Tensor, c: Tensor, k: Tensor) -> Tensor:
        low, high, (threshold, decay, gain, offset) = self.low[t], self.high[t], self._numbers(t)
        below, above = c * decay - k, c * gain - k
        fired = a + c * offset
        # f(u) - k u is linear on each piece, so its least value there is at an end of the piece.
        silent_part = torch.minimum(below * low, below * threshold)
        fired_part = fired + torch.minimum(above * threshold, above * high)
        unstable = torch.minimum(silent_part, fired_part)
        found = torch.where(self.silent[t], 0, unstable)
        return torch.where(self.firing[t], fired, found)

    def pull_spikes(self, a: Tensor, follow: Tensor | None) -> Pulled:
        membranes = (self.low, self.high, self.silent, self.firing)
        share, mix = (aligned(values, a).expand_as(a) for values in (self.share, self.mix))
        k, intercepts = ChosenScan.apply(a, share, mix, membranes, self.numbers, follow)
        started = (k[:, 0] * self.initial).flatten(2).sum(2)
        return Pulled(k, intercepts.flatten(3).sum((1, 3)) + started)

    def until(self, steps: int) -> Chosen:
        parts = (self.low, self.high, self.silent, self.firing, self.share, self.mix)
        numbers = some_steps(self.numbers, slice(steps))
        return Chosen(self.initial, numbers, *(values[:steps] for values in parts))

    def _numbers(self, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Threshold, decay, gain and offset at one step."""
        here = some_steps(self.numbers, t)
        return here.threshold, here.decay, here.gain, here.offset


def chosen_slopes(membranes: Interval, dynamics: Dynamics, slack: Slack) -> Chosen:
    """`Chosen` for membranes ``[T, B, ...]``."""
    low, high = membranes
    dynamics = by_step(exactly(dynamics, low.dtype), low.shape)
    silent, firing = high < dynamics.threshold, low >= dynamics.threshold
    least = least_width(dynamics.threshold, low.dtype)
    unstable = ~silent & ~firing
    # A wider interval holds every membrane of the narrower one. Stable neurons get one of width 2, so that no
    # division is by 0; their lines do not use it.
    low = torch.where(unstable, torch.minimum(low, dynamics.threshold - least), dynamics.threshold - 1)
    high = torch.where(unstable, torch.maximum(high, dynamics.threshold + least), dynamics.threshold + 1)
    return Chosen(dynamics.initial, dynamics, low, high, silent, firing, slack.share, slack.mix)


def midpoint(membranes: Interval, dynamics: Dynamics) -> Slack:
    """The slopes of `Joint`, ``[T, 1, B, ...]``."""
    left = membranes.lower + membranes.upper <= 2 * dynamics.threshold
    mix = (~left).to(membranes.lower)[:, None]
    return Slack(torch.ones_like(mix), mix)
