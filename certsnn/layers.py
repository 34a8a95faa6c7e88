"""torch's layers as affine operators, exactly as they are executed in eval mode.

A bound may speak only of the executed operations. So a layer is taken by its exact type: a subclass may have
a forward of its own, which a bound of its base would ignore. Hooks and replaced forwards are refused, too.
Weights behind a parametrisation (`torch.nn.utils.parametrize`) are read as the module gives them.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from certsnn.affine import (
    AdaptivePool,
    Affine,
    AveragePool,
    Convolution,
    Dense,
    Diagonal,
    Flattened,
    Padding,
    Unflattened,
    sizes,
)

WITH_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d)
BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d)
Dropout = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
KNOWN = (
    "Linear, Conv1d/2d, AvgPool1d/2d, AdaptiveAvgPool1d/2d, SumPool1d/2d, ZeroPad1d/2d, ConstantPad1d/2d "
    "with 0, Flatten, Unflatten, BatchNorm1d/2d, Dropout, Dropout1d/2d/3d, Identity, Normalize, Scale, "
    "MaxPool1d/2d, Sequential, Residual, Branches, Graph, LIF, IF"
)
ANY_AXES = (0, 1, 2, 3)


@final
class Normalize(nn.Module):
    """``(x - mean) / std`` per channel of images ``[N, C, H, W]``, so that eps stays in raw input units.

    Raises:
        ValueError: if a std is not > 0 or the lengths differ.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"Normalize needs as many std > 0 as means, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return as_affine(self).apply(x)


@final
class Scale(nn.Module):
    """``factor * x``: a fixed gain, which is saved with the network and not trained.

    Raises:
        ValueError: for a factor that is not finite.
    """

    factor: Tensor

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not math.isfinite(factor):
            raise ValueError(f"Scale needs a finite factor, got {factor}")
        self.register_buffer("factor", torch.tensor([float(factor)]))

    def forward(self, x: Tensor) -> Tensor:
        return as_affine(self).apply(x)

    def extra_repr(self) -> str:
        return f"{float(self.factor):g}"


class SumPool(nn.Module, ABC):
    """Sums over windows of each channel; the arguments are those of torch's average pooling."""

    axes: ClassVar[int]

    @final
    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = sizes(kernel_size, self.axes)
        self.stride = self.kernel_size if stride is None else sizes(stride, self.axes)
        self.padding = sizes(padding, self.axes)
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """The sums ``[N, C, ...]``."""
        return as_affine(self).apply(x)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}"


@final
class SumPool1d(SumPool):
    """Sums over windows of ``[N, C, L]``."""

    axes: ClassVar[int] = 1


@final
class SumPool2d(SumPool):
    """Sums over windows of ``[N, C, H, W]``."""

    axes: ClassVar[int] = 2


def check_plain(module: nn.Module, kind: type[nn.Module]) -> None:
    """Raise TypeError unless calling the module runs the forward of this class and nothing else."""
    name = kind.__name__
    if parametrize.type_before_parametrizations(module) is not kind:
        raise TypeError(
            f"{type(module).__name__} is a subclass of {name}: what it does may differ from what {name} is "
            f"bounded as. Use {name} itself, or register an operator for the subclass "
            "(certsnn.layers.operator_of.register)"
        )
    check_hooks(module, name)
    if module._compiled_call_impl is not None:
        raise TypeError(
            f"the {name} has been compiled: a compiler that fuses a product and a sum runs another network. "
            "Certify one that is not"
        )
    if "forward" in vars(module):
        raise TypeError(f"the forward of a {name} has been replaced; bounds can't see that. Restore it")


def check_hooks(module: nn.Module, name: str) -> None:
    """Raise TypeError if the module, called by this name, has forward hooks."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if hooks:
        raise TypeError(
            f"a {name} has forward hooks ({', '.join(_named(hook) for hook in hooks)}), which bounds can't "
            "see. Remove them; for weight_norm and spectral_norm use torch.nn.utils.parametrizations, "
            "after pruning call torch.nn.utils.prune.remove"
        )


def _named(hook: object) -> str:
    """The name of a hook, for messages."""
    return getattr(hook, "__name__", type(hook).__name__)


@contextmanager
def settled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Parametrisations of layers in eval mode while the block runs: reading a weight then changes nothing."""
    active = [layer.parametrizations for layer in layers if parametrize.is_parametrized(layer)]
    moving = [part for one in active for part in one.modules() if part.training]  # type: ignore[union-attr]
    for part in moving:
        part.training = False
    try:
        yield
    finally:
        for part in moving:
            part.training = True


