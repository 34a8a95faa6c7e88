"""A network as the gradient pass of an attack sees it; the network that is attacked stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from certsnn.inputs import FrameInput
from certsnn.neurons import LEAST_THRESHOLD
from certsnn.program import Link, Program, Stage
from certsnn.surrogates import Surrogate


def with_surrogate(program: Program, surrogate: Surrogate | None) -> Program:
    """The program whose spikes have another derivative; itself for None."""
    if surrogate is None:
        return program
    return program.changed(lambda stage: _changed(stage, surrogate=surrogate))


def with_penultimate_threshold(program: Program, threshold: float | None) -> Program:
    """The program with another firing threshold before its last layer; itself for None.

    The last layer is the output neurons (rate readout) or the affine readout (membrane readout); what is
    before it are all neurons that drive it, also through sums and concatenations. A higher
    threshold there makes the last hidden layer sparser, and keeps cross-entropy from a saturated output whose
    gradient vanishes. The reset stays that of the network. Source: Liang et al., 2021,
    https://arxiv.org/abs/2001.01587, section V.

    Raises:
        ValueError: if there is no such layer.
    """
    if threshold is None:
        return program
    before = _driving(program, program.readout)
    if not program.readout.operators:
        outputs = before
        before = [stage for output in outputs for stage in _driving(program, output.link)]
        before = [stage for stage in before if not _among(stage, outputs)]
    if not before:
        raise ValueError("penultimate_threshold needs a hidden layer of neurons; set it to None")

    def raised(stage: Stage) -> Stage:
        if not _among(stage, before):
            return stage
        threshold_ = torch.full_like(stage.neuron.threshold, max(threshold, LEAST_THRESHOLD))
        return _changed(stage, threshold=threshold_)

    return program.changed(raised)


def _driving(program: Program, link: Link) -> list[Stage]:
    """The layers of neurons that a link leads from, with no other neurons between."""
    if link.source == 0:
        return []
    node = program.nodes[link.source - 1]
    if isinstance(node, Stage):
        return [node]
    return [stage for before in node.links for stage in _driving(program, before)]


def _among(stage: Stage, stages: Sequence[Stage]) -> bool:
    # Stages hold tensors, which == would compare number by number.
    return any(stage is one for one in stages)


def by_step(program: Program) -> Program:
    """The program that takes its first layer's input of each step, ``[T, B, ...]``."""
    return replace(program, input=FrameInput())


def _changed(stage: Stage, **fields: Any) -> Stage:
    """The stage with other fields of its neurons' dynamics."""
    return replace(stage, neuron=stage.neuron._replace(**fields))
