"""Networks as plain data: every layer with its arguments, and none of its tensors.

That and a state dict are the whole network. A description travels inside weights files, so it is read as
untrusted input: only the classes below can be named, and nothing that it names in another way is called.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.configuration import ARGS, CLASS, instances
from certsnn.errors import UserError
from certsnn.filters import Synapse
from certsnn.graph import Add, Branches, Concatenate, Graph, Residual
from certsnn.layers import Normalize, Scale, SumPool1d, SumPool2d
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.recurrence import Recurrent
from certsnn.surrogates import Surrogate

Data = dict[str, Any]
LAYERS = "layers-"
"""How the architecture of a network that is described layer by layer begins in its config."""


def described(network: SpikingNetwork) -> Data:
    """A network as data for `network_of`.

    Raises:
        UserError: for a layer that is of none of certsnn's classes and of torch's that it knows.
    """
    return {
        "layers": [_described(layer) for layer in network.layers],
        "steps": network.steps,
        "readout": network.readout,
        "input": network.input.kind,
    }


def name_of(network: SpikingNetwork) -> str:
    """A name for what `described` gives, as the architecture in a config: the same for the same layers."""
    return LAYERS + hashlib.sha256(json.dumps(described(network)).encode()).hexdigest()[:16]


def network_of(data: Data) -> SpikingNetwork:
    """The network that data describe, whose numbers are to be loaded; torch's generator stays as it was.

    Raises:
        KeyError, TypeError, ValueError: for data that describe none.
    """
    with torch.random.fork_rng(devices=[]):
        layers = [_made(layer) for layer in data["layers"]]
        return SpikingNetwork(layers, data["steps"], data["readout"], data["input"])


def _described(layer: nn.Module) -> Data:
    form = FORMS.get(type(layer).__name__)
    if form is None or form.kind is not type(layer):
        raise UserError(
            f"a {type(layer).__name__} can't be saved in a network's file: its class is not among "
            f"{', '.join(FORMS)}. Save the state dict, and build the network again"
        )
    return {"class": type(layer).__name__, **form.data(layer)}


def _made(data: Data) -> nn.Module:
    named = dict(data)
    name = named.pop("class")
    if name not in FORMS:
        raise ValueError(f"there is no layer {name!r}")
    return FORMS[name].layer(named)


class _Form(ABC):
    """How the layers of a class are written and read."""

    kind: type[nn.Module]

    @abstractmethod
    def data(self, layer: Any) -> Data:
        """The arguments of a layer."""

    @abstractmethod
    def layer(self, data: Data) -> nn.Module:
        """A layer with these arguments."""


@final
@dataclasses.dataclass(frozen=True)
class _Plain(_Form):
    """A class whose arguments are attributes of the same names; ``bias``: whether it has one."""

    kind: type[nn.Module]
    names: str = ""
    bias: bool = False

    def data(self, layer: Any) -> Data:
        found = {name: getattr(layer, name) for name in self.names.split()}
        return {**found, "bias": layer.bias is not None} if self.bias else found

    def layer(self, data: Data) -> nn.Module:
        return self.kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in data.items()})


@final
@dataclasses.dataclass(frozen=True)
class _Own(_Form):
    """A class that is written and read by functions."""

    kind: type[nn.Module]
    write: Callable[[Any], Data]
    read: Callable[[Data], nn.Module]

    def data(self, layer: Any) -> Data:
        return self.write(layer)

    def layer(self, data: Data) -> nn.Module:
        return self.read(data)


def _number(value: Any) -> Any:
    """A number, or the shape of a tensor, whose numbers are in the state dict."""
    return {"shape": list(value.shape)} if isinstance(value, Tensor) else value


def _filled(value: Any, number: float = 0.0) -> Any:
    """A number, or a tensor of the shape."""
    return torch.full(tuple(value["shape"]), number) if isinstance(value, dict) else value


def _of_neuron(neuron: Neuron) -> Data:
    reset, surrogate = neuron.reset, neuron.surrogate
    learned = [name for name in ("threshold", "decay") if getattr(neuron, name).requires_grad]
    return {
        **{name: _number(getattr(neuron, name).detach()) for name in ("threshold", "decay", "initial")},
        "reset": [_number(part) for part in reset] if isinstance(reset, tuple) else _number(reset),
        "order": neuron.order.name,
        "learned": learned,
        "surrogate": {CLASS: type(surrogate).__name__, ARGS: dataclasses.asdict(surrogate)},  # type: ignore[call-overload]
    }


def _neuron(kind: type[LIF] | type[IF], data: Data) -> Neuron:
    reset = data["reset"]
    (surrogate,) = instances(Surrogate, json.dumps([data["surrogate"]]), "the surrogate")
    arguments: Data = {
        "threshold": _filled(data["threshold"], 1.0),
        "initial": _filled(data["initial"]),
        "reset": tuple(map(_filled, reset)) if isinstance(reset, list) else _filled(reset),
        "order": data["order"],
        "learn_threshold": "threshold" in data["learned"],
        "surrogate": surrogate,
    }
    if kind is LIF:
        arguments |= {"decay": _filled(data["decay"], 0.5), "learn_decay": "decay" in data["learned"]}
    return kind(**arguments)


def _inner(layer: Data) -> nn.Sequential:
    """A part of a composite, which is a `nn.Sequential`."""
    made = _made(layer)
    if not isinstance(made, nn.Sequential):
        raise ValueError("a composite's part must be a Sequential")
    return made


def _recurrent(data: Data) -> Recurrent:
    neuron = _made(data["neuron"])
    if not isinstance(neuron, Neuron):
        raise ValueError("a Recurrent needs a neuron")
    return Recurrent(neuron, _inner(data["feedback"]))


def _of_graph(graph: Graph) -> Data:
    return {
        "nodes": [[name, _described(graph.nodes[name]), list(taken)] for name, taken in graph.sources.items()]
    }


CONVOLUTION = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
MAXIMUM = "kernel_size stride padding dilation return_indices ceil_mode"
FORMS: Mapping[str, _Form] = {
    form.kind.__name__: form
    for form in (
        _Plain(nn.Linear, "in_features out_features", True),
        _Plain(nn.Conv1d, CONVOLUTION, True),
        _Plain(nn.Conv2d, CONVOLUTION, True),
        _Plain(nn.AvgPool1d, "kernel_size stride padding ceil_mode count_include_pad"),
        _Plain(nn.AvgPool2d, "kernel_size stride padding ceil_mode count_include_pad divisor_override"),
        _Plain(nn.MaxPool1d, MAXIMUM),
        _Plain(nn.MaxPool2d, MAXIMUM),
        _Plain(nn.AdaptiveAvgPool1d, "output_size"),
        _Plain(nn.AdaptiveAvgPool2d, "output_size"),
        _Plain(SumPool1d, "kernel_size stride padding ceil_mode"),
        _Plain(SumPool2d, "kernel_size stride padding ceil_mode"),
        _Plain(nn.ZeroPad1d, "padding"),
        _Plain(nn.ZeroPad2d, "padding"),
        _Plain(nn.ConstantPad1d, "padding value"),
        _Plain(nn.ConstantPad2d, "padding value"),
        _Plain(nn.Flatten, "start_dim end_dim"),
        _Plain(nn.Unflatten, "dim unflattened_size"),
        _Plain(nn.BatchNorm1d, "num_features eps momentum affine"),
        _Plain(nn.BatchNorm2d, "num_features eps momentum affine"),
        *(_Plain(kind, "p") for kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)),
        _Plain(nn.Identity),
        _Plain(Add),
        _Plain(Concatenate),
        _Own(Scale, lambda layer: {}, lambda data: Scale(1.0)),
        _Own(
            Normalize,
            lambda layer: {"channels": len(layer.mean)},
            lambda data: Normalize([0.0] * data["channels"], [1.0] * data["channels"]),
        ),
        _Own(LIF, _of_neuron, lambda data: _neuron(LIF, data)),
        _Own(IF, _of_neuron, lambda data: _neuron(IF, data)),
        _Own(
            Synapse,
            lambda layer: {"decay": _number(layer.decay.detach()), "learned": layer.decay.requires_grad},
            lambda data: Synapse(_filled(data["decay"], 0.5), data["learned"]),
        ),
        _Own(
            nn.Sequential,
            lambda layer: {"layers": [_described(part) for part in layer]},
            lambda data: nn.Sequential(*map(_made, data["layers"])),
        ),
        _Own(
            Residual,
            lambda layer: {"body": _described(layer.body), "shortcut": _described(layer.shortcut)},
            lambda data: Residual(list(_inner(data["body"])), list(_inner(data["shortcut"]))),
        ),
        _Own(
            Branches,
            lambda layer: {"branches": [_described(part) for part in layer.branches]},
            lambda data: Branches(*(list(_inner(part)) for part in data["branches"])),
        ),
        _Own(
            Recurrent,
            lambda layer: {"neuron": _described(layer.neuron), "feedback": _described(layer.feedback)},
            _recurrent,
        ),
        _Own(
            Graph,
            _of_graph,
            lambda data: Graph({name: (_made(layer), taken) for name, layer, taken in data["nodes"]}),
        ),
    )
}
"""By the names of the classes."""
