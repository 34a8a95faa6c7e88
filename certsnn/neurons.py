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

import math
from abc import ABC
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from certsnn.layers import check_hooks
from certsnn.surrogates import Rectangle, Surrogate

LEAST_THRESHOLD = 1e-6
Reset = Literal["zero", "subtract"] | float | tuple[float, float]


class Dynamics(NamedTuple):
    """The parameters of a layer of neurons, for the forward pass and the bounds.

    The tensors are scalars: one number for all neurons of the layer. ``lossless`` says that the neuron
    conserves charge (decay = gain = 1), so that ``u_t = initial + sum of currents + offset * (spikes so
    far)``: the condition for bounds in the count domain.
    """

    threshold: Tensor
    decay: Tensor
    initial: Tensor
    gain: Tensor
    offset: Tensor
    lossless: bool
    surrogate: Surrogate


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
) -> list[Tensor]:
    """Gradients towards the first five fields of the dynamics, through `fires` and `carry`."""
    above = to_v * fired
    terms = (-through_spike, (to_v - above) * u, torch.zeros_like(u), above * u, above)
    return [t.sum_to_size(p.shape) for t, p in zip(terms, dynamics[:5], strict=True)]


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
        return to_u, None, *parameter_gradients(u, spikes, ctx.dynamics, through, to_v)


