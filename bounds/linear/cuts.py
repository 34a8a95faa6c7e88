"""Nodes cut down to values that are not known, as a backward pass sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.linear.alpha import Slack, chosen_slopes, midpoint
from certsnn.bounds.linear.backward import Coupling, Firing, Level
from certsnn.bounds.linear.constant_current import HeldMidpoint, Pieces, held
from certsnn.bounds.linear.lines import Tracked
from certsnn.bounds.linear.relaxation import Relaxation
from certsnn.dynamics import Dynamics


class Cut(ABC):
    """A node cut down to some of its values."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers that a row takes at each step."""

    @property
    @abstractmethod
    def plain(self) -> Level:
        """The level with the lines of the relaxation."""

    @abstractmethod
    def start(self, rows: int) -> list[Slack]:
        """The slopes to begin with, one set for each row: those of the envelope over the midpoint."""

    @abstractmethod
    def chosen(self, slacks: Iterator[Slack]) -> Level:
        """The level with slopes of one's choice: it takes as many as `start` gives."""


@final
@dataclass(frozen=True)
class JointCut(Cut):
    """A node without slopes to choose; ``taken`` counts the coefficients that its level makes of a row."""

    level: Level
    taken: int

    @property
    def size(self) -> int:
        return self.taken

    @property
    def plain(self) -> Level:
        return self.level

    def start(self, rows: int) -> list[Slack]:
        return []

    def chosen(self, slacks: Iterator[Slack]) -> Level:
        return self.level


@dataclass(frozen=True)
class LayerCut(Cut, ABC):
    """A layer cut down to its active neurons: bounds ``[F, B, m]`` of what it is relaxed over.

    The dynamics are those of the neurons that are left (`Dynamics.gathered`).
    """

    source: int
    coupling: Coupling
    known: Interval
    dynamics: Dynamics
    error: Tensor | None


@final
@dataclass(frozen=True)
class SteppedCut(LayerCut):
    """Relaxed step by step over bounds of the membranes ``[T, B, m]``; ``follow`` as in `lines.Tracked`."""

    follow: Tensor
    relaxation: Relaxation

    @property
    def size(self) -> int:
        return self.known.lower.shape[2]

    @cached_property
    def plain(self) -> Level:
        lines = Tracked(self.relaxation(self.known, self.dynamics), self.follow)
        return Firing(self.source, self.coupling, lines, self.error)

    def start(self, rows: int) -> list[Slack]:
        slack = midpoint(self.known, self.dynamics)
        return [Slack(slack.share.expand(-1, rows, -1, -1), slack.mix.expand(-1, rows, -1, -1))]

    def chosen(self, slacks: Iterator[Slack]) -> Level:
        lines = Tracked(chosen_slopes(self.known, self.dynamics, next(slacks)), self.follow)
        return Firing(self.source, self.coupling, lines, self.error)


@final
@dataclass(frozen=True)
class HeldCut(LayerCut):
    """Relaxed over bounds ``[1, B, m]`` of a current that is the same at every step, cut into `pieces`."""

    pieces: Pieces

    @property
    def size(self) -> int:
        return 2 * len(self.pieces.lower) * self.known.lower.shape[2]

    @cached_property
    def plain(self) -> Level:
        return Firing(self.source, self.coupling, self._lines, self.error)

    def start(self, rows: int) -> list[Slack]:
        share = torch.ones_like(self.known.lower)[:, None].expand(-1, rows, -1, -1)
        return [Slack(share, share / 2)]

    def chosen(self, slacks: Iterator[Slack]) -> Level:
        return Firing(self.source, self.coupling, self._lines.chosen(next(slacks)), self.error)

    @cached_property
    def _lines(self) -> HeldMidpoint:
        return held(Interval(self.known.lower[0], self.known.upper[0]), self.pieces, self.dynamics)
