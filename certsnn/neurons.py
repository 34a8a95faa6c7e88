"""Layers of spiking neurons, as modules of a network; what they compute is in `certsnn.dynamics`."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from certsnn.dynamics import ORDERS, RESET_FIRST
from certsnn.dynamics import Dynamics as Dynamics
from certsnn.layers import check_hooks
from certsnn.scan import Trace as Trace
from certsnn.scan import scan as scan
from certsnn.surrogates import Rectangle, Surrogate

LEAST_THRESHOLD = 1e-6
Number = float | Tensor
"""One number for all neurons of a layer, or one for each channel or neuron."""
OrderName = Literal["reset-first", "current-first"]
Reset = Literal["zero", "subtract"] | Number | tuple[Number, Number]


def _finite(name: str, value: Number) -> Number:
    """A float, or a copy of a tensor in the default dtype; raises ValueError for NaN and infinity."""
    found = torch.as_tensor(value)
    if not bool(found.isfinite().all()):
        shown = "a tensor with others" if isinstance(value, Tensor) else value
        raise ValueError(f"{name} must be a finite number, got {shown}")
    return (
        found.detach().to(torch.get_default_dtype(), copy=True) if isinstance(value, Tensor) else float(value)
    )


def _within(name: str, value: Number, least: float, most: float, message: str) -> Tensor:
    """The value as a tensor; raises ValueError, with the message, where it leaves the range."""
    found = torch.as_tensor(_finite(name, value), dtype=torch.get_default_dtype())
    exact = found if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
    outside = (exact < least) | (exact > most)
    if bool(outside.any()):
        raise ValueError(f"{name} must {message}, got {float(exact[outside][0]):g}")
    return found


def _checked_reset(reset: Reset) -> Reset:
    """The reset as `Neuron` takes it; raises ValueError for anything else."""
    if isinstance(reset, str):
        if reset not in ("zero", "subtract"):
            raise ValueError(
                f"reset must be 'zero', 'subtract', a number or a pair (gain, offset), got {reset!r}"
            )
        return reset
    if not isinstance(reset, (tuple, list)):
        return _finite("reset", reset)
    if len(reset) != 2:
        raise ValueError(f"reset as a pair is (gain, offset), got {reset!r}")
    gain, offset = (_finite("reset", value) for value in reset)
    if bool((torch.as_tensor(gain) < 0).any()):
        raise ValueError(f"the gain of the upper branch must be >= 0, got {gain}")
    return gain, offset


def _shown(value: Reset) -> str:
    """A parameter in a representation: a number, or the shape and the range of several."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if not isinstance(value, Tensor):
        return repr(value)
    value = value.detach()
    if value.numel() == 1:
        return f"{float(value):g}"
    return f"{list(value.shape)} in [{float(value.min()):g}, {float(value.max()):g}]"


