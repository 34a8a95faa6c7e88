"""Scale and shift of each channel: normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine.base import Affine, refuse


@final
@dataclass(frozen=True)
class Diagonal(Affine):
    """``scale x + shift`` per channel; both ``[C]``, channels are axis 1, ``dims`` axes follow it."""

    scale: Tensor
    shift: Tensor
    dims: int

    def _aligned(self, values: Tensor) -> Tensor:
        """Values ``[C]``, shaped to broadcast against ``[N, C, ...]``."""
        return values.reshape(-1, *[1] * self.dims)

    def terms(self, shape: Sequence[int]) -> int:
        return 1

    @property
    def gain(self) -> float:
        return float(self.scale.detach().abs().max())

    @property
    def bias(self) -> Tensor | None:
        return self._aligned(self.shift)

    def apply(self, x: Tensor) -> Tensor:
        return self.linear(x) + self._aligned(self.shift)

    def linear(self, x: Tensor) -> Tensor:
        channels, maps = len(self.scale), ", H, W" if self.dims else ""
        if x.ndim != 2 + self.dims or channels not in (1, x.shape[1]):  # a single one is for all channels
            advice = "it has one scale and shift a channel"
            refuse(f"normalisation of {channels} channels", f"[N, {channels}{maps}]", x, advice)
        return x * self._aligned(self.scale)

    def magnitude(self, x: Tensor) -> Tensor:
        return x * self._aligned(self.scale.abs())

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return self.linear(y)

    def to(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(self.scale.to(dtype), self.shift.to(dtype), self.dims)
