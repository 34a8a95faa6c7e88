"""Inputs of a network as small PNG pictures, and spike trains as rasters."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from certsnn.report.charts import BROKEN, FIRING, INK, inked_axes, legend
from certsnn.report.examples import Example

RASTER = 400
"""Input neurons that a raster shows at most: those with a flipped bit first."""


def data_uri(picture: Tensor) -> str:
    """A picture ``[H, W]`` or ``[H, W, 3]`` of values in [0, 1] as a PNG inside an address."""
    written = BytesIO()
    values = picture.double().clamp(0, 1).numpy()
    imsave(written, values, format="png", cmap="gray", vmin=0, vmax=1)
    return "data:image/png;base64," + b64encode(written.getvalue()).decode()


def picture(x: Tensor) -> Tensor:
    """A sample ``[...]`` as a picture: three channels as colours, others as their mean; a vector as a row."""
    if x.ndim < 2:
        return x.reshape(1, -1)
    if x.ndim == 2:
        return x
    channels = x.flatten(0, -3)
    return channels.movedim(0, 2) if len(channels) == 3 else channels.mean(0)


def before(example: Example) -> Tensor:
    """The input as a picture; of spikes the firing rate."""
    return picture(example.before.mean(0) if example.spikes else example.before)


def after(example: Example) -> Tensor:
    """The attack's input as a picture; of spikes the firing rate."""
    return picture(example.after.mean(0) if example.spikes else example.after)


def change(example: Example) -> Tensor:
    """The difference as a picture: grey where nothing changed, its largest change black or white."""
    difference = after(example) - before(example)
    largest = float(difference.abs().max())
    return 0.5 + difference / (2 * largest) if largest else difference + 0.5


def raster(example: Example) -> Figure:
    """The spikes of each input neuron over time, with the added and the dropped ones marked."""
    one, other = (x.flatten(1).bool().numpy() for x in (example.before, example.after))
    changed = (one != other).any(0)
    rows = np.sort(np.concatenate([np.flatnonzero(changed), np.flatnonzero(~changed)])[:RASTER])
    figure, (axes,) = inked_axes(4.6, 2.4)
    for label, colour, marker, size, spikes in (
        ("spike", INK, "|", 12, one & other),
        ("added", FIRING, "^", 24, ~one & other),
        ("dropped", BROKEN, "v", 24, one & ~other),
    ):
        step, neuron = np.nonzero(spikes[:, rows])
        axes.scatter(neuron, step + 1, s=size, c=colour, marker=marker, linewidths=0.8, label=label)
    shown = f"{len(rows)} of {len(changed)} input neurons" if len(rows) < len(changed) else "input neuron"
    axes.set(xlabel=shown, ylabel="step", ylim=(len(one) + 0.6, 0.4))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3)
    return figure


def flips(example: Example) -> tuple[int, int]:
    """The numbers of spikes that were added and dropped."""
    difference = example.after - example.before
    return int((difference > 0).sum()), int((difference < 0).sum())