class Neuron(nn.Module, ABC):
    """A layer of neurons: the base class of `LIF` and `IF`.

    A parameter is one number for all neurons of the layer, or a tensor with as many axes as one sample's
    membranes: ``[C, 1, 1]`` for each channel of ``[C, H, W]``, ``[n]`` or ``[C, H, W]`` for each neuron.

    Args:
        threshold: firing threshold, at least `LEAST_THRESHOLD`.
        decay: share of the membrane potential that is kept from step to step, in [0, 1].
        reset: ``"zero"``, ``"subtract"``, a number (reset to that potential, before decay), or the pair
            ``(gain, offset)`` of the upper branch with gain >= 0.
        initial: potential before the first step.
        surrogate: gradient of the spike.
        learn_threshold: train the threshold (used clamped to at least `LEAST_THRESHOLD`).
        learn_decay: train the decay (used clamped to [0, 1]).
        order: of a step's operations. ``"reset-first"``: decay and reset, then the current.
            ``"current-first"`` (snnTorch's): decay, then the current, then the offset of the reset, which is
            the whole threshold for ``"subtract"``.

    Raises:
        ValueError: for parameters outside the ranges above.
    """

    initial: Tensor

    def __init__(
        self,
        threshold: Number,
        decay: Number,
        reset: Reset,
        initial: Number,
        surrogate: Surrogate | None,
        learn_threshold: bool,
        learn_decay: bool,
        order: OrderName = "reset-first",
    ) -> None:
        super().__init__()
        if order not in ORDERS:
            raise ValueError(
                f"order must be 'reset-first' or 'current-first', got {order!r}. (snnTorch's "
                "reset_delay=False is 'reset-first' for a reset to zero. For 'subtract' it is neither: it "
                "takes the reset before back wherever the membrane stays above the threshold.)"
            )
        self.order = ORDERS[order]
        least = f"be at least {LEAST_THRESHOLD}"
        threshold = _within("threshold", threshold, LEAST_THRESHOLD, math.inf, least)
        decay = _within("decay", decay, 0, 1, "lie in [0, 1]")
        self.threshold = nn.Parameter(threshold, requires_grad=learn_threshold)
        self.decay = nn.Parameter(decay, requires_grad=learn_decay)
        self.register_buffer("initial", _within("initial", initial, -math.inf, math.inf, "be finite"))
        self.surrogate = Rectangle() if surrogate is None else surrogate
        self.reset = reset

    @property
    def reset(self) -> Reset:
        """The reset, as the class takes it."""
        parts = tuple(getattr(self, name) for name in self._reset_parts)
        found: Reset = parts if len(parts) == 2 else parts[0]
        return found

    @reset.setter
    def reset(self, reset: Reset) -> None:
        checked = _checked_reset(reset)
        for name in ("reset_to", "reset_gain", "reset_offset"):
            if hasattr(self, name):
                delattr(self, name)
        parts: Sequence[Reset] = checked if isinstance(checked, tuple) else (checked,)
        self._reset_parts = ("reset_to",) if len(parts) == 1 else ("reset_gain", "reset_offset")
        for name, part in zip(self._reset_parts, parts, strict=True):
            # Tensors move with the network and are saved with it; numbers are part of its description.
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

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
            ValueError: for parameters whose shapes do not fit each other.
        """
        threshold, decay = self.threshold.clamp_min(LEAST_THRESHOLD), self.decay.clamp(0, 1)
        try:
            gain, offset = self._upper_branch(threshold, decay)
        except RuntimeError as error:
            raise ValueError(f"the shapes of parameters do not fit each other: {self}") from error
        lossless = bool((decay.detach() == 1).all()) and bool((gain.detach() == 1).all())
        return Dynamics(threshold, decay, self.initial, gain, offset, lossless, self.surrogate, self.order)

    def _upper_branch(self, threshold: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        """``(gain, offset)`` of the upper branch."""
        zero, reset = decay.new_zeros(()), self.reset
        if reset == "zero":
            return zero, zero
        if reset == "subtract":
            return decay, self.order.subtraction(threshold, decay)
        if isinstance(reset, tuple):
            gain, offset = reset
            return zero + gain, zero + offset
        return zero, decay * reset

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes ``[T, B, ...]`` of the currents ``[T, B, ...]``."""
        return scan(currents, self.dynamics()).spikes

    def extra_repr(self) -> str:
        names = ("threshold", "decay", "reset", "initial")
        shown = [f"{name}={_shown(getattr(self, name))}" for name in names]
        return ", ".join(shown if self.order is RESET_FIRST else [*shown, f"order={self.order.name!r}"])


@final
class LIF(Neuron):
    """Leaky integrate-and-fire; see `Neuron` for the arguments and errors."""

    def __init__(
        self,
        threshold: Number = 1.0,
        decay: Number = 0.5,
        reset: Reset = "zero",
        initial: Number = 0.0,
        surrogate: Surrogate | None = None,
        learn_threshold: bool = False,
        learn_decay: bool = False,
        order: OrderName = "reset-first",
    ) -> None:
        super().__init__(threshold, decay, reset, initial, surrogate, learn_threshold, learn_decay, order)


@final
class IF(Neuron):
    """Integrate-and-fire (decay 1); reset by subtraction unless told otherwise. See `Neuron`."""

    def __init__(
        self,
        threshold: Number = 1.0,
        reset: Reset = "subtract",
        initial: Number = 0.0,
        surrogate: Surrogate | None = None,
        learn_threshold: bool = False,
        order: OrderName = "reset-first",
    ) -> None:
        super().__init__(threshold, 1.0, reset, initial, surrogate, learn_threshold, False, order)
