"""What an import has to know of a library: its neurons as certsnn's, its layers as torch's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import frexp, prod
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from certsnn.errors import UserError
from certsnn.filters import Synapse
from certsnn.interop.values import Unsupported
from certsnn.layers import Scale, operator_of
from certsnn.neurons import Neuron
from certsnn.recurrence import Recurrent

ANY_TIME = (nn.Linear, nn.Identity, nn.Dropout)
"""Layers of torch's that do the same to a sequence ``[T, B, ...]`` as to each of its steps."""


class Observed(NamedTuple):
    """Spikes and membranes before any reset, ``[T, B, ...]`` or of one step; NaN where none is kept.

    Of a filter both are its outputs.
    """

    spikes: Tensor
    membranes: Tensor


@final
@dataclass(frozen=True)
class Cell:
    """A foreign module with a state, as certsnn's layers in a row.

    The last one is a `Neuron`, a `Recurrent`, or a `Synapse`, whose potentials are the foreign ones less
    ``shift``. ``membrane``: which of the states that it returns, from 0, are the potentials.
    """

    layers: tuple[nn.Module, ...]
    shift: float = 0.0
    membrane: int = 0

    @property
    def neuron(self) -> Neuron | None:
        """The neurons; None for a filter, which spikes never."""
        last = self.layers[-1]
        found = last.neuron if isinstance(last, Recurrent) else last
        return found if isinstance(found, Neuron) else None

    @property
    def gain(self) -> float | None:
        """What the first step's currents are multiplied by; None where they pass other layers, too."""
        before = [layer for layer in self.layers[:-1] if not isinstance(layer, Synapse)]
        if not all(isinstance(layer, Scale) for layer in before):
            return None
        return prod(float(layer.factor) for layer in before if isinstance(layer, Scale))

    @property
    def exact(self) -> bool:
        """Whether the first step rounds nothing."""
        rests = isinstance(self.layers[-1], Neuron) and not self.layers[-1].initial.any()
        return rests and self.shift == 0 and self.gain is not None and frexp(self.gain)[0] == 0.5

    @property
    def filter(self) -> tuple[nn.Module, ...] | None:
        """Its potentials as layers: a leaky integrator's, or those of neurons without a reset; else None."""
        last = self.layers[-1]
        if isinstance(last, Synapse):
            return self.layers
        if not isinstance(last, Neuron) or not isinstance(last.reset, tuple) or last.initial.any():
            return None
        gain, offset = map(torch.as_tensor, last.reset)
        if offset.any() or not torch.equal(gain.expand(last.decay.shape), last.decay):
            return None
        return (*self.layers[:-1], Synapse(last.decay))


def after(gain: float, *layers: nn.Module) -> tuple[nn.Module, ...]:
    """Layers whose inputs are multiplied first."""
    return layers if gain == 1 else (Scale(gain), *layers)


class Library(ABC):
    """How one library's modules act in eval mode.

    ``keeps_states``: whether modules keep their states from call to call, and are not handed them.
    """

    keeps_states: ClassVar[bool] = True

    @abstractmethod
    def is_neuron(self, module: nn.Module) -> bool:
        """Whether it holds a state over time, which certsnn has to know as neurons or as a filter."""

    @abstractmethod
    def cell(self, module: nn.Module, axes: int) -> Cell:
        """A neuron as certsnn's, for samples with so many axes; raises Unsupported for one that is none."""

    @abstractmethod
    def prepare(self, module: nn.Module) -> None:
        """Set a copy of a neuron to its state before the first step, and to keep what is observed."""

    @abstractmethod
    def observe(self, module: nn.Module, cell: Cell, output: Any) -> Observed:
        """What a neuron has just done, in certsnn's units, from its output."""

    def layers(self, module: nn.Module) -> list[nn.Module] | None:
        """A layer as torch's own, in a row; None for a module that has to be looked into."""
        kind = parametrize.type_before_parametrizations(module)
        known = kind in operator_of.registry and kind is not nn.Module and kind is not object
        return [module] if known or kind in (nn.MaxPool1d, nn.MaxPool2d) else None

    def takes_sequence(self, module: nn.Module) -> bool:
        """Whether a leaf takes all steps at once, ``[T, B, ...]``."""
        return False

    def encodes(self, module: nn.Module) -> bool:
        """Whether a neuron makes all steps of a current that it holds."""
        return False

    @final
    def affine(self, module: nn.Module) -> bool:
        """Whether a leaf commutes with a mean over time."""
        layers = self.layers(module)
        return layers is not None and not any(isinstance(one, (nn.MaxPool1d, nn.MaxPool2d)) for one in layers)

    @final
    def fits(self, module: nn.Module, lead: int) -> bool:
        """Whether a leaf takes values with this many axes before those of a sample."""
        return isinstance(module, ANY_TIME) or self.takes_sequence(module) == (lead == 2)

    def step(self, module: nn.Module, current: Tensor, before: Any) -> Any:
        """What a copy of a neuron returns for its next step; ``before``: for the last one, None at first."""
        return module(current)

    @final
    def drive(self, module: nn.Module, cell: Cell, currents: Tensor) -> Observed:
        """What a copy of a neuron does on currents ``[T, B, ...]``, from its first step on."""
        self.prepare(module)
        if self.takes_sequence(module):
            return self.observe(module, cell, module(currents[0] if self.encodes(module) else currents))
        steps, output = [], None
        for current in currents:
            output = self.step(module, current, output)
            steps.append(self.observe(module, cell, output))
        return Observed(*(torch.stack(part) for part in zip(*steps, strict=True)))


def required(load: Callable[[], Any], name: str, command: str) -> Any:
    """A library; raises UserError, with the command that installs it, where it can't be imported."""
    try:
        return load()
    except ImportError as error:
        raise UserError(f"{name} can't be imported ({error}): install it with `{command}`") from error


def number(value: Any, axes: int) -> float | Tensor:
    """A parameter as `Neuron` takes it: a number, or a copy of a tensor, lined up as torch does."""
    if not isinstance(value, Tensor):
        return float(value)
    value = value.detach()
    if value.numel() == 1:
        return float(value)
    missing = max(axes - value.ndim, 0)
    lined_up: Tensor = value.reshape([1] * missing + list(value.shape))
    return lined_up.clone()


def one_number(value: Any, what: str) -> float:
    """The one number in a parameter; raises Unsupported, by their name, for several."""
    found = torch.as_tensor(value).detach()
    if found.numel() > 1:
        raise Unsupported(f"its neurons have different {what}: put the difference into the weights")
    return float(found)


def above(threshold: float | Tensor) -> float | Tensor:
    """The least threshold of ``u >= threshold`` that fires where ``u > threshold`` does, in float32."""
    exact = torch.as_tensor(threshold, dtype=torch.get_default_dtype())
    found = torch.nextafter(exact, torch.full_like(exact, torch.inf))
    return found if isinstance(threshold, Tensor) else float(found)


def check_fires(fire: Callable[[Tensor], Tensor], fires_at_zero: bool) -> None:
    """Raise Unsupported unless the function (of membrane less threshold) is that step in its forward pass."""
    points = torch.tensor([-2.0, -1e-3, -1e-30, 0.0, 1e-30, 1e-3, 2.0])
    with torch.no_grad():
        found = fire(points)
    if not torch.equal(found, torch.where(points == 0, points + fires_at_zero, (points > 0).float())):
        raise Unsupported("its surrogate function is no step in the forward pass: use one that spikes 0 or 1")
