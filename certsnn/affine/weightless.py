"""Operators without weights of their own: means and sums over windows, padding and reshaping."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from certsnn.affine.base import Affine, check_maps, pair, refuse


class Weightless(Affine, ABC):
    """An operator without numbers of its own: no bias, and ``A_ij >= 0``, so ``|A| = A``."""

    @property
    @final
    def bias(self) -> Tensor | None:
        return None

    @final
    def linear(self, x: Tensor) -> Tensor:
        return self.apply(x)

    @final
    def magnitude(self, x: Tensor) -> Tensor:
        return self.apply(x)

    @final
    def to(self, dtype: torch.dtype) -> Weightless:
        return self


class Pool(Weightless, ABC):
    """Means or sums over windows of each channel, over one axis or two."""

    layer: ClassVar[str]

    @property
    @abstractmethod
    def axes(self) -> int:
        """1 for ``[N, C, L]``, 2 for ``[N, C, H, W]``."""

    @abstractmethod
    def pooled(self, maps: Tensor) -> Tensor:
        """The pooling of maps ``[N, C, H, W]``; one axis is a map of one row, as it is to torch itself."""

    @final
    def apply(self, x: Tensor) -> Tensor:
        check_maps(x, self.axes, self.layer)
        return self.pooled(x) if self.axes == 2 else self.pooled(x.unsqueeze(2)).squeeze(2)

    @final
    def summed(self, shape: Sequence[int]) -> float:
        return float(self.terms(shape))  # a window is summed up before it is divided

    @final
    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        pull_back = torch.func.vjp(self.apply, y.new_zeros(len(y), *shape))[1]
        x: Tensor = pull_back(y)[0]
        return x


@final
@dataclass(frozen=True)
class AveragePool(Pool):
    """Mean over windows of one size, as ``torch.nn.AvgPool1d`` and ``AvgPool2d``.

    Kernel, stride and padding are one number for each axis. ``divisor``: what the sum of a window is divided
    by, in place of its size; 1 is the sum itself.
    """

    layer: ClassVar[str] = "AvgPool"
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None

    def terms(self, shape: Sequence[int]) -> int:
        return math.prod(self.kernel)

    @property
    def gain(self) -> float:
        # Windows that padding cuts off may be divided by fewer than all terms, but sum up no more of them.
        return max(1.0, self.terms(()) / (self.divisor or self.terms(())))

    @property
    def axes(self) -> int:
        return len(self.kernel)

    def pooled(self, maps: Tensor) -> Tensor:
        kernel, stride, padding = pair(self.kernel, 1), pair(self.stride, 1), pair(self.padding, 0)
        mode = self.ceil_mode, self.count_include_pad, self.divisor
        return F.avg_pool2d(maps, kernel, stride, padding, *mode)


@final
@dataclass(frozen=True)
class AdaptivePool(Pool):
    """Mean over windows that share out the map, as ``torch.nn.AdaptiveAvgPool1d`` and ``AdaptiveAvgPool2d``.

    ``size``: of the outputs along each axis; None is that of the inputs.
    """

    layer: ClassVar[str] = "AdaptiveAvgPool"
    size: tuple[int | None, ...]

    def terms(self, shape: Sequence[int]) -> int:
        # A window reaches from floor(i n / m) to ceil((i + 1) n / m).
        sides = zip(shape[1:], self.size, strict=True)
        return math.prod(1 if m is None else -(-n // m) + (n % m > 0) for n, m in sides)

    @property
    def gain(self) -> float:
        return 1.0

    @property
    def axes(self) -> int:
        return len(self.size)

    def pooled(self, maps: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(maps, pair(self.size, None))


class Rearranged(Weightless, ABC):
    """The inputs at other places, or zeros: nothing is computed, so nothing is rounded."""

    @final
    def terms(self, shape: Sequence[int]) -> int:
        return 0

    @property
    @final
    def gain(self) -> float:
        return 1.0


@final
@dataclass(frozen=True)
class Padding(Rearranged):
    """Zeros around maps, as ``torch.nn.ZeroPad2d``: (left, right, top, bottom), for one axis two numbers."""

    sides: tuple[int, ...]

    def apply(self, x: Tensor) -> Tensor:
        check_maps(x, len(self.sides) // 2, "ZeroPad")
        return F.pad(x, self.sides)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return F.pad(y, [-side for side in self.sides])


class Reshape(Rearranged, ABC):
    """The inputs in another shape."""

    @final
    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return y.reshape(len(y), *shape)


@final
@dataclass(frozen=True)
class Flattened(Reshape):
    """Axes ``start`` to ``end`` made one, as ``torch.nn.Flatten``."""

    start: int
    end: int

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end)


@final
@dataclass(frozen=True)
class Unflattened(Reshape):
    """An axis (not that of the batch) made several, as ``torch.nn.Unflatten``; one size may be -1."""

    axis: int
    sizes: tuple[int, ...]

    def apply(self, x: Tensor) -> Tensor:
        axis = self.axis % x.ndim if -x.ndim < self.axis < x.ndim else 0
        known = math.prod(size for size in self.sizes if size != -1)
        exact = -1 not in self.sizes
        if axis == 0 or (x.shape[axis] != known if exact else known == 0 or x.shape[axis] % known):
            advice = "the product of the sizes is the length of the axis, and axis 0 is the batch"
            refuse(f"Unflatten({self.axis}, {self.sizes})", "an axis that has these sizes", x, advice)
        y: Tensor = x.unflatten(axis, self.sizes)
        return y
