"""A frozen network as a torch module of plain layers, unrolled over time, for auto_LiRPA to trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce, singledispatch
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn.affine import Affine, Convolution, Dense, Diagonal, Padding, Pool, Reshape
from certsnn.dynamics import NUMBERS, Dynamics
from certsnn.interop._lirpa_neurons import CARRY, FIRE, Operator
from certsnn.program import Concatenation, Maximum, Node, Program, Stage, Sum
from certsnn.readouts import Mean

Shape = tuple[int, ...]


@final
class Reshaped(nn.Module):
    """Samples in another shape; the batch is fixed, so that the traced graph holds no computed shapes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)


def _parameter(values: Tensor) -> nn.Parameter:
    """A copy of the values that is not trained."""
    # A copy: auto_LiRPA moves a module's parameters between devices. And never a buffer: 0.3 takes the
    # first axis of a buffer for the batch.
    return nn.Parameter(values.detach().clone(), requires_grad=False)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A Linear layer with a copy of these numbers."""
    layer: nn.Module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.weight = _parameter(weight)
    # Always with a bias: without one the trace holds a product that 0.3 bounds as if both sides moved.
    layer.bias = _parameter(weight.new_zeros(len(weight)) if bias is None else bias)
    return layer


def _convolution(
    weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int], groups: int
) -> nn.Module:
    """A Conv2d layer with a copy of these numbers."""
    outputs, inputs, height, width = weight.shape
    layer: nn.Module = nn.utils.skip_init(
        nn.Conv2d,
        inputs * groups,
        outputs,
        (height, width),
        stride=tuple(stride),
        padding=tuple(padding),
        groups=groups,
    )
    layer.weight = _parameter(weight)
    layer.bias = _parameter(weight.new_zeros(outputs) if bias is None else bias)
    return layer


@singledispatch
def layers_of(operator: Affine, batch: int, shape: Shape, like: Tensor) -> list[nn.Module]:
    """An affine operator on samples of a shape, as torch layers with copies of its numbers.

    Args:
        operator: the operator.
        batch: the number of samples.
        shape: a sample's shape.
        like: any tensor of the network's dtype and device.

    Raises:
        TypeError: for an operator that has no such layers.
    """
    raise TypeError(f"auto-lirpa has no layer for {type(operator).__name__}")


@layers_of.register
def _(operator: Dense, batch: int, shape: Shape, like: Tensor) -> list[nn.Module]:
    return [_linear(operator.weight, operator.shift)]


@layers_of.register
def _(operator: Convolution, batch: int, shape: Shape, like: Tensor) -> list[nn.Module]:
    # The kernel is spread out instead of dilated: 0.3 confuses the two axes of a dilation.
    row = [1] * (3 - len(shape))  # one axis is a map of one row
    weight, (down, right) = operator.weight, (*row, *operator.dilation)
    weight = weight.detach().reshape(*weight.shape[:2], *row, *weight.shape[2:])
    height, width = weight.shape[-2:]
    spread = weight.new_zeros(*weight.shape[:2], (height - 1) * down + 1, (width - 1) * right + 1)
    spread[:, :, ::down, ::right] = weight
    padding = (*[0] * len(row), *operator.padding)
    layer = _convolution(spread, operator.shift, (*row, *operator.stride), padding, operator.groups)
    after = operator.apply(like.new_zeros(1, *shape)).shape[1:]
    return [layer] if not row else [_row(batch, shape), layer, Reshaped((batch, *after))]


def _row(batch: int, shape: Shape) -> Reshaped:
    """Samples ``[C, ...]`` as maps ``[C, H, W]``, of one row where there are fewer axes."""
    return Reshaped((batch, shape[0], *[1] * (3 - len(shape)), *shape[1:]))


@layers_of.register(Pool)
@layers_of.register(Padding)
def _(operator: Pool | Padding, batch: int, shape: Shape, like: Tensor) -> list[nn.Module]:
    # One kernel as large as the image for each output: right for every padding, rounding and divisor.
    channels, *size = shape
    pixels = torch.eye(math.prod(size), dtype=like.dtype, device=like.device)
    pooled = operator.apply(pixels.reshape(-1, 1, *size))
    kernels = pooled.flatten(1).t()
    weight = kernels.reshape(-1, 1, *[1] * (2 - len(size)), *size).repeat(channels, 1, 1, 1)
    layer = _convolution(weight, None, (1, 1), (0, 0), channels)
    return [_row(batch, shape), layer, Reshaped((batch, channels, *pooled.shape[2:]))]


@layers_of.register
def _(operator: Diagonal, batch: int, shape: Shape, like: Tensor) -> list[nn.Module]:
    scale = operator.scale.expand(shape[0])
    shift = None if operator.shift is None else operator.shift.expand(shape[0])
    if len(shape) == 1:
        return [_linear(scale.diag(), shift)]
    if len(shape) > 3:
        raise TypeError(f"auto-lirpa normalises up to [N, C, H, W], not {len(shape) - 1} axes after C")
    layer = _convolution(scale.reshape(-1, 1, 1, 1), shift, (1, 1), (0, 0), shape[0])
    return [_row(batch, shape), layer, Reshaped((batch, *shape))]


@layers_of.register
def _(operator: Reshape, batch: int, shape: Shape, like: Tensor) -> list[nn.Module]:
    after = operator.apply(like.new_zeros(1, *shape)).shape[1:]
    return [] if after == shape else [Reshaped((batch, *after))]


def _chain(operators: Sequence[Affine], batch: int, shape: Shape, like: Tensor) -> tuple[nn.Module, Shape]:
    """The layers of a chain of operators on samples of a shape, and the shape of its outputs."""
    layers: list[nn.Module] = []
    for operator in operators:
        layers += layers_of(operator, batch, shape, like)
        shape = tuple(operator.apply(like.new_zeros(1, *shape)).shape[1:])
    return nn.Sequential(*layers), shape


@final
class Neurons(nn.Module):
    """A layer of neurons, the ``stage``-th: the spikes of T steps from the currents."""

    def __init__(self, dynamics: Dynamics, stage: int, steps: int, shape: Shape) -> None:
        super().__init__()
        self.stage, self.steps = stage, steps
        for name, values in zip(NUMBERS, dynamics.numbers(), strict=True):
            self.register_buffer(name, values.detach().clone())
        # Left out at 0: a linear first layer is then bounded without a matrix of its size squared.
        started = bool(dynamics.initial.any())
        self.start = _parameter(dynamics.initial.expand(shape)) if started else None

    def forward(self, currents: list[Tensor]) -> list[Tensor]:
        """A single current is that of every step."""
        numbers = [getattr(self, name) for name in NUMBERS]
        u = currents[0]
        if self.start is not None:
            u = self.start + u
        spikes = [Operator.apply(u, *numbers, FIRE, self.stage)]
        for t in range(1, self.steps):
            u = Operator.apply(u, *numbers, CARRY, self.stage) + currents[t % len(currents)]
            spikes.append(Operator.apply(u, *numbers, FIRE, self.stage))
        return spikes


@final
class Added(nn.Module):
    """The sum of several links' outputs, step by step."""

    def forward(self, *parts: list[Tensor]) -> list[Tensor]:
        """A link of a single frame has that one at every step."""
        return [reduce(torch.add, together) for together in _steps(parts)]


