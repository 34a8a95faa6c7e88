"""The levels of a backward pass, with bounds of every layer's membranes from S-IBP or from S-CROWN itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.arithmetic import Interval
from certsnn.bounds.crown import Entry, Forms, Level, chain, lower, magnitudes, membrane_error
from certsnn.bounds.flips import FeasibleFlips
from certsnn.bounds.ibp import source_of
from certsnn.bounds.memory import Footprint
from certsnn.bounds.problem import Options, Problem
from certsnn.bounds.relaxation import Relaxation
from certsnn.bounds.sources import Layer, layer_of
from certsnn.networks import Stage


def entry_of(problem: Problem) -> Entry:
    """Where the backward pass ends."""
    return Entry(problem.x0, problem.input_set, problem.steps)


def level_of(
    problem: Problem, stage: Stage, below: Layer | None, layer: Layer, relaxation: Relaxation
) -> Level:
    """A stage as the backward pass sees it, from the bounds of its layer and of the one below."""
    arithmetic = problem.arithmetic
    membranes = Interval(*(arithmetic.raised(end) for end in layer.membranes))
    size = magnitudes(entry_of(problem), below)
    error = membrane_error(stage.operators, size, membranes, stage.neuron, arithmetic)
    return Level(chain(stage.operators, size[0], arithmetic), relaxation(membranes, stage.neuron), error)


def levels_of(problem: Problem, layers: Sequence[Layer], relaxation: Relaxation) -> list[Level]:
    """All levels, first to last."""
    below = [None, *layers[:-1]]
    return [
        level_of(problem, *parts, relaxation)
        for parts in zip(problem.program.stages, below, layers, strict=True)
    ]


def refine(
    problem: Problem, relaxation: Relaxation, footprint: Footprint, options: Options
) -> tuple[list[Layer], list[Level]]:
    """Layers whose undecided neurons are bounded by S-CROWN, first to last, and their levels.

    The first layer of a network on images is left as it is: its current is known exactly.
    """
    source = source_of(problem.input_set, problem.x0, problem.steps, FeasibleFlips())
    layers: list[Layer] = []
    levels: list[Level] = []
    for stage in problem.program.stages:
        below = layers[-1] if layers else None
        layer = layer_of(source, stage.operators, stage.neuron, problem.arithmetic)
        if below is not None or not entry_of(problem).held:
            layer = _Refinement(problem, stage, below, levels, relaxation, footprint, options).of(layer)
        levels.append(level_of(problem, stage, below, layer, relaxation))
        layers.append(layer)
        source = layer
    return layers, levels


@final
@dataclass(frozen=True)
class _Refinement:
    """Bounds of one stage's membranes (or cumulative currents) by S-CROWN."""

    problem: Problem
    stage: Stage
    below: Layer | None
    levels: Sequence[Level]
    relaxation: Relaxation
    footprint: Footprint
    options: Options

    def of(self, layer: Layer) -> Layer:
        """The layer with its undecided neurons bounded step by step; each step profits from those before."""
        for t in range(layer.steps):
            undecided = layer.undecided[t].flatten(1)
            if bool(undecided.any()):
                layer = layer.narrowed(self._bounds(layer, t, undecided))
        return layer

    def _bounds(self, layer: Layer, t: int, undecided: Tensor) -> Interval:
        """Bounds ``[T, B, ...]`` that say something where ``undecided [B, n]`` at step t."""
        own = level_of(self.problem, self.stage, self.below, layer, self.relaxation)
        shape = layer.undecided.shape[2:]
        rows = int(undecided.sum(1).max())
        # Each sample's undecided neurons, filled up with others where it has fewer.
        columns = undecided.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :rows].T
        like = self.problem.arithmetic.raised(layer.membranes.lower)
        bounds = like.new_full((2, layer.steps, *undecided.shape), torch.inf)
        for column in columns.split(max(1, self.footprint.rows(len(undecided), t + 1) // 2)):
            self.options.check_time()
            ones = torch.ones_like(column, dtype=like.dtype)[:, :, None]
            sign, both = torch.cat([ones, -ones]), torch.cat([column, column])
            k, constant = layer.reaching(own.lines, t, both, sign)
            wide = k.new_zeros(*k.shape[:3], math.prod(shape))
            wide.scatter_(3, both[:, None, :, None].expand_as(k), k)
            forms = Forms(wide.unflatten(3, shape), constant, torch.zeros_like(constant))
            found = lower(entry_of(self.problem), [*self.levels, own], forms)
            for end, values in zip(bounds[:, t], -found.unflatten(0, (2, -1)), strict=True):
                end.scatter_(1, column.T, values.T)
        low, high = (bounds * torch.tensor([-1, 1]).to(like).view(2, 1, 1, 1)).unflatten(3, shape)
        return Interval(low, high)
