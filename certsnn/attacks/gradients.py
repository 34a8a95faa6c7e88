"""A network as the gradient pass of an attack sees it; the network that is attacked stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from certsnn.filters import Filter
from certsnn.inputs import FrameInput
from certsnn.neurons import LEAST_THRESHOLD
from certsnn.program import Neurons, Program
from certsnn.surrogates import Surrogate


def with_surrogate(program: Program, surrogate: Surrogate | None) -> Program:
    """The program whose spikes have another derivative; itself for None."""
    if surrogate is None:
        return program
    return program.changed(lambda stage: _changed(stage, surrogate=surrogate))


def with_penultimate_threshold(program: Program, threshold: float | None) -> Program:
    """The program with another firing threshold before its last layer; itself for None.

    The last layer is the output neurons or, where the network ends with something else, that. A higher
    threshold there makes the last hidden layer sparser, and keeps cross-entropy from a saturated output whose
    gradient vanishes. The reset stays that of the network. Source: Liang et al., 2021,
    https://arxiv.org/abs/2001.01587, section V.

    Raises:
        ValueError: if there is no such layer.
    """
    if threshold is None:
        return program
    ends_with_neurons = not program.readout.operators and not isinstance(program.nodes[-1], Filter)
    place = len(program.stages) - (2 if ends_with_neurons else 1)
    if place < 0:
        raise ValueError("penultimate_threshold needs a hidden layer of neurons; set it to None")
    last = program.stages[place]
    raised = torch.full_like(last.neuron.threshold, max(threshold, LEAST_THRESHOLD))
    return program.changed(lambda stage: _changed(stage, threshold=raised) if stage is last else stage)


def by_step(program: Program) -> Program:
    """The program that takes its first layer's input of each step, ``[T, B, ...]``."""
    return replace(program, input=FrameInput())


def _changed(stage: Neurons, **fields: Any) -> Neurons:
    """The stage with other fields of its neurons' dynamics."""
    return replace(stage, neuron=stage.neuron._replace(**fields))
