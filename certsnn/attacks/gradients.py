"""A network as the gradient pass of an attack sees it; the network that is attacked stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from certsnn.filters import Filter
from certsnn.inputs import FrameInput
from certsnn.neurons import LEAST_THRESHOLD
from certsnn.program import Link, Neurons, Program
from certsnn.surrogates import Surrogate


def with_surrogate(program: Program, surrogate: Surrogate | None) -> Program:
    """The program whose spikes have another derivative; itself for None."""
    if surrogate is None:
        return program
    return program.changed(lambda stage: _changed(stage, surrogate=surrogate))


def with_penultimate_threshold(program: Program, threshold: float | None) -> Program:
    """The program with another firing threshold before its last layer; itself for None.

    The last layer is the output neurons or, where the network ends with something else, that; what is before
    it are all neurons that drive it, also through sums and other nodes. A higher
    threshold there makes the last hidden layer sparser, and keeps cross-entropy from a saturated output whose
    gradient vanishes. The reset stays that of the network. Source: Liang et al., 2021,
    https://arxiv.org/abs/2001.01587, section V.

    Raises:
        ValueError: if there is no such layer.
    """
    if threshold is None:
        return program
    outputs = _outputs(program, program.readout)
    links = [program.readout, *(output.link for output in outputs)]
    before = [stage for link in links for stage in _driving(program, link) if not _among(stage, outputs)]
    if not before:
        raise ValueError("penultimate_threshold needs a hidden layer of neurons; set it to None")

    def raised(stage: Neurons) -> Neurons:
        if not _among(stage, before):
            return stage
        threshold_ = torch.full_like(stage.neuron.threshold, max(threshold, LEAST_THRESHOLD))
        return _changed(stage, threshold=threshold_)

    return program.changed(raised)


def _outputs(program: Program, link: Link) -> list[Neurons]:
    """The layers of neurons whose spikes a link leads from as they are."""
    if link.operators or link.source == 0:
        return []
    node = program.nodes[link.source - 1]
    if isinstance(node, Neurons):
        return [node]
    return [] if isinstance(node, Filter) else [s for before in node.links for s in _outputs(program, before)]


def _driving(program: Program, link: Link) -> list[Neurons]:
    """The layers of neurons that a link leads from, with no other neurons between."""
    if link.source == 0:
        return []
    node = program.nodes[link.source - 1]
    if isinstance(node, Neurons):
        return [node]
    return [stage for before in node.links for stage in _driving(program, before)]


def _among(stage: Neurons, stages: Sequence[Neurons]) -> bool:
    # Stages hold tensors, which == would compare number by number.
    return any(stage is one for one in stages)


def by_step(program: Program) -> Program:
    """The program that takes its first layer's input of each step, ``[T, B, ...]``."""
    return replace(program, input=FrameInput())


def _changed(stage: Neurons, **fields: Any) -> Neurons:
    """The stage with other fields of its neurons' dynamics."""
    return replace(stage, neuron=stage.neuron._replace(**fields))
