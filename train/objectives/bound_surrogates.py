"""The surrogate gradient of the bound pass, which may differ from that of the clean pass.

A bound lies further from the threshold than the membrane it bounds, the more so the larger the threat: a
surrogate as narrow as the clean pass's leaves many bounds without a gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

from certsnn.program import Program
from certsnn.surrogates import Rectangle


class BoundSurrogate(ABC):
    """Chooses the surrogate of the bound pass."""

    @abstractmethod
    def __call__(self, program: Program, share: float) -> Program:
        """The program to bound when this share of the threat's ramp is done; its values do not change."""


@final
@dataclass(frozen=True)
class Own(BoundSurrogate):
    """The neurons' own surrogate."""

    def __call__(self, program: Program, share: float) -> Program:
        return program


@final
@dataclass(frozen=True)
class Widths(BoundSurrogate):
    """A `Rectangle` whose half-width goes from ``start`` to ``end``, linear in the ramp's share.

    Args:
        start: half-width before the ramp, in units of the membrane, > 0.
        end: half-width after it, > 0.
    """

    start: float = 0.5
    end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    def __call__(self, program: Program, share: float) -> Program:
        surrogate = Rectangle(self.start + (self.end - self.start) * share)
        return program.changed(lambda s: replace(s, neuron=s.neuron._replace(surrogate=surrogate)))
