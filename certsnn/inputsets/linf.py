"""Images, and sequences of frames, within a distance in the maximum norm."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import Self

from certsnn.encoding import check_images
from certsnn.inputsets.base import (
    Domain,
    InputSet,
    box_minimum,
    check_first,
    check_form,
    check_frames,
    check_like,
    check_place,
    check_size,
    mixture,
    uniform,
)


def linf_box(x0: Tensor, eps: float, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The (lower, upper) images of an eps-ball around x0, clipped to [low, high], in x0's dtype.

    Subtraction, clipping and rounding to x0's dtype are monotone, and rounding leaves values of
    that dtype alone. So a representable x within the limits and with |x - x0| <= eps in exact
    arithmetic lies in the rounded box.
    """
    wide = x0.double()
    return (
        (wide - eps).clamp(low, high).to(x0.dtype),
        (wide + eps).clamp(low, high).to(x0.dtype),
    )


@dataclass(frozen=True)
class Ball(InputSet, ABC):
    """Inputs within eps (raw units) of x0 in every entry and within [low, high].

    None for low or high means no limit. Membership means lying within `box(x0)`, which is
    rounded as `linf_box` says.
    """

    size: ClassVar[str] = "eps"
    grain: ClassVar[float] = 0.0

    eps: float
    low: float | None = 0.0
    high: float | None = 1.0

    def __post_init__(self) -> None:
        check_size("eps", self.eps)
        for name, limit in (("low", self.low), ("high", self.high)):
            if limit is not None and not isinstance(limit, (int, float)):
                raise TypeError(f"{name} must be a number or None, not {type(limit).__name__}")
        low, high = self.range
        if not low < high:
            raise ValueError(f"low must be less than high, not {self.low} and {self.high}")

    @final
    @property
    def range(self) -> tuple[float, float]:
        """The limits of an entry, infinite where there is none."""
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )

    @final
    def scaled(self, factor: float) -> Self:
        check_size("factor", factor)
        return replace(self, eps=self.eps * factor)

    @final
    def describe(self) -> str:
        low, high = self.range
        limits = "" if (low, high) == (0.0, 1.0) else f", low={low:g}, high={high:g}"
        return f"{type(self).__name__}(eps={self.eps:g}{limits})"

    @final
    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        check_place(x, x0, "x")
        lower, upper = self.box(x0)
        return ((x >= lower) & (x <= upper)).movedim(self.batch_axis, 0).flatten(1).all(dim=1)

    @final
    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        return linf_box(x0, self.eps, *self.range)

    @final
    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        check_form(A, x0)
        return box_minimum(A, *self.box(x0), self.batch_axis)

    @final
    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        check_like(x, x0, "x")
        return x.to(x0.dtype).clamp(*self.box(x0))

    @final
    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        samples = x0.movedim(self.batch_axis, 0)
        lower, upper = self.box(samples)
        inner = lower + uniform(samples.shape, x0, generator).to(x0.dtype) * (upper - lower)
        corner = torch.where(uniform(samples.shape, x0, generator) < 0.5, lower, upper)
        return mixture(samples, inner, corner, generator).clamp(lower, upper).movedim(0, self.batch_axis)

    @final
    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        raise TypeError(f"{self.describe()} holds real numbers: there are no spikes to flip")

    @final
    @property
    def reach(self) -> int:
        return 0

    @final
    def select(self, mask: Tensor) -> Self:
        return self

    @final
    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        if self.eps > 0:
            raise ValueError(f"{self.describe()} holds infinitely many inputs: enumerate takes eps = 0 only")
        return iter([x0])


@final
@dataclass(frozen=True)
class LinfBall(Ball):
    """Images [B, ...] within eps (raw units) of x0 in every pixel and within [low, high].

    None for low or high means no limit. Membership means lying within `box(x0)`, which is
    rounded as `linf_box` says.
    """

    domain: ClassVar[Domain] = "image"
    network_input: ClassVar[Domain] = "image"

    def check(self, x0: Tensor) -> None:
        check_images(x0, *self.range)

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, LinfBall]:
        return x0, self


@final
@dataclass(frozen=True)
class LinfFrames(Ball):
    """Sequences [T, B, ...] within eps (raw units) of x0 in every entry of every frame, within [low, high].

    low and high are the range of the data, None for no limit: audio features, say, have none, and
    counts of events no upper one. Membership as in `LinfBall`.
    """

    domain: ClassVar[Domain] = "frames"
    network_input: ClassVar[Domain] = "frames"

    def check(self, x0: Tensor) -> None:
        check_frames(x0)
        low, high = self.range
        # Compared in x0's own precision, as 0.1 in float32 is not 0.1 in float64.
        limits = torch.tensor([low, high], dtype=torch.float64).to(x0)
        if bool(((x0 < limits[0]) | (x0 > limits[1])).any()):
            raise ValueError(
                f"frames must lie within [{low:g}, {high:g}], these span [{float(x0.min()):.8g}, "
                f"{float(x0.max()):.8g}]: name the range of the data, LinfFrames(eps, low, high)"
            )

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, LinfFrames]:
        check_first(x0, steps)
        return x0[:steps], self
