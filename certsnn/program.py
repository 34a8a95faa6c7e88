"""A network frozen for bounds: what certificates speak about.

A `Program` is a graph. Its nodes, in topological order, are layers of neurons and what joins their outputs.
Between them lie chains of affine operators. Values of all steps ``[F, B, ...]`` run along its links: F = T,
or F = 1 for what is the same at every step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Affine, apply_chain
from certsnn.inputs import Input
from certsnn.neurons import Dynamics, Trace, scan
from certsnn.pooling import MaxPool
from certsnn.readouts import Readout


def over_time(function: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """``function`` on all frames ``[F, B, ...]`` at once, as one batch of F*B samples."""
    rows = function(frames.flatten(0, 1))
    return rows.reshape(*frames.shape[:2], *rows.shape[1:])


def hold(currents: Tensor, steps: int) -> Tensor:
    """Currents ``[T, B, ...]``; those of a constant input (``[1, B, ...]``) repeated without a copy."""
    return currents.expand(steps, *currents.shape[1:])


@final
@dataclass(frozen=True)
class Link:
    """Affine operators on the values of a source: 0 is the input, k the k-th node (counted from 1)."""

    source: int
    operators: tuple[Affine, ...]

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """The outputs ``[F, B, ...]``, from the values of the input and the nodes so far."""
        return over_time(partial(apply_chain, self.operators), values[self.source])


class Node(ABC):
    """A place where the outputs of ``links`` come together; ``name``: of the layer, for messages."""

    links: tuple[Link, ...]
    name: str

    @abstractmethod
    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        """The values ``[F, B, ...]``, from the outputs of the links."""

    @abstractmethod
    def held(self, parts: Sequence[bool]) -> bool:
        """Whether the values are the same at every step, given which links' outputs are."""

    @abstractmethod
    def reach(self, parts: Sequence[float], steps: int) -> float:
        """A bound of the values' magnitudes over T steps, from those of the links' outputs."""


@dataclass(frozen=True)
class Neurons(Node):
    """A layer of neurons and the link that drives it; its values are spikes."""

    links: tuple[Link]
    neuron: Dynamics
    name: str = "the neurons"

    @property
    @final
    def link(self) -> Link:
        """What drives the neurons."""
        return self.links[0]

    @property
    @abstractmethod
    def feedback(self) -> tuple[Affine, ...]:
        """What carries the layer's own spikes of the step before to its currents; often nothing."""

    @abstractmethod
    def trace(self, currents: Tensor, steps: int) -> Trace:
        """Membranes and spikes ``[T, B, ...]``."""

    @final
    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        return self.trace(parts[0], steps).spikes

    @final
    def held(self, parts: Sequence[bool]) -> bool:
        return False

    @final
    def reach(self, parts: Sequence[float], steps: int) -> float:
        return 1.0


@final
@dataclass(frozen=True)
class Stage(Neurons):
    """Neurons that are driven by their link alone."""

    @property
    def feedback(self) -> tuple[Affine, ...]:
        return ()

    def trace(self, currents: Tensor, steps: int) -> Trace:
        return scan(currents, self.neuron, steps, self.name)


@final
@dataclass(frozen=True)
class Sum(Node):
    """The sum of the links' outputs, added up in their order; of a single one, its outputs."""

    links: tuple[Link, ...]
    name: str

    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            if part.shape[2:] != total.shape[2:]:
                shapes = f"{list(total.shape[2:])} and {list(part.shape[2:])}"
                raise ValueError(f"{self.name} adds outputs of the shapes {shapes}; project one of them")
            total = total + part
        return total

    def held(self, parts: Sequence[bool]) -> bool:
        return all(parts)

    def reach(self, parts: Sequence[float], steps: int) -> float:
        return sum(parts)


@final
@dataclass(frozen=True)
class Concatenation(Node):
    """The links' outputs side by side, along their first axis: channels or features."""

    links: tuple[Link, ...]
    name: str

    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        shapes = [part.shape[2:] for part in parts]
        if len({(len(shape), *shape[1:]) for shape in shapes}) > 1:
            raise ValueError(f"{self.name} joins outputs that differ in more than channels: {shapes}")
        frames = max(len(part) for part in parts)
        return torch.cat([hold(part, frames) for part in parts], 2)

    def held(self, parts: Sequence[bool]) -> bool:
        return all(parts)

    def reach(self, parts: Sequence[float], steps: int) -> float:
        return max(parts)


@final
@dataclass(frozen=True)
class Maximum(Node):
    """The maxima over windows of a link's outputs."""

    links: tuple[Link]
    pool: MaxPool
    name: str

    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        return over_time(self.pool.apply, parts[0])

    def held(self, parts: Sequence[bool]) -> bool:
        return parts[0]

    def reach(self, parts: Sequence[float], steps: int) -> float:
        return parts[0]


@final
@dataclass(frozen=True)
class Program:
    """A network frozen for bounds: its input, its nodes, the affine readout, and how it is read over time."""

    input: Input
    nodes: tuple[Node, ...]
    readout: Link
    reading: Readout

    @property
    def stages(self) -> tuple[Neurons, ...]:
        """The layers of neurons, first to last."""
        return tuple(node for node in self.nodes if isinstance(node, Neurons))

    @property
    def is_chain(self) -> bool:
        """Whether it is nothing but layers of neurons, each driven by the one before and by nothing else."""
        if any(stage.feedback for stage in self.stages):
            return False
        sources = [stage.link.source for stage in self.stages] + [self.readout.source]
        return sources == list(range(len(self.nodes) + 1))

    def changed(self, change: Callable[[Neurons], Neurons]) -> Program:
        """The program with other layers of neurons."""
        nodes = (change(node) if isinstance(node, Neurons) else node for node in self.nodes)
        return replace(self, nodes=tuple(nodes))

    def held(self, input_held: bool) -> list[bool]:
        """Which values are the same at every step: of the input, which is known, and of each node."""
        found = [input_held]
        for node in self.nodes:
            found.append(node.held([found[link.source] for link in node.links]))
        return found

    def _values(
        self, x: Tensor, steps: int | None, run: Callable[[Node, Sequence[Tensor], int], Tensor]
    ) -> list[Tensor]:
        """The input's frames, and what ``run`` makes of every node, its links' outputs and T."""
        frames, steps = self.input.frames(x, steps)
        values = [frames]
        for node in self.nodes:
            values.append(run(node, [link.run(values) for link in node.links], steps))
        return values

    def values(self, x: Tensor, steps: int | None = None) -> list[Tensor]:
        """The input's frames and the values ``[F, B, ...]`` of every node."""
        return self._values(x, steps, lambda node, parts, steps: node.run(parts, steps))

    def traces(self, x: Tensor, steps: int | None = None) -> list[Trace]:
        """Membranes and spikes ``[T, B, ...]`` of every layer of neurons."""
        traces: list[Trace] = []

        def run(node: Node, parts: Sequence[Tensor], steps: int) -> Tensor:
            if not isinstance(node, Neurons):
                return node.run(parts, steps)
            traces.append(node.trace(parts[0], steps))
            return traces[-1].spikes

        self._values(x, steps, run)
        return traces

    def run(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Logits ``[B, K]``."""
        values = self.values(x, steps)
        taken = self.reading.frames(values[self.readout.source])
        outputs = over_time(partial(apply_chain, self.readout.operators), taken)
        return as_logits(self.reading.logits(outputs, self.input.frames(x, steps)[1]))


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
