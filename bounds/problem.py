"""What a bound method is asked: a frozen network, a batch, and what the adversary may do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Arithmetic
from certsnn.bounds.support import BoundSupport
from certsnn.inputsets import InputSet
from certsnn.program import Program


@final
@dataclass(frozen=True)
class Problem:
    """``x0`` as the network takes it, ``[B, ...]`` or ``[T, B, ...]``; classes ``y [B]``, of ``classes``."""

    program: Program
    x0: Tensor
    y: Tensor
    support: BoundSupport
    arithmetic: Arithmetic
    classes: int

    @property
    def input_set(self) -> InputSet:
        """What the adversary may choose."""
        found: InputSet = self.support.input_set
        return found

    @property
    def steps(self) -> int:
        """T."""
        return self.program.input.frames(self.x0, None)[1]

    @cached_property
    def held(self) -> list[bool]:
        """Which values are the same at every step, as `Program.values` counts them."""
        return self.program.held(self.input_set.domain == "image")

    def select(self, mask: Tensor) -> Problem:
        """The problem of some of the samples, ``mask: bool [B]``."""
        x0 = self.x0[mask] if self.program.input.batch_axis == 0 else self.x0[:, mask]
        return replace(self, x0=x0, y=self.y[mask], support=self.support.select(mask))

    def at(self, positions: Tensor) -> Problem:
        """The problem of the samples at these positions, ascending."""
        mask = torch.zeros(len(self.y), dtype=torch.bool, device=self.y.device)
        mask[positions] = True
        return self if len(positions) == len(mask) else self.select(mask)

    def groups(self, size: int) -> list[Problem]:
        """The problem in pieces of at most so many samples, in order."""
        batch = torch.arange(len(self.y), device=self.y.device)
        starts = range(0, len(self.y), size)
        return [self.select((batch >= start) & (batch < start + size)) for start in starts]

    def nothing_known(self) -> Tensor:
        """Margins ``[B, K-1]`` of which nothing is known: -inf."""
        like = self.arithmetic.raised(self.x0.detach())
        return like.new_full((len(self.y), self.classes - 1), -math.inf)
