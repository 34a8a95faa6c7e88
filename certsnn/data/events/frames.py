"""Events to frames ``[T, C, H, W]``: whether a pixel had an event in its window, or how many it had."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certsnn.encoding import check_steps
from certsnn.settings import check_count

Polarity = Literal["both", "merged"]
MOST = 255
"""The largest count of events that is kept."""


class Events(NamedTuple):
    """Events, arrays ``[n]`` of any integers: column, row, polarity (1 brighter, 0 darker), microseconds.

    The order does not matter. Polarities may be bool, too; where -1 is darker, give ``polarity > 0``.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    polarity: NDArray[Any]
    time: NDArray[Any]


def columns(x: object, y: object, polarity: object, time: object) -> Events:
    """Events in int64, in which no difference or product wraps around, from any arrays of whole numbers.

    Raises:
        ValueError: the columns do not fit each other, or hold other numbers.
    """
    named = {"columns": x, "rows": y, "polarities": polarity, "times": time}
    events = Events(*(_whole(name, np.asarray(part)) for name, part in named.items()))
    if len({part.shape for part in events}) != 1 or events.x.ndim != 1:
        raise ValueError(f"x, y, polarity and time have the shapes {[part.shape for part in events]}")
    least, most = (int(end(events.polarity, initial=0)) for end in (np.min, np.max))
    if least < 0 or most > 1:
        raise ValueError(
            f"polarities must be 0 (darker) or 1 (brighter), these go from {least} to {most}: "
            "where -1 is darker, give polarity > 0"
        )
    return events


def _whole(name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """The values as int64; raises ValueError for numbers that it can't hold."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if (whole != values).any():
        raise ValueError(f"{name} must be whole numbers below 2**63 (times in microseconds)")
    return whole


@final
@dataclass(frozen=True)
class Frames:
    """How recordings of events become frames; of event data sets, images have none.

    Args:
        steps: number of frames T.
        window: milliseconds of each frame, from the first event on; later events are dropped, and missing
            frames empty. None divides each recording, first event to last, into T equal parts.
        polarity: both (two channels: darker, brighter) or merged (one channel).
        downsampling: the side of the squares of pixels that become one; an event in any of them sets it.
    """

    steps: int = 10
    window: float | None = None
    polarity: Polarity = "both"
    downsampling: int = 1

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.window is not None and not 0 < self.window < float("inf"):
            raise ValueError(f"window must be a positive number of milliseconds, not {self.window}")
        if self.polarity not in get_args(Polarity):
            raise ValueError(
                f"polarity must be one of {', '.join(get_args(Polarity))}, not {self.polarity!r}"
            )
        check_count("downsampling", self.downsampling)

    @property
    def channels(self) -> int:
        """The number of channels C."""
        return {"both": 2, "merged": 1}[self.polarity]

    def shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """``(T, C, H, W)`` of the frames of a sensor of this size."""
        side = self.downsampling
        return self.steps, self.channels, -(-height // side), -(-width // side)

    def describe(self) -> str:
        """The settings in words, for names."""
        parts = [f"{self.steps} frames"]
        if self.window is not None:
            parts.append(f"{self.window:g} ms each")
        if self.polarity == "merged":
            parts.append("polarities merged")
        if self.downsampling > 1:
            parts.append(f"1/{self.downsampling} of the resolution")
        return ", ".join(parts)

    def of(self, events: Events, height: int, width: int) -> Tensor:
        """The frames, bool ``[T, C, H, W]``, of a recording by a sensor of this size.

        Raises:
            ValueError: for events outside the sensor, and where `columns` raises it.
        """
        return self.counts(events, height, width) > 0

    def counts(self, events: Events, height: int, width: int) -> Tensor:
        """How many events each pixel had in each window, uint8 ``[T, C, H, W]``; 255 for more.

        Raises:
            ValueError: as `of`.
        """
        events = columns(*events)
        if len(events.time) == 0:
            return torch.zeros(self.shape(height, width), dtype=torch.uint8)
        if min(events.x.min(), events.y.min()) < 0 or events.x.max() >= width or events.y.max() >= height:
            raise ValueError(
                f"events outside the sensor of {width}x{height} pixels: their columns lie in "
                f"{events.x.min()}..{events.x.max()}, their rows in {events.y.min()}..{events.y.max()}"
            )
        duration = int(events.time.max()) - int(events.time.min()) + 1
        if duration * self.steps >= 2**63:
            raise ValueError(f"times span {duration} microseconds, which no recording lasts")
        step = self.step(events.time - events.time.min(), duration)
        channel = events.polarity if self.polarity == "both" else np.zeros_like(events.polarity)
        places = (step, channel, events.y // self.downsampling, events.x // self.downsampling)
        inside, shape = step < self.steps, self.shape(height, width)
        flat = np.ravel_multi_index(tuple(place[inside] for place in places), shape)
        found = np.bincount(flat, minlength=math.prod(shape)).clip(max=MOST).reshape(shape)
        return torch.from_numpy(found.astype(np.uint8))

    def step(self, time: NDArray[np.int64], duration: int) -> NDArray[np.int64]:
        """The frame that each time belongs to, counted from 0; T or more for none.

        Args:
            time: microseconds since the beginning, in [0, duration).
            duration: of the recording, in microseconds.
        """
        if self.window is None:
            return time * self.steps // duration
        number = time // (1000 * self.window)
        return number.clip(max=self.steps).astype(np.int64)

    def pooled(self, sensor: Tensor) -> Tensor:
        """Events ``bool [N, 2, H, W]`` of one window as frames ``[N, C, H', W']``: see the arguments."""
        if self.polarity == "merged":
            sensor = sensor.any(dim=1, keepdim=True)
        side = self.downsampling
        if side == 1:
            return sensor
        maxima = torch.nn.functional.max_pool2d(sensor.to(torch.float32), side, ceil_mode=True)
        return maxima > 0
