"""Networks as graphs of torch modules: how layers, nested lists and composites are wired up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

from torch import nn

from certsnn.layers import check_plain
from certsnn.neurons import Neuron
from certsnn.pooling import max_pool_of
from certsnn.program import Concatenation, Link, Maximum, Node, Stage, Sum

Layers = Sequence["nn.Module | Layers"]


class Wire(NamedTuple):
    """Affine layers on the values of a source: 0 is the input, k the k-th node."""

    source: int
    layers: tuple[nn.Module, ...] = ()


class Planned(NamedTuple):
    """A node to be: what leads to it, and how it is made of its links."""

    wires: tuple[Wire, ...]
    make: Callable[[tuple[Link, ...]], Node]


@final
@dataclass
class Plan:
    """The nodes of a network, in topological order, and all of its layers as they were met.

    ``within``: the affine layers that are part of a node.
    """

    nodes: list[Planned] = field(default_factory=list)
    layers: list[nn.Module] = field(default_factory=list)
    within: list[nn.Module] = field(default_factory=list)

    def add(self, wires: Sequence[Wire], make: Callable[[tuple[Link, ...]], Node]) -> Wire:
        """A new node; the wire that leaves it."""
        self.nodes.append(Planned(tuple(wires), make))
        return Wire(len(self.nodes))

    def node(self, wire: Wire) -> Node | None:
        """The node that a wire leaves, with nothing that leads to it; None for the input."""
        if wire.source == 0:
            return None
        planned = self.nodes[wire.source - 1]
        return planned.make(tuple(Link(one.source, ()) for one in planned.wires))

    def shared(self, name: str, wire: Wire) -> Wire:
        """A wire that several may follow without running its layers twice."""
        return self.add([wire], lambda links: Sum(links, name)) if wire.layers else wire

    def lay(self, name: str, layer: nn.Module, wire: Wire) -> Wire:
        """The wire that leaves a layer when ``wire`` leads to it.

        Raises:
            TypeError: for a layer that does more than its class says.
        """
        if isinstance(layer, nn.Sequential):
            check_plain(layer, nn.Sequential)
            return self.chain(name, list(layer), wire)
        if isinstance(layer, Composite):
            return layer.lay(self, name, wire)
        self.layers.append(layer)
        if isinstance(layer, Neuron):
            layer.check_plain()
            return self.add([wire], lambda links: Stage((links[0],), layer.dynamics(), name))
        if isinstance(layer, (nn.MaxPool1d, nn.MaxPool2d)):
            pool = max_pool_of(layer)
            return self.add([wire], lambda links: Maximum((links[0],), pool, name))
        return Wire(wire.source, (*wire.layers, layer))

    def affine(self, last: Wire) -> list[nn.Module]:
        """The affine layers of all wires, the last one's too, and of nodes."""
        wires = [wire for node in self.nodes for wire in node.wires]
        return [layer for wire in [*wires, last] for layer in wire.layers] + self.within

    def chain(self, name: str, layers: Sequence[nn.Module], wire: Wire) -> Wire:
        """The wire that leaves the last of some layers in a row."""
        for number, layer in enumerate(layers):
            wire = self.lay(f"{name}.{number}", layer, wire)
        return wire


class Composite(nn.Module, ABC):
    """What is more than an affine layer or neurons: nodes of its own, or layers in another order."""

    @abstractmethod
    def lay(self, plan: Plan, name: str, wire: Wire) -> Wire:
        """Add to the plan; the wire that leaves the composite when ``wire`` leads to it."""


@final
class Residual(Composite):
    """``body(x) + shortcut(x)``; without a shortcut ``body(x) + x``.

    On spikes the outputs count them, 0, 1 or 2 (Fang et al., *Deep Residual Learning in Spiking Neural
    Networks*, 2021, SEW-ResNet, https://arxiv.org/abs/2102.04159). On currents it is the membrane shortcut
    (Hu et al., *Advancing Spiking Neural Networks Toward Deep Residual Learning*, 2024, MS-ResNet,
    https://arxiv.org/abs/2112.08954).

    Args:
        body: a layer or a list of layers.
        shortcut: the same; a projection where shapes differ.
    """

    def __init__(self, body: nn.Module | Layers, shortcut: nn.Module | Layers | None = None) -> None:
        super().__init__()
        self.body = sequential(body)
        self.shortcut = sequential([] if shortcut is None else shortcut)

    def lay(self, plan: Plan, name: str, wire: Wire) -> Wire:
        start = plan.shared(name, wire)
        body = plan.lay(f"{name}.body", self.body, start)
        shortcut = plan.lay(f"{name}.shortcut", self.shortcut, start)
        return plan.add([body, shortcut], lambda links: Sum(links, name))


