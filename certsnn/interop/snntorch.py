"""Networks of snnTorch: what its Leaky and Lapicque execute, as certsnn's neurons.

Leaky executes ``((beta m) + I) - s threshold`` and fires where ``m > threshold``. That is certsnn's order
"current-first" with the next larger threshold, bit for bit.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.inputs import Domain
from certsnn.interop.importing import Import, import_module_with
from certsnn.interop.libraries import (
    Cell,
    Library,
    Observed,
    above,
    after,
    check_fires,
    number,
    one_number,
    required,
)
from certsnn.interop.values import Unsupported
from certsnn.neurons import LIF
from certsnn.readouts import ReadoutName


def from_snntorch(
    module: nn.Module,
    x: Tensor,
    *,
    steps: int | None = None,
    readout: ReadoutName | None = None,
    input: Domain = "image",
    output: int | None = None,
) -> Import:
    """A network of snnTorch (Leaky, Lapicque) as a `SpikingNetwork`; see `import_module_with`."""
    library = SnnTorch(required(_load, "snnTorch", "pip install snntorch"))
    return import_module_with(library, module, x, steps, readout, input, output)


def _load() -> Any:
    import snntorch

    return snntorch


@final
class SnnTorch(Library):
    """snnTorch's neurons; see `Library`."""

    def __init__(self, snntorch: Any) -> None:
        self._snntorch = snntorch

    def is_neuron(self, module: nn.Module) -> bool:
        return isinstance(module, self._snntorch.SpikingNeuron)

    def cell(self, module: Any, axes: int) -> Cell:
        if type(module) is self._snntorch.Leaky:
            decay, gain = number(module.beta.clamp(0, 1), axes), 1.0
        elif type(module) is self._snntorch.Lapicque:
            decay = number(1 - module.time_step / (module.R * module.C), axes)
            gain = one_number(module.R * (1 / (module.R * module.C)) * module.time_step, "gains dt / C")
        else:
            raise Unsupported("certsnn imports Leaky and Lapicque only: rewrite it with one of these")
        if module.state_quant or module.inhibition or bool((module.graded_spikes_factor != 1).any()):
            raise Unsupported("it quantises its state, inhibits or grades its spikes: switch that off")
        check_fires(module.spike_grad, fires_at_zero=False)
        return Cell(after(gain, _neuron(module, decay, number(module.threshold, axes))))

    def prepare(self, module: Any) -> None:
        module.mem = torch.zeros(0, device=module.mem.device)

    def observe(self, module: Any, cell: Cell, output: Any) -> Observed:
        spikes = output[0] if isinstance(output, tuple) else output
        if getattr(module, "reset_delay", True):
            return Observed(spikes, module.mem)
        return Observed(spikes, module.mem.masked_fill(spikes > 0, torch.nan))


def _neuron(module: Any, decay: float | Tensor, threshold: float | Tensor) -> LIF:
    """Leaky or Lapicque with these parameters, as certsnn's; raises Unsupported for what is neither."""
    # The module acts by what was chosen at construction, and so the number in the state dict is not asked.
    reset, delayed = module.reset_mechanism, getattr(module, "reset_delay", True)
    try:
        if reset == "none":
            return LIF(above(threshold), decay, (decay, 0.0))
        if reset == "subtract" and delayed:
            return LIF(above(threshold), decay, (decay, -threshold), order="current-first")
        if reset == "zero" and hasattr(module, "reset_delay"):
            return LIF(above(threshold), decay, "zero")
    except ValueError as error:
        raise Unsupported(f"{error}: change that parameter") from error
    raise Unsupported(
        "it takes back more of its state than a reset does (reset_delay=False with 'subtract'; Lapicque with "
        "'zero' sets its input to zero, too): train it with reset_mechanism='subtract' and the delay"
    )
