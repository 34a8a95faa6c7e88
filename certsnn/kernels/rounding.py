"""The rounding error that a membrane gathers over time, in torch."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulated_rounding(charge: Tensor, offset: Tensor, unit: float, underflow: float) -> Tensor:
    r"""A bound ``[T, B, ...]`` of a membrane's rounding error, from a bound of its charge's magnitude.

    Up to step t there are t additions of currents and t - 1 of the reset. Each is off by at most ``unit``
    times its result, which the largest charge so far and t resets bound: what lies between the two additions
    of a step, in either order, is a membrane but for one reset. This is doubled to cover the errors' own
    effect on the results, and the float64 arithmetic of these bounds; ``underflow`` is what one addition can
    lose to it beside:

    .. math:: E_t = 4\, unit \sum_{k \le t} (\max_{j \le k} |charge_j| + k |offset|) + 2 t\, underflow
    """
    reset = offset.abs()
    largest, total = charge[0], torch.zeros_like(charge[0])
    errors = []
    for step, charge_now in enumerate(charge, 1):  # `cummax` walks against memory: many times slower
        largest = torch.maximum(largest, charge_now)
        total = total + (largest + step * reset)
        errors.append(4 * unit * total + step * (2 * underflow))
    return torch.stack(errors)
