"""The interface of affine operators, and the checks of their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

Size = TypeVar("Size")
MAPS = ("", ", L", ", H, W")
"""The axes after ``[N, C``, by their number."""


def sizes(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """A size for each axis, as torch's layers take it: one for all, or a sequence."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * axes if len(given) == 1 else given


def pair(values: Sequence[Size], first: Size) -> tuple[Size, Size]:
    """The values of two axes; those of a single one with ``first`` before it, for a map of one row."""
    return (first, values[0]) if len(values) == 1 else (values[0], values[1])


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Values ``[C]`` (or ``[1]``, for all channels), shaped to broadcast against ``x [N, C, ...]``."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def check_maps(x: Tensor, axes: int, layer: str) -> None:
    """Raise ValueError unless x is ``[N, C, ...]`` with this number of axes after C."""
    if x.ndim != 2 + axes:
        raise ValueError(f"{layer}{axes}d takes [N, C{MAPS[axes]}], but it got {_shape(x)}")


def refuse(layer: str, takes: str, x: Tensor, advice: str) -> NoReturn:
    """Raise ValueError: the layer does not take the input x."""
    raise ValueError(f"{layer} takes {takes}, but it got {_shape(x)}: {advice}")


def _shape(x: Tensor) -> str:
    """The shape of a batch in words, with N for the number of its samples."""
    return f"[{', '.join(['N', *map(str, x.shape[1:])])}]"


class Affine(ABC):
    """``y = A x + b`` on a batch ``[N, ...]``."""

    @abstractmethod
    def terms(self, shape: Sequence[int]) -> int:
        """The number of products in an output, for an input of this shape; 0 if nothing is computed."""

    @property
    @abstractmethod
    def bias(self) -> Tensor | None:
        """``b [C]``, one number for each channel (axis 1) of the outputs, or None if it is zero."""

    @property
    @abstractmethod
    def gain(self) -> float:
        """At least the largest ``sum_j |A_ij|``: inputs within [-1, 1] move no output further than this."""

    def summed(self, shape: Sequence[int]) -> float:
        """At least the largest partial sum of an output for inputs within [-1, 1]; `gain` by default."""
        return self.gain

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """``A x + b``."""

    @abstractmethod
    def linear(self, x: Tensor) -> Tensor:
        """``A x``."""

    @abstractmethod
    def magnitude(self, x: Tensor) -> Tensor:
        """``|A| x``."""

    @abstractmethod
    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """``A^T y`` for ``y [N, ...]`` shaped as outputs: ``[N, *shape]``, the shape of one input."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Affine:
        """The same operator with its numbers in another dtype."""
