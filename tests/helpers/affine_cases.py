"""Affine layers of every kind, with random numbers, and the matrices of linear functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from certsnn.affine import Affine
from certsnn.layers import Normalize, Scale, SumPool1d, SumPool2d, as_affine

DOUBLE = torch.float64


def filled(module: nn.Module) -> nn.Module:
    """The module in eval mode and float64, its parameters and statistics random."""
    generator = torch.Generator().manual_seed(1)
    for name, values in module.state_dict().items():
        if values.is_floating_point() and not isinstance(module, Normalize):
            drawn = torch.rand(values.shape, generator=generator)
            values.copy_(drawn + 0.1 if name == "running_var" else drawn - 0.5)
    return module.eval().double()


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
LAYERS: dict[str, Case] = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), (5,)),
    "conv": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 4)),
    "conv without bias": (lambda: nn.Conv2d(2, 3, 2, bias=False), (2, 5, 4)),
    "conv stride": (lambda: nn.Conv2d(2, 3, 3, stride=(2, 1)), (2, 5, 4)),
    "conv padding": (lambda: nn.Conv2d(2, 3, (3, 2), padding=(2, 1)), (2, 5, 4)),
    "conv dilation": (lambda: nn.Conv2d(2, 3, (2, 3), dilation=(3, 1)), (2, 5, 4)),
    "conv groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), (4, 3, 3)),
    "conv depthwise": (lambda: nn.Conv2d(3, 6, 2, groups=3), (3, 3, 3)),
    "conv everything": (
        lambda: nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(1, 2), dilation=(2, 1), groups=2),
        (4, 5, 4),
    ),
    "conv that leaves a border": (lambda: nn.Conv2d(1, 2, 2, stride=2), (1, 5, 5)),
    "pool": (lambda: nn.AvgPool2d(2), (2, 4, 6)),
    "pool stride": (lambda: nn.AvgPool2d((3, 2), stride=1), (2, 4, 6)),
    "pool padding": (lambda: nn.AvgPool2d(3, stride=2, padding=1), (2, 4, 6)),
    "pool padding not counted": (
        lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        (2, 4, 6),
    ),
    "pool ceil": (lambda: nn.AvgPool2d(2, ceil_mode=True), (2, 5, 5)),
    "pool divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), (2, 4, 4)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(5), (5,)),
    "batch norm 1d plain": (lambda: nn.BatchNorm1d(5, affine=False, eps=0.1), (5,)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "normalize": (lambda: Normalize([0.1, 0.5], [0.3, 2.0]), (2, 3, 3)),
    "flatten": (lambda: nn.Flatten(), (2, 3, 4)),
    "flatten some": (lambda: nn.Flatten(2), (2, 3, 4)),
    "dropout": (lambda: nn.Dropout(0.9), (2, 3)),
    "dropout of channels": (lambda: nn.Dropout2d(0.9), (2, 3, 3)),
    "identity": (lambda: nn.Identity(), (2, 3)),
    "conv same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(1, 2)), (2, 5, 6)),
    "conv same, even": (lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 5, 6)),
    "conv valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 5, 4)),
    "pool adaptive": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 4, 6)),
    "pool adaptive, uneven": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 4)),
    "pool adaptive, one axis": (lambda: nn.AdaptiveAvgPool2d((None, 1)), (2, 5, 4)),
    "padding": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), (2, 3, 4)),
    "padding that crops": (lambda: nn.ZeroPad2d((-1, 0, 2, -1)), (2, 3, 4)),
    "conv 1d": (lambda: nn.Conv1d(2, 3, 3), (2, 7)),
    "conv 1d without bias": (lambda: nn.Conv1d(2, 3, 2, bias=False), (2, 5)),
    "conv 1d everything": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        (4, 8),
    ),
    "conv 1d depthwise": (lambda: nn.Conv1d(3, 6, 2, groups=3), (3, 4)),
    "conv 1d same": (lambda: nn.Conv1d(2, 3, 5, padding="same", dilation=2), (2, 6)),
    "conv 1d same, even": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (2, 6)),
    "conv 1d valid": (lambda: nn.Conv1d(2, 3, 2, padding="valid"), (2, 5)),
    "pool 1d": (lambda: nn.AvgPool1d(2), (2, 6)),
    "pool 1d stride": (lambda: nn.AvgPool1d(3, stride=1), (2, 6)),
    "pool 1d padding": (lambda: nn.AvgPool1d(3, stride=2, padding=1), (2, 6)),
    "pool 1d ceil": (lambda: nn.AvgPool1d(2, ceil_mode=True, count_include_pad=False, padding=1), (2, 6)),
    "pool 1d adaptive": (lambda: nn.AdaptiveAvgPool1d(3), (2, 6)),
    "pool 1d adaptive, uneven": (lambda: nn.AdaptiveAvgPool1d(3), (2, 5)),
    "pool adaptive, larger": (lambda: nn.AdaptiveAvgPool2d((5, 3)), (2, 3, 4)),
    "sums": (lambda: SumPool2d(2, stride=1), (2, 3, 4)),
    "sums padded": (lambda: SumPool2d((3, 2), stride=(2, 1), padding=1, ceil_mode=True), (2, 4, 5)),
    "sums 1d": (lambda: SumPool1d(3, padding=1), (2, 6)),
    "batch norm 1d over a length": (lambda: nn.BatchNorm1d(3), (3, 4)),
    "scale": (lambda: Scale(-2.5), (2, 3)),
    "scale of maps": (lambda: Scale(0.3), (2, 3, 4)),
    "scale of features": (lambda: Scale(0.0), (5,)),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), (6,)),
    "unflatten, one size open": (lambda: nn.Unflatten(-1, (2, -1)), (3, 6)),
    "padding 1d": (lambda: nn.ZeroPad1d((1, 2)), (2, 3)),
    "padding 1d that crops": (lambda: nn.ConstantPad1d((-1, 2), 0.0), (2, 3)),
    "padding with the constant 0": (lambda: nn.ConstantPad2d((1, 2, 0, 3), 0), (2, 3, 4)),
    "dropout of a length": (lambda: nn.Dropout1d(0.9), (2, 3)),
    "dropout of volumes": (lambda: nn.Dropout3d(0.9), (2, 3, 2, 2)),
}
WEIGHTED = [name for name in LAYERS if name.startswith(("linear", "conv"))]


def case(name: str) -> tuple[nn.Module, Affine, Tensor]:
    """A layer, its operator and a batch of three inputs."""
    make, shape = LAYERS[name]
    module = filled(make())
    x = torch.randn(3, *shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    return module, as_affine(module), x


def matrix(function: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
    """The dense matrix ``[out, in]`` of a linear function on ``[N, *shape]``."""
    basis = torch.eye(shape.numel(), dtype=DOUBLE).view(-1, *shape)
    return function(basis).flatten(1).T
