"""Operators with weights: dense layers, and convolutions over one axis or two."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from certsnn.affine.base import MAPS, Affine, pair, refuse
from certsnn.affine.diagonal import Diagonal

_CONVOLVE = {1: F.conv1d, 2: F.conv2d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


class Weighted(Affine, ABC):
    """An operator with weights of its own, whose outputs each sum up a window of the inputs."""

    @property
    @abstractmethod
    def rows(self) -> Tensor:
        """Weights ``[G, O, n]``: output ``(g, o, l)`` is ``rows[g, o] . windows(x)[:, g, :, l] + b``."""

    @final
    @property
    def gain(self) -> float:
        size = self.rows.detach().abs()
        # A float32 sum of n numbers >= 0 is off by less than n 2^-24 of itself, for n up to 2^22.
        largest = float(size.sum(-1).amax()) * (1 + size.shape[-1] * 2.0**-23)
        return largest if largest < math.inf else float(size.double().sum(-1).amax())

    @abstractmethod
    def windows(self, x: Tensor) -> Tensor:
        """Inputs ``[N, ...]`` as ``[N, G, n, L]``: the windows of group g's L locations (padding is 0)."""

    @abstractmethod
    def unwindow(self, y: Tensor, x: Tensor) -> Tensor:
        """``y [N, G, O, L]`` in the shape of the outputs for the inputs ``x [N, ...]``."""

    @abstractmethod
    def fits(self, after: Diagonal) -> bool:
        """Whether the outputs have the axes and channels that a normalisation takes."""

    @abstractmethod
    def rescaled(self, scale: Tensor, shift: Tensor | None) -> Weighted:
        """This operator followed by ``scale y + shift`` per output channel (``[C]`` or ``[1]`` both)."""


def _rescaled(bias: Tensor | None, scale: Tensor, shift: Tensor | None, channels: int) -> Tensor | None:
    """The bias ``[C]`` of `Weighted.rescaled`."""
    if bias is None:
        return None if shift is None else shift.expand(channels)
    return bias * scale if shift is None else bias * scale + shift


@final
@dataclass(frozen=True)
class Dense(Weighted):
    """A fully connected layer: ``weight [out, in]``, ``shift [out]``; x is ``[N, in]``, else ValueError."""

    weight: Tensor
    shift: Tensor | None

    def terms(self, shape: Sequence[int]) -> int:
        return self.weight.shape[1]

    @property
    def bias(self) -> Tensor | None:
        return self.shift

    def _check(self, x: Tensor) -> None:
        """Raise ValueError unless x is ``[N, in]``."""
        width = self.weight.shape[1]
        if x.ndim != 2 or x.shape[1] != width:
            other = "the layer before it or the input (has it a batch axis?) does not fit"
            advice = "put a Flatten before it" if x.ndim > 2 else other
            refuse(f"Linear({width}, {len(self.weight)})", f"[N, {width}]", x, advice)

    def apply(self, x: Tensor) -> Tensor:
        self._check(x)
        return F.linear(x, self.weight, self.shift)

    def linear(self, x: Tensor) -> Tensor:
        self._check(x)
        return F.linear(x, self.weight)

    def magnitude(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.abs())

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return y @ self.weight

    def to(self, dtype: torch.dtype) -> Dense:
        return Dense(self.weight.to(dtype), None if self.shift is None else self.shift.to(dtype))

    @property
    def rows(self) -> Tensor:
        return self.weight[None]

    def windows(self, x: Tensor) -> Tensor:
        return x[:, None, :, None]

    def unwindow(self, y: Tensor, x: Tensor) -> Tensor:
        return y.flatten(1)

    def fits(self, after: Diagonal) -> bool:
        return 0 in after.dims and len(after.scale) in (1, len(self.weight))

    def rescaled(self, scale: Tensor, shift: Tensor | None) -> Dense:
        return Dense(self.weight * scale[:, None], _rescaled(self.shift, scale, shift, len(self.weight)))


@final
@dataclass(frozen=True)
class Convolution(Weighted):
    """A convolution over one axis or two: ``weight [out, in/groups, *kernel]``, ``shift [out]``.

    Stride, padding (with zeros) and dilation are one number for each axis.
    """

    weight: Tensor
    shift: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def terms(self, shape: Sequence[int]) -> int:
        return self.weight[0].numel()

    @property
    def bias(self) -> Tensor | None:
        return self.shift

    def _convolve(self, x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
        """The convolution of ``x [N, C, ...]`` with these weights; raises ValueError for other shapes."""
        channels, axes = weight.shape[1] * self.groups, len(self.stride)
        layer = f"Conv{axes}d({channels}, {len(weight)})"
        if x.ndim != 2 + axes or x.shape[1] != channels:
            advice = "channels come before the axes of a map, and a batch axis before them"
            refuse(layer, f"[N, {channels}{MAPS[axes]}]", x, advice)
        if min(self._outputs(x)) < 1:
            refuse(layer, "larger maps", x, "its kernel does not fit in")
        convolve = _CONVOLVE[axes]
        return convolve(x.contiguous(), weight, shift, self.stride, self.padding, self.dilation, self.groups)

    def apply(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight, self.shift)

    def linear(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight, None)

    def magnitude(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight.abs(), None)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        # Rows and columns that the stride never reached get no gradient: they are padded on.
        rest = [
            inputs - ((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for inputs, size, stride, padding, dilation, kernel in zip(
                shape[1:],
                y.shape[2:],
                self.stride,
                self.padding,
                self.dilation,
                self.weight.shape[2:],
                strict=True,
            )
        ]
        convolve = _TRANSPOSED[len(self.stride)]
        return convolve(y, self.weight, None, self.stride, self.padding, rest, self.groups, self.dilation)

    def _with(self, weight: Tensor, shift: Tensor | None) -> Convolution:
        """The same convolution with other weights."""
        return Convolution(weight, shift, self.stride, self.padding, self.dilation, self.groups)

    def to(self, dtype: torch.dtype) -> Convolution:
        return self._with(self.weight.to(dtype), None if self.shift is None else self.shift.to(dtype))

    @property
    def rows(self) -> Tensor:
        return self.weight.reshape(self.groups, self.weight.shape[0] // self.groups, -1)

    def windows(self, x: Tensor) -> Tensor:
        maps = x if x.ndim == 4 else x.unsqueeze(2)  # one axis is a map of one row
        kernel, dilation = pair(self.weight.shape[2:], 1), pair(self.dilation, 1)
        patches = F.unfold(maps, kernel, dilation, pair(self.padding, 0), pair(self.stride, 1))
        return patches.reshape(len(x), self.groups, -1, patches.shape[-1])

    def unwindow(self, y: Tensor, x: Tensor) -> Tensor:
        return y.reshape(len(y), -1, *self._outputs(x))

    def _outputs(self, x: Tensor) -> list[int]:
        """The size of the outputs along each axis for the inputs ``x [N, C, ...]``."""
        sizes = zip(x.shape[2:], self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True)
        return [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in sizes
        ]

    def fits(self, after: Diagonal) -> bool:
        return len(self.stride) in after.dims and len(after.scale) in (1, len(self.weight))

    def rescaled(self, scale: Tensor, shift: Tensor | None) -> Convolution:
        weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        return self._with(weight, _rescaled(self.shift, scale, shift, len(weight)))
