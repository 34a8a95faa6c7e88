"""Images within a distance in the maximum norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from certsnn.encoding import check_images
from certsnn.inputsets.base import (
    Domain,
    InputSet,
    box_minimum,
    check_form,
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


@final
@dataclass(frozen=True)
class LinfBall(InputSet):
    """Images [B, ...] within eps (raw units) of x0 in every pixel and within [low, high].

    None for low or high means no limit. Membership means lying within `box(x0)`, which is
    rounded as `linf_box` says.
    """

    domain: ClassVar[Domain] = "image"
    network_input: ClassVar[Domain] = "image"
    size: ClassVar[str] = "eps"

    eps: float
    low: float | None = 0.0
    high: float | None = 1.0

    def __post_init__(self) -> None:
        check_size("eps", self.eps)
        for name, limit in (("low", self.low), ("high", self.high)):
            if limit is not None and not isinstance(limit, (int, float)):
                raise TypeError(f"{name} must be a number or None, not {type(limit).__name__}")
        low, high = self._range()
        if not low < high:
            raise ValueError(f"low must be less than high, not {self.low} and {self.high}")

    def _range(self) -> tuple[float, float]:
        """The limits of a pixel, infinite where there is none."""
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )

    def scaled(self, factor: float) -> LinfBall:
        check_size("factor", factor)
        return replace(self, eps=self.eps * factor)

    def describe(self) -> str:
        low, high = self._range()
        limits = "" if (low, high) == (0.0, 1.0) else f", low={low:g}, high={high:g}"
        return f"LinfBall(eps={self.eps:g}{limits})"

    def check(self, x0: Tensor) -> None:
        check_images(x0, *self._range())

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        check_place(x, x0, "x")
        lower, upper = self.box(x0)
        return ((x >= lower) & (x <= upper)).flatten(1).all(dim=1)

    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        return linf_box(x0, self.eps, *self._range())

    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        check_form(A, x0)
        return box_minimum(A, *self.box(x0), self.batch_axis)

    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        check_like(x, x0, "x")
        return x.to(x0.dtype).clamp(*self.box(x0))

    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        lower, upper = self.box(x0)
        inner = lower + uniform(x0.shape, x0, generator).to(x0.dtype) * (upper - lower)
        corner = torch.where(uniform(x0.shape, x0, generator) < 0.5, lower, upper)
        return mixture(x0, inner, corner, generator).clamp(lower, upper)

    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        raise TypeError(f"{self.describe()} holds images: there are no spikes to flip")

    @property
    def reach(self) -> int:
        return 0

    def select(self, mask: Tensor) -> LinfBall:
        return self

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, LinfBall]:
        return x0, self

    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        if self.eps > 0:
            raise ValueError(f"{self.describe()} holds infinitely many images: enumerate takes eps = 0 only")
        return iter([x0])
