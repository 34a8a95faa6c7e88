"""What an import has to know of a library: its neurons as certsnn's, its layers as torch's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from certsnn.errors import UserError
from certsnn.interop.values import Unsupported
from certsnn.layers import operator_of
from certsnn.neurons import Neuron

ANY_TIME = (nn.Linear, nn.Identity, nn.Dropout)
"""Layers of torch's that do the same to a sequence ``[T, B, ...]`` as to each of its steps."""


class Observed(NamedTuple):
    """Spikes and membranes before any reset, ``[T, B, ...]`` or of one step; NaN where none is kept."""

    spikes: Tensor
    membranes: Tensor


@final
@dataclass(frozen=True)
class Cell:
    """A foreign neuron as certsnn's: ``gain`` times the input drives ``neuron``, and its potentials are the
    foreign ones less ``shift``."""

    neuron: Neuron
    gain: float = 1.0
    shift: float = 0.0


class Library(ABC):
    """How one library's modules act in eval mode."""

    @abstractmethod
    def is_neuron(self, module: nn.Module) -> bool:
        """Whether it holds a state over time, which certsnn has to know as a neuron."""

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

    @final
    def fits(self, module: nn.Module, lead: int) -> bool:
        """Whether a leaf takes values with this many axes before those of a sample."""
        return isinstance(module, ANY_TIME) or self.takes_sequence(module) == (lead == 2)

    @final
    def drive(self, module: nn.Module, cell: Cell, currents: Tensor) -> Observed:
        """What a copy of a neuron does on currents ``[T, B, ...]``, from its first step on."""
        self.prepare(module)
        if self.takes_sequence(module):
            return self.observe(module, cell, module(currents))
        steps = [self.observe(module, cell, module(current)) for current in currents]
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
