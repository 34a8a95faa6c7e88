"""Scale and shift of each channel: normalisation, and a fixed gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine.base import MAPS, Affine, per_channel, refuse


@final
@dataclass(frozen=True)
class Diagonal(Affine):
    """``scale x + shift`` per channel; both ``[C]``, or ``[1]`` for all channels alike; channels are axis 1.

    ``dims``: how many axes may follow the channels.
    """

    scale: Tensor
    shift: Tensor | None
    dims: tuple[int, ...]

    def terms(self, shape: Sequence[int]) -> int:
        return 1

    @property
    def gain(self) -> float:
        return float(self.scale.detach().abs().max())

    @property
    def bias(self) -> Tensor | None:
        return self.shift

    def apply(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if self.shift is None else y + per_channel(self.shift, y)

    def linear(self, x: Tensor) -> Tensor:
        channels = len(self.scale)
        if x.ndim - 2 not in self.dims or channels not in (1, x.shape[1]):
            takes = " or ".join(f"[N, {channels}{MAPS[dims]}]" for dims in self.dims)
            advice = "it has one scale and shift a channel"
            refuse(f"normalisation of {channels} channels", takes, x, advice)
        return x * per_channel(self.scale, x)

    def magnitude(self, x: Tensor) -> Tensor:
        return x * per_channel(self.scale.abs(), x)

    def transposed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        return self.linear(y)

    def to(self, dtype: torch.dtype) -> Diagonal:
        return Diagonal(self.scale.to(dtype), None if self.shift is None else self.shift.to(dtype), self.dims)
