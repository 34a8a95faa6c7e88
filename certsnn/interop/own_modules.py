"""Modules that are written with certsnn's own neurons and a ``forward`` of their own."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.dynamics import fires
from certsnn.inputs import Domain
from certsnn.interop.importing import Import, import_module_with
from certsnn.interop.libraries import Cell, Library, Observed
from certsnn.neurons import Neuron
from certsnn.readouts import ReadoutName


def from_torch(
    module: nn.Module,
    x: Tensor,
    *,
    steps: int | None = None,
    readout: ReadoutName | None = None,
    input: Domain = "image",
    output: int | None = None,
) -> Import:
    """A module written with certsnn's LIF and IF, whose ``forward`` is one step or all of them.

    In a ``forward`` of one step a neuron takes ``[B, ...]`` and gives its spikes of that step. See
    `import_module_with`.
    """
    return import_module_with(OwnModules(), module, x, steps, readout, input, output)


@final
class OwnModules(Library):
    """certsnn's neurons, run a step at a time; see `Library`."""

    def is_neuron(self, module: nn.Module) -> bool:
        return isinstance(module, Neuron)

    def cell(self, module: Any, axes: int) -> Cell:
        return Cell((module,))

    def prepare(self, module: Any) -> None:
        module.forward = module.stepping = _Stepping(module)

    def observe(self, module: Any, cell: Cell, output: Any) -> Observed:
        return Observed(output, module.stepping.membranes)


@final
class _Stepping:
    """A neuron's forward of one step ``[B, ...]``, with its state."""

    def __init__(self, neuron: Neuron) -> None:
        self._dynamics = neuron.dynamics()
        self._before: Observed | None = None

    @property
    def membranes(self) -> Tensor:
        """The membranes of the last step."""
        assert self._before is not None
        return self._before.membranes

    def __call__(self, current: Tensor) -> Tensor:
        dynamics, before = self._dynamics, self._before
        if before is None:
            u = torch.add(dynamics.initial, current)
        else:
            u = dynamics.order.advance(before.membranes, before.spikes, current, dynamics)
        self._before = Observed(fires(u, dynamics), u)
        return self._before.spikes
