"""What a backward pass will take, known before it runs, so that it is cut into pieces that fit."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

from certsnn.bounds.problem import Problem

TEMPORARIES = 8
"""How many tensors of a layer's coefficients are alive at a time, counted generously."""


@final
@dataclass(frozen=True)
class Footprint:
    """Bytes that one row of coefficients takes per sample and step, and the bytes there are."""

    row: int
    memory: int

    def rows(self, samples: int, steps: int) -> int:
        """How many rows fit, for so many samples.

        Raises:
            ValueError: if not one fits.
        """
        need = self.row * samples * steps
        if need > self.memory:
            raise ValueError(
                f"a backward pass of one row takes {need / 2**20:.1f} MiB, and the memory budget is "
                f"{self.memory / 2**20:.1f} MiB; raise it (--memory)"
            )
        return self.memory // need

    def samples(self, rows: int, steps: int) -> int:
        """How many samples fit, for so many rows of each; at least one, whose rows are then cut."""
        return max(1, self.memory // (self.row * rows * steps))


def footprint(problem: Problem, memory: int) -> Footprint:
    """The footprint of backward passes through a network."""
    program = problem.program
    x = program.input.frames(problem.x0, None)[0][0, :0]
    sizes = [x[:, None].flatten(1).shape[1]]
    for stage in program.stages:
        for operator in stage.operators:
            x = operator.apply(x)
            sizes.append(x.shape[1:].numel())
    for operator in program.readout:
        x = operator.apply(x)
        sizes.append(x.shape[1:].numel())
    widest = max((one + other for one, other in pairwise(sizes)), default=sizes[0])
    itemsize = problem.arithmetic.raised(problem.x0[:0]).element_size()
    return Footprint(TEMPORARIES * itemsize * max(widest, 1), memory)
