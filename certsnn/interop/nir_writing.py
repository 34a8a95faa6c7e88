"""Networks as NIR graphs, of which `from_nir` makes the same network; what NIR can't say is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from certsnn.affine import Affine, AveragePool, Convolution, Dense, Diagonal, Flattened
from certsnn.dynamics import RESET_FIRST, Dynamics
from certsnn.errors import UserError
from certsnn.filters import Filter
from certsnn.interop.libraries import required
from certsnn.interop.nir_graphs import INSTALL, load_nir
from certsnn.interop.values import Unsupported
from certsnn.networks import SpikingNetwork
from certsnn.program import Link, Neurons, Node, Sum


def to_nir(network: SpikingNetwork, x: Tensor, *, dt: float = 1.0) -> Any:
    """A network, as it acts in eval mode, as a ``nir.NIRGraph``; write it with ``nir.write(path, graph)``.

    Batch norm is folded into weights. `from_nir` with this ``dt``, ``reset="v_reset"``, and the network's
    steps, readout and input gives a network with the same logits and bounds: NIR holds none of these four.

    Args:
        network: the network.
        x: an input, for the shapes.
        dt: the length of a step, in which time constants are written.

    Raises:
        UserError: for what NIR can't say, all of it at once: a reset by subtraction, an initial potential,
            max pooling, concatenation; and for numbers that NIR's equations don't give back.
    """
    nir = required(load_nir, "nir", INSTALL)
    writer = _Writer(nir, dt)
    program = network.freeze()
    with torch.no_grad():
        network.check(x)
        frames, steps = program.input.frames(x, None)
        values, names = [frames], [writer.add("input", nir.Input(_shape(frames)), [])]
        for number, node in enumerate(program.nodes, 1):
            parts, ends = zip(*(writer.link(link, values, names, number) for link in node.links), strict=True)
            values.append(node.run(parts, steps))
            names.append(writer.node(node, number, values[-1], ends))
        outputs, end = writer.link(program.readout, values, names, len(names))
    writer.add("output", nir.Output(_shape(outputs)), [end])
    if writer.problems:
        raise UserError("\n- ".join(["NIR can't say this network:", *writer.problems]))
    return nir.NIRGraph(writer.nodes, writer.edges, type_check=False)


def _shape(values: Tensor) -> Any:
    """The shape of one sample of values ``[F, B, ...]``."""
    return np.array(values.shape[2:])


@final
class _Writer:
    """The nodes and edges so far, and what could not be said."""

    def __init__(self, nir: Any, dt: float) -> None:
        self._nir, self._dt = nir, dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.problems: list[str] = []
        self._operators: Mapping[type, Callable[[Any, Sequence[int]], Any]] = {
            Dense: self._dense,
            Convolution: self._convolution,
            AveragePool: self._pool,
            Diagonal: self._diagonal,
            Flattened: self._flatten,
        }

    def add(self, name: str, node: Any, sources: Sequence[str]) -> str:
        """A node with edges from its sources; its name."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def link(
        self, link: Link, values: Sequence[Tensor], names: Sequence[str], number: int
    ) -> tuple[Tensor, str]:
        """The operators of a link to the node of this number: their outputs, and the name of the last."""
        return self._chain(link.operators, values[link.source], names[link.source], f"{number}_{link.source}")

    def _chain(self, operators: Sequence[Affine], x: Tensor, name: str, base: str) -> tuple[Tensor, str]:
        for place, operator in enumerate(operators):
            full = f"{base}_{place}"
            try:
                if type(operator) not in self._operators:
                    raise Unsupported(f"NIR has no {type(operator).__name__}")
                node = self._operators[type(operator)](operator, x.shape[2:])
                name = self.add(full, node, [name])
            except Unsupported as problem:
                self.problems.append(f"operator {full}: {problem}")
            x = operator.apply(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return x, name

    def node(self, node: Node, number: int, values: Tensor, ends: Sequence[str]) -> str:
        """A node of the program, whose values these are; its name."""
        shape, name = values.shape[2:], str(number)
        try:
            if isinstance(node, Neurons):
                return self._neurons(node, name, values, ends)
            if isinstance(node, Filter):
                return self.add(name, self._filter(node.decay, shape), ends)
            if isinstance(node, Sum):
                return self.add(name, self._nir.Scale(np.ones(shape, np.float32)), ends)
            raise Unsupported(f"NIR has no {type(node).__name__}")
        except Unsupported as problem:
            self.problems.append(f"{node.name}: {problem}")
            return name

    def _neurons(self, node: Neurons, name: str, values: Tensor, ends: Sequence[str]) -> str:
        self.add(name, self._fire(node.neuron, values.shape[2:]), ends)
        if node.feedback:
            back = self._chain(node.feedback, values, name, f"{name}_back")[1]
            self.edges.append((back, name))
        return name

    def _time(self, decay: Tensor, shape: Sequence[int]) -> tuple[Any, Any]:
        """Time constant and resistance for a decay below 1, with which a current's gain is 1."""
        kept = _full(decay, shape).double()
        tau = self._dt / (1 - kept)
        if not torch.equal((1 - self._dt / tau).to(decay.dtype), kept.to(decay.dtype)):
            raise Unsupported(f"dt / (1 - decay) does not give the decay {_range(kept)} back")
        return tau.numpy(), (tau / self._dt).numpy()

    def _fire(self, neuron: Dynamics, shape: Sequence[int]) -> Any:
        if neuron.initial.any():
            raise Unsupported("its potentials don't start at 0")
        if neuron.gain.any() or neuron.order is not RESET_FIRST:
            raise Unsupported(
                "it has no reset to a potential (but by subtraction, or none, or in another order)"
            )
        reset = _potential(neuron.offset, neuron.decay)
        # A strict > is the >= of the next smaller threshold.
        below = neuron.threshold.nextafter(neuron.threshold.new_tensor(-torch.inf))
        numbers = {"v_threshold": _full(below, shape).numpy(), "v_reset": _full(reset, shape).numpy()}
        if bool((neuron.decay == 1).all()):
            return self._nir.IF(r=np.full(tuple(shape), 1 / self._dt), **numbers)
        if bool((neuron.decay == 1).any()):
            raise Unsupported("some of its neurons leak, and some don't")
        tau, r = self._time(neuron.decay, shape)
        return self._nir.LIF(tau=tau, r=r, v_leak=np.zeros(tuple(shape)), **numbers)

    def _filter(self, decay: Tensor, shape: Sequence[int]) -> Any:
        if bool((decay == 1).all()):
            return self._nir.I(r=np.full(tuple(shape), 1 / self._dt))
        tau, r = self._time(decay, shape)
        return self._nir.LI(tau=tau, r=r, v_leak=np.zeros(tuple(shape)))

    def _dense(self, dense: Dense, shape: Sequence[int]) -> Any:
        if len(shape) != 1:
            raise Unsupported("NIR's affine nodes take vectors: flatten first")
        if dense.shift is None:
            return self._nir.Linear(_numbers(dense.weight))
        return self._nir.Affine(_numbers(dense.weight), _numbers(dense.shift))

    def _convolution(self, layer: Convolution, shape: Sequence[int]) -> Any:
        kind = self._nir.Conv1d if len(shape) == 2 else self._nir.Conv2d
        bias = torch.zeros(len(layer.weight)) if layer.shift is None else layer.shift
        size = int(shape[1]) if len(shape) == 2 else tuple(map(int, shape[1:]))
        parts = (layer.stride, layer.padding, layer.dilation)
        sizes = (part[0] if len(shape) == 2 else part for part in parts)
        return kind(size, _numbers(layer.weight), *sizes, layer.groups, _numbers(bias))

    def _pool(self, pool: AveragePool, shape: Sequence[int]) -> Any:
        sizes = [np.array(part) for part in (pool.kernel, pool.stride, pool.padding)]
        if pool.axes == 2 and not pool.ceil_mode and pool.divisor == 1:
            return self._nir.SumPool2d(*sizes)
        if pool.axes == 2 and not (pool.ceil_mode or pool.divisor or any(pool.padding)):
            return self._nir.AvgPool2d(*sizes)
        raise Unsupported("NIR pools maps [C, H, W], and says nothing of padding in means or of ceil_mode")

    def _diagonal(self, layer: Diagonal, shape: Sequence[int]) -> Any:
        if (layer.shift is not None and layer.shift.any()) or len(layer.scale) > 1:
            raise Unsupported("NIR has no normalisation of channels: fold it into the weights behind it")
        return self._nir.Scale(np.full(tuple(shape), float(layer.scale), np.float32))

    def _flatten(self, layer: Flattened, shape: Sequence[int]) -> Any:
        start, end = (axis - 1 if axis > 0 else axis for axis in (layer.start, layer.end))
        return self._nir.Flatten({"input": np.array(shape)}, start, end)


def _potential(offset: Tensor, decay: Tensor) -> Tensor:
    """What the decay makes the offset of; raises Unsupported where no number is that."""
    reset = torch.where(offset == 0, torch.zeros_like(offset), offset / decay)
    for towards in (torch.inf, -torch.inf):  # the quotient may be rounded away from it
        near = reset.nextafter(reset.new_tensor(towards))
        reset = torch.where((decay * reset != offset) & (decay * near == offset), near, reset)
    if (decay * reset != offset).any():
        raise Unsupported("no potential of its reset gives its offset back")
    return reset


def _numbers(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def _full(number: Tensor, shape: Sequence[int]) -> Tensor:
    """A parameter of each neuron."""
    return number.detach().cpu().expand(tuple(shape)).clone()


def _range(numbers: Tensor) -> str:
    """The least and the greatest of some numbers."""
    return f"{float(numbers.min()):.9g} ... {float(numbers.max()):.9g}"
