"""Affine operators ``y = A x + b``: what lies between two layers of neurons, frozen for bounds.

Each operator answers what a bound propagator asks: ``A x``, ``|A| x``, ``A^T y``, the bias, and how many
products one output sums up (for its rounding error). Operators act on a batch ``[N, ...]``, hold no state and
share the numbers of the module they were made from (so gradients reach it). `certsnn.layers` makes them of
torch's layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


def pair(value: int | Sequence[int]) -> Pair:
    """A size for height and width, as torch's layers take it."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def check_axes(x: Tensor, axes: int, rule: str) -> None:
    """Raise ValueError with the rule unless x has so many axes."""
    if x.ndim != axes:
        raise ValueError(f"{rule}, but it got {_shape(x)}")


def _refuse(layer: str, takes: str, x: Tensor, advice: str) -> NoReturn:
    raise ValueError(f"{layer} takes {takes}, but it got {_shape(x)}: {advice}")


def _shape(x: Tensor) -> str:
    return f"[{', '.join(['N', *map(str, x.shape[1:])])}]"


class Affine(ABC):
    """``y = A x + b`` on a batch ``[N, ...]``."""

    @abstractmethod
    def terms(self, shape: Sequence[int]) -> int:
        """How many products an output sums up, for an input of this shape; 0 if nothing is computed."""

    @property
    @abstractmethod
    def bias(self) -> Tensor | None:
        """``b``, broadcastable to a batch of outputs, or None if it is zero."""

    @property
    @abstractmethod
    def gain(self) -> float:
        """At least the largest ``sum |A_ij|`` of a row: how far inputs within [-1, 1] can move an output."""

    def summed(self, shape: Sequence[int]) -> float:
        """How far inputs within [-1, 1] can move a partial sum on the way to an output; `gain` by default."""
        return self.gain

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """``A x + b``."""

    @abstractmethod
    def linear(self, x: Tensor) -> Tensor:
        """``A x``."""

    @abstractmethod
    def magnitude(self, x: Tensor) -> Tensor:
        """``|A| x``."""

    @abstractmethod
    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """``A^T y`` for ``y [N, ...]`` shaped as outputs: ``[N, *shape]``, the shape of one input."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Affine:
        """The same operator with its numbers in another dtype."""


class Weighted(Affine):
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
        """Inputs ``[N, ...]`` as ``[N, G, n, L]``: what the L locations of group g see (padding is 0)."""

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
        width = self.weight.shape[1]
        if x.ndim != 2 or x.shape[1] != width:
            other = "the layer before it or the input (has it a batch axis?) does not fit"
            advice = "put a Flatten before it" if x.ndim > 2 else other
            _refuse(f"Linear({width}, {len(self.weight)})", f"[N, {width}]", x, advice)

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
        channels = weight.shape[1] * self.groups
        if x.ndim != 4 or x.shape[1] != channels:
            advice = "channels come before rows and columns, and a batch axis before them"
            _refuse(f"Conv2d({channels}, {len(weight)})", f"[N, {channels}, H, W]", x, advice)
        if min(self._outputs(x)) < 1:
            _refuse(f"Conv2d({channels}, {len(weight)})", "larger maps", x, "its kernel does not fit in")
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


class Pool(Affine):
    """Means over windows of each channel. The weights are nonnegative, so ``|A| = A``."""

    @property
    @final
    def bias(self) -> Tensor | None:
        return None

    @final
    def summed(self, shape: Sequence[int]) -> float:
        return float(self.terms(shape))  # a window is summed up before it is divided

    @final
    def linear(self, x: Tensor) -> Tensor:
        return self.apply(x)

    @final
    def magnitude(self, x: Tensor) -> Tensor:
        return self.apply(x)

    @final
    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        pull_back = torch.func.vjp(self.apply, y.new_zeros(len(y), *shape))[1]
        x: Tensor = pull_back(y)[0]
        return x

    @final
    def to(self, dtype: torch.dtype) -> Pool:
        return self


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


@final
@dataclass(frozen=True)
class Padding(Affine):
    """Zeros around images, as ``torch.nn.ZeroPad2d``: (left, right, top, bottom). Nothing is computed."""

    sides: tuple[int, int, int, int]

    def terms(self, shape: Sequence[int]) -> int:
        return 0

    @property
    def gain(self) -> float:
        return 1.0

    @property
    def bias(self) -> Tensor | None:
        return None

    def apply(self, x: Tensor) -> Tensor:
        check_axes(x, 4, "ZeroPad2d takes [N, C, H, W]")
        return F.pad(x, self.sides)

    def linear(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def magnitude(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return F.pad(y, [-side for side in self.sides])

    def to(self, dtype: torch.dtype) -> Padding:
        return self


@final
@dataclass(frozen=True)
class Diagonal(Affine):
    """``scale x + shift`` per channel; both ``[C]``, channels are axis 1, ``dims`` axes follow it."""

    scale: Tensor
    shift: Tensor
    dims: int

    def _aligned(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * self.dims)

    def terms(self, shape: Sequence[int]) -> int:
        return 1

    @property
    def gain(self) -> float:
        return float(self.scale.detach().abs().max())

    @property
    def bias(self) -> Tensor | None:
        return self._aligned(self.shift)

    def apply(self, x: Tensor) -> Tensor:
        return self.linear(x) + self._aligned(self.shift)

    def linear(self, x: Tensor) -> Tensor:
        channels, maps = len(self.scale), ", H, W" if self.dims else ""
        if x.ndim != 2 + self.dims or channels not in (1, x.shape[1]):  # a single one is for all channels
            advice = "it has one scale and shift a channel"
            _refuse(f"normalisation of {channels} channels", f"[N, {channels}{maps}]", x, advice)
        return x * self._aligned(self.scale)

    def magnitude(self, x: Tensor) -> Tensor:
        return x * self._aligned(self.scale.abs())

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return self.linear(y)

    def to(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(self.scale.to(dtype), self.shift.to(dtype), self.dims)


@final
@dataclass(frozen=True)
class Reshape(Affine):
    """``torch.nn.Flatten``: nothing is computed."""

    start: int
    end: int

    def terms(self, shape: Sequence[int]) -> int:
        return 0

    @property
    def gain(self) -> float:
        return 1.0

    @property
    def bias(self) -> Tensor | None:
        return None

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end)

    def linear(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def magnitude(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return y.reshape(len(y), *shape)

    def to(self, dtype: torch.dtype) -> Reshape:
        return self


def fold(operators: Sequence[Affine]) -> tuple[Affine, ...]:
    """The same chain with each `Diagonal` that follows a `Weighted` operator taken into its weights."""
    folded: list[Affine] = []
    for operator in operators:
        previous = folded[-1] if folded else None
        if isinstance(operator, Diagonal) and isinstance(previous, Weighted) and previous.fits(operator):
            folded[-1] = previous.rescaled(operator.scale, operator.shift)
        else:
            folded.append(operator)
    return tuple(folded)


def apply_chain(operators: Sequence[Affine], x: Tensor) -> Tensor:
    """The operators one after the other on a batch ``[N, ...]``."""
    for operator in operators:
        x = operator.apply(x)
    return x
