r"""Images seen by a simulated event camera that looks along three saccades, as N-MNIST was recorded.

The camera (or, what is the same, the image) moves along an isosceles triangle: down to the middle, up to the
far side, and back, each side in one third of the time and with a raised-cosine velocity. A pixel with the
log intensity :math:`L = \log(f + (1 - f) I)` remembers a reference :math:`L_0` and fires, for every whole
threshold :math:`\theta` between them, an event of the polarity of :math:`L - L_0`, which moves the reference
by :math:`\pm\theta`. Sources: Orchard et al., *Converting Static Image Datasets to Spiking Neuromorphic
Datasets Using Saccades*, 2015, https://arxiv.org/abs/1507.07629 (the motion); Lichtsteiner
et al., 2008 (the pixel).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from certsnn.data.events.frames import Events, Frames
from certsnn.encoding import check_images, check_index, check_seed, keyed_uniform
from certsnn.settings import check_count

CHUNK = 256
"""Images that are simulated together."""


class Instant(NamedTuple):
    """A moment: its time in microseconds, and its numbers of events ``[N, 2, H, W]`` (darker, brighter)."""

    time: int
    counts: Tensor


@final
@dataclass(frozen=True)
class Saccades:
    """A simulated event camera; the same (seed, index) gives the same events.

    Args:
        threshold: the change of log intensity that makes an event.
        floor: the darkest intensity, as a share of the brightest.
        reach: the width and the height of the triangle, as a share of the image's side.
        margin: the sensor's border around the image, as a share of its side, rounded to pixels.
        jitter: each pixel's threshold is off by up to this share, at random.
        milliseconds: the duration of one of the three saccades.
        moments: the number of simulated moments of a saccade.
        seed: of the pixels' thresholds.

    Raises:
        ValueError: for a number out of its range.
    """

    threshold: float = 0.38
    floor: float = 0.1
    reach: float = 0.18
    margin: float = 3 / 28
    jitter: float = 0.2
    milliseconds: float = 105.0
    moments: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", 0.0, math.inf),
            ("floor", 0.0, 1.0),
            ("milliseconds", 0.0, math.inf),
        ):
            if not low < getattr(self, name) < high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {getattr(self, name)}")
        for name in ("reach", "margin", "jitter"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        check_count("moments", self.moments)
        check_seed(self.seed)

    @property
    def duration(self) -> int:
        """Microseconds of the whole recording."""
        return round(3000 * self.milliseconds)

    def sensor(self, height: int, width: int) -> tuple[int, int]:
        """The sensor's (height, width) for images of this size."""
        border = 2 * round(self.margin * max(height, width))
        return height + border, width + border

    def path(self) -> Tensor:
        """Where the image is, ``(y, x)`` in its sides from the middle, float64 ``[1 + 3 * moments, 2]``."""
        corners = torch.tensor([[0.0, 0.0], [1.0, 0.5], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64) - 0.5
        part = torch.arange(1, self.moments + 1, dtype=torch.float64) / self.moments
        part = (part - (2 * torch.pi * part).sin() / (2 * torch.pi))[:, None]
        sides = [start + part * (end - start) for start, end in pairwise(corners)]
        return self.reach * torch.cat([corners[:1], *sides])

    def moving(self, images: Tensor, index: Tensor) -> Iterator[Instant]:
        """The events of images ``[N, C, H, W]`` in [0, 1], moment by moment; colours count by their mean.

        Args:
            images: float ``[N, C, H, W]``.
            index: their positions in the data set ``[N]``, which the pixels' thresholds are drawn by.

        Raises:
            TypeError, ValueError: for unfit images or positions.
        """
        check_images(images)
        check_index(index, len(images))
        if images.dim() != 4:
            raise ValueError(f"images must be [N, C, H, W], not {list(images.shape)}")
        grey = images.to(torch.float32).mean(dim=1)
        height, width = self.sensor(*grey.shape[1:])
        noise = keyed_uniform((1, height, width), self.seed, index)[0]
        threshold = self.threshold * (1 + self.jitter * (2 * noise - 1))
        path = self.path() * max(grey.shape[1:])
        reference = self._seen(grey, height, width, path[0])
        for moment, place in enumerate(path[1:]):
            crossed = ((self._seen(grey, height, width, place) - reference) / threshold).trunc()
            reference += crossed * threshold
            time = self.duration * moment // (len(path) - 1)
            yield Instant(time, torch.stack([-crossed, crossed], dim=1).clamp_(min=0))

    def events(self, images: Tensor, index: Tensor) -> list[Events]:
        """The events of each image; those of one moment all have its time."""
        parts = []
        for time, counts in self.moving(images, index):
            places = counts.nonzero().repeat_interleave(counts[counts > 0].long(), dim=0)
            parts.append(torch.cat([places, places.new_full((len(places), 1), time)], dim=1))
        table = torch.cat(parts).numpy()
        rows = (table[table[:, 0] == n] for n in range(len(images)))
        return [Events(row[:, 3], row[:, 2], row[:, 1], row[:, 4]) for row in rows]

    def frames(self, images: Tensor, index: Tensor, frames: Frames) -> Tensor:
        """The binary frames, bool ``[N, T, C, H, W]``; times count from the beginning of the motion."""
        size = self.sensor(*images.shape[2:])
        found = torch.zeros((len(images), *frames.shape(*size)), dtype=torch.bool)
        for part, rows, out in zip(images.split(CHUNK), index.split(CHUNK), found.split(CHUNK), strict=True):
            for time, counts in self.moving(part, rows):
                step = int(frames.step(np.array([time]), self.duration)[0])
                if step < frames.steps:
                    out[:, step] |= frames.pooled(counts > 0)
        return found

    def _seen(self, grey: Tensor, height: int, width: int, place: Tensor) -> Tensor:
        """The log intensities ``[N, height, width]``, the image's middle at ``place`` (y, x), bilinear."""
        rows, columns = (
            _interpolation(size, inside, float(shift))
            for size, inside, shift in zip((height, width), grey.shape[1:], place, strict=True)
        )
        seen = rows @ grey @ columns.T
        return (self.floor + (1 - self.floor) * seen).log_()


def _interpolation(size: int, inside: int, shift: float) -> Tensor:
    """The matrix ``[size, inside]`` that puts a line of pixels into the middle of another, shifted."""
    place = torch.arange(size, dtype=torch.float32)[:, None] - (size - inside) / 2 - shift
    return (1 - (place - torch.arange(inside)).abs()).clamp_(min=0)
