r"""Lines below and above the maxima of windows, for backward passes through max pooling.

For inputs ``l <= x <= u`` of a window, with j the input of the greatest u, and t the greatest of l_j and all
other u:

.. math:: x_i \le \max x \le t + \frac{u_j - t}{u_j - l_j} (x_j - l_j) \qquad\text{for any } i

The right side holds since ``max x <= max(t, x_j)``, which is convex in x_j and equal to the line at l_j and
u_j. Where no other input can exceed x_j, t is l_j and the line is x_j itself. On the left, i is the input of
the greatest midpoint. Of all linear bounds, no other one below has a greater mean over the box, and no other
one above a lesser mean: docs/theory/max-pooling.md has the proofs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.pooling import MaxPool


class PulledMaxima(NamedTuple):
    """``sum a max(x) >= sum inputs x + constant``: ``inputs [S, F, B, C, ...]``, ``constant [S, B]``."""

    inputs: Tensor
    constant: Tensor


@final
@dataclass(frozen=True)
class Maxima:
    """The lines of all windows ``[F, B, C, L]``; F = 1 for inputs that are the same at every step.

    ``below``, ``above``: the places of the chosen inputs in the flattened map; ``slope``, ``intercept``: of
    the line above; ``size``: the largest magnitude in each window; ``shape``: that of a map.
    """

    below: Tensor
    above: Tensor
    slope: Tensor
    intercept: Tensor
    size: Tensor
    shape: torch.Size

    def pull(self, a: Tensor) -> PulledMaxima:
        """Coefficients ``[S, F, B, C, ...]`` of the maxima (of the first F steps) as those of the inputs.

        Inputs that are the same at every step have coefficients of one frame, which those of all steps add up
        to.
        """
        a = self._flattened(a)
        below, above = (places[: a.shape[1]].expand_as(a) for places in (self.below, self.above))
        down = a.clamp_max(0)
        inputs = a.new_zeros(*a.shape[:4], self.shape.numel())
        inputs = inputs.scatter_add(4, below, a.clamp_min(0))
        inputs = inputs.scatter_add(4, above, down * self.slope[: a.shape[1]])
        constant = (down * self.intercept[: a.shape[1]]).sum((1, 3, 4))
        return PulledMaxima(inputs.unflatten(4, self.shape), constant)

    def lost(self, a: Tensor) -> Tensor:
        """What the float64 errors of lines and of their sums may take off a form, ``[S, B]``.

        An intercept is off by a few 2^-53 of the window's largest magnitude, a pairwise sum by some dozens.
        """
        a = self._flattened(a)
        return 2.0**-40 * (a.abs() * self.size[: a.shape[1]]).sum((1, 3, 4))

    def _flattened(self, a: Tensor) -> Tensor:
        """Coefficients ``[S, F, B, C, L]``."""
        return (a if len(self.size) > 1 else a.sum(1, keepdim=True)).flatten(4)


def maxima(pool: MaxPool, inputs: Interval) -> Maxima:
    """The lines for inputs within these bounds ``[F, B, C, ...]``."""
    shape = inputs.lower.shape[3:]
    places, inside = (values.to(inputs.lower.device) for values in pool.windows(shape))
    low, high = (end.flatten(3)[..., places] for end in inputs)  # [F, B, C, L, K]
    low, high = (end.masked_fill(~inside, -torch.inf) for end in (low, high))
    below, above = (low + high).argmax(-1, keepdim=True), high.argmax(-1, keepdim=True)
    size = torch.maximum(-low, high).masked_fill(~inside, 0).amax(-1)
    least, most = low.gather(-1, above).squeeze(-1), high.gather(-1, above).squeeze(-1)
    second = high.scatter(-1, above, -torch.inf).amax(-1)
    dominates = least >= second
    # Where the ends are so close that the slope would be noise, the line is that of a wider interval.
    epsilon = torch.finfo(most.dtype).eps ** 0.5
    least = torch.minimum(least, most - epsilon * size.detach().clamp_min(epsilon))
    t = torch.where(dominates, least, second)
    slope = torch.where(dominates, 1, (most - t) / (most - least))
    intercept = torch.where(dominates, 0, t - slope * least)
    below, above = (places.expand_as(low).gather(-1, place).squeeze(-1) for place in (below, above))
    return Maxima(below, above, slope, intercept, size, shape)
