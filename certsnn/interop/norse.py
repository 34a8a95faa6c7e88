"""Networks of Norse: its LIF, LIFBox, IAF and leaky integrators, and the encoder that holds a current.

LIF executes ``i = i + x``, ``v = v + k ((leak - v) + i)`` with ``k = dt / tau_mem``, fires where ``v > v_th``
and only then lets the current decay: certsnn's LIF of decay ``1 - k`` behind a `Synapse`, which takes k times
the inputs. LIFBox has no current. These are the same real numbers, rounded in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, ClassVar, final

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
from certsnn.neurons import IF, LIF
from certsnn.readouts import ReadoutName

INSTALL = "pip install --no-deps norse nir nirtorch h5py"
"""Without torch, of which it may ask for another one."""


def from_norse(
    module: nn.Module,
    x: Tensor,
    *,
    steps: int | None = None,
    readout: ReadoutName | None = None,
    input: Domain = "image",
    output: int | None = None,
) -> Import:
    """A network of Norse (LIF, LIFBox, IAF, LI, LIBox, cells or sequences); see `import_module_with`."""
    library = Norse(required(_load, "Norse", INSTALL))
    return import_module_with(library, module, x, steps, readout, input, output)


def _load() -> Any:
    import norse.torch

    return norse.torch


@final
class Norse(Library):
    """Norse's neurons; see `Library`."""

    keeps_states: ClassVar[bool] = False

    def __init__(self, norse: Any) -> None:
        self._norse = norse
        self._wired = (norse.SequentialState, norse.Lift, norse.RecurrentSequential)
        self._over_time = (norse.LIF, norse.IAF, norse.LI, norse.ConstantCurrentLIFEncoder)
        self._cells: dict[type, Callable[[Any, int], Cell]] = {
            **dict.fromkeys((norse.LIFCell, norse.LIF), _lif),
            norse.LIFBoxCell: _lif_box,
            **dict.fromkeys((norse.IAFCell, norse.IAF), _iaf),
            **dict.fromkeys((norse.LICell, norse.LI, norse.LILinearCell), _integrator),
            norse.LIBoxCell: _box_integrator,
            norse.ConstantCurrentLIFEncoder: _encoder,
        }

    def is_neuron(self, module: nn.Module) -> bool:
        kind = type(module)
        if not kind.__module__.startswith("norse.torch.module.") or isinstance(module, self._wired):
            return False
        return kind in self._cells or "state" in signature(kind.forward).parameters

    def cell(self, module: Any, axes: int) -> Cell:
        kind = type(module)
        if kind not in self._cells:
            if hasattr(module, "recurrent_weights"):
                raise Unsupported(
                    "its spikes come back into a current with a state of its own, and those of certsnn's "
                    "Recurrent into the membrane: use LIFCell and an affine layer"
                )
            raise Unsupported(f"certsnn imports {', '.join(one.__name__ for one in self._cells)} only")
        if hasattr(module.p, "method"):
            fire = self._norse.functional.threshold.threshold
            check_fires(lambda u: fire(u, module.p.method, module.p.alpha), fires_at_zero=False)
        try:
            return self._cells[kind](module, axes)
        except ValueError as error:
            raise Unsupported(f"{error}: change that parameter") from error

    def prepare(self, module: Any) -> None:
        module.potentials = []
        step = getattr(module, "activation", None)
        if step is not None and type(module) in self._cells:
            module.activation = _watched(step, module.potentials)

    def observe(self, module: Any, cell: Cell, output: Any) -> Observed:
        if self.encodes(module):
            return Observed(output, torch.full_like(output, torch.nan))
        outputs = output[0]
        if cell.neuron is None:
            return Observed(outputs, outputs)
        found = torch.stack(module.potentials) if self.takes_sequence(module) else module.potentials[-1]
        module.potentials.clear()
        return Observed(outputs, found.masked_fill(outputs > 0, torch.nan) - cell.shift)

    def step(self, module: nn.Module, current: Tensor, before: Any) -> Any:
        return module(current, None if before is None else before[1])

    def takes_sequence(self, module: nn.Module) -> bool:
        return type(module) in self._over_time

    def encodes(self, module: nn.Module) -> bool:
        return type(module) is self._norse.ConstantCurrentLIFEncoder


def _watched(step: Callable[..., Any], potentials: list[Tensor]) -> Callable[..., Any]:
    """A neuron's step that notes the potentials behind it."""

    def run(*args: Any) -> Any:
        output, state = step(*args)
        potentials.append(state.v)
        return output, state

    return run


def _kept(module: Any, inverse: Tensor, axes: int) -> float | Tensor:
    """What is left of a potential or current after a step, for the inverse of its time constant."""
    return number(1 - module.dt * inverse, axes)


def _leaky(module: Any, axes: int, *before: nn.Module, initial: float = 0.0) -> Cell:
    """Neurons with a leak towards ``v_leak``, behind layers; ``initial``: their first potential less that."""
    p = module.p
    decay, leak = _kept(module, p.tau_mem_inv, axes), one_number(p.v_leak, "leak potentials")
    threshold = above(number(torch.as_tensor(p.v_th) - leak, axes))
    subtracts = getattr(p, "reset_method", None)
    if subtracts is None or subtracts.__name__ == "reset_value":
        neuron = LIF(threshold, decay, number(torch.as_tensor(p.v_reset) - leak, axes), initial)
    elif subtracts.__name__ == "reset_subtract":
        neuron = LIF(threshold, decay, (decay, -decay * number(torch.as_tensor(p.v_th), axes)), initial)
    else:
        raise Unsupported("certsnn imports reset_value and reset_subtract only: use one of these")
    return Cell(after(_gain(module), *before, neuron), leak)


def _gain(module: Any) -> float:
    """What a step's current is multiplied by."""
    return one_number(module.dt * module.p.tau_mem_inv, "time constants")


def _lif(module: Any, axes: int) -> Cell:
    return _leaky(module, axes, Synapse(_kept(module, module.p.tau_syn_inv, axes)))


def _lif_box(module: Any, axes: int) -> Cell:
    return _leaky(module, axes)


def _encoder(module: Any, axes: int) -> Cell:
    """It starts from 0, and not from the leak potential."""
    gain, leak = _gain(module), one_number(module.p.v_leak, "leak potentials")
    return _leaky(module, axes, initial=-(1 - gain) * leak)


def _iaf(module: Any, axes: int) -> Cell:
    threshold, reset = number(module.p.v_th, axes), number(module.p.v_reset, axes)
    return Cell((IF(above(threshold), reset, reset),))


def _box_integrator(module: Any, axes: int, *before: nn.Module) -> Cell:
    """A leaky integrator behind layers."""
    if torch.as_tensor(module.p.v_leak).any():
        raise Unsupported("it leaks towards another potential than zero: set v_leak to 0, and add a bias")
    decay = Synapse(_kept(module, module.p.tau_mem_inv, axes))
    return Cell((*before, *after(_gain(module), decay)))


def _integrator(module: Any, axes: int) -> Cell:
    before: list[nn.Module] = [Synapse(_kept(module, module.p.tau_syn_inv, axes))]
    if hasattr(module, "input_weights"):
        linear = nn.Linear(module.input_size, module.hidden_size, bias=False)
        linear.weight = module.input_weights
        before.insert(0, linear)
    return _box_integrator(module, axes, *before)
