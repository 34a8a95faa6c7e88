r"""The scan of `chosen.Chosen` with its gradient written out, for the many small steps of an ascent.

Backwards through time, with the coefficient c on the carried potential,

.. math:: k_t = share\, (first + mix\, (last - first)), \qquad c_{t-1} = k_t

where first and last are the least and the greatest of three forms that are linear in (a, c), so that
:math:`k = K_a a + K_c c` with the numbers of those chosen; and the intercept is the least of four forms that
are linear in (a, c, k), each taken at a point x: ``fired (a + c offset) + (c slope - k) x``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from certsnn.dynamics import Dynamics
from certsnn.kernels.lines import followed


class Numbers(NamedTuple):
    """Of each neuron at each step, ``[T, B, ...]``: factors of a and c in the slopes of the envelope.

    ``left``, ``whole`` and ``right`` are one over the widths of the pieces and of the interval (0 where the
    neuron is stable), ``below`` and ``above`` the slopes of the pieces (both that of its own piece where it
    is stable); ``left_c``, ``whole_c`` and ``right_c`` go with the widths.
    """

    left: Tensor
    whole: Tensor
    right: Tensor
    below: Tensor
    above: Tensor
    left_c: Tensor
    whole_c: Tensor
    right_c: Tensor


def numbers(low: Tensor, high: Tensor, silent: Tensor, firing: Tensor, dynamics: Dynamics) -> Numbers:
    """`Numbers` for membranes in ``[low, high]``, which hold the threshold where the neuron is unstable."""
    threshold, decay = dynamics.threshold, dynamics.decay
    gain, offset = dynamics.gain, dynamics.offset
    stable = silent | firing
    own = torch.where(firing, gain, decay).to(low)

    def factor(width: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
        inverse = torch.where(stable, torch.zeros_like(low), 1 / width)
        return inverse, torch.where(stable, own, rise * inverse)

    at_low, at_high = decay * low, gain * high + offset
    left, left_c = factor(threshold - low, gain * threshold + offset - at_low)
    whole, whole_c = factor(high - low, at_high - at_low)
    right, right_c = factor(high - threshold, at_high - decay * threshold)
    below, above = torch.where(stable, own, decay.to(low)), torch.where(stable, own, gain.to(low))
    return Numbers(left, whole, right, below, above, left_c, whole_c, right_c)


@final
class ChosenScan(torch.autograd.Function):
    """``(k [S, T, B, ...], intercepts [S, T, B, ...])`` from a, share and mix, all ``[S, T, B, ...]``."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        share: Tensor,
        mix: Tensor,
        membranes: tuple[Tensor, Tensor, Tensor, Tensor],
        dynamics: Dynamics,
        follow: Tensor | None,
    ) -> Any:
        low, high, silent, firing = membranes
        n = numbers(low, high, silent, firing, dynamics)
        share = torch.where(silent | firing, torch.ones_like(share), share)
        fixed = [a * part for part in (n.left, n.whole, n.right)]
        parts = torch.empty((5, *a.shape), dtype=a.dtype, device=a.device)
        k, carried = torch.empty_like(a), torch.empty_like(a)
        c = torch.zeros_like(a[:, 0])
        for t in reversed(range(a.shape[1])):
            if t < a.shape[1] - 1 and follow is not None:
                c = followed(c, follow[t])
            carried[:, t] = c
            below, above, left, whole, right = parts[:, :, t]
            torch.mul(c, n.below[t], out=below)
            torch.mul(c, n.above[t], out=above)
            torch.addcmul(fixed[0][:, t], c, n.left_c[t], out=left)
            torch.addcmul(fixed[1][:, t], c, n.whole_c[t], out=whole)
            torch.addcmul(fixed[2][:, t], c, n.right_c[t], out=right)
            first = torch.minimum(torch.minimum(below, left), whole)
            last = torch.maximum(torch.maximum(above, right), whole)
            c = share[:, t] * torch.lerp(first, last, mix[:, t])
            k[:, t] = c
        under, over = carried * dynamics.decay - k, carried * dynamics.gain - k
        edge = dynamics.threshold.expand_as(low)
        low, high = (torch.where(silent | firing, torch.zeros_like(low), end) for end in (low, high))
        edge = torch.where(silent | firing, torch.zeros_like(low), edge)
        ends = under * low, under * edge, over * edge, over * high
        quiet, loud = torch.minimum(ends[0], ends[1]), torch.minimum(ends[2], ends[3])
        loud = loud + a + carried * dynamics.offset
        fired = torch.where(firing, True, torch.where(silent, False, loud < quiet))
        point = torch.where(
            fired,
            torch.where(ends[2] < ends[3], edge, high),
            torch.where(ends[0] < ends[1], low, edge),
        )
        ctx.save_for_backward(share, mix, parts, fired, point, silent | firing)
        ctx.numbers, ctx.dynamics, ctx.follow = n, dynamics, follow
        return k, torch.where(fired, loud, quiet)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_k, to_intercept = gradients
        share, mix, parts, fired, point, stable = ctx.saved_tensors
        n: Numbers = ctx.numbers
        decay, gain, offset = ctx.dynamics.decay, ctx.dynamics.gain, ctx.dynamics.offset
        below, above, left, whole, right = parts
        first = torch.minimum(torch.minimum(below, left), whole)
        last = torch.maximum(torch.maximum(above, right), whole)
        zero = torch.zeros_like(n.left)

        def chosen(edge: Tensor, inner: Tensor, at: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            """The factor of the form that was the least (or the greatest)."""
            of_edge, of_inner, of_whole = at
            return torch.where(edge, of_edge, torch.where(inner, of_inner, of_whole))

        low_edge, low_inner = first == below, first == left
        high_edge, high_inner = last == above, last == right
        a_first = chosen(low_edge, low_inner, (zero, n.left, n.whole))
        c_first = chosen(low_edge, low_inner, (n.below, n.left_c, n.whole_c))
        a_last = chosen(high_edge, high_inner, (zero, n.right, n.whole))
        c_last = chosen(high_edge, high_inner, (n.above, n.right_c, n.whole_c))
        k_a = share * torch.lerp(a_first, a_last, mix)
        k_c = share * torch.lerp(c_first, c_last, mix)
        to_k = to_k - to_intercept * point
        to_c = to_intercept * torch.where(fired, offset + gain * point, decay * point)
        for t in range(to_k.shape[1] - 1):
            through = torch.addcmul(to_c[:, t], to_k[:, t], k_c[:, t])
            to_k[:, t + 1] += through if ctx.follow is None else _led_back(through, ctx.follow[t])
        to_a = torch.addcmul(to_intercept * fired, to_k, k_a)
        free = to_k.masked_fill(stable, 0)
        return to_a, free * torch.lerp(first, last, mix), free * share * (last - first), None, None, None


def _led_back(gradient: Tensor, places: Tensor) -> Tensor:
    """`followed`, backwards."""
    shape = (*gradient.shape[:-1], gradient.shape[-1] + 1)
    at = places.expand(len(gradient), -1, -1)
    return gradient.new_zeros(shape).scatter_add_(-1, at, gradient)[..., :-1]