def fire(u: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """One step from the membrane on.

    Args:
        u: membranes before firing ``[B, ...]``.
        dynamics: the neurons.

    Returns:
        ``(spikes, v)``: spikes (0 or 1, with the surrogate's gradient) and the potential carried on.
    """
    spikes, carried = _Fire.apply(u, dynamics, *dynamics[:5])
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
        sums: list[Tensor] = []
        for t in reversed(range(len(membranes))):
            u, fired = membranes[t], spikes[t]
            to_u, through = pull_back(
                u, fired, ctx.dynamics, None if to_spikes is None else to_spikes[t], to_v
            )
            if any(wanted):
                found = parameter_gradients(u, fired, ctx.dynamics, through, to_v)
                sums = [s + f for s, f in zip(sums, found, strict=True)] if sums else found
            to_v = to_u if to_membranes is None else to_u.add_(to_membranes[t])
            if ctx.frames > 1:
                to_currents[t] = to_v
            else:
                to_currents[0] += to_v
        if sums:
            sums[2] = to_v.sum_to_size(sums[2].shape)  # the initial potential enters step 1
        return to_currents, None, None, *(sums or (None for _ in wanted))


def scan(currents: Tensor, dynamics: Dynamics, steps: int | None = None) -> Trace:
    """Run a layer of neurons over time.

    Args:
        currents: ``[T, B, ...]``, or ``[1, B, ...]`` to hold for ``steps`` steps.
        dynamics: the neurons. Gradients flow to its parameters and, through the surrogate, to the currents.
        steps: T; the length of the currents if None.
    """
    steps = len(currents) if steps is None else steps
    membranes, spikes = _Scan.apply(currents, steps, dynamics, *dynamics[:5])
    return Trace(membranes, spikes)


def _finite(name: str, value: float) -> float:
    """The value as a float; raises ValueError for NaN and infinity."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return float(value)


def _checked_reset(reset: Reset) -> Reset:
    """The reset as `Neuron` takes it; raises ValueError for anything else."""
    if isinstance(reset, str):
        if reset not in ("zero", "subtract"):
            raise ValueError(
                f"reset must be 'zero', 'subtract', a float or a pair (gain, offset), got {reset!r}"
            )
        return reset
    if not isinstance(reset, (tuple, list)):
        return _finite("reset", reset)
    if len(reset) != 2:
        raise ValueError(f"reset as a pair is (gain, offset), got {reset!r}")
    gain, offset = (_finite("reset", value) for value in reset)
    if gain < 0:
        raise ValueError(f"the gain of the upper branch must be >= 0, got {gain}")
    return gain, offset


class Neuron(nn.Module, ABC):
    """A layer of neurons with common parameters: the base class of `LIF` and `IF`.

    Args:
        threshold: firing threshold, at least `LEAST_THRESHOLD`.
        decay: share of the membrane potential that is kept from step to step, in [0, 1].
        reset: ``"zero"``, ``"subtract"``, a float (reset to that potential, before decay), or the pair
            ``(gain, offset)`` of the upper branch with gain >= 0.
        initial: potential before the first step.
        surrogate: gradient of the spike.
        learn_threshold: train the threshold (used clamped to at least `LEAST_THRESHOLD`).
        learn_decay: train the decay (used clamped to [0, 1]).

    Raises:
        ValueError: for parameters outside the ranges above.
    """

    initial: Tensor

    def __init__(
        self,
        threshold: float,
        decay: float,
        reset: Reset,
        initial: float,
        surrogate: Surrogate | None,
        learn_threshold: bool,
        learn_decay: bool,
    ) -> None:
        super().__init__()
        if not _finite("threshold", threshold) >= LEAST_THRESHOLD:
            raise ValueError(f"threshold must be at least {LEAST_THRESHOLD}, got {threshold}")
        if not 0 <= _finite("decay", decay) <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {decay}")
        self.threshold = nn.Parameter(torch.tensor(float(threshold)), requires_grad=learn_threshold)
        self.decay = nn.Parameter(torch.tensor(float(decay)), requires_grad=learn_decay)
        self.register_buffer("initial", torch.tensor(_finite("initial", initial)))
        self.surrogate = Rectangle() if surrogate is None else surrogate
        self.reset = reset

    @property
    def reset(self) -> Reset:
        """The reset, as the class takes it."""
        return self._reset

    @reset.setter
    def reset(self, reset: Reset) -> None:
        self._reset = _checked_reset(reset)

    @final
    def check_plain(self) -> None:
        """Raise TypeError where the class has more than its `dynamics`, which is all that a network runs."""
        kind = type(self)
        if Neuron not in kind.__bases__:
            raise TypeError(f"{kind.__name__} is a subclass of a neuron that is final; derive from Neuron")
        if kind.forward is not Neuron.forward or "forward" in vars(self):
            raise TypeError(
                f"{kind.__name__} has a forward of its own, which neither the network nor bounds would run; "
                "describe it by `dynamics`"
            )
        check_hooks(self, kind.__name__)

    def dynamics(self) -> Dynamics:
        """The neuron's current parameters, differentiable where they are trained.

        Raises:
            ValueError: if one was replaced by a tensor of several numbers.
        """
        for name in ("threshold", "decay", "initial"):
            if getattr(self, name).ndim:
                raise ValueError(f"{name} must be one number for all neurons of a layer, not several")
        threshold, decay = self.threshold.clamp_min(LEAST_THRESHOLD), self.decay.clamp(0, 1)
        gain, offset = self._upper_branch(threshold, decay)
        lossless = float(decay.detach()) == 1 and float(gain.detach()) == 1
        return Dynamics(threshold, decay, self.initial, gain, offset, lossless, self.surrogate)

    def _upper_branch(self, threshold: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        """``(gain, offset)`` of the upper branch, scalars."""
        zero = torch.zeros_like(decay)
        if self.reset == "zero":
            return zero, zero
        if self.reset == "subtract":
            return decay, -(decay * threshold)
        if isinstance(self.reset, tuple):
            gain, offset = self.reset
            return zero + gain, zero + offset
        return zero, decay * float(self.reset)

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes ``[T, B, ...]`` of the currents ``[T, B, ...]``."""
        return scan(currents, self.dynamics()).spikes

    def extra_repr(self) -> str:
        numbers = {name: getattr(self, name).detach() for name in ("threshold", "decay", "initial")}
        shown = {name: f"{float(x):g}" if x.numel() == 1 else "several" for name, x in numbers.items()}
        return (
            f"threshold={shown['threshold']}, decay={shown['decay']}, reset={self.reset!r}, "
            f"initial={shown['initial']}"
        )


@final
class LIF(Neuron):
    """Leaky integrate-and-fire; see `Neuron` for the arguments and errors."""

    def __init__(
        self,
        threshold: float = 1.0,
        decay: float = 0.5,
        reset: Reset = "zero",
        initial: float = 0.0,
        surrogate: Surrogate | None = None,
        learn_threshold: bool = False,
        learn_decay: bool = False,
    ) -> None:
        super().__init__(threshold, decay, reset, initial, surrogate, learn_threshold, learn_decay)


@final
class IF(Neuron):
    """Integrate-and-fire (decay 1); reset by subtraction unless told otherwise. See `Neuron`."""

    def __init__(
        self,
        threshold: float = 1.0,
        reset: Reset = "subtract",
        initial: float = 0.0,
        surrogate: Surrogate | None = None,
        learn_threshold: bool = False,
    ) -> None:
        super().__init__(threshold, 1.0, reset, initial, surrogate, learn_threshold, False)
