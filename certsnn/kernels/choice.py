"""Which kernels run: the compiled ones where they can and pay, torch's elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import final

import torch
from torch import Tensor

from certsnn.kernels.base import Kernels
from certsnn.kernels.reference import Reference
from certsnn.kernels.setting import AUTO, TORCH, asked_for, installed

DTYPES = (torch.float32, torch.float64)
LOADING = 2e9
"""Elements whose scans in torch take some seconds, as compiling does the first time."""


@final
class Choice:
    """The kernels of a process, compiled or in torch.

    The compiled ones take over when ``left`` elements have been worked on: so a process that ends before that
    never loads them, and none takes twice as long as it could. Results do not tell when that happens.
    """

    def __init__(self, compiles: bool, left: float) -> None:
        self._reference = Reference()
        self._compiled: Kernels = self._reference
        self._waits, self._left = compiles, left

    def among(self, arrays: Sequence[Tensor], numbers: Sequence[Tensor]) -> Kernels:
        """The kernels for arrays over time, and parameters of neurons."""
        if not _compilable(arrays, numbers):
            return self._reference
        if self._waits:
            self._left -= sum(array.numel() for array in arrays)
            if self._left <= 0:
                self._waits, self._compiled = False, _load(self._reference)
        return self._compiled


def _compilable(arrays: Sequence[Tensor], numbers: Sequence[Tensor]) -> bool:
    dtype = arrays[0].dtype
    alike = all(array.dtype == dtype and laid_out(array).is_contiguous() for array in arrays)
    known = dtype in DTYPES and all(number.dtype in (dtype, torch.float32) for number in numbers)
    given = (*arrays, *numbers)
    return alike and known and not recorded(given) and all(x.device.type == "cpu" for x in given)


def recorded(tensors: Iterable[Tensor]) -> bool:
    """Whether operations on some of these are recorded for a backward pass."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def laid_out(array: Tensor) -> Tensor:
    """The steps ``[T, ...]`` that have memory of their own: one, where all are the same."""
    return array[:1] if len(array) > 1 and array.stride(0) == 0 else array


def _load(otherwise: Kernels) -> Kernels:
    """The compiled kernels, or torch's, with a warning, where numba is there and broken."""
    try:
        from certsnn.kernels.fused import Fused
    except Exception as error:  # of whatever numba, its compiler and its versions can come to
        warnings.warn(f"numba cannot be used, so torch computes alone: {error}", stacklevel=2)
        return otherwise
    return Fused()


@cache
def _choice() -> Choice:
    name = asked_for()
    return Choice(name != TORCH and installed(), LOADING if name == AUTO else 0)


def kernels(arrays: Sequence[Tensor], numbers: Sequence[Tensor]) -> Kernels:
    """The kernels for arrays over time ``[T, ...]``, and parameters of neurons: chosen once per process.

    Raises:
        UserError: for a setting that is none (`certsnn.kernels.setting`).
    """
    return _choice().among(arrays, numbers)
