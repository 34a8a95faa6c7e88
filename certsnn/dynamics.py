r"""Spiking neurons: one two-branch model that the forward pass, the bounds and the attacks share.

.. math::
    u_t &= v_{t-1} + I_t, \qquad v_0 = \mathrm{initial} \\
    s_t &= 1[u_t \ge \mathrm{threshold}] \\
    v_t &= \mathrm{decay} \cdot u_t              \quad\text{below the threshold} \\
        &= \mathrm{gain} \cdot u_t + \mathrm{offset} \quad\text{from the threshold on}

IF is ``decay = 1``. The upper branch ``(gain, offset)`` is the reset: ``(0, 0)`` to zero, ``(0, decay x)``
to the value x, ``(decay, -decay threshold)`` by subtraction. A model that fires on a strict ``>`` is the
same neuron with the next larger threshold.

The order of the floating-point operations (`Order`) is part of the semantics that certificates speak about:
the interval bounds run the same operations, and since rounding is monotone they need no widening there (see
``certsnn.bounds.interval``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from certsnn.surrogates import Surrogate

NUMBERS = ("threshold", "decay", "initial", "gain", "offset")
"""The fields of `Dynamics` that are numbers: tensors that may be trained."""
STEPWISE = ("threshold", "decay", "gain", "offset")
"""Those that act at every step."""


class Dynamics(NamedTuple):
    """The parameters of a layer of neurons, for the forward pass and the bounds.

    The tensors (`NUMBERS`) are one number for all neurons of the layer, or broadcast against one sample's
    membranes. ``lossless`` says that all neurons conserve charge (decay = gain = 1), so that ``u_t = initial
    + sum of currents + offset * (spikes so far)``: the condition for bounds in the count domain. ``order`` is
    that of the floating-point operations of a step.
    """

    threshold: Tensor
    decay: Tensor
    initial: Tensor
    gain: Tensor
    offset: Tensor
    lossless: bool
    surrogate: Surrogate
    order: Order

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


Ends = tuple[Tensor, Tensor]
"""A lower and an upper bound."""


class Order(ABC):
    """The order in which a step is executed: the same real numbers, rounded at other places.

    Every operation is monotone in the membrane and in the current, also as rounded. So bounds are the
    executed operations on end points, of both branches at the threshold where a neuron is unstable.
    """

    name: ClassVar[str]
    additions: ClassVar[int]
    """Additions of a step whose result is a membrane, or one but for a reset."""

    @abstractmethod
    def subtraction(self, threshold: Tensor, decay: Tensor) -> Tensor:
        """The offset of a reset by subtraction."""

    @abstractmethod
    def advance(
        self, u: Tensor, fired: Tensor, current: Tensor, dynamics: Dynamics, out: Tensor | None = None
    ) -> Tensor:
        """The membrane after the next current, written to ``out`` where it is given."""

    @abstractmethod
    def advance_ends(
        self, u: Ends, fired: Ends, currents: Ends, edges: Ends, dynamics: Dynamics, out: Ends
    ) -> None:
        """`advance` for bounds, written to ``out``; ``edges`` are those of `edges_of`."""


@final
class ResetFirst(Order):
    """Decay and reset, then the current: ``u_t = v_{t-1} + I_t``."""

    name = "reset-first"
    additions = 1

    def subtraction(self, threshold: Tensor, decay: Tensor) -> Tensor:
        return -(decay * threshold)

    def advance(
        self, u: Tensor, fired: Tensor, current: Tensor, dynamics: Dynamics, out: Tensor | None = None
    ) -> Tensor:
        return integrate(carry(u, fired, dynamics), current, out)

    def advance_ends(
        self, u: Ends, fired: Ends, currents: Ends, edges: Ends, dynamics: Dynamics, out: Ends
    ) -> None:
        unstable = _differ(*fired)
        low, high = (carry(end, spikes, dynamics) for end, spikes in zip(u, fired, strict=True))
        # The branches are compared before the current is added: that is monotone, and an operation less.
        integrate(choose(low, torch.minimum(low, edges[0]), unstable), currents[0], out=out[0])
        integrate(choose(high, torch.maximum(high, edges[1]), unstable), currents[1], out=out[1])


@final
class CurrentFirst(Order):
    """Decay, then the current, then the reset's offset: ``u_t = (decay u_{t-1} + I_t) + offset s_{t-1}``.

    That is snnTorch's ``beta * mem + input - reset * threshold``. (A fired neuron's factor is the gain.)
    """

    name = "current-first"
    additions = 2

    def subtraction(self, threshold: Tensor, decay: Tensor) -> Tensor:
        return -threshold

    def advance(
        self, u: Tensor, fired: Tensor, current: Tensor, dynamics: Dynamics, out: Tensor | None = None
    ) -> Tensor:
        kept = u
        if not dynamics.lossless:
            kept = choose(dynamics.decay * u, dynamics.gain * u, fired)
        return torch.addcmul(integrate(kept, current), dynamics.offset, fired, out=out)

    def advance_ends(
        self, u: Ends, fired: Ends, currents: Ends, edges: Ends, dynamics: Dynamics, out: Ends
    ) -> None:
        unstable = _differ(*fired)
        low, high = (self.advance(*ends, dynamics) for ends in zip(u, fired, currents, strict=True))
        # At the threshold the other branch has its end. Rounding may reverse the order of the branches, so
        # they are compared as executed, with all that is added.
        least = integrate(dynamics.gain * dynamics.threshold, currents[0]) + dynamics.offset
        most = integrate(dynamics.decay * dynamics.threshold, currents[1])
        out[0].copy_(choose(low, torch.minimum(low, least), unstable))
        out[1].copy_(choose(high, torch.maximum(high, most), unstable))


def edges_of(dynamics: Dynamics) -> Ends:
    """What is carried from the threshold: the least of a neuron that fires, and the most of a silent one."""
    return carry_above(dynamics.threshold, dynamics), carry_below(dynamics.threshold, dynamics)


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Where two tensors differ, 0 or 1 in their dtype."""
    return torch.ne(one, other, out=torch.empty_like(one))


RESET_FIRST, CURRENT_FIRST = ResetFirst(), CurrentFirst()
ORDERS: Mapping[str, Order] = {order.name: order for order in (RESET_FIRST, CURRENT_FIRST)}
"""By name."""


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
