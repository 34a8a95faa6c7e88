"""Operators without weights of their own: means over windows, padding and reshaping."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn.affine.base import Affine, check_axes
from certsnn.affine.weighted import pair


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
    """Means over windows of each channel."""

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
    """Mean over windows of one size, as ``torch.nn.AvgPool2d``."""

    module: nn.AvgPool2d

    def terms(self, shape: Sequence[int]) -> int:
        height, width = pair(self.module.kernel_size)
        return height * width

    @property
    def gain(self) -> float:
        # Windows that padding cuts off may be divided by fewer than all terms, but sum up no more of them.
        terms = self.terms(())
        return max(1.0, terms / (self.module.divisor_override or terms))

    def apply(self, x: Tensor) -> Tensor:
        check_axes(x, 4, "AvgPool2d takes [N, C, H, W]")
        pooled: Tensor = self.module.forward(x)
        return pooled


@final
@dataclass(frozen=True)
class AdaptivePool(Pool):
    """Mean over windows that share out the image, as ``torch.nn.AdaptiveAvgPool2d``."""

    size: tuple[int | None, int | None]

    def terms(self, shape: Sequence[int]) -> int:
        # A window reaches from floor(i n / m) to ceil((i + 1) n / m).
        sides = zip(shape[-2:], self.size, strict=True)
        return math.prod(1 if m is None else -(-n // m) + (n % m > 0) for n, m in sides)

    @property
    def gain(self) -> float:
        return 1.0

    def apply(self, x: Tensor) -> Tensor:
        check_axes(x, 4, "AdaptiveAvgPool2d takes [N, C, H, W]")
        return F.adaptive_avg_pool2d(x, self.size)


class Rearranged(Weightless, ABC):
    """The inputs at other places: nothing is computed, so nothing is rounded."""

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
    """Zeros around images, as ``torch.nn.ZeroPad2d``: (left, right, top, bottom)."""

    sides: tuple[int, int, int, int]

    def apply(self, x: Tensor) -> Tensor:
        check_axes(x, 4, "ZeroPad2d takes [N, C, H, W]")
        return F.pad(x, self.sides)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return F.pad(y, [-side for side in self.sides])


@final
@dataclass(frozen=True)
class Reshape(Rearranged):
    """Axes ``start`` to ``end`` made one, as ``torch.nn.Flatten``."""

    start: int
    end: int

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return y.reshape(len(y), *shape)
