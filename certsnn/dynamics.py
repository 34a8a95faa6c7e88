r"""Spiking neurons: one two-branch model that the forward pass, the bounds and the attacks share.

.. math::
    u_t &= v_{t-1} + I_t, \qquad v_0 = \mathrm{initial} \\
    s_t &= 1[u_t \ge \mathrm{threshold}] \\
    v_t &= \mathrm{decay} \cdot u_t              \quad\text{below the threshold} \\
        &= \mathrm{gain} \cdot u_t + \mathrm{offset} \quad\text{from the threshold on}

IF is ``decay = 1``. The upper branch ``(gain, offset)`` is the reset: ``(0, 0)`` to zero, ``(0, decay x)``
to the value x, ``(decay, -decay threshold)`` by subtraction. A model that fires on a strict ``>`` is the
same neuron with the next larger threshold.

The order of the floating-point operations in `integrate`, `carry_below` and `carry_above` is part of the
semantics that certificates speak about: the interval bounds call the same functions, and since rounding is
monotone they need no widening there (see ``certsnn.bounds.interval``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certsnn.surrogates import Surrogate

NUMBERS = ("threshold", "decay", "initial", "gain", "offset")
"""The fields of `Dynamics` that are numbers: tensors that may be trained."""
STEPWISE = ("threshold", "decay", "gain", "offset")
"""Those that act at every step."""


class Dynamics(NamedTuple):
    """The parameters of a layer of neurons, for the forward pass and the bounds.

    The tensors (`NUMBERS`) are one number for all neurons of the layer, or broadcast against one sample's
    membranes. ``lossless`` says that all neurons conserve charge (decay = gain = 1), so that ``u_t = initial
    + sum of currents + offset * (spikes so far)``: the condition for bounds in the count domain.
    """

    threshold: Tensor
    decay: Tensor
    initial: Tensor
    gain: Tensor
    offset: Tensor
    lossless: bool
    surrogate: Surrogate

    def numbers(self) -> tuple[Tensor, ...]:
        """The fields `NUMBERS`, in that order."""
        return tuple(getattr(self, name) for name in NUMBERS)

    def mapped(self, change: Callable[[Tensor], Tensor], names: Sequence[str] = NUMBERS) -> Dynamics:
        """The same with every number (or those of these names) changed, to another dtype say."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return self._replace(**changed)

    def gathered(self, shape: Sequence[int], index: Tensor) -> Dynamics:
        """The numbers of some neurons of each step, for membranes ``[T, B, m]``.

        ``index [T, B, m]`` counts the flattened neurons of a sample of the shape. The initial potential is
        that of the first step's neurons, ``[B, m]``.
        """
        chosen = self.mapped(lambda number: gather(number, shape, index), STEPWISE)
        return chosen._replace(initial=gather(self.initial, shape, index[0]))

    def check_fits(self, shape: Sequence[int], name: str) -> None:
        """Raise ValueError, by the layer's name, unless the numbers are those of a sample of the shape."""
        for field, number in zip(NUMBERS, self.numbers(), strict=True):
            given = list(number.shape)
            alike = len(given) == len(shape)
            fits = alike and all(size in (1, of) for size, of in zip(given, shape, strict=True))
            if not fits and (number.numel() > 1 or len(given) > len(shape)):
                raise ValueError(
                    f"the {field} of {name} has the shape {given}, and its membranes are {list(shape)}: give "
                    "one number, or as many axes as a sample's membranes have, each of their size or 1"
                )


def gather(number: Tensor, shape: Sequence[int], index: Tensor) -> Tensor:
    """A parameter at flattened neurons ``index [...]`` of a sample's shape; one number stays that."""
    if number.numel() == 1:
        return number.reshape(())
    return number.expand(*shape).reshape(-1)[index]


def integrate(v: Tensor, current: Tensor, out: Tensor | None = None) -> Tensor:
    """``u_t = v_{t-1} + I_t``, written to ``out`` where it is given."""
    return torch.add(v, current, out=out)


def carry_below(u: Tensor, dynamics: Dynamics) -> Tensor:
    """The potential that a silent neuron carries to the next step."""
    return dynamics.decay * u


def carry_above(u: Tensor, dynamics: Dynamics) -> Tensor:
    """The potential that a neuron carries to the next step when it has fired."""
    return dynamics.gain * u + dynamics.offset


def fires(u: Tensor, dynamics: Dynamics, out: Tensor | None = None) -> Tensor:
    """``1[u >= threshold]`` in the dtype of u, written to ``out`` where it is given; without a gradient."""
    u, threshold = u.detach(), dynamics.threshold.detach()
    return torch.ge(u, threshold, out=torch.empty_like(u) if out is None else out)


def choose(below: Tensor, above: Tensor, mask: Tensor) -> Tensor:
    """``above`` where the mask (floats, 0 or 1) is 1, else ``below``; as they are, bit for bit.

    At the weights 0 and 1 `torch.lerp` returns its ends. On spikes, which no processor can predict, it takes
    a tenth of the time of `torch.where`, which branches on every element.
    """
    return torch.lerp(below, above, mask)


def carry(u: Tensor, fired: Tensor, dynamics: Dynamics) -> Tensor:
    """`carry_above` where ``fired`` (floats, 0 or 1) is 1, else `carry_below`: the same numbers."""
    if dynamics.lossless:  # both are u but for the offset, and the products are exact
        return torch.addcmul(u, dynamics.offset, fired)
    return choose(carry_below(u, dynamics), carry_above(u, dynamics), fired)