def diagonal_of(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> Diagonal:
    """Batch norm with the given statistics ``[C]`` as ``scale x + shift``, bit for bit alike on all devices.

    torch's float32 root may be off by one unit in the last place. A float64 root that is, too, still rounds
    to the right float32 number: the exact root is at least 2^-51 (relative) away from any tie. Quotients,
    products and sums are rounded correctly everywhere (IEEE 754).
    """
    scale = 1 / (variance + norm.eps).double().sqrt().to(variance.dtype)
    shift = -mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    return Diagonal(scale, shift, (2,) if isinstance(norm, nn.BatchNorm2d) else (0, 1))


def as_affine(module: nn.Module) -> Affine:
    """A torch layer, as it acts in eval mode, as an operator.

    Raises:
        TypeError: for a layer that has no bound, or does more than its class says (see `check_plain`).
        ValueError: for a layer without inputs or outputs.
    """
    bases = parametrize.type_before_parametrizations(module).__mro__
    known = [base for base in bases if base in operator_of.registry and base is not object]
    if known:
        check_plain(module, known[0])
    return operator_of(module)


@singledispatch
def operator_of(module: nn.Module) -> Affine:
    """The operator of a layer whose class is known; register a function here to add a class.

    Raises:
        TypeError: for a layer that has no bound.
    """
    raise TypeError(
        f"certsnn has no bound for the layer {type(module).__name__}; it knows {KNOWN}. Another affine "
        "layer can be added with certsnn.layers.operator_of.register"
    )


@operator_of.register
def _(module: nn.Linear) -> Affine:
    return Dense(_filled(module.weight, module), module.bias)


@operator_of.register(nn.Conv1d)
@operator_of.register(nn.Conv2d)
def _(module: nn.Conv1d | nn.Conv2d) -> Affine:
    if module.padding_mode != "zeros":
        raise TypeError("a convolution is supported with padding_mode='zeros' only; pad in a layer before it")
    weight, axes = _filled(module.weight, module), module.weight.ndim - 2
    stride, dilation = sizes(module.stride, axes), sizes(module.dilation, axes)
    # In channels_last torch 2.14 reads at address 0 for some dilated kernels, also where only an axis of
    # length 1 has such a stride. So weights (and inputs, in `Convolution`) have one layout.
    weight = weight.contiguous().flatten().view(weight.shape)
    if module.padding == "same":
        weight, padding = _same(weight, dilation)
    else:
        padding = sizes(0 if isinstance(module.padding, str) else module.padding, axes)
    return Convolution(weight, module.bias, stride, padding, dilation, module.groups)


def _same(weight: Tensor, dilation: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Weights and padding for as many outputs as inputs.

    An even kernel has one zero more after the map than before it. A zero row or column in front of the
    kernel makes the padding equal on both sides.
    """
    totals = [spread * (size - 1) for size, spread in zip(weight.shape[2:], dilation, strict=True)]
    if any(total % 2 and spread > 1 for total, spread in zip(totals, dilation, strict=True)):
        raise TypeError(
            "a convolution with padding='same', an even kernel and a dilation is not supported; put a "
            f"ZeroPad{len(dilation)}d before it"
        )
    widen = [side for total in reversed(totals) for side in (total % 2, 0)]
    return F.pad(weight, widen), tuple((total + 1) // 2 for total in totals)


def _filled(weight: Tensor, module: nn.Module) -> Tensor:
    """The weight; raises ValueError for an empty one."""
    if weight.numel() == 0:
        raise ValueError(f"{module} has no inputs or no outputs; leave it out")
    return weight


@operator_of.register
def _(module: nn.AvgPool1d) -> Affine:
    return _pool(module, 1, module.count_include_pad, None)


@operator_of.register
def _(module: nn.AvgPool2d) -> Affine:
    if module.divisor_override is not None and module.divisor_override <= 0:
        raise TypeError("AvgPool2d is supported with a divisor_override > 0 only")
    return _pool(module, 2, module.count_include_pad, module.divisor_override)


@operator_of.register(SumPool1d)
@operator_of.register(SumPool2d)
def _(module: SumPool) -> Affine:
    return _pool(module, module.axes, True, 1)


def _pool(
    module: nn.AvgPool1d | nn.AvgPool2d | SumPool, axes: int, include_pad: bool, divisor: int | None
) -> Affine:
    """The operator of a layer that sums up windows."""
    kernel, stride = sizes(module.kernel_size, axes), sizes(module.stride, axes)
    return AveragePool(kernel, stride, sizes(module.padding, axes), module.ceil_mode, include_pad, divisor)


@operator_of.register
def _(module: nn.AdaptiveAvgPool1d) -> Affine:
    return AdaptivePool(sizes(module.output_size, 1))


@operator_of.register
def _(module: nn.AdaptiveAvgPool2d) -> Affine:
    size = module.output_size
    return AdaptivePool(tuple(size) if isinstance(size, (tuple, list)) else (size, size))


@operator_of.register(nn.ZeroPad1d)
@operator_of.register(nn.ZeroPad2d)
@operator_of.register(nn.ConstantPad1d)
@operator_of.register(nn.ConstantPad2d)
def _(module: nn.ConstantPad1d | nn.ConstantPad2d) -> Affine:
    if module.value != 0:
        raise TypeError(f"{type(module).__name__} is supported with the value 0 only, not {module.value}")
    return Padding(tuple(module.padding))


@operator_of.register
def _(module: nn.Flatten) -> Affine:
    if module.start_dim < 1:
        raise TypeError("Flatten must begin at axis 1 or later; axis 0 is the batch")
    return Flattened(module.start_dim, module.end_dim)


@operator_of.register
def _(module: nn.Unflatten) -> Affine:
    if not isinstance(module.dim, int) or module.dim == 0:
        raise TypeError("Unflatten must be of axis 1 or later, by number; axis 0 is the batch")
    return Unflattened(module.dim, tuple(module.unflattened_size))


@operator_of.register(nn.Identity)
@operator_of.register(nn.Dropout)
@operator_of.register(nn.Dropout1d)
@operator_of.register(nn.Dropout2d)
@operator_of.register(nn.Dropout3d)
def _(module: nn.Module) -> Affine:
    return Flattened(1, 1)


@operator_of.register
def _(module: Normalize) -> Affine:
    return Diagonal(1 / module.std, -module.mean / module.std, (2,))


@operator_of.register
def _(module: Scale) -> Affine:
    return Diagonal(module.factor, None, ANY_AXES)


@operator_of.register(nn.BatchNorm1d)
@operator_of.register(nn.BatchNorm2d)
def _(module: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine:
    if module.running_mean is None or module.running_var is None:
        raise TypeError("batch norm needs running statistics (track_running_stats=True)")
    return diagonal_of(module, module.running_mean, module.running_var)
