"""Lines below what neurons do, in torch: the scan back over the steps, and the joint relaxation's forms.

Products and sums stand apart, and each neuron's intercepts are added up over the steps: an order that
compiled loops can follow. (`torch.addcmul` rounds once in the vector part of a CPU loop, twice in its tail.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.dynamics import Dynamics


class ScanLines(ABC):
    """Lines below a function of the membrane of each neuron at each step ``[T, B, ...]``.

    Coefficients of one step are ``[S, B, ...]``: a on the spike, c on the potential carried on. The potential
    before the first step broadcasts against them.
    """

    initial: Tensor

    @property
    @abstractmethod
    def steps(self) -> int:
        """T."""

    @abstractmethod
    def slopes(self, t: int, a: Tensor, c: Tensor) -> Tensor:
        """The slopes k ``[S, B, ...]`` of the lines at step t (from 0)."""

    @abstractmethod
    def intercepts(self, t: int, a: Tensor, c: Tensor, k: Tensor) -> Tensor:
        """The intercepts ``[S, B, ...]`` of the lines with slopes k at step t."""


class Scanned(NamedTuple):
    """Slopes ``[S, T, B, ...]``, and the intercepts of all steps with the initial term, ``[S, B, ...]``."""

    slopes: Tensor
    intercepts: Tensor


def scan_back(lines: ScanLines, a: Tensor, carried: Tensor, follow: Tensor | None) -> Scanned:
    """From the last step to the first, for coefficients ``a [S, T, B, ...]`` and ``carried [S, B, ...]``.

    The slope on a membrane is the coefficient of the potential that the step before carried on.

    ``follow [T - 1, B, m]``: where the neurons of each step are at the next one (m for those that are gone),
    where each step has neurons of its own; None where they are the same ones.
    """
    slopes = []
    c, intercepts = carried, torch.zeros_like(carried)
    for t in reversed(range(lines.steps)):
        if t < lines.steps - 1 and follow is not None:
            c = followed(c, follow[t])
        k = lines.slopes(t, a[:, t], c)
        intercepts = intercepts + lines.intercepts(t, a[:, t], c, k)
        slopes.append(k)
        c = k
    return Scanned(torch.stack(slopes[::-1], 1), intercepts + c * lines.initial)


def followed(c: Tensor, places: Tensor) -> Tensor:
    """Coefficients ``[S, B, m]`` of the next step's neurons at this one's: see `scan_back`."""
    gone = c.new_zeros(*c.shape[:-1], 1)
    return torch.cat([c, gone], -1).gather(-1, places.expand(len(c), -1, -1))


def least_width(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """Unstable intervals are widened to this on the longer side of the threshold.

    Slopes then stay below ``jump / least width``: a larger interval is always sound, and rounding noise in
    steep lines through a tiny one would not be.
    """
    return threshold.to(dtype) * math.sqrt(torch.finfo(dtype).eps)


@final
@dataclass(frozen=True)
class Widened:
    """Membranes ``[T, B, ...]``: where neurons are silent or firing, and the bounds of f's pieces."""

    low: Tensor
    high: Tensor
    silent: Tensor
    firing: Tensor
    left: Tensor
    """Unstable, and the midpoint is at or below the threshold."""


def widened(low: Tensor, high: Tensor, threshold: Tensor) -> Widened:
    """`Widened` for membranes in ``[low, high]``: the longer side of unstable ones to `least_width`."""
    # All membranes are below the threshold, or none is; elsewhere both pieces of f matter.
    silent, firing = high < threshold, low >= threshold
    unstable = ~silent & ~firing
    left = low + high <= 2 * threshold
    # A wider interval holds every membrane of the narrower one, so a line below f there is below f here.
    least = least_width(threshold, low.dtype)
    low = torch.where(unstable & left, torch.minimum(low, threshold - least), low)
    high = torch.where(unstable & ~left, torch.maximum(high, threshold + least), high)
    return Widened(low, high, silent, firing, left & unstable)


@final
@dataclass(frozen=True)
class JointForms(ScanLines):
    r"""The numbers of the joint relaxation (`certsnn.bounds.linear.relaxation.Joint`), ``[T, B, ...]``.

    The slope ``sign * min(c adjacent_c, c inner_c + a inner_a, c chord_c + a chord_a)`` and the intercept
    ``c kept - k touch + a fired``.
    """

    initial: Tensor
    sign: Tensor
    adjacent_c: Tensor
    inner_a: Tensor
    inner_c: Tensor
    chord_a: Tensor
    chord_c: Tensor
    fired: Tensor
    kept: Tensor
    touch: Tensor

    @property
    def steps(self) -> int:
        return len(self.sign)

    def slopes(self, t: int, a: Tensor, c: Tensor) -> Tensor:
        adjacent = c * self.adjacent_c[t]
        inner = c * self.inner_c[t] + a * self.inner_a[t]
        chord = c * self.chord_c[t] + a * self.chord_a[t]
        # The line passes through the end e. With the least slope (from l; the greatest, from h) towards the
        # other ends of the pieces it stays below all of them, so below both pieces, which are linear.
        return torch.minimum(torch.minimum(adjacent, inner), chord) * self.sign[t]

    def intercepts(self, t: int, a: Tensor, c: Tensor, k: Tensor) -> Tensor:
        return c * self.kept[t] - k * self.touch[t] + a * self.fired[t]


def joint_forms(low: Tensor, high: Tensor, dynamics: Dynamics) -> JointForms:
    """`JointForms` for membranes in ``[low, high]``, and numbers in their dtype.

    The line passes through the end e: l where the midpoint is at or below the threshold (or the neuron is
    silent), else h. Both sides have the same formulas, with the value E at e, M of the other piece at the
    threshold and O at the other end.
    """
    threshold, decay = dynamics.threshold, dynamics.decay
    gain, offset = dynamics.gain, dynamics.offset
    ends = widened(low, high, threshold)
    low, high = ends.low, ends.high
    begins = ends.left | ends.silent
    stable = (ends.silent | ends.firing).to(low)
    sign = 2 * begins.to(low) - 1
    at_low, at_high = decay * low, gain * high + offset
    near = torch.where(begins, low, high)
    at_near, at_far = torch.where(begins, at_low, at_high), torch.where(begins, at_high, at_low)
    at_threshold = torch.where(begins, gain * threshold + offset, decay * threshold)
    adjacent = torch.where(begins, decay, -gain)
    settled = adjacent * stable
    # One over the widths, 0 where stable: such a neuron's width may be 0, and must not reach the gradient.
    inner = (1 - stable) / ((threshold - near).abs() + stable)
    chord = (1 - stable) / (high - low + stable)
    return JointForms(
        dynamics.initial,
        sign=sign,
        adjacent_c=adjacent,
        inner_a=sign * inner,
        inner_c=settled + (at_threshold - at_near) * inner,
        chord_a=sign * chord,
        chord_c=settled + (at_far - at_near) * chord,
        fired=(1 - sign) / 2,
        kept=at_near,
        touch=near,
    )
