"""Adversarial examples as pictures: spike rasters, and images before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor


def plot_raster(before: Tensor, after: Tensor, title: str = "") -> Figure:
    """The spikes of one sample over time: those that stayed, were added and were dropped.

    Args:
        before, after: spikes ``[T, ...]``, 0/1, of the same shape.
        title: above the picture.

    Raises:
        ValueError: if the shapes differ or there is no time axis.
    """
    _check_same(before, after)
    if before.ndim < 2:
        raise ValueError(f"spikes of one sample are [T, ...], got the shape {list(before.shape)}")
    old, new = (x.detach().cpu().flatten(1) > 0.5 for x in (before, after))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    kinds: Sequence[tuple[str, Tensor, dict[str, Any]]] = (
        ("kept", old & new, {"color": "0.7", "s": 4}),
        ("added", ~old & new, {"color": "tab:red", "s": 14, "marker": "+"}),
        ("dropped", old & ~new, {"color": "tab:blue", "s": 14, "marker": "x"}),
    )
    for name, spikes, style in kinds:
        step, neuron = spikes.nonzero().T.tolist()
        axes.scatter(step, neuron, label=f"{name} ({len(step)})", **style)
    axes.set(xlabel="step", ylabel="input neuron", xlim=(-0.5, len(old) - 0.5), title=title)
    axes.set(ylim=(-0.5, old.shape[1] - 0.5))
    figure.legend(loc="outside right upper")
    return figure


def plot_images(before: Tensor, after: Tensor, titles: Sequence[str] = ()) -> Figure:
    """Images before and after, and the difference, one column a sample.

    Args:
        before, after: images ``[B, C, H, W]`` in [0, 1] (for spikes: their rates, the mean over time); one
            channel or three are shown as they are, of any other number the mean.
        titles: above the columns.

    Raises:
        ValueError: for other shapes, or without a sample.
    """
    _check_same(before, after)
    if before.ndim != 4 or len(before) == 0:
        raise ValueError(f"images must be [B, C, H, W] with B >= 1, got the shape {list(before.shape)}")
    old, new = (x.detach().cpu().float() for x in (before, after))
    samples = len(old)
    figure = Figure(figsize=(1.6 * samples + 0.6, 5), layout="constrained")
    grid = figure.subplots(3, samples, squeeze=False)
    for column, (one, other) in enumerate(zip(old, new, strict=True)):
        _show(grid[0, column], _picture(one), vmin=0, vmax=1, cmap="gray")
        _show(grid[1, column], _picture(other), vmin=0, vmax=1, cmap="gray")
        _show(grid[2, column], (other - one).mean(0), vmin=-1, vmax=1, cmap="RdBu_r")
        if column < len(titles):
            grid[0, column].set_title(titles[column], fontsize=9)
    for row, name in enumerate(("before", "after", "change")):
        grid[row, 0].set_ylabel(name)
    return figure


def _check_same(before: Tensor, after: Tensor) -> None:
    """Raise ValueError unless both have one shape."""
    if before.shape != after.shape:
        raise ValueError(f"before has the shape {list(before.shape)}, after {list(after.shape)}")


def _picture(image: Tensor) -> Tensor:
    """``[H, W]``, or ``[H, W, 3]`` of a colour image."""
    return image.movedim(0, 2) if len(image) == 3 else image.mean(0)


def _show(axes: Axes, picture: Tensor, **how: Any) -> None:
    """Draw a picture without ticks, clamped to [-1, 1]."""
    axes.imshow(torch.clamp(picture, -1, 1).numpy(), **how)
    axes.set(xticks=[], yticks=[])
