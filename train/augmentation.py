"""Training samples changed at random in ways that keep their class, anew in every epoch.

The draws are keyed on the epoch's seed and on a sample's position in its data set, so that a run that was
resumed, and processes that share a batch, see the same samples as one process that was never stopped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.encoding import keyed_uniform
from certsnn.errors import UserError
from certsnn.settings import check_count

STREAM = 1
"""Of the keyed noise: encodings and simulated cameras draw from the stream 0."""


class Augmentation(ABC):
    """Changes a batch of training samples; the threat is bound to the changed ones."""

    @abstractmethod
    def __call__(self, x: Tensor, index: Tensor, seed: int) -> Tensor:
        """The changed samples, shaped as x.

        Args:
            x: a data set's own samples, images ``[B, C, H, W]`` or spikes ``[T, B, C, H, W]``.
            index: their positions in the data set ``[B]``.
            seed: of the epoch.
        """


@final
@dataclass(frozen=True)
class Translations(Augmentation):
    """Each sample moved by a whole number of pixels, up to ``pixels`` each way, down or up and sideways.

    All steps and channels of a sample move together, so spikes stay spikes. Pixels that leave the frame are
    lost, and zeros come in.

    Args:
        pixels: the largest shift; 0 for none.
    """

    pixels: int = 1

    def __post_init__(self) -> None:
        check_count("pixels", self.pixels, least=0)

    def __call__(self, x: Tensor, index: Tensor, seed: int) -> Tensor:
        if x.dim() < 4:
            raise UserError(
                f"Translations moves the pixels of samples (C, H, W), and these have the shape "
                f"{list(x.shape[2:])} at each step: leave training.augmentation out"
            )
        places = 2 * self.pixels + 1
        # A float32 below 1 times few places can round up to their number.
        drawn = (places * keyed_uniform((2,), seed, index, STREAM)).long().clamp_(max=places - 1)
        down, right = drawn.to(x.device) - self.pixels
        return _moved(_moved(x, down, -2), right, -1)


def _moved(x: Tensor, shift: Tensor, dim: int) -> Tensor:
    """Samples ``[..., B, C, H, W]`` moved along an axis by their own shifts ``[B]``, zeros coming in."""
    size = x.shape[dim]
    source = torch.arange(size, device=x.device) - shift[:, None]  # [B, size]
    inside = (source >= 0) & (source < size)
    shape = [1] * x.dim()
    shape[-4], shape[dim] = source.shape
    source, inside = source.clamp(0, size - 1).view(shape), inside.view(shape)
    return x.gather(dim, source.expand(x.shape)) * inside
