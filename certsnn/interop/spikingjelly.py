"""Networks of SpikingJelly (2.x and 0.0.0.0.14): its IF, LIF and PLIF, and its layers in both step modes.

Its neurons fire where ``h >= threshold``. LIF with ``decay_input`` executes ``v + (x - (v - r)) / tau``: the
same real numbers as a decay of ``1 - 1/tau`` and inputs over tau, rounded in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.inputs import Domain
from certsnn.interop.importing import Import, import_module_with
from certsnn.interop.libraries import Cell, Library, Observed, after, check_fires, required
from certsnn.interop.values import Unsupported
from certsnn.layers import Scale
from certsnn.neurons import IF, LIF, Neuron
from certsnn.readouts import ReadoutName
from certsnn.recurrence import Recurrent

_AXES = ("Conv", "BatchNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool")
PLAIN = ("Linear", "Flatten", *(f"{kind}{axes}d" for kind in _AXES for axes in (1, 2)))
"""Layers that are torch's own but for the step mode."""


INSTALL = "pip install --no-deps spikingjelly loguru"
"""Without what it asks for: its torchaudio may want another torch, and nothing of it is used here."""


def from_spikingjelly(
    module: nn.Module,
    x: Tensor,
    *,
    steps: int | None = None,
    readout: ReadoutName | None = None,
    input: Domain = "image",
    output: int | None = None,
) -> Import:
    """A network of SpikingJelly (IF, LIF, PLIF; step mode "s" or "m"); see `import_module_with`."""
    library = SpikingJelly(required(_load, "SpikingJelly", INSTALL))
    return import_module_with(library, module, x, steps, readout, input, output)


def _load() -> Any:
    from spikingjelly import activation_based
    from spikingjelly.activation_based import base, layer, neuron  # noqa: F401

    return activation_based


@final
class SpikingJelly(Library):
    """SpikingJelly's neurons and layers; see `Library`."""

    def __init__(self, library: Any) -> None:
        self._neuron, self._layer, self._base = library.neuron, library.layer, library.base

    def is_neuron(self, module: nn.Module) -> bool:
        return isinstance(module, self._base.MemoryModule) and self.layers(module) is None

    def cell(self, module: Any, axes: int) -> Cell:
        if type(module) in (self._layer.LinearRecurrentContainer, self._layer.ElementWiseRecurrentContainer):
            return self._recurrent(module, axes)
        kinds = (self._neuron.IFNode, self._neuron.LIFNode, self._neuron.ParametricLIFNode)
        if type(module) not in kinds:
            raise Unsupported(
                "certsnn imports IFNode, LIFNode and ParametricLIFNode only, and the recurrent containers of "
                "these: rewrite it with one"
            )
        check_fires(module.surrogate_function, fires_at_zero=True)
        threshold, reset = float(module.v_threshold), module.v_reset
        try:
            if isinstance(module, self._neuron.IFNode):
                return Cell((IF(threshold) if reset is None else IF(threshold, float(reset), float(reset)),))
            pull = float(module.w.sigmoid()) if hasattr(module, "w") else 1 / module.tau
            gain, shift = (pull if module.decay_input else 1.0), float(reset or 0.0)
            if reset is None:  # the threshold is taken away before the decay
                return Cell(after(gain, LIF(threshold, 1 - pull, "subtract")))
            return Cell(after(gain, LIF(threshold - shift, 1 - pull, "zero")), shift)
        except ValueError as error:
            raise Unsupported(f"{error}: change that parameter") from error

    def _recurrent(self, module: Any, axes: int) -> Cell:
        """A container that feeds its spikes of the step before back to its input."""
        parts = (
            list(module.sub_module) if isinstance(module.sub_module, nn.Sequential) else [module.sub_module]
        )
        *inner, neuron = parts
        cell = self.cell(neuron, axes)
        *gains, last = cell.layers
        if not isinstance(last, Neuron) or axes != 1 or not all(type(one) is nn.Linear for one in inner):
            raise Unsupported("its sub_module is more than nn.Linear and neurons in a row, of vectors")
        forward: list[nn.Module] = []
        back: list[nn.Module] = []
        if isinstance(module, self._layer.LinearRecurrentContainer):
            weight, size = module.rc.weight, module.rc.in_features - module.sub_module_out_features
            forward, back = [_linear(weight[:, :size], module.rc.bias)], [_linear(weight[:, size:], None)]
        elif not _adds(module.element_wise_function):
            raise Unsupported("its element_wise_function is not y + x")
        forward += inner
        back += [_linear(one.weight, None) for one in inner if isinstance(one, nn.Linear)] or (
            [] if back else [nn.Identity()]
        )
        back += [Scale(float(gain.factor)) for gain in gains if isinstance(gain, Scale)]
        return Cell((*forward, *gains, Recurrent(last, back)), cell.shift)

    def prepare(self, module: Any) -> None:
        for part in module.modules():
            if isinstance(part, self._base.MemoryModule):
                part.reset()
        module.store_v_seq = self.takes_sequence(module)

    def observe(self, module: Any, cell: Cell, output: Any) -> Observed:
        if isinstance(cell.layers[-1], Recurrent):  # the container has no potentials
            return Observed(output, torch.full_like(output, torch.nan))
        v = module.v_seq if self.takes_sequence(module) else module.v
        fired = v + module.v_threshold if module.v_reset is None else torch.full_like(v, torch.nan)
        return Observed(output, torch.where(output > 0, fired, v) - cell.shift)

    def layers(self, module: Any) -> list[nn.Module] | None:
        kind = type(module)
        for name in PLAIN:
            if kind is getattr(self._layer, name, None):
                return [_plain(module, getattr(nn, name))]
        if kind in (self._layer.Dropout, self._layer.Dropout2d):
            return [nn.Identity()]
        if kind is self._layer.SeqToANNContainer:
            rows = [self.layers(part) for part in module]
            return None if None in rows else [layer for row in rows if row for layer in row]
        if kind is getattr(self._layer, "VotingLayer", None):
            return [nn.Unflatten(1, (1, -1)), nn.AvgPool1d(module.voting_size), nn.Flatten(1)]
        return super().layers(module)

    def takes_sequence(self, module: nn.Module) -> bool:
        if isinstance(module, self._layer.SeqToANNContainer):
            return True
        return getattr(module, "step_mode", "s") == "m"


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with these numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _adds(function: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether a function of spikes and inputs is their sum."""
    x = torch.linspace(-3, 3, 14)
    y = (torch.arange(14) % 2).to(x)
    return torch.equal(torch.as_tensor(function(y, x)), y + x)


def _plain(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The module as the class of torch's that it is but for the step mode, sharing its parameters."""
    plain = kind.__new__(kind)
    plain.__dict__.update({name: value for name, value in vars(module).items() if "step_mode" not in name})
    return plain
