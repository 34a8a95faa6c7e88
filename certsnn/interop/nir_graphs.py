"""NIR graphs (https://neuroir.org) as networks: their wiring, and files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import nn

from certsnn.errors import UserError
from certsnn.graph import Add
from certsnn.inputs import Domain
from certsnn.interop.libraries import required
from certsnn.interop.nir_nodes import RESETS, ResetName, Steps, layers_of
from certsnn.interop.values import Unsupported, free_name
from certsnn.networks import SpikingNetwork
from certsnn.neurons import Neuron
from certsnn.readouts import ReadoutName
from certsnn.recurrence import Recurrent

INSTALL = "pip install nir"


def load_nir() -> Any:
    """The package nir."""
    import nir

    return nir


def from_nir(
    graph: Any,
    *,
    dt: float,
    reset: ResetName,
    steps: int,
    readout: ReadoutName,
    input: Domain = "image",
) -> SpikingNetwork:
    """A NIR graph, or a file of one, as a network in eval mode.

    NIR describes equations, and no program: there is no original to compare with. What it leaves open has to
    be said, and the rest is read literally; `certsnn.interop.nir_nodes` says how. Exporters differ. sinabs
    counts time constants in steps (``dt=1``). Norse leaves out the gain of a step, and writes ``tau dt``.
    snnTorch, which subtracts, writes a reset to zero (``reset="subtract-next"``). So compare the network with
    what you run before you trust a certificate.

    Args:
        graph: a ``nir.NIRGraph``, or the path of a file.
        dt: the length of a step, in the unit of the graph's time constants.
        reset: ``"v_reset"``, ``"subtract"`` or ``"subtract-next"``; see `Steps`.
        steps: T for images.
        readout, input: see `SpikingNetwork`.

    Raises:
        UserError: for a file that is none of NIR's, for a graph that certsnn has no network for, all of it at
            once, and for other arguments than these.
    """
    nir = required(load_nir, "nir", INSTALL)
    if not isfinite(dt) or dt <= 0:
        raise UserError(f"dt must be a length of time > 0, got {dt}")
    if reset not in RESETS:
        raise UserError(f"reset must be one of {', '.join(map(repr, RESETS))}, got {reset!r}")
    found = _read(nir, graph)
    wiring = _flat(nir, found)
    try:
        nodes = _network(wiring, Steps(dt, reset))
        network = SpikingNetwork.from_graph(nodes, steps, readout, input).eval()
        shape = tuple(int(size) for size in wiring.shape)
        x = torch.zeros((1, *shape) if input == "image" else (1, 1, *shape))
        with torch.no_grad():
            network(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the NIR graph can't be imported: {error}") from error
    return network


def _read(nir: Any, graph: Any) -> Any:
    """The graph itself, or that in a file."""
    if isinstance(graph, nir.NIRGraph):
        return graph
    if not isinstance(graph, (str, Path)):
        raise UserError(f"give a nir.NIRGraph or the path of a file, not {type(graph).__name__}")
    if not Path(graph).is_file():
        raise UserError(f"there is no file {graph}")
    try:
        found = nir.read(graph, type_check=False)
    except Exception as error:  # whatever the reader raises of a bad file
        raise UserError(f"{graph} is no NIR file that can be read ({error})") from error
    if not isinstance(found, nir.NIRGraph):
        raise UserError(f"{graph} holds a single {type(found).__name__}, and no graph")
    return found


@final
class _Wiring(NamedTuple):
    """A graph without graphs inside: nodes, edges between their names, the input's shape."""

    nodes: Mapping[str, Any]
    edges: Sequence[tuple[str, str]]
    source: str
    target: str
    shape: Sequence[int]


def _flat(nir: Any, graph: Any) -> _Wiring:
    """The graph with the nodes of graphs inside it, which have a dot in their names.

    Raises:
        UserError: for several inputs or outputs, and for edges without a node.
    """
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    _inline(nir, graph, "", nodes, edges)
    ends = [name for name, node in nodes.items() if isinstance(node, (nir.Input, nir.Output))]
    inner = [name for name in ends if "." in name]
    sources = [name for name in ends if isinstance(nodes[name], nir.Input) and name not in inner]
    targets = [name for name in ends if isinstance(nodes[name], nir.Output) and name not in inner]
    if len(sources) != 1 or len(targets) != 1:
        raise UserError(
            f"the NIR graph has {len(sources)} inputs and {len(targets)} outputs: certsnn takes one of each"
        )
    lost = {name for edge in edges for name in edge} - set(nodes)
    if lost:
        raise UserError(f"the NIR graph has edges of nodes that are not there: {', '.join(sorted(lost))}")
    for name in inner:  # a graph's own ends only hand on
        before = [a for a, b in edges if b == name]
        behind = [b for a, b in edges if a == name]
        edges = [edge for edge in edges if name not in edge] + [(a, b) for a in before for b in behind]
        del nodes[name]
    shape = nodes[sources[0]].input_type["input"]
    if shape is None:
        raise UserError("the NIR graph does not say the shape of its input")
    return _Wiring(nodes, edges, sources[0], targets[0], shape)


