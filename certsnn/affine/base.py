"""The interface of affine operators, and the checks of their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor


def check_axes(x: Tensor, axes: int, rule: str) -> None:
    """Raise ValueError with the rule unless x has this number of axes."""
    if x.ndim != axes:
        raise ValueError(f"{rule}, but it got {_shape(x)}")


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
        """``b``, broadcastable to a batch of outputs, or None if it is zero."""

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
