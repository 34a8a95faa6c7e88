r"""Interval arithmetic through affine operators, with or without the rounding of the executed network.

A certificate must hold for the float32 network as it is executed, in any summation order. One output of an
affine operator, a dot product of n terms computed in float32, is off by at most

.. math:: \gamma_{n+2} (|A| |x| + |b|), \qquad \gamma_k = k u / (1 - k u), \quad u = 2^{-24}

(Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, https://doi.org/10.1137/1.9780898718027,
section 3.1; two more terms for the bias and for a division or scaling). `RIGOROUS` widens by
this and computes in float64, whose own error is at most :math:`2^{-29}` of that and is covered by enlarging
:math:`\gamma` by a factor :math:`1 + 2^{-20}`; numbers that underflow are covered by an absolute term.

Everything else in the network works elementwise and is a monotone function, computed by the same float32
operations in the same order as in the forward pass. Rounding is monotone, so those operations applied to
float32 end points bound the executed values *exactly*, without any widening: also the rounding of a float64
end point to float32, for the executed value is a float32 number on the same side.

`PLAIN`, for training, computes in the network's own dtype and widens nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certsnn.affine import Affine, per_channel

FLOAT32_UNIT = 2.0**-24
UNDERFLOW = 2.0**-125
"""More than a float32 operation loses to underflow, or to a processor that takes a subnormal sum as 0."""

MOST_TERMS = 2**22
"""A sum of more terms may be off by a third of its magnitude; from 2^24 - 2 on there is no bound at all."""


class Interval(NamedTuple):
    """Elementwise bounds, ``lower <= x <= upper``."""

    lower: Tensor
    upper: Tensor


def intersect(one: Interval, other: Interval) -> Interval:
    """What lies in both; bounds that cross by noise (rounding left out) are swapped."""
    low, high = torch.maximum(one.lower, other.lower), torch.minimum(one.upper, other.upper)
    return Interval(torch.minimum(low, high), torch.maximum(low, high))


@final
class _Middle(torch.autograd.Function):
    """Centre and width of an interval."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> Any:
        return torch.lerp(lower, upper, 0.5), upper - lower

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_centre, to_width = gradients
        half = to_centre / 2
        return half - to_width, half.add_(to_width)


