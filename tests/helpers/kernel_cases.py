"""Layers of neurons and currents of every kind that kernels meet, drawn by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from dynamics import dynamics_of
from hypothesis import strategies as st
from torch import Tensor

from certsnn.dynamics import ORDERS, Dynamics
from certsnn.surrogates import Adaptive, ArcTan, FastSigmoid, Rectangle, Triangle

SHAPES = [(517,), (2, 3), (3,), (), (0,)]
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

    def kinds(self) -> Iterator[Case]:
        """The same in both orders, lossless or not, with ties, with rounding, and with NaN and inf."""
        one = torch.ones((), dtype=self.dtype)
        conserved = self.dynamics._replace(decay=one, gain=one, lossless=True)
        for order, dynamics in product(ORDERS.values(), (self.dynamics, conserved)):
            for unit, odd in ((0.125, False), (0.1, False), (0.1, True)):
                yield self._replace(dynamics=dynamics._replace(order=order), unit=unit, odd=odd)

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
    shape = (draw(st.sampled_from([4, 2, 1])), draw(st.sampled_from([3, 1, 0])), *sample)
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    kinds = [sample, (), (*sample[:1], *[1] * (len(sample) - 1))]

    def number(least: int, most: int) -> Tensor:
        """One a neuron, one number, or one a channel (the first axis); in eighths."""
        kind = draw(st.sampled_from(kinds))
        return torch.randint(least, most + 1, kind, generator=generator).to(dtype) / 8

    numbers = number(2, 16), number(0, 8), number(-8, 8), number(0, 8), number(-16, 8)
    dynamics = dynamics_of(numbers)._replace(surrogate=draw(st.sampled_from(SURROGATES)))
    return Case(dynamics, shape, 0.125, draw(st.booleans()), False, seed)


def check_same(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """The same numbers, bit for bit but for the sign of a zero, and laid out alike."""
    for one, other in zip(found, expected, strict=True):
        assert not one.numel() or one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
