"""Networks of snnTorch: what its Leaky, Lapicque, Synaptic and RLeaky execute, as certsnn's neurons.

Leaky executes ``((beta m) + I) - s threshold`` and fires where ``m > threshold``. That is certsnn's order
"current-first" with the next larger threshold, bit for bit. Synaptic is the same behind a `Synapse`. RLeaky
adds what its spikes of the step before give after the current, and certsnn before.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.filters import Synapse
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
from certsnn.layers import Scale
from certsnn.neurons import LIF
from certsnn.readouts import ReadoutName
from certsnn.recurrence import Recurrent


def from_snntorch(
    module: nn.Module,
    x: Tensor,
    *,
    steps: int | None = None,
    readout: ReadoutName | None = None,
    input: Domain = "image",
    output: int | None = None,
) -> Import:
    """A network of snnTorch as a `SpikingNetwork`; see `import_module_with`."""
    library = SnnTorch(required(_load, "snnTorch", "pip install snntorch"))
    return import_module_with(library, module, x, steps, readout, input, output)


KNOWN = "Leaky, Lapicque, Synaptic and RLeaky"
REASONS = {
    "Alpha": "its reset changes two currents, of which the membrane is the difference; ",
    "RSynaptic": "its spikes come back into a current, and certsnn's Recurrent feeds them to the membrane; ",
}
"""Why a class is not imported."""


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
        kind, gain = type(module), 1.0
        if kind in (self._snntorch.Leaky, self._snntorch.Synaptic, self._snntorch.RLeaky):
            decay = number(module.beta.clamp(0, 1), axes)
        elif kind is self._snntorch.Lapicque:
            decay = number(1 - module.time_step / (module.R * module.C), axes)
            gain = one_number(module.R * (1 / (module.R * module.C)) * module.time_step, "gains dt / C")
        else:
            raise Unsupported(REASONS.get(kind.__name__, "") + f"certsnn imports {KNOWN}: use one of these")
        if module.state_quant or module.inhibition or bool((module.graded_spikes_factor != 1).any()):
            raise Unsupported("it quantises its state, inhibits or grades its spikes: switch that off")
        check_fires(module.spike_grad, fires_at_zero=False)
        neuron = _neuron(module, decay, number(module.threshold, axes), kind is self._snntorch.Leaky)
        if kind is self._snntorch.Synaptic:
            return Cell((Synapse(number(module.alpha.clamp(0, 1), axes)), neuron), membrane=1)
        if kind is self._snntorch.RLeaky:
            return Cell((Recurrent(neuron, _feedback(module, axes)),))
        return Cell(after(gain, neuron))

    def prepare(self, module: Any) -> None:
        for name in {"mem", "syn", "spk"} & {name for name, _ in module.named_buffers(recurse=False)}:
            setattr(module, name, torch.zeros(0, device=module.mem.device))

    def observe(self, module: Any, cell: Cell, output: Any) -> Observed:
        spikes = output[0] if isinstance(output, tuple) else output
        if getattr(module, "reset_delay", True):
            return Observed(spikes, module.mem)
        return Observed(spikes, module.mem.masked_fill(spikes > 0, torch.nan))


def _feedback(module: Any, axes: int) -> nn.Module:
    """What leads RLeaky's spikes back to it."""
    if isinstance(module.recurrent, (nn.Linear, nn.Conv2d)):
        return module.recurrent
    weight = number(module.recurrent.V, axes)
    if not isinstance(weight, Tensor):
        return Scale(weight)
    if axes != 1:
        raise Unsupported("its V differs between neurons that are no vector: use one number, or all_to_all")
    linear = nn.Linear(len(weight), len(weight), bias=False)
    linear.weight = nn.Parameter(torch.diag(weight))
    return linear


def _neuron(module: Any, decay: float | Tensor, threshold: float | Tensor, clears: bool) -> LIF:
    """Neurons with these parameters, as certsnn's; raises Unsupported for what is none.

    ``clears``: whether a delayed reset to zero leaves the step's input as it is.
    """
    # The module acts by what was chosen at construction, and so the number in the state dict is not asked.
    reset, delayed = module.reset_mechanism, getattr(module, "reset_delay", True)
    try:
        if reset == "none":
            return LIF(above(threshold), decay, (decay, 0.0))
        if reset == "subtract" and delayed:
            return LIF(above(threshold), decay, (decay, -threshold), order="current-first")
        if reset == "zero" and (clears or not delayed):
            return LIF(above(threshold), decay, "zero")
    except ValueError as error:
        raise Unsupported(f"{error}: change that parameter") from error
    raise Unsupported(
        "it takes back more of its state than a reset does (reset_delay=False with 'subtract'; all but Leaky "
        "with 'zero' set their input to zero, too): train it with reset_mechanism='subtract' and the delay"
    )
