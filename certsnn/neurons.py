r"""Spiking neurons: one two-branch description that the forward pass, the bounds and the attacks share.

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
monotone they need no widening there (see ``certsnn.bounds.interval``). Source: design, section 2.
"""

from __future__ import annotations

import math
from abc import ABC
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from certsnn.surrogates import Rectangle, Surrogate

LEAST_THRESHOLD = 1e-6
Reset = Literal["zero", "subtract"] | float | tuple[float, float]


class Dynamics(NamedTuple):
    """All that forward pass and bounds need to know of a layer of neurons.

    The tensors are scalars or broadcast against one sample ``[...]``. ``lossless`` says that the neuron
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


def integrate(v: Tensor, current: Tensor) -> Tensor:
    """``u_t = v_{t-1} + I_t``."""
    return v + current


def carry_below(u: Tensor, dynamics: Dynamics) -> Tensor:
    """What a neuron that stayed silent carries to the next step."""
    return dynamics.decay * u


def carry_above(u: Tensor, dynamics: Dynamics) -> Tensor:
    """What a neuron that fired carries to the next step."""
    return dynamics.gain * u + dynamics.offset


def _fires(u: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """Whether a membrane fires (bool), and what is carried on."""
    fired = u >= dynamics.threshold
    return fired, torch.where(fired, carry_above(u, dynamics), carry_below(u, dynamics))


def _pull_back(
    u: Tensor, dynamics: Dynamics, to_spikes: Tensor, to_v: Tensor, parameters: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradients towards u and (where wanted) the first five fields of the dynamics, through `_fires`.

    With a and c the gradients towards the spike and what is carried:
    ``du = (a + c (above - below)) surrogate'(u - threshold) + c (gain if fired else decay)``.
    """
    fired = u >= dynamics.threshold
    jump = carry_above(u, dynamics) - carry_below(u, dynamics)
    through_spike = (to_spikes + to_v * jump) * dynamics.surrogate.derivative(u - dynamics.threshold)
    to_u = through_spike + to_v * torch.where(fired, dynamics.gain, dynamics.decay)
    if not parameters:
        return to_u, ()
    above, below = to_v * fired, to_v * ~fired
    terms = (-through_spike, below * u, torch.zeros_like(u), above * u, above)
    return to_u, tuple(t.sum_to_size(p.shape) for t, p in zip(terms, dynamics[:5], strict=True))


class _Fire(torch.autograd.Function):
    """`_fires` for membranes of a single step."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, dynamics: Dynamics, *parameters: Tensor) -> Any:
        fired, carried = _fires(u, dynamics)
        ctx.save_for_backward(u)
        ctx.dynamics = dynamics
        return fired.to(u.dtype), carried

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_spikes, to_v = gradients
        wanted = ctx.needs_input_grad[2:]
        to_u, sums = _pull_back(ctx.saved_tensors[0], ctx.dynamics, to_spikes, to_v, any(wanted))
        return to_u, None, *(sums or (None for _ in wanted))


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
    """What a layer of neurons did: ``membranes`` (before firing) and ``spikes``, both ``[T, B, ...]``."""

    membranes: Tensor
    spikes: Tensor


class _Scan(torch.autograd.Function):
    """All steps at once, keeping the membranes alone: the graph of the single steps is never built."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, dynamics: Dynamics, *parameters: Tensor) -> Any:
        v = dynamics.initial.expand(currents.shape[1:])
        membranes, spikes = (torch.empty_like(currents) for _ in range(2))
        for t, current in enumerate(currents):
            membranes[t] = u = integrate(v, current)
            spikes[t], v = _fires(u, dynamics)
        ctx.save_for_backward(membranes)
        ctx.dynamics = dynamics
        return membranes, spikes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_membranes, to_spikes = gradients
        (membranes,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        to_currents, to_v = torch.empty_like(membranes), torch.zeros_like(membranes[0])
        sums: list[Tensor] = []
        for t in reversed(range(len(membranes))):
            to_u, found = _pull_back(membranes[t], ctx.dynamics, to_spikes[t], to_v, any(wanted))
            to_currents[t] = to_v = to_membranes[t] + to_u
            sums = [s + f for s, f in zip(sums, found, strict=True)] if sums else list(found)
        if sums:
            sums[2] = to_v.sum_to_size(sums[2].shape)  # the initial potential is what step 1 carries
        return to_currents, None, *(sums or (None for _ in wanted))


def scan(currents: Tensor, dynamics: Dynamics) -> Trace:
    """Run a layer of neurons over time.

    Args:
        currents: ``[T, B, ...]``.
        dynamics: the neurons. Gradients flow to its parameters and, through the surrogate, to the currents.
    """
    membranes, spikes = _Scan.apply(currents, dynamics, *dynamics[:5])
    return Trace(membranes, spikes)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return float(value)


class Neuron(nn.Module, ABC):
    """A layer of neurons with common parameters; `LIF` and `IF` are its two faces.

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
        if isinstance(reset, str) and reset not in ("zero", "subtract"):
            raise ValueError(
                f"reset must be 'zero', 'subtract', a float or a pair (gain, offset), got {reset!r}"
            )
        self.threshold = nn.Parameter(torch.tensor(float(threshold)), requires_grad=learn_threshold)
        self.decay = nn.Parameter(torch.tensor(float(decay)), requires_grad=learn_decay)
        self.register_buffer("initial", torch.tensor(_finite("initial", initial)))
        self.surrogate = Rectangle() if surrogate is None else surrogate
        self.reset = reset
        if isinstance(reset, (tuple, list)):
            if len(reset) != 2:
                raise ValueError(f"reset as a pair is (gain, offset), got {reset!r}")
            gain, offset = (_finite("reset", value) for value in reset)
            if gain < 0:
                raise ValueError(f"the gain of the upper branch must be >= 0, got {gain}")
            self.reset = (gain, offset)
        elif not isinstance(reset, str):
            self.reset = _finite("reset", reset)

    def dynamics(self) -> Dynamics:
        """The neuron's current parameters, differentiable where they are trained."""
        threshold, decay = self.threshold.clamp_min(LEAST_THRESHOLD), self.decay.clamp(0, 1)
        gain, offset = self._upper_branch(threshold, decay)
        lossless = float(decay.detach()) == 1 and float(gain.detach()) == 1
        return Dynamics(threshold, decay, self.initial, gain, offset, lossless, self.surrogate)

    def _upper_branch(self, threshold: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
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
        return (
            f"threshold={float(self.threshold.detach()):g}, decay={float(self.decay.detach()):g}, "
            f"reset={self.reset!r}, initial={float(self.initial):g}"
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
