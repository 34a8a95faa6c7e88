"""Surrogate gradients: stand-ins for the derivative of the spike in a backward pass.

A spike ``s = 1[u >= threshold]`` has no useful derivative. Training, the bound passes and the attacks
all replace ``ds/du`` by one of the functions below, evaluated at ``x = u - threshold``. Each has area one,
so a wider surrogate is a flatter one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


class Surrogate(ABC):
    """A pseudo-derivative of the spike."""

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """``ds/du`` at ``x = u - threshold``; any shape in, the same shape out."""


@final
@dataclass(frozen=True)
class Rectangle(Surrogate):
    """``1[|x| <= half_width] / (2 half_width)``.

    Wu et al., 2018 (STBP), https://arxiv.org/abs/1706.02609, equation 24.
    """

    half_width: float = 0.5

    def derivative(self, x: Tensor) -> Tensor:
        # In place, the comparison gives floats at once: a mask would have to be converted.
        return x.abs().le_(self.half_width).div_(2 * self.half_width)


@final
@dataclass(frozen=True)
class Triangle(Surrogate):
    """``max(0, 1 - |x| / half_width) / half_width`` (Bellec et al., 2018, https://arxiv.org/abs/1803.09574)."""

    half_width: float = 1.0

    def derivative(self, x: Tensor) -> Tensor:
        return (1 - x.abs() / self.half_width).clamp_min(0) / self.half_width


@final
@dataclass(frozen=True)
class ArcTan(Surrogate):
    """``(alpha / 2) / (1 + (pi alpha x / 2)^2)`` (Fang et al., 2021, https://arxiv.org/abs/2007.05785)."""

    alpha: float = 2.0

    def derivative(self, x: Tensor) -> Tensor:
        return (self.alpha / 2) / (1 + (math.pi * self.alpha / 2 * x).square())


@final
@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """``(slope / 2) / (1 + slope |x|)^2`` (Zenke and Ganguli, 2018, SuperSpike, https://arxiv.org/abs/1705.11146)."""

    slope: float = 5.0

    def derivative(self, x: Tensor) -> Tensor:
        return (self.slope / 2) / (1 + self.slope * x.abs()).square()


@final
@dataclass(frozen=True)
class Adaptive(Surrogate):
    """`ArcTan` whose ``alpha = sharpness / mean |x|`` follows each sample, layer and step.

    The mean is over the neurons of a layer at one step, x ``[B, ...]``. So a fair share of the neurons has a
    gradient, however far from the threshold their membranes are. Meant for the gradient passes of attacks.
    """

    sharpness: float = 3.0

    def derivative(self, x: Tensor) -> Tensor:
        mean = x.abs().flatten(1).mean(1) if x.dim() > 1 else x.abs()
        alpha = self.sharpness / mean.clamp_min(torch.finfo(x.dtype).eps).view(-1, *[1] * (x.dim() - 1))
        return (alpha / 2) / (1 + (math.pi / 2 * alpha * x).square())
