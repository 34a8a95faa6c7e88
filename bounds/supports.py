"""The bound supports of all input sets, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from certsnn.bounds.interval.arithmetic import Arithmetic, Interval
from certsnn.bounds.interval.flips import FlippedSpikes
from certsnn.bounds.interval.frames import BoundedFrames, ChangedCounts
from certsnn.bounds.interval.layers import Held, Source, Spikes
from certsnn.bounds.interval.shifts import ShiftedSpikes
from certsnn.bounds.interval.topk import Ranking
from certsnn.bounds.linear.active_neurons import Selection, every_input, free_bits
from certsnn.bounds.linear.backward import Entry
from certsnn.bounds.search.constraints import Vector
from certsnn.bounds.search.model import Model
from certsnn.bounds.search.restrictions import restrict_events, restrict_flips, restrict_moves
from certsnn.bounds.search.sums import Places
from certsnn.bounds.support import BoundSupport
from certsnn.inputsets import (
    EventChanges,
    InputSet,
    LinfBall,
    LinfFrames,
    NestedTrains,
    SpikeBox,
    SpikeFlips,
    SpikeShift,
)


@final
@dataclass(frozen=True)
class ImageBox(BoundSupport):
    """Images in a box, which is all there is to know."""

    input_set: LinfBall

    def start(self, x0: Tensor, steps: int, ranking: Ranking) -> Source:
        return Held(Interval(*self.input_set.box(x0)), steps)

    def selected(self, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
        return every_input(self.input_set, x0, arithmetic)

    def restrict(self, model: Model, x0: Vector, inputs: Places) -> None:
        """The box says it all."""


@final
@dataclass(frozen=True)
class FreeSpikesBox(BoundSupport):
    """Spikes of which some are free, each on its own; of nested trains this leaves out how they depend."""

    input_set: SpikeBox | NestedTrains

    def start(self, x0: Tensor, steps: int, ranking: Ranking) -> Source:
        return Spikes(Interval(*self.input_set.box(x0)))

    def selected(self, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
        return free_bits(self.input_set, x0, arithmetic)

    def restrict(self, model: Model, x0: Vector, inputs: Places) -> None:
        """The box says it all."""


@final
@dataclass(frozen=True)
class FlipBudget(BoundSupport):
    """Spikes that are flipped within a joint budget."""

    input_set: SpikeFlips

    def start(self, x0: Tensor, steps: int, ranking: Ranking) -> Source:
        if self.input_set.budget == 0:
            return Spikes(Interval(x0, x0))
        return FlippedSpikes(x0, self.input_set, ranking)

    def selected(self, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
        return every_input(self.input_set, x0, arithmetic)

    def restrict(self, model: Model, x0: Vector, inputs: Places) -> None:
        restrict_flips(model, x0, inputs, self.input_set.budget)


@final
@dataclass(frozen=True)
class MoveBudget(BoundSupport):
    """Spikes that are moved in time within a joint budget."""

    input_set: SpikeShift

    def start(self, x0: Tensor, steps: int, ranking: Ranking) -> Source:
        if self.input_set.moved == 0:
            return Spikes(Interval(x0, x0))
        return ShiftedSpikes(x0, self.input_set, ranking)

    def selected(self, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
        return every_input(self.input_set, x0, arithmetic)

    def restrict(self, model: Model, x0: Vector, inputs: Places) -> None:
        restrict_moves(model, x0, inputs, self.input_set.moved)


@final
@dataclass(frozen=True)
class FramesBox(BoundSupport):
    """Frames in a box, which is all there is to know."""

    input_set: LinfFrames

    def start(self, x0: Tensor, steps: int, ranking: Ranking) -> Source:
        return BoundedFrames(Interval(*self.input_set.box(x0)))

    def selected(self, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
        return every_input(self.input_set, x0, arithmetic)

    def restrict(self, model: Model, x0: Vector, inputs: Places) -> None:
        """The box says it all."""


@final
@dataclass(frozen=True)
class EventBudget(BoundSupport):
    """Counts of events that change within a joint budget."""

    input_set: EventChanges

    def start(self, x0: Tensor, steps: int, ranking: Ranking) -> Source:
        if all(bool((end == x0).all()) for end in self.input_set.box(x0)):
            return BoundedFrames(Interval(x0, x0))
        return ChangedCounts(x0, self.input_set, ranking)

    def selected(self, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
        return every_input(self.input_set, x0, arithmetic)

    def restrict(self, model: Model, x0: Vector, inputs: Places) -> None:
        restrict_events(model, x0, inputs, self.input_set)


SUPPORTS: dict[type[InputSet], Callable[[Any], BoundSupport]] = {
    EventChanges: EventBudget,
    LinfBall: ImageBox,
    LinfFrames: FramesBox,
    NestedTrains: FreeSpikesBox,
    SpikeBox: FreeSpikesBox,
    SpikeFlips: FlipBudget,
    SpikeShift: MoveBudget,
}
"""The support of every class of input sets; see `BoundSupport` for how to add one."""


def support_of(input_set: InputSet) -> BoundSupport:
    """The support of a set; raises TypeError if its class has none."""
    kind = type(input_set)
    if kind not in SUPPORTS:
        raise TypeError(
            f"there are no bounds for {kind.__name__}: set certsnn.bounds.SUPPORTS[{kind.__name__}] to a "
            "subclass of certsnn.bounds.BoundSupport, whose docstring shows how"
        )
    return SUPPORTS[kind](input_set)
