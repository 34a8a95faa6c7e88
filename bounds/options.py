"""How to bound: one object from the command line to the bound method."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, final, get_args

Relaxing = Literal["joint", "separate"]


@final
@dataclass(frozen=True)
class BoundOptions:
    """What a person chooses about bounds, for all methods.

    A new option is a field here; a flag of the same name in `certsnn.cli.arguments` sets it.

    Args:
        method: a name in `certsnn.bounds.METHODS`.
        rounding: whether the rounding errors of the executed network are covered.
        relaxation: of firing and reset: "joint", or "separate" as published.
        memory: bytes that interval bounds may take, and as many for a method's coefficients, beyond the
            network and the batch.
        seconds: the time limit of a sample, over all methods that are limited; None is no limit.
        iterations: steps of optimising slopes, where a method does.
        deadline: when to give up, in seconds of `time.monotonic`; a verdict sets it anew for each method.

    Raises:
        ValueError: for a value out of range.
    """

    method: str = "s-ibp"
    rounding: bool = True
    relaxation: Relaxing = "joint"
    memory: int = 2**31
    seconds: float | None = None
    iterations: int = 20
    deadline: float = math.inf

    def __post_init__(self) -> None:
        if self.relaxation not in get_args(Relaxing):
            known = ", ".join(get_args(Relaxing))
            raise ValueError(f"relaxation must be one of {known}, got {self.relaxation!r}")
        if self.memory < 1:
            raise ValueError(f"the memory budget must be at least 1 byte, got {self.memory}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"the time limit must be > 0 seconds, got {self.seconds}")
        if self.iterations < 0:
            raise ValueError(f"iterations must be at least 0, got {self.iterations}")

    def late(self) -> bool:
        """Whether the deadline has passed: a method then ends with the bounds it has."""
        return time.monotonic() > self.deadline

    def check_time(self) -> None:
        """Raise OutOfTime once the deadline has passed; methods call it between pieces of work."""
        if self.late():
            raise OutOfTime

    @property
    def facts(self) -> dict[str, Any]:
        """All that was chosen, by name."""
        return {name: value for name, value in asdict(self).items() if name != "deadline"}

    @property
    def identity(self) -> dict[str, Any]:
        """What verdicts depend on: a file of results goes on only where it is the same.

        An option that is younger than the first files counts only where it differs from its default, so that
        these stay readable.
        """
        names = ["method", "rounding", "relaxation", "seconds"]
        names += ["iterations"] if self.iterations != BoundOptions.iterations else []
        return {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        """A few words for tables: the method, and what differs from the defaults."""
        parts = [self.method]
        if self.relaxation != BoundOptions.relaxation:
            parts.append(f"{self.relaxation} relaxation")
        parts.append("rounding covered" if self.rounding else "rounding not covered")
        if self.seconds is not None:
            parts.append(f"at most {self.seconds:g} s a sample")
        if self.iterations != BoundOptions.iterations:
            parts.append(f"{self.iterations} iterations")
        return ", ".join(parts)


STANDARD = BoundOptions()
"""The defaults."""


@final
class OutOfTime(Exception):
    """A method has reached its deadline."""
