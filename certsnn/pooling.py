"""Maxima over windows of each channel: ``torch.nn.MaxPool1d`` and ``MaxPool2d`` as the bounds need them.

A maximum is not affine: for bounds it is a node of its own (`certsnn.bounds.linear.maximum`). It is monotone
in each input, so it maps the ends of intervals to the ends of the result; and it computes nothing, so nothing
is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn.affine import check_maps, refuse, sizes
from certsnn.layers import check_plain


class Windows(NamedTuple):
    """The inputs of each output within one channel: L outputs, of windows of K places, both flattened.

    ``places [L, K]``: where in the flattened map; ``inside``: bool ``[L, K]``, False for padding (place 0).
    """

    places: Tensor
    inside: Tensor


@final
@dataclass(frozen=True)
class MaxPool:
    """The maximum over windows of ``[N, C, L]`` or ``[N, C, H, W]``, padded with minus infinity.

    Kernel, stride, padding and dilation are one number for each axis. ``ceil_mode``: whether windows that
    reach beyond the end are kept.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    def apply(self, x: Tensor) -> Tensor:
        """The maxima of ``x [N, C, ...]``; raises ValueError for maps that the windows do not fit."""
        check_maps(x, len(self.kernel), "MaxPool")
        if not all(out > 0 for out in self.outputs(x.shape[2:])):
            refuse(f"MaxPool{len(self.kernel)}d", "larger maps", x, "its kernel does not fit in")
        self.windows(x.shape[2:])
        pool = F.max_pool1d if len(self.kernel) == 1 else F.max_pool2d
        y: Tensor = pool(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)
        return y

    def outputs(self, size: Sequence[int]) -> tuple[int, ...]:
        """The size of the outputs for maps of this size, counted as torch does."""
        found = []
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        for inputs, kernel, stride, padding, dilation in axes:
            more = stride - 1 if self.ceil_mode else 0
            outputs = (inputs + 2 * padding - dilation * (kernel - 1) - 1 + more) // stride + 1
            # A window must begin within the map or the padding before it.
            found.append(outputs - (self.ceil_mode and (outputs - 1) * stride >= inputs + padding))
        return tuple(found)

    def windows(self, size: Sequence[int]) -> Windows:
        """The windows over maps of this size; raises ValueError for one that holds nothing but padding."""
        return _windows(self, tuple(size))


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept beyond the call, and gradients may be asked for then
def _windows(pool: MaxPool, size: tuple[int, ...]) -> Windows:
    places, inside = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    axes = zip(size, pool.outputs(size), pool.kernel, pool.stride, pool.padding, pool.dilation, strict=True)
    for inputs, outputs, kernel, stride, padding, dilation in axes:
        at = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation
        within = (at >= 0) & (at < inputs)
        places = (places[:, None, :, None] * inputs + at[:, None]).flatten(2).flatten(0, 1)
        inside = (inside[:, None, :, None] & within[:, None]).flatten(2).flatten(0, 1)
    if not inside.any(1).all():
        raise ValueError(f"a window of {pool} lies in the padding of maps of the size {size}; pad by less")
    return Windows(places.where(inside, 0), inside)


def max_pool_of(module: nn.MaxPool1d | nn.MaxPool2d) -> MaxPool:
    """A layer of torch's as it acts.

    Raises:
        TypeError: for one that does more than its class says, or returns the indices, too.
        ValueError: for padding by more than half of the kernel.
    """
    kind, axes = (nn.MaxPool1d, 1) if isinstance(module, nn.MaxPool1d) else (nn.MaxPool2d, 2)
    check_plain(module, kind)
    if module.return_indices:
        raise TypeError(f"{kind.__name__} is supported with return_indices=False only")
    kernel, stride, padding = (
        sizes(value, axes) for value in (module.kernel_size, module.stride, module.padding)
    )
    pool = MaxPool(kernel, stride, padding, sizes(module.dilation, axes), module.ceil_mode)
    if any(2 * before > size for before, size in zip(padding, kernel, strict=True)):
        raise ValueError(f"{module} pads by more than half of its kernel; use a smaller padding")
    return pool
