"""Layers of neurons and currents of every kind that kernels meet, drawn by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from dynamics import dynamics_of
from hypothesis import strategies as st
from torch import Tensor

from certsnn.dynamics import ORDERS, Dynamics
from certsnn.surrogates import Adaptive, ArcTan, FastSigmoid, Rectangle, Triangle

SHAPES = [(), (3,), (2, 3), (0,), (517,)]
"""Of a sample: among them none, no neurons, and more than the loops take at once."""
ODD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, -1e38]


SURROGATES = [Rectangle(), Triangle(), ArcTan(), FastSigmoid(), Adaptive()]


class Case(NamedTuple):
    """Neurons and the shape ``[T, B, ...]`` of their currents; ``held``: the same at every step.

    All are multiples of ``unit``: of 1/8, so that many a membrane is at the threshold, or of 0.1, so that
    every operation rounds.
    """

    dynamics: Dynamics
    shape: tuple[int, ...]
    unit: float
    held: bool
    odd: bool
    seed: int

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def currents(self, generator: torch.Generator) -> Tensor:
        """Some of them NaN and inf where the case is odd."""
        shape = (1, *self.shape[1:]) if self.held else self.shape
        x = torch.randint(-8, 12, shape, generator=generator).to(self.dtype) * self.unit
        if self.odd:
            odd = torch.tensor(ODD, dtype=x.dtype)[torch.randint(len(ODD), shape, generator=generator)]
            x = torch.where(torch.rand(shape, generator=generator) < 0.1, odd, x)
        return x.expand(self.shape)

    def gradients(self, count: int) -> list[Tensor | None]:
        """Towards so many results; every third one is zero, and one in strange strides."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        drawn = [torch.randn(self.shape, generator=generator, dtype=self.dtype) for _ in range(count)]
        none = self.seed % 3
        return [
            None if i % 3 == none else x.transpose(0, 1).contiguous().transpose(0, 1)
            for i, x in enumerate(drawn)
        ]

    @property
    def dtype(self) -> torch.dtype:
        return self.dynamics.threshold.dtype

    def ends(self) -> tuple[Tensor, Tensor]:
        """A lower and an upper bound, which cross here and there."""
        generator = self.generator()
        low = self.currents(generator)
        return low, low + self.currents(generator).abs() - self.unit


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sample = draw(st.sampled_from(SHAPES))
    shape = (draw(st.integers(1, 4)), draw(st.integers(0, 3)), *sample)
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    unit = draw(st.sampled_from([0.125, 0.1]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))

    def number(least: float, most: float) -> Tensor:
        """One number, one a channel (the first axis), or one a neuron."""
        kinds = [(), sample, (*sample[:1], *[1] * (len(sample) - 1))]
        x = torch.randint(
            int(8 * least), int(8 * most) + 1, draw(st.sampled_from(kinds)), generator=generator
        )
        return x.to(dtype) / 8

    lossless = draw(st.booleans())
    one = torch.ones((), dtype=dtype)
    threshold, initial, offset = number(0.25, 2), number(-1, 1), number(-2, 1)
    decay, gain = (one, one) if lossless else (number(0, 1), number(0, 1))
    dynamics = dynamics_of((threshold, decay, initial, gain, offset), lossless)
    order = ORDERS[draw(st.sampled_from(sorted(ORDERS)))]
    dynamics = dynamics._replace(order=order, surrogate=draw(st.sampled_from(SURROGATES)))
    return Case(dynamics, shape, unit, draw(st.booleans()), draw(st.booleans()), seed)


def check_same(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """The same numbers, bit for bit but for the sign of a zero, and laid out alike."""
    for one, other in zip(found, expected, strict=True):
        assert not one.numel() or one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