@final
class _Ends(torch.autograd.Function):
    """The interval of a centre and a width, which is halved on the way."""

    @staticmethod
    def forward(ctx: Any, centre: Tensor, width: Tensor) -> Any:
        return torch.sub(centre, width, alpha=0.5), torch.add(centre, width, alpha=0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        to_lower, to_upper = gradients
        return to_lower + to_upper, (to_upper - to_lower).div_(2)


class Enclosure(NamedTuple):
    """An interval of sums over steps, and a bound on the sums of magnitudes (for rounding errors)."""

    interval: Interval
    magnitude: Tensor


@final
@dataclass(frozen=True)
class Arithmetic:
    """How bounds are computed.

    Args:
        unit: unit roundoff of the executed network's arithmetic; 0 to leave rounding out.
        dtype: what the products of bounds are computed in; None for the network's own dtype.
        underflow: what one product and its addition can lose to underflow.
    """

    unit: float
    dtype: torch.dtype | None
    underflow: float = UNDERFLOW

    def within(self, largest: float) -> Arithmetic:
        """This arithmetic for a network whose inputs, activations and rows of weights are at most so large.

        A processor that takes subnormal factors as 0 loses at most ``2^-126 |x|`` with a subnormal weight and
        ``2^-126 |w|`` with a subnormal x. With n terms that is ``2^-126 (sum |w| + sum |x|) <= 2^-126 (n + 1)
        largest``.
        """
        return replace(self, underflow=UNDERFLOW * (1 + largest))

    def describe(self) -> str:
        """What bounds computed like this speak about."""
        if self.unit:
            return "the float32 network as executed"
        return "the network without rounding errors"

    def gamma(self, terms: int) -> float:
        """The relative error of a dot product of this many terms.

        Raises:
            ValueError: for more terms than `MOST_TERMS`, for which the bound is worth nothing.
        """
        if terms > MOST_TERMS and self.unit:
            raise ValueError(f"no bound of rounding errors for {terms} terms; at most {MOST_TERMS}")
        error = (terms + 2) * self.unit
        return error / (1 - error) * (1 + 2.0**-20)

    def raised(self, x: Tensor) -> Tensor:
        """x in the dtype of the products."""
        return x if self.dtype is None else x.to(self.dtype)

    def operator(self, operator: Affine) -> Affine:
        """The operator with its numbers in the dtype of the products."""
        return operator if self.dtype is None else operator.to(self.dtype)

    def chain(
        self, operators: Sequence[Affine], interval: Interval, repeats: Tensor | None = None
    ) -> Interval:
        """Bounds of a chain of operators on a batch ``[N, ...]``.

        Args:
            operators: the operators, first to last.
            interval: bounds of the inputs, or of sums of ``repeats`` inputs that are all >= 0.
            repeats: how many inputs each row sums up, ``[N]`` (so the bias counts that often); None is 1.

        Returns:
            Bounds of the executed outputs (of their exact sums), in the dtype of the products.
        """
        interval = Interval(self.raised(interval.lower), self.raised(interval.upper))
        magnitude = torch.maximum(-interval.lower, interval.upper) if self.unit else interval.upper
        return self.resume(operators, Enclosure(interval, magnitude), repeats)

    def resume(self, operators: Sequence[Affine], enclosure: Enclosure, repeats: Tensor | None) -> Interval:
        """`chain` from an enclosure whose magnitudes are known."""
        if not operators:
            return enclosure.interval
        enclosure = self.enclose(operators[:-1], enclosure, repeats)
        return self._interval(self.operator(operators[-1]), enclosure, repeats)

    def enclose(self, operators: Sequence[Affine], enclosure: Enclosure, repeats: Tensor | None) -> Enclosure:
        """`resume` with the magnitudes of the outputs (the inputs' own where rounding is left out)."""
        for plain in operators:
            operator = self.operator(plain)
            interval = self._interval(operator, enclosure, repeats)
            enclosure = Enclosure(interval, self._magnitude(operator, enclosure.magnitude, repeats))
        return enclosure

    def lost(self, operators: Sequence[Affine], magnitude: Tensor) -> Tensor:
        """How far the executed outputs of a chain may be from the exact ones, for one batch ``[N, ...]``.

        Args:
            operators: the operators, first to last.
            magnitude: bounds of the inputs' magnitudes.
        """
        size = self.raised(magnitude)
        error = torch.zeros_like(size)
        for plain in operators:
            operator = self.operator(plain)
            terms = operator.terms(size.shape[1:])
            exact = operator.magnitude(size)
            if operator.bias is not None:
                exact = exact + per_channel(operator.bias.abs(), exact)
            error = operator.magnitude(error)
            if terms:
                error = (error + self.gamma(terms) * exact) * (1 + 2.0**-20)
                error = error + (terms + 2) * self.underflow
            size = exact + error
        return error

    def _interval(self, operator: Affine, enclosure: Enclosure, repeats: Tensor | None) -> Interval:
        (lower, upper), magnitude = enclosure
        terms = operator.terms(lower.shape[1:])
        if not terms:
            return Interval(operator.linear(lower), operator.linear(upper))
        centre, width = _Middle.apply(lower, upper)
        if self.unit:
            width = torch.add(width, magnitude, alpha=2 * self.gamma(terms))
        centre, width = operator.linear(centre), operator.magnitude(width)
        times = _rows(repeats, centre)
        if operator.bias is not None:
            bias = per_channel(operator.bias, centre)
            centre = torch.addcmul(centre, bias, times)
        if self.unit:
            lost = 2 * (terms + 2) * self.underflow * times
            if operator.bias is not None:
                lost = lost + 2 * self.gamma(terms) * times * bias.abs()
            width = width + lost
        return Interval(*_Ends.apply(centre, width))

    def _magnitude(self, operator: Affine, magnitude: Tensor, repeats: Tensor | None) -> Tensor:
        if not self.unit:
            return magnitude
        size = operator.magnitude(magnitude)
        if operator.bias is not None:
            size = size + per_channel(operator.bias.abs(), size) * _rows(repeats, size)
        terms = operator.terms(magnitude.shape[1:])
        if not terms:
            return size
        lost = (terms + 2) * self.underflow * _rows(repeats, size)
        return size * (1 + 2 * self.gamma(terms)) + lost


def _rows(repeats: Tensor | None, outputs: Tensor) -> Tensor:
    """``repeats [N]`` as factors for the outputs ``[N, ...]``; 1 where every row is a single output."""
    if repeats is None:
        return outputs.new_ones(())
    return repeats.to(outputs.dtype).view(-1, *[1] * (outputs.ndim - 1))


PLAIN = Arithmetic(0.0, None)
RIGOROUS = Arithmetic(FLOAT32_UNIT, torch.float64)
