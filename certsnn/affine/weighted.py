"""Operators with weights: dense layers and convolutions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from certsnn.affine.base import Affine, refuse
from certsnn.affine.diagonal import Diagonal

Pair = tuple[int, int]


def pair(value: int | Sequence[int]) -> Pair:
    """A size for height and width, as torch's layers take it."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


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
    def rescaled(self, scale: Tensor, shift: Tensor) -> Weighted:
        """This operator followed by ``scale y + shift`` per output channel (``[C]`` both)."""


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
        return after.dims == 0 and len(after.scale) == len(self.weight)

    def rescaled(self, scale: Tensor, shift: Tensor) -> Dense:
        offset = shift if self.shift is None else self.shift * scale + shift
        return Dense(self.weight * scale[:, None], offset)


@final
@dataclass(frozen=True)
class Convolution(Weighted):
    """A 2-d convolution: ``weight [out, in/groups, kh, kw]``, ``shift [out]``, zero padding."""

    weight: Tensor
    shift: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def terms(self, shape: Sequence[int]) -> int:
        return self.weight.shape[1] * self.weight.shape[2] * self.weight.shape[3]

    @property
    def bias(self) -> Tensor | None:
        return None if self.shift is None else self.shift[:, None, None]

    def _convolve(self, x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
        """The convolution of ``x [N, C, H, W]`` with these weights; raises ValueError for other shapes."""
        channels = weight.shape[1] * self.groups
        if x.ndim != 4 or x.shape[1] != channels:
            advice = "channels come before rows and columns, and a batch axis before them"
            refuse(f"Conv2d({channels}, {len(weight)})", f"[N, {channels}, H, W]", x, advice)
        if min(self._outputs(x)) < 1:
            refuse(f"Conv2d({channels}, {len(weight)})", "larger maps", x, "its kernel does not fit in")
        return F.conv2d(x.contiguous(), weight, shift, self.stride, self.padding, self.dilation, self.groups)

    def apply(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight, self.shift)

    def linear(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight, None)

    def magnitude(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight.abs(), None)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        # Rows and columns that the stride never reached get no gradient: they are padded on.
        reached = [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                y.shape[-2:],
                self.stride,
                self.padding,
                self.dilation,
                self.weight.shape[2:],
                strict=True,
            )
        ]
        rest = (shape[-2] - reached[0], shape[-1] - reached[1])
        return F.conv_transpose2d(
            y, self.weight, None, self.stride, self.padding, rest, self.groups, self.dilation
        )

    def _with(self, weight: Tensor, shift: Tensor | None) -> Convolution:
        """The same convolution with other weights."""
        return Convolution(weight, shift, self.stride, self.padding, self.dilation, self.groups)

    def to(self, dtype: torch.dtype) -> Convolution:
        return self._with(self.weight.to(dtype), None if self.shift is None else self.shift.to(dtype))

    @property
    def rows(self) -> Tensor:
        return self.weight.reshape(self.groups, self.weight.shape[0] // self.groups, -1)

    def windows(self, x: Tensor) -> Tensor:
        kernel = (self.weight.shape[2], self.weight.shape[3])
        patches = F.unfold(x, kernel, self.dilation, self.padding, self.stride)
        return patches.reshape(len(x), self.groups, -1, patches.shape[-1])

    def unwindow(self, y: Tensor, x: Tensor) -> Tensor:
        return y.reshape(len(y), -1, *self._outputs(x))

    def _outputs(self, x: Tensor) -> list[int]:
        """The height and width of the outputs for the inputs ``x [N, C, H, W]``."""
        sizes = zip(
            x.shape[-2:], self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True
        )
        return [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in sizes
        ]

    def fits(self, after: Diagonal) -> bool:
        return after.dims == 2 and len(after.scale) == len(self.weight)

    def rescaled(self, scale: Tensor, shift: Tensor) -> Convolution:
        offset = shift if self.shift is None else self.shift * scale + shift
        return self._with(self.weight * scale[:, None, None, None], offset)