def _inline(nir: Any, graph: Any, path: str, nodes: dict[str, Any], edges: list[tuple[str, str]]) -> None:
    """Add the nodes and edges of a graph, by their names behind the path."""
    entries: dict[str, str] = {}
    exits: dict[str, str] = {}
    for name, node in graph.nodes.items():
        full = path + name.replace(".", "_")
        entries[name] = exits[name] = full
        if isinstance(node, nir.NIRGraph):
            _inline(nir, node, f"{full}.", nodes, edges)
            if len(node.inputs) != 1 or len(node.outputs) != 1:
                raise UserError(f"the NIR graph {full} has more than one input or output: certsnn takes one")
            (entry,), (leave,) = node.inputs, node.outputs
            entries[name], exits[name] = (f"{full}.{end.replace('.', '_')}" for end in (entry, leave))
        else:
            nodes[full] = node
    edges += [(exits.get(a, a), entries.get(b, b)) for a, b in graph.edges]


def _network(wiring: _Wiring, steps: Steps) -> dict[str, tuple[nn.Module, Sequence[str]]]:
    """The nodes for `SpikingNetwork.from_graph`; raises UserError with all that has no layer."""
    problems, layers = [], dict[str, Sequence[nn.Module]]()
    for name, node in wiring.nodes.items():
        if name not in (wiring.source, wiring.target):
            try:
                layers[name] = layers_of(node, steps)
            except Unsupported as problem:
                problems.append(f"{name} ({type(node).__name__}): {problem}")
    if problems:
        raise UserError("\n- ".join(["the NIR graph can't be imported:", *problems]))
    sources = {name: [a for a, b in wiring.edges if b == name] for name in wiring.nodes}
    for name, back in _feedback(sources, layers).items():
        *before, neuron = layers[name]
        if before or not isinstance(neuron, Neuron):
            raise UserError(
                f"{name} is fed back to before a gain or a current of its own, which certsnn can't say"
            )
        layers[name] = [Recurrent(neuron, [layer for part in back for layer in layers[part]])]
        last = back[-1]
        sources[name] = [source for source in sources[name] if source != last]
        for part in back:
            del sources[part]
    try:
        ordered = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        raise UserError(f"the NIR graph has a cycle that is no layer's own: {error.args[1]}") from error
    led = _led(sources, wiring)
    return _named(wiring, [name for name in ordered if name in led], sources, layers)


def _feedback(
    sources: Mapping[str, Sequence[str]], layers: Mapping[str, Sequence[nn.Module]]
) -> dict[str, list[str]]:
    """What leads from neurons to themselves and nowhere else, in order: affine nodes in a row."""
    used = [source for found in sources.values() for source in found]
    found: dict[str, list[str]] = {}
    for name, parts in layers.items():
        for source in sources[name]:
            back = [source]
            while len(back) <= len(layers) and back[0] != name and used.count(back[0]) == 1:
                inner = layers.get(back[0])
                if inner is None or isinstance(inner[-1], Neuron) or len(sources[back[0]]) != 1:
                    break
                back.insert(0, sources[back[0]][0])
            if isinstance(parts[-1], Neuron) and back[0] == name and back[1:]:
                found[name] = back[1:]
    return found


def _led(sources: Mapping[str, Sequence[str]], wiring: _Wiring) -> set[str]:
    """The nodes that lead to the output, and itself."""
    found, waiting = set[str](), [wiring.target]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += sources[name]
    return found - {wiring.source}


def _named(
    wiring: _Wiring,
    ordered: Sequence[str],
    sources: Mapping[str, Sequence[str]],
    layers: Mapping[str, Sequence[nn.Module]],
) -> dict[str, tuple[nn.Module, Sequence[str]]]:
    """The nodes in this order, under names that a module may have; where edges meet, a sum."""
    names, nodes = {wiring.source: "input"}, dict[str, tuple[nn.Module, Sequence[str]]]()
    for name in ordered:
        taken = [names[source] for source in sources[name]]
        if not taken:
            raise UserError(f"nothing leads to {name} of the NIR graph")
        base = name.replace(".", "_")
        if len(taken) > 1:
            joint = free_name(f"{base}_sum", ["input", *nodes])
            nodes[joint] = (Add(), taken)
            taken = [joint]
        if name != wiring.target:
            names[name] = free_name(base, ["input", *nodes])
            parts = layers[name]
            nodes[names[name]] = (parts[0] if len(parts) == 1 else nn.Sequential(*parts), taken)
    if list(nodes)[-1:] != taken:  # the output comes last
        raise UserError("nothing of the NIR graph leads to its output")
    return nodes
