"""Layers without a bound are refused by name."""

from __future__ import annotations

import pytest
from torch import nn

from certsnn.layers import Normalize, as_affine


class Odd(nn.Module):
    """A layer that nobody has a bound for."""


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Odd(), "Odd"),
        (nn.ReLU(), "ReLU"),
        (nn.MaxPool2d(2), "MaxPool2d"),
        (nn.Conv3d(1, 1, 1), "Conv3d"),
        (nn.ConstantPad2d(1, 0.5), "value 0 only, not 0.5"),
        (nn.ReflectionPad1d(1), "ReflectionPad1d"),
        (nn.Unflatten(0, (1, 1)), "axis 0"),
        (nn.Conv1d(1, 1, 2, padding="same", dilation=3), "ZeroPad1d"),
        (nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), "padding"),
        (nn.Conv2d(1, 1, 2, padding="same", dilation=3), "ZeroPad2d"),
        (nn.Flatten(0), "axis 0"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding"),
        (nn.BatchNorm1d(3, track_running_stats=False), "running statistics"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_without_a_bound_are_named(layer: nn.Module, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_affine(layer)


def test_an_axis_by_name_is_refused() -> None:
    layer = nn.Unflatten(1, (1, 1))
    layer.dim = "features"  # type: ignore[assignment]  # as earlier versions of torch allow
    with pytest.raises(TypeError, match="by number"):
        as_affine(layer)


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0.0]), ([0.5], [-1.0]), ([0.5, 0.5], [1.0]), ([0.5], [float("nan")])]
)
def test_normalize_errors(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="std"):
        Normalize(mean, std)
