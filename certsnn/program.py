"""A network frozen for bounds: what certificates speak about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

from torch import Tensor

from certsnn.affine import Affine, apply_chain
from certsnn.inputs import Input
from certsnn.neurons import Dynamics, Trace, scan


def over_time(function: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """``function`` on all frames ``[F, B, ...]`` at once, as one batch of F*B samples."""
    rows = function(frames.flatten(0, 1))
    return rows.reshape(*frames.shape[:2], *rows.shape[1:])


def hold(currents: Tensor, steps: int) -> Tensor:
    """Currents ``[T, B, ...]``; those of a constant input (``[1, B, ...]``) repeated without a copy."""
    return currents.expand(steps, *currents.shape[1:])


@final
@dataclass(frozen=True)
class Stage:
    """Affine operators and the layer of neurons that they drive; ``name``: of the layer, for messages."""

    operators: tuple[Affine, ...]
    neuron: Dynamics
    name: str = "the neurons"


@final
@dataclass(frozen=True)
class Program:
    """A network frozen for bounds: its input, its stages, and the affine readout (empty: rate readout).

    With the membrane readout the mean over time is taken first, then the affine readout: they commute, and
    it is one product a sample instead of T.
    """

    input: Input
    stages: tuple[Stage, ...]
    readout: tuple[Affine, ...]

    def traces(self, x: Tensor, steps: int | None = None) -> list[Trace]:
        """Membranes and spikes ``[T, B, ...]`` of every layer of neurons."""
        frames, steps = self.input.frames(x, steps)
        traces: list[Trace] = []
        for stage in self.stages:
            currents = over_time(partial(apply_chain, stage.operators), frames)
            traces.append(scan(currents, stage.neuron, steps))
            frames = traces[-1].spikes
        return traces

    def logits(self, spikes: Tensor) -> Tensor:
        """Logits ``[B, K]`` from the last layer's spikes ``[T, B, ...]``."""
        return as_logits(apply_chain(self.readout, mean_over_time(spikes)))

    def run(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Logits ``[B, K]``."""
        return self.logits(self.traces(x, steps)[-1].spikes)


def mean_over_time(spikes: Tensor) -> Tensor:
    """The mean ``[B, ...]`` of spikes ``[T, B, ...]``, a quotient that every device rounds alike.

    CUDA multiplies by the reciprocal of a number; a divisor in a tensor is really divided by.
    """
    counts = spikes.sum(0)
    return counts / counts.new_full((), len(spikes))


def as_logits(outputs: Tensor) -> Tensor:
    """The outputs of a network, if they are logits ``[B, K]``, else ValueError."""
    if outputs.ndim != 2:
        shape = ", ".join(["B", *map(str, outputs.shape[1:])])
        raise ValueError(f"the network ends on [{shape}], not on logits [B, K]: put a Flatten before its end")
    return outputs


def strictly_correct(logits: Tensor, y: Tensor) -> Tensor:
    """``bool [B]``: the logit of y ``[B]`` is larger than every other of ``[B, K]``; a tie is an error."""
    own = logits.gather(1, y[:, None])
    return (logits >= own).sum(1) == 1
