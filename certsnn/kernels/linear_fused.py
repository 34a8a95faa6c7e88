"""The kernels of linear bounds as compiled loops: neurons of all samples side by side, ``[S, T, M]``."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certsnn.dynamics import STEPWISE, Dynamics
from certsnn.kernels import held_loops, joint_loops
from certsnn.kernels.joint_loops import WIDTH
from certsnn.kernels.linear import LinearKernels
from certsnn.kernels.linear_reference import joint_gradient
from certsnn.kernels.lines import Scanned
from certsnn.kernels.points import Points
from certsnn.kernels.threads import run


class LinearFused(LinearKernels, ABC):
    """For contiguous arrays on the CPU."""

    def joint_scan(
        self, a: Tensor, carried: Tensor, low: Tensor, high: Tensor, dynamics: Dynamics, follow: Tensor | None
    ) -> Scanned:
        made = torch.empty_like(a), torch.empty_like(carried)
        neurons = low[0].numel()
        # Where neurons change their places, a unit of work holds whole samples.
        width = WIDTH if follow is None else max(1, follow.shape[2]) * -(-WIDTH // max(1, follow.shape[2]))
        given = *_given(a, carried, low, high, dynamics), _places(follow, neurons)
        run(
            joint_loops.joint_scan,
            -(-neurons // width),
            2 * a.numel(),
            width,
            *given,
            *map(_flat, made, (2, 1)),
        )
        return Scanned(*made)

    def joint_gradient(
        self,
        a: Tensor,
        carried: Tensor,
        low: Tensor,
        high: Tensor,
        dynamics: Dynamics,
        follow: Tensor | None,
        k: Tensor,
        to: Scanned,
    ) -> tuple[Tensor, ...]:
        if follow is not None:  # nothing asks for the gradient of these
            return joint_gradient((a, carried, low, high), dynamics, follow, to)
        made = [torch.empty_like(x) for x in (a, carried, low, high)]
        numbers = low.new_empty(len(low), len(STEPWISE), *low.shape[1:])
        arrays = map(_flat, (k, *to, *made, numbers), (2, 2, 1, 2, 1, 1, 1, 2))
        units = -(-low[0].numel() // WIDTH)
        run(
            joint_loops.joint_gradient,
            units,
            4 * a.numel(),
            *_given(a, carried, low, high, dynamics),
            *arrays,
        )
        threshold, decay, gain, offset = numbers.unbind(1)
        return *made, threshold, decay, to.intercepts * k[:, 0], gain, offset

    def held_line(self, a: Tensor, trains: Sequence[Sequence[int]], points: Points) -> tuple[Tensor, Tensor]:
        k, intercepts = (a.new_empty(len(a), *a.shape[2:]) for _ in range(2))
        given = _flat(a, 2), np.array(trains, np.int8), _flat(points.at, 1), _flat(points.absent, 1)
        arrays = *given, _single(points.least, a), _flat(k, 1), _flat(intercepts, 1)
        run(
            held_loops.held_line,
            -(-points.at[0].numel() // held_loops.WIDTH),
            len(trains) * a.numel(),
            *arrays,
        )
        return k, intercepts

    def missed(self, k: Tensor, error: Tensor) -> Tensor:
        lost = k.new_empty(len(k), *k.shape[2:])
        arrays = _flat(k, 2), _number(error, k.shape[1:]), _flat(lost, 1)
        run(joint_loops.missed, -(-math.prod(k.shape[2:]) // WIDTH), k.numel(), *arrays)
        return lost


def _given(a: Tensor, carried: Tensor, low: Tensor, high: Tensor, dynamics: Dynamics) -> tuple[Any, ...]:
    numbers = tuple(_number(getattr(dynamics, name), low.shape) for name in STEPWISE)
    initial = _number(dynamics.initial, low[:1].shape)[0]
    root = _single(math.sqrt(torch.finfo(a.dtype).eps), a)
    return _flat(a, 2), _flat(carried, 1), _flat(low, 1), _flat(high, 1), numbers, initial, root


def _single(number: float, like: Tensor) -> Any:
    """A number in the dtype of an array."""
    return like.new_tensor([number]).numpy()[0]


def _flat(tensor: Tensor, leading: int) -> Any:
    """In numpy, with the axes after the leading ones as one."""
    shape = tensor.shape
    return tensor.detach().view(*shape[:leading], math.prod(shape[leading:])).numpy()


def _number(number: Tensor, shape: torch.Size) -> Any:
    """A parameter that broadcasts against ``[T, B, ...]`` as ``[1 or T, 1 or M]``."""
    number = number.detach()
    if number.numel() == 1:
        return number.reshape(1, 1).numpy()
    whole = number.expand(shape)
    steps = whole[:1] if whole.stride(0) == 0 else whole
    return steps.reshape(len(steps), math.prod(shape[1:])).contiguous().numpy()


def _places(follow: Tensor | None, neurons: int) -> Any:
    """`scan_back`'s places, in all samples side by side."""
    if follow is None:
        return torch.empty(0, neurons, dtype=torch.long).numpy()
    size = follow.shape[2]
    first = torch.arange(follow.shape[1])[:, None] * size
    return torch.where(follow < size, follow + first, neurons).view(len(follow), neurons).numpy()