@final
class Branches(Composite):
    """Several branches from one input, whose outputs are concatenated: channels, or features.

    Args:
        branches: each a layer or a list of layers; an empty list passes the input on.
    """

    def __init__(self, *branches: nn.Module | Layers) -> None:
        super().__init__()
        self.branches = nn.ModuleList(sequential(branch) for branch in branches)

    def lay(self, plan: Plan, name: str, wire: Wire) -> Wire:
        start = plan.shared(name, wire)
        ends = [
            plan.lay(f"{name}.branches.{number}", branch, start)
            for number, branch in enumerate(self.branches)
        ]
        return plan.add(ends, lambda links: Concatenation(links, name))


class Joint(nn.Module, ABC):
    """What `Graph` joins the outputs of several nodes with; it has no parameters and no forward."""

    @abstractmethod
    def node(self, links: tuple[Link, ...], name: str) -> Node:
        """The node of the program."""


@final
class Add(Joint):
    """The sum of all sources."""

    def node(self, links: tuple[Link, ...], name: str) -> Node:
        return Sum(links, name)


@final
class Concatenate(Joint):
    """All sources side by side, along channels or features."""

    def node(self, links: tuple[Link, ...], name: str) -> Node:
        return Concatenation(links, name)


@final
class Graph(Composite):
    """Layers by name, each with the names of what it takes; ``"input"`` is what the graph itself takes.

    Args:
        nodes: ``{name: (layer, sources)}`` in topological order. A layer with several sources is `Add` or
            `Concatenate`. The last one is the output.

    Raises:
        ValueError: for sources that are unknown, or too many of them.
    """

    def __init__(self, nodes: Mapping[str, tuple[nn.Module, Sequence[str]]]) -> None:
        super().__init__()
        self.sources: dict[str, tuple[str, ...]] = {}
        known = ["input"]
        for name, (layer, sources) in nodes.items():
            missing = [source for source in sources if source not in known]
            if missing or not sources or name in known:
                raise ValueError(
                    f"node {name!r} of a Graph takes {list(sources)}; it needs a name of its own, and one or "
                    f"more sources among {', '.join(known)}, which come before it"
                )
            if len(sources) > 1 and not isinstance(layer, Joint):
                raise ValueError(f"node {name!r} takes one source, not {len(sources)}; put an Add first")
            known.append(name)
            self.sources[name] = tuple(sources)
        if not nodes:
            raise ValueError("a Graph needs at least one node")
        self.nodes = nn.ModuleDict({name: layer for name, (layer, _) in nodes.items()})

    def lay(self, plan: Plan, name: str, wire: Wire) -> Wire:
        used = [source for sources in self.sources.values() for source in sources]
        wires: dict[str, Wire] = {}

        def leave(source: str, found: Wire) -> None:
            wires[source] = plan.shared(f"{name}.{source}", found) if used.count(source) > 1 else found

        leave("input", wire)
        for node, sources in self.sources.items():
            layer = self.nodes[node]
            taken = [wires[source] for source in sources]
            if isinstance(layer, Joint):
                found = plan.add(taken, _made(layer, f"{name}.{node}"))
            else:
                found = plan.lay(f"{name}.{node}", layer, taken[0])
            leave(node, found)
        return found


def _made(joint: Joint, name: str) -> Callable[[tuple[Link, ...]], Node]:
    return lambda links: joint.node(links, name)


def sequential(layers: nn.Module | Layers) -> nn.Sequential:
    """A layer, or lists of layers within lists, as one ``nn.Sequential``."""
    if isinstance(layers, nn.Module):
        return nn.Sequential(layers)
    return nn.Sequential(*(one if isinstance(one, nn.Module) else sequential(one) for one in layers))