@final
class Joined(nn.Module):
    """Several links' outputs side by side, step by step."""

    def forward(self, *parts: list[Tensor]) -> list[Tensor]:
        """A link of a single frame has that one at every step."""
        return [torch.cat(together, 1) for together in _steps(parts)]


@final
class Pooled(nn.Module):
    """Maxima over windows that tile a map, step by step."""

    def __init__(self, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, frames: list[Tensor]) -> list[Tensor]:
        """Every frame on its own."""
        return [F.max_pool2d(frame, self.kernel) for frame in frames]


def _steps(parts: Sequence[list[Tensor]]) -> list[list[Tensor]]:
    frames = max(map(len, parts))
    return [[part[t % len(part)] for part in parts] for t in range(frames)]


@singledispatch
def module_of(node: Node, stage: int, steps: int, shapes: Sequence[Shape]) -> nn.Module:
    """What makes a node's frames of those of its links.

    Args:
        node: the node.
        stage: how many layers of neurons come before.
        steps: T.
        shapes: of one output of each link.

    Raises:
        TypeError: for a node that has no such module.
    """
    raise TypeError(f"auto-lirpa has no layer for {type(node).__name__} ({node.name})")


@module_of.register
def _(node: Stage, stage: int, steps: int, shapes: Sequence[Shape]) -> nn.Module:
    return Neurons(node.neuron, stage, steps, shapes[0])


@module_of.register
def _(node: Sum, stage: int, steps: int, shapes: Sequence[Shape]) -> nn.Module:
    return Added()


@module_of.register
def _(node: Concatenation, stage: int, steps: int, shapes: Sequence[Shape]) -> nn.Module:
    return Joined()


@module_of.register
def _(node: Maximum, stage: int, steps: int, shapes: Sequence[Shape]) -> nn.Module:
    pool, maps = node.pool, shapes[0][1:]
    tiled = pool.stride == pool.kernel and not any(pool.padding) and set(pool.dilation) == {1}
    if len(maps) != 2 or not tiled or any(size % k for size, k in zip(maps, pool.kernel, strict=True)):
        raise TypeError(
            f"auto-lirpa takes maxima over windows that tile a map, not those of {node.name} "
            f"on {list(shapes[0])}"
        )
    return Pooled(pool.kernel)


@final
class Unrolled(nn.Module):
    """A program as a function of its frames: one image ``[B, ...]``, or T tensors of spikes ``[B, ...]``.

    The module holds copies of the program's numbers and computes the program's logits ``[B, K]``.

    Args:
        program: the network.
        x0: a batch as the network takes it; the module works for its shape only.

    Raises:
        TypeError: for a node, an operator or a readout that has no layers.
    """

    def __init__(self, program: Program, x0: Tensor) -> None:
        super().__init__()
        if not isinstance(program.reading, Mean):
            raise TypeError(f"auto-lirpa reads means over time, not {program.reading.name!r}")
        frames, self.steps = program.input.frames(x0, None)
        batch = frames.shape[1]
        shapes = [tuple(value.shape[2:]) for value in program.values(x0)]
        self.links = [[link.source for link in node.links] for node in program.nodes]
        self.last = program.readout.source
        self.chains, self.nodes = nn.ModuleList(), nn.ModuleList()
        stage = 0
        for node in program.nodes:
            ends = [_chain(link.operators, batch, shapes[link.source], x0) for link in node.links]
            self.chains.extend(chain for chain, _ in ends)
            self.nodes.append(module_of(node, stage, self.steps, [shape for _, shape in ends]))
            stage += isinstance(node, Stage)
        self.readout, _ = _chain(program.readout.operators, batch, shapes[self.last], x0)

    def forward(self, *frames: Tensor) -> Tensor:
        values, chains = [list(frames)], iter(self.chains)
        for sources, node in zip(self.links, self.nodes, strict=True):
            parts = [list(map(next(chains), values[source])) for source in sources]
            values.append(node(*parts))
        last = values[self.last]
        logits: Tensor = self.readout(reduce(torch.add, last) / len(last))
        return logits