class Pulled(NamedTuple):
    """Gradients towards a membrane: in all, and through the spike alone."""

    to_u: Tensor
    through_spike: Tensor


def pull_back(u: Tensor, fired: Tensor, dynamics: Dynamics, to_spikes: Tensor | None, to_v: Tensor) -> Pulled:
    """The gradient towards u, through `fires` and `carry`; not to be differentiated again.

    With a and c the gradients towards the spike (None: zero) and towards the carried potential:
    ``du = (a + c (above - below)) surrogate'(u - threshold) + c (gain if fired else decay)``.
    """
    slope = dynamics.surrogate.derivative(u - dynamics.threshold)
    rise = dynamics.gain - dynamics.decay
    jump = torch.addcmul(dynamics.offset, rise, u)  # also where rise is 0: a NaN must not pass unseen
    kept = to_v if dynamics.lossless else torch.addcmul(dynamics.decay, rise, fired).mul_(to_v)
    through = jump.mul_(to_v) if to_spikes is None else torch.addcmul(to_spikes, to_v, jump)
    through = through.mul_(slope)
    return Pulled(through + kept, through)


def parameter_gradients(
    u: Tensor, fired: Tensor, dynamics: Dynamics, through_spike: Tensor, to_v: Tensor
) -> dict[str, Tensor]:
    """Gradients towards `NUMBERS`, in that order, through `fires` and `carry`."""
    above = to_v * fired
    terms = (-through_spike, (to_v - above) * u, torch.zeros_like(u), above * u, above)
    found = zip(NUMBERS, terms, dynamics.numbers(), strict=True)
    return {name: term.sum_to_size(number.shape) for name, term, number in found}


def added(sums: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of one step added to those of later ones (none yet: empty)."""
    return {name: sums[name] + term for name, term in more.items()} if sums else more


@final
class _Fire(torch.autograd.Function):
    """`fires` and `carry` for membranes of a single step."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, dynamics: Dynamics, *parameters: Tensor) -> Any:
        spikes = fires(u, dynamics)
        ctx.save_for_backward(u, spikes)
        ctx.dynamics = dynamics
        return spikes, carry(u, spikes, dynamics)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_spikes, to_v = gradients
        u, spikes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        to_u, through = pull_back(u, spikes, ctx.dynamics, to_spikes, to_v)
        if not any(wanted):
            return to_u, None, *(None for _ in wanted)
        return to_u, None, *parameter_gradients(u, spikes, ctx.dynamics, through, to_v).values()


def fire(u: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """One step from the membrane on.

    Args:
        u: membranes before firing ``[B, ...]``.
        dynamics: the neurons.

    Returns:
        ``(spikes, v)``: spikes (0 or 1, with the surrogate's gradient) and the potential carried on.
    """
    spikes, carried = _Fire.apply(u, dynamics, *dynamics.numbers())
    return spikes, carried


class Trace(NamedTuple):
    """A layer of neurons over time: ``membranes`` (before firing) and ``spikes``, both ``[T, B, ...]``."""

    membranes: Tensor
    spikes: Tensor


@final
class _Scan(torch.autograd.Function):
    """All steps at once, keeping membranes and spikes alone: the graph of single steps is never built."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, steps: int, dynamics: Dynamics, *parameters: Tensor) -> Any:
        held = currents.expand(steps, *currents.shape[1:])
        v = dynamics.initial.expand(currents.shape[1:])
        membranes, spikes = torch.empty_like(held), torch.empty_like(held)
        for t, current in enumerate(held):
            u = integrate(v, current, out=membranes[t])
            fires(u, dynamics, out=spikes[t])
            if t < steps - 1:
                v = carry(u, spikes[t], dynamics)
        ctx.save_for_backward(membranes, spikes)
        ctx.set_materialize_grads(False)
        ctx.dynamics, ctx.frames = dynamics, len(currents)
        return membranes, spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        to_membranes, to_spikes = gradients
        membranes, spikes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        to_v = torch.zeros_like(membranes[0])
        to_currents = torch.empty_like(membranes) if ctx.frames > 1 else torch.zeros_like(membranes[:1])
        sums: dict[str, Tensor] = {}
        for t in reversed(range(len(membranes))):
            u, fired = membranes[t], spikes[t]
            to_u, through = pull_back(
                u, fired, ctx.dynamics, None if to_spikes is None else to_spikes[t], to_v
            )
            if any(wanted):
                sums = added(sums, parameter_gradients(u, fired, ctx.dynamics, through, to_v))
            to_v = to_u if to_membranes is None else to_u.add_(to_membranes[t])
            if ctx.frames > 1:
                to_currents[t] = to_v
            else:
                to_currents[0] += to_v
        if sums:
            sums["initial"] = to_v.sum_to_size(sums["initial"].shape)  # it enters step 1
        return to_currents, None, None, *(sums.values() or (None for _ in wanted))


def scan(currents: Tensor, dynamics: Dynamics, steps: int | None = None, name: str = "the neurons") -> Trace:
    """Run a layer of neurons over time.

    Args:
        currents: ``[T, B, ...]``, or ``[1, B, ...]`` to hold for ``steps`` steps.
        dynamics: the neurons. Gradients flow to its parameters and, through the surrogate, to the currents.
        steps: T; the length of the currents if None.
        name: of the layer, for messages.

    Raises:
        ValueError: for parameters that do not fit the currents (`Dynamics.check_fits`).
    """
    dynamics.check_fits(currents.shape[2:], name)
    steps = len(currents) if steps is None else steps
    membranes, spikes = _Scan.apply(currents, steps, dynamics, *dynamics.numbers())
    return Trace(membranes, spikes)
