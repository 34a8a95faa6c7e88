"""Spiking networks: affine layers and neurons unrolled over T steps, and their frozen form for bounds.

Forward runs layer by layer over all steps at once (one product over T*B rows), and only the neurons scan
over time. In eval mode a network computes its `Program`: batch norm folded into the weights, dropout gone,
plain IEEE products. Certificates speak about this semantics.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from certsnn.affine import Affine, fold
from certsnn.batches import WHOLE, BatchStatistics
from certsnn.encoding import check_steps
from certsnn.inputs import ImageInput, Input, SpikeInput
from certsnn.layers import BatchNorm, Dropout, as_affine, diagonal_of, laid_out, settled
from certsnn.neurons import Neuron, scan
from certsnn.products import ieee_products
from certsnn.program import Program, Stage, as_logits, mean_over_time


class Block(NamedTuple):
    """A layer of neurons by name, and the affine layers that drive it."""

    layers: list[nn.Module]
    neuron: Neuron
    name: str


@final
class SpikingNetwork(nn.Module):
    """Layers of affine operators and neurons, unrolled over time.

    Args:
        layers: Linear, Conv2d, AvgPool2d, AdaptiveAvgPool2d, ZeroPad2d, Flatten, BatchNorm1d/2d, Dropout,
            Identity, Normalize, LIF and IF; ``nn.Sequential`` of these, too.
        steps: simulation steps T for images; for spikes the length comes with them.
        readout: ``"rate"`` (ends with a neuron; logits are spike counts / T) or ``"membrane"`` (ends with
            affine layers; logits are their mean output over T).
        input: ``"image"`` (``[B, ...]``, the same current at each step) or ``"spikes"`` (``[T, B, ...]``).

    ``training_products``: a narrower dtype (bfloat16) for the products of training passes. Currents, batch
    norm and membranes stay in float32, and so do bounds and eval mode; None is the dtype of the weights.
    ``batch``: the batch that a training pass sees all or a share of, for batch norm.

    Raises:
        TypeError: for a layer without a bound.
        ValueError: where layers and readout do not fit, or steps < 1.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        steps: int,
        readout: Literal["rate", "membrane"] = "rate",
        input: Literal["image", "spikes"] = "image",
    ) -> None:
        super().__init__()
        check_steps(steps)
        inputs: dict[str, Input] = {"image": ImageInput(steps), "spikes": SpikeInput()}
        if input not in inputs:
            raise ValueError(f"input must be 'image' or 'spikes', got {input!r}")
        if readout not in ("rate", "membrane"):
            raise ValueError(f"readout must be 'rate' or 'membrane', got {readout!r}")
        self.layers = nn.ModuleList(layers)
        self.steps, self.readout, self.input = steps, readout, inputs[input]
        self.training_products: torch.dtype | None = None
        self.batch: BatchStatistics = WHOLE
        chain = self.chain()
        with settled(chain):
            for layer in chain:
                if not isinstance(layer, Neuron):
                    as_affine(layer)
        self._blocks()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("steps", "readout", "input") and name in self.__dict__:
            raise AttributeError(
                f"{name} is fixed at construction: make another SpikingNetwork of net.layers"
            )
        super().__setattr__(name, value)

    def chain(self) -> list[nn.Module]:
        """The layers, first to last, those inside of ``nn.Sequential`` too."""
        return [layer for _, layer in laid_out(list(self.layers))]

    def _blocks(self) -> tuple[list[Block], list[nn.Module]]:
        """The layers before each layer of neurons, and the affine layers that are left.

        Raises:
            TypeError, ValueError: see the class; layers may have been replaced since it was made.
        """
        blocks: list[Block] = []
        pending: list[nn.Module] = []
        for name, layer in laid_out(list(self.layers)):
            if isinstance(layer, Neuron):
                layer.check_plain()
                blocks.append(Block(pending, layer, name))
                pending = []
            else:
                pending.append(layer)
        if not blocks:
            raise ValueError("a spiking network needs at least one layer of neurons (LIF, IF)")
        if self.readout == "rate" and pending:
            raise ValueError(
                f"the rate readout ends with a neuron, but the last layer is {pending[-1]}; add a neuron or "
                "use readout='membrane'"
            )
        if self.readout == "membrane" and not pending:
            raise ValueError(
                "the membrane readout ends with an affine layer, but the last layer is a neuron; add e.g. "
                "a Linear or use readout='rate'"
            )
        return blocks, pending

    def freeze(self) -> Program:
        """The network as it acts in eval mode, sharing its parameters (so bounds are differentiable)."""
        blocks, last = self._blocks()
        with settled([layer for block in blocks for layer in block.layers] + last):
            stages = tuple(
                Stage(fold([as_affine(layer) for layer in layers]), neuron.dynamics(), name)
                for layers, neuron, name in blocks
            )
            return Program(self.input, stages, fold([as_affine(layer) for layer in last]))

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
        blocks, last = self._blocks()
        frames, steps = self.input.frames(x, steps)
        stages: list[Stage] = []
        for layers, neuron, name in blocks:
            currents, operators = train_chain(layers, frames, self.training_products, self.batch)
            stages.append(Stage(operators, neuron.dynamics(), name))
            frames = scan(currents, stages[-1].neuron, steps).spikes
        mean = mean_over_time(frames)[None]
        logits, readout = train_chain(last, mean, self.training_products, self.batch)
        return as_logits(logits[0]), Program(self.input, tuple(stages), readout)

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
