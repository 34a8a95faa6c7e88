r"""The margin bounds of certified training: S-IBP's, or S-CROWN's mixed with them.

CROWN-IBP training begins with the tighter bounds of a backward pass and ends with interval bounds, which
are faster and easier to train with. The mix is

.. math:: \underline m = \beta \max(\underline m_{CROWN}, \underline m_{IBP}) + (1 - \beta) \underline m_{IBP}

where the maximum is what ``method="s-crown-ibp"`` verifies with: S-CROWN alone can be looser than S-IBP,
most of all where the count domain applies. Source: Zhang et al., *Towards Stable and Efficient Training of
Verifiably Robust Neural Networks*, 2020 (CROWN-IBP), https://arxiv.org/abs/1906.06316.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from certsnn.bounds.interval.layers import Layer, Source
from certsnn.bounds.interval.propagate import interval_margins, layers_of
from certsnn.bounds.interval.topk import any_weights
from certsnn.bounds.linear.margins import backward_margins
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.problem import Problem
from certsnn.inputs import ImageInput
from certsnn.program import Program
from certsnn.settings import check_share


class Bounded(NamedTuple):
    """Lower bounds ``[B, K-1]`` of the margins, and the interval bounds of the layers (for regularisers)."""

    margins: Tensor
    layers: Sequence[Layer]


class MarginBound(ABC):
    """Bounds the margins of a batch, differentiably."""

    @abstractmethod
    def __call__(self, problem: Problem, share: float) -> Bounded:
        """The bounds when this share of the threat's ramp is done, in [0, 1]."""


@final
@dataclass(frozen=True)
class IntervalMargins(MarginBound):
    """S-IBP: under a flip budget by the weights alone, which takes no sorting for every sample."""

    def __call__(self, problem: Problem, share: float) -> Bounded:
        return self.propagated(problem)[0]

    def propagated(self, problem: Problem) -> tuple[Bounded, Sequence[Source]]:
        """The same, with the bounds of all values."""
        margins, sources = interval_margins(problem, any_weights)
        return Bounded(margins, layers_of(sources)), sources


@final
@dataclass(frozen=True)
class CrownMargins(MarginBound):
    """``beta max(S-CROWN-IBP, S-IBP) + (1 - beta) S-IBP``, beta linear in the ramp's share.

    Where beta is 0 the backward pass is left out, and this is `IntervalMargins`.

    Args:
        relaxation: of firing and reset: joint, or separate as published.
        beta_start: S-CROWN's part before the ramp, in [0, 1].
        beta_end: S-CROWN's part after the ramp, in [0, 1]; 0 ends with S-IBP, as CROWN-IBP does.
    """

    relaxation: Literal["joint", "separate"] = "joint"
    beta_start: float = 1.0
    beta_end: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta_start", "beta_end"):
            check_share(name, getattr(self, name))

    def beta(self, share: float) -> float:
        """S-CROWN's part when this share of the ramp is done."""
        return self.beta_start * (1 - share) + self.beta_end * share

    def __call__(self, problem: Problem, share: float) -> Bounded:
        (intervals, layers), sources = IntervalMargins().propagated(problem)
        beta = self.beta(share)
        if beta == 0:
            return Bounded(intervals, layers)
        relaxed = backward_margins(problem, sources, RELAXATIONS[self.relaxation])
        best = torch.maximum(intervals, relaxed)
        return Bounded(torch.lerp(intervals, best, beta), layers)


def shortened(program: Program, steps: int) -> Program:
    """The program with an image held for ``steps`` steps; spikes bring their number of steps along."""
    if isinstance(program.input, ImageInput):
        return replace(program, input=ImageInput(steps))
    return program
