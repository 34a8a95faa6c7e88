"""Spiking networks: affine layers and neurons unrolled over T steps, and their frozen form for bounds.

Forward runs layer by layer over all steps at once (one product over T*B rows), and only the neurons scan
over time. In eval mode a network computes its `Program`: batch norm folded into the weights, dropout gone,
plain IEEE products. Certificates speak about this semantics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.affine import Affine, fold
from certsnn.batches import WHOLE, BatchStatistics
from certsnn.encoding import check_steps
from certsnn.filters import Filter
from certsnn.graph import Graph, Layers, Plan, Wire, sequential
from certsnn.graph import Residual as Residual
from certsnn.inputs import Domain, Input, input_named
from certsnn.layers import BatchNorm, Dropout, as_affine, diagonal_of, settled
from certsnn.neurons import Neuron
from certsnn.products import ieee_products
from certsnn.program import Link, Neurons, Node, Program, as_logits
from certsnn.readouts import READOUTS, Readout, ReadoutName


@final
class SpikingNetwork(nn.Module):
    """Layers of affine operators and neurons, unrolled over time.

    Args:
        layers: Linear, Conv2d, AvgPool2d, AdaptiveAvgPool2d, ZeroPad2d, Flatten, BatchNorm1d/2d, Dropout,
            Identity, Normalize, LIF and IF; lists and ``nn.Sequential`` of these, and what wires them up in
            another way: Residual, Branches and Graph (`certsnn.graph`).
        steps: simulation steps T for images; spikes and frames come with their length.
        readout: of what the network ends with: ``"rate"`` (neurons; logits are spike counts / T),
            ``"membrane"`` (anything but neurons; logits are its mean over T), ``"sum"``, ``"last"`` (the last
            step) or ``"maximum"`` (over time). See `certsnn.readouts` for what is executed.
        input: ``"image"`` (``[B, ...]``, the same current at each step), ``"spikes"`` (``[T, B, ...]``, 0
            or 1) or ``"frames"`` (``[T, B, ...]``, any numbers).

    ``training_products``: a narrower dtype (bfloat16) for the products of training passes. Currents, batch
    norm and membranes stay in float32, and so do bounds and eval mode; None is the dtype of the weights.
    ``batch``: the batch that a training pass sees all or a share of, for batch norm.

    Raises:
        TypeError: for a layer without a bound.
        ValueError: where layers and readout do not fit, or steps < 1.
    """

    def __init__(
        self,
        layers: Layers,
        steps: int,
        readout: ReadoutName = "rate",
        input: Domain = "image",
    ) -> None:
        super().__init__()
        check_steps(steps)
        entry = input_named(input, steps)
        if readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(map(repr, READOUTS))}, got {readout!r}")
        self.layers = nn.ModuleList(one if isinstance(one, nn.Module) else sequential(one) for one in layers)
        self.steps, self.readout, self.input = steps, readout, entry
        self.training_products: torch.dtype | None = None
        self.batch: BatchStatistics = WHOLE
        affine = self.affine_layers()
        with settled(affine):
            for layer in affine:
                as_affine(layer)

    @classmethod
    def from_graph(
        cls,
        nodes: Mapping[str, tuple[nn.Module, Sequence[str]]],
        steps: int,
        readout: ReadoutName = "rate",
        input: Domain = "image",
    ) -> SpikingNetwork:
        """A network of named layers ``{name: (layer, sources)}``; see `certsnn.graph.Graph`."""
        return cls([Graph(nodes)], steps, readout, input)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("steps", "readout", "input") and name in self.__dict__:
            raise AttributeError(
                f"{name} is fixed at construction: make another SpikingNetwork of net.layers"
            )
        super().__setattr__(name, value)

    def plan(self) -> tuple[Plan, Wire]:
        """How the layers are wired up, and the wire that ends at the readout.

        Raises:
            TypeError, ValueError: see the class; layers may have been replaced since it was made.
        """
        plan = Plan()
        last = plan.chain("layers", list(self.layers), Wire(0))
        if not any(isinstance(layer, Neuron) for layer in plan.layers):
            raise ValueError("a spiking network needs at least one layer of neurons (LIF, IF)")
        self._check_end(plan, last)
        return plan, last

    def _check_end(self, plan: Plan, last: Wire) -> None:
        """Raise ValueError where the network can't end like this with its readout."""
        if self.readout == "rate" and (last.layers or isinstance(plan.node(last), Filter)):
            end = last.layers[-1] if last.layers else "a Synapse"
            raise ValueError(
                f"the rate readout ends with a neuron, but the last layer is {end}; add a neuron or use "
                "readout='membrane'"
            )
        if self.readout == "membrane" and not last.layers and isinstance(plan.node(last), Neurons):
            raise ValueError(
                "the membrane readout ends with an affine layer, but the last layer is a neuron; add e.g. "
                "a Linear or use readout='rate'"
            )

    def affine_layers(self) -> list[nn.Module]:
        """The layers that are affine, those inside of others too."""
        plan, last = self.plan()
        return plan.affine(last)

    def leaves(self) -> list[nn.Module]:
        """The layers, first to last, those inside of others too."""
        return self.plan()[0].layers

    def freeze(self) -> Program:
        """The network as it acts in eval mode, sharing its parameters (so bounds are differentiable)."""
        return frozen(*self.plan(), self.input, READOUTS[self.readout])

    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Logits ``[B, K]``; ``steps`` uses fewer steps than the network's (spikes: the first ones).

        Raises:
            TypeError, ValueError: for an x that the network cannot take (`check`).
        """
        self.check(x, steps)
        if self.training:
            return self.forward_and_freeze(x, steps)[0]
        with ieee_products():
            return self.freeze().run(x, steps)

    def forward_and_freeze(self, x: Tensor, steps: int | None = None) -> tuple[Tensor, Program]:
        """A training pass: logits ``[B, K]``, and the network frozen with this batch's statistics.

        Batch norm uses (and updates its running means with) the statistics of the batch, taken over time
        too; dropout is active for the logits and absent from the frozen network.
        """
        plan, last = self.plan()
        frames, steps = self.input.frames(x, steps)
        values, nodes = [frames], list[Node]()

        def run(wire: Wire, frames: Tensor) -> tuple[Tensor, Link]:
            outputs, operators = train_chain(wire.layers, frames, self.training_products, self.batch)
            return outputs, Link(wire.source, operators)

        for planned in plan.nodes:
            parts, links = zip(*(run(wire, values[wire.source]) for wire in planned.wires), strict=True)
            nodes.append(planned.make(links))
            values.append(nodes[-1].run(parts, steps))
        reading = READOUTS[self.readout]
        outputs, readout = run(last, reading.frames(values[last.source]))
        logits = as_logits(reading.logits(outputs, steps))
        return logits, Program(self.input, tuple(nodes), readout, reading)

    def check(self, x: Tensor, steps: int | None = None) -> None:
        """Raise if x (on another device, of another kind or dtype, NaN) cannot enter the network."""
        if not isinstance(x, Tensor):
            raise TypeError(f"the input must be a tensor, not {type(x).__name__}: use torch.as_tensor")
        weight = next(self.parameters())
        if x.device != weight.device:
            raise ValueError(f"the input is on {x.device}, the network on {weight.device}; move one of them")
        if steps is not None:
            check_steps(steps)
        self.input.check(x)
        if x.dtype != weight.dtype:
            raise TypeError(f"the input is {x.dtype}, the network {weight.dtype}; convert one of them")


def frozen(plan: Plan, last: Wire, input: Input, reading: Readout) -> Program:
    """A plan as its layers act in eval mode, sharing their parameters; ``last``: the wire to the readout."""

    def linked(wire: Wire) -> Link:
        return Link(wire.source, fold([as_affine(layer) for layer in wire.layers]))

    with settled(plan.layers):
        nodes = tuple(node.make(tuple(map(linked, node.wires))) for node in plan.nodes)
        return Program(input, nodes, linked(last), reading)


def train_chain(
    layers: Sequence[nn.Module], frames: Tensor, products: torch.dtype | None, batch: BatchStatistics
) -> tuple[Tensor, tuple[Affine, ...]]:
    """Affine layers in training mode on ``[F, B, ...]``, and their operators with these statistics.

    ``products``, ``batch``: see `SpikingNetwork`. The operators are left in the dtype of the weights.
    """
    x = frames.flatten(0, 1)
    operators: list[Affine] = []
    for layer in layers:
        if isinstance(layer, BatchNorm):
            operator: Affine = _with_batch_statistics(layer, x, batch)
        else:
            operator = as_affine(layer)
        operators.append(operator)
        with _narrowed(x.device.type, products):
            x = operator.apply(x).to(x.dtype)
        if isinstance(layer, Dropout):
            x = layer(x)
    return x.unflatten(0, frames.shape[:2]), fold(operators)


def _narrowed(device: str, products: torch.dtype | None) -> AbstractContextManager[Any]:
    """Products in this dtype while the block runs; None changes nothing."""
    return nullcontext() if products is None else torch.autocast(device, products)


def _with_batch_statistics(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor, batch: BatchStatistics
) -> Affine:
    """Batch norm with the batch's mean and variance; updates the running statistics as torch does."""
    as_affine(norm).linear(x[:0])  # raises where axes or channels do not fit, before anything is updated
    axes = [axis for axis in range(x.ndim) if axis != 1]
    count = batch.values(x.numel() // x.shape[1])
    if count < 2:
        raise ValueError("batch norm needs more than one value per channel in training")
    variance, here = torch.var_mean(x, axes, correction=0)
    mean = batch.mean(here)
    variance = batch.mean(variance + (here - mean).square())  # not all samples may be here
    if norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            batches = 1 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)
            momentum = 1 / batches if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, momentum)
            norm.running_var.lerp_(variance * count / (count - 1), momentum)
    return diagonal_of(norm, mean, variance)
