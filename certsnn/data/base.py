"""Labelled images, spike trains and frames held in memory, and the loader that batches them.

Every batch carries its samples' positions in the data set they came from: a random encoding is
keyed on them, so a sample meets the same noise in whatever batch or subset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler
from typing_extensions import Self

from certsnn.files import digest
from certsnn.inputsets.base import Domain
from certsnn.notebooks import Shown

Batch = tuple[Tensor, Tensor, Tensor]
"""Images [B, C, H, W], spikes [T, B, C, H, W] or frames [T, B, ...], labels [B], and positions [B]."""


class LabelledDataset(Dataset[Batch], Shown, ABC):
    """Samples with their labels.

    name: for reports and error messages.
    labels: int64 [N], in [0, classes).
    classes: the number of classes K.
    index: the samples' positions [N] in the data set as loaded: 0..N-1 there, some of them in a subset, a
        split or a head.
    whole: the number of samples in the published data set, where only some of them were loaded; else None.
    domain: whether the samples are images, spikes or frames.
    """

    name: str
    labels: Tensor
    classes: int
    index: Tensor
    whole: int | None
    domain: ClassVar[Domain]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample at one step: (C, H, W), but for frames of any other shape."""

    @final
    @property
    def extent(self) -> str:
        """The number of samples, for tables: "450", or "100 (of 10000 published)"."""
        return str(len(self)) if self.whole is None else f"{len(self)} (of {self.whole} published)"

    @final
    @property
    def shown(self) -> Mapping[str, str]:
        shape, classes = list(self.shape), str(self.classes)
        return {"name": self.name, "samples": self.extent, "classes": classes, self.domain: str(shape)}

    @final
    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the samples as they are held in memory, of their labels and of their positions.

        Of a data set as loaded, so whatever makes samples (a reader, an event camera, a cache) shows in it. A
        gigabyte takes a second or two, MNIST's 10,000 test images less than a tenth; taken once.
        """
        return digest({"held": self._held, "labels": self.labels, "index": self.index})

    @property
    @abstractmethod
    def _held(self) -> Tensor:
        """The samples ``[N, ...]`` as they are kept in memory."""

    @abstractmethod
    def _inputs(self, positions: Tensor) -> Tensor:
        """The samples at these positions, as a network takes them."""

    @abstractmethod
    def _part(self, positions: Tensor) -> Self:
        """The samples at these positions as a data set; its index is counted anew."""

    @final
    def __len__(self) -> int:
        return len(self.labels)

    @final
    def __getitem__(self, indices: Sequence[int] | Tensor) -> Batch:
        """The samples at these positions (0..len-1) as one batch."""
        chosen = self._positions(indices)
        return self._inputs(chosen), self.labels[chosen], self.index[chosen]

    @final
    def subset(self, positions: Sequence[int] | Tensor) -> Self:
        """The samples at these positions (0..len-1), in this order; each keeps its `index`."""
        chosen = self._positions(positions)
        part = self._part(chosen)
        object.__setattr__(part, "index", self.index[chosen])
        return part

    @final
    def head(self, n: int) -> Self:
        """The first n samples, or all of them where there are fewer."""
        if n < 1:
            raise ValueError(f"{self.name}: head({n}) asks for no samples; n must be at least 1")
        return self.subset(torch.arange(min(n, len(self))))

    @final
    def split(self, share: float, seed: int) -> tuple[Self, Self]:
        """(train, validation): a random `share` of every class is set aside for validation.

        The same share and seed give the same split; within each part the samples stay in order.

        Raises:
            ValueError: the share is not in (0, 1), or too small or too large for a class.
        """
        if not 0 < share < 1:
            raise ValueError(f"{self.name}: share must be in (0, 1), not {share}")
        train, validation = stratified(self.labels, max(1, round(share * len(self))), seed)
        return self.subset(train), self.subset(validation)

    @final
    def _positions(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The positions as a tensor ``[n]``; raises TypeError or ValueError where they do not fit."""
        positions = torch.as_tensor(indices)
        if positions.dim() != 1 or len(positions) == 0:
            raise ValueError(
                f"{self.name}: positions must be a non-empty list or 1-D tensor, "
                f"not of shape {list(positions.shape)}"
            )
        if positions.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{self.name}: positions must be integers, not {positions.dtype}")
        low, high = (int(v) for v in positions.aminmax())
        if low < 0 or high >= len(self):
            raise ValueError(f"{self.name}: positions {low}..{high} asked of samples 0..{len(self) - 1}")
        return positions


@final
@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset(LabelledDataset):
    """Images with their labels; a batch is [B, C, H, W].

    Args:
        name: for reports and error messages.
        images: float32 [N, C, H, W], raw values in [0, 1].
        labels: int64 [N], in [0, classes).
        classes: the number of classes K.
        whole: the number of samples in the published data set, where these are only some of them.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, no samples, NaN, or a value out of range.
    """

    domain: ClassVar[Domain] = "image"

    name: str
    images: Tensor
    labels: Tensor
    classes: int
    whole: int | None = None
    index: Tensor = field(init=False)

    def __post_init__(self) -> None:
        _check_images(self.name, self.images)
        _check_labels(self.name, self.labels, len(self.images), self.classes)
        object.__setattr__(self, "index", torch.arange(len(self.images)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    @property
    def _held(self) -> Tensor:
        return self.images

    def _inputs(self, positions: Tensor) -> Tensor:
        return self.images[positions]

    def _part(self, positions: Tensor) -> ImageDataset:
        images, labels = self.images[positions], self.labels[positions]
        return ImageDataset(self.name, images, labels, self.classes, self.whole)


@final
@dataclass(frozen=True, eq=False, repr=False)
class SpikeDataset(LabelledDataset):
    """Spike trains with their labels; a batch is [T, B, C, H, W], float32 of 0 and 1.

    Args:
        name: for reports and error messages.
        spikes: bool [N, T, C, H, W].
        labels: int64 [N], in [0, classes).
        classes: the number of classes K.
        whole: the number of samples in the published data set, where these are only some of them.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, no samples, or a label out of range.
    """

    domain: ClassVar[Domain] = "spikes"

    name: str
    spikes: Tensor
    labels: Tensor
    classes: int
    whole: int | None = None
    index: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.spikes.dtype != torch.bool:
            raise TypeError(f"{self.name}: spikes must be bool, not {self.spikes.dtype}")
        if self.spikes.dim() != 5 or self.spikes.numel() == 0:
            shape = list(self.spikes.shape)
            raise ValueError(f"{self.name}: spikes must be a non-empty [N, T, C, H, W], not {shape}")
        _check_labels(self.name, self.labels, len(self.spikes), self.classes)
        object.__setattr__(self, "index", torch.arange(len(self.spikes)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.spikes.shape[2:])

    @property
    def steps(self) -> int:
        """The number of steps T of every train."""
        return self.spikes.shape[1]

    @property
    def _held(self) -> Tensor:
        return self.spikes

    def _inputs(self, positions: Tensor) -> Tensor:
        return self.spikes[positions].transpose(0, 1).to(torch.float32).contiguous()

    def _part(self, positions: Tensor) -> SpikeDataset:
        spikes, labels = self.spikes[positions], self.labels[positions]
        return SpikeDataset(self.name, spikes, labels, self.classes, self.whole)


@final
@dataclass(frozen=True, eq=False, repr=False)
class FrameDataset(LabelledDataset):
    """Sequences of frames with their labels; a batch is [T, B, ...], float32.

    Args:
        name: for reports and error messages.
        frames: float32 [N, T, ...], finite; or counts of events, uint8.
        labels: int64 [N], in [0, classes).
        classes: the number of classes K.
        whole: the number of samples in the published data set, where these are only some of them.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, no samples, NaN or infinite values, or a label out of range.
    """

    domain: ClassVar[Domain] = "frames"

    name: str
    frames: Tensor
    labels: Tensor
    classes: int
    whole: int | None = None
    index: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.frames.dtype not in (torch.float32, torch.uint8):
            raise TypeError(f"{self.name}: frames must be float32, or uint8 counts, not {self.frames.dtype}")
        if self.frames.dim() < 3 or self.frames.numel() == 0:
            shape = list(self.frames.shape)
            raise ValueError(f"{self.name}: frames must be a non-empty [N, T, ...], not {shape}")
        if not bool(self.frames.isfinite().all()):
            raise ValueError(f"{self.name}: frames hold NaN or infinite values")
        _check_labels(self.name, self.labels, len(self.frames), self.classes)
        object.__setattr__(self, "index", torch.arange(len(self.frames)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.frames.shape[2:])

    @property
    def steps(self) -> int:
        """The number of steps T of every sequence."""
        return self.frames.shape[1]

    @property
    def _held(self) -> Tensor:
        return self.frames

    def _inputs(self, positions: Tensor) -> Tensor:
        return self.frames[positions].transpose(0, 1).to(torch.float32).contiguous()

    def _part(self, positions: Tensor) -> FrameDataset:
        frames, labels = self.frames[positions], self.labels[positions]
        return FrameDataset(self.name, frames, labels, self.classes, self.whole)


def stratified(labels: Tensor, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions (kept, held out), each ascending, in every class's proportion.

    Raises:
        ValueError: a class has a single sample, or a part is smaller than the number of classes.
    """
    from sklearn.model_selection import train_test_split  # here: a second to import

    kept, out = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=held_out,
        stratify=labels.numpy(),
        random_state=seed,
    )
    return torch.from_numpy(kept).sort().values, torch.from_numpy(out).sort().values


def loader(dataset: LabelledDataset, batch_size: int, shuffle_seed: int | None = None) -> DataLoader[Batch]:
    """Batches (x, y, index) of the data set; the last one may be smaller.

    Without a seed the samples come in order. With one each pass has a new order, and a new loader
    with the same seed repeats the same sequence of orders. The global random state is left alone.

    Raises:
        ValueError: the batch size is not a positive integer.
    """
    generator = torch.Generator()
    order: RandomSampler | SequentialSampler = SequentialSampler(dataset)
    if shuffle_seed is not None:
        order = RandomSampler(dataset, generator=generator.manual_seed(shuffle_seed))
    # One indexing operation a batch: the sampler hands over whole batches of positions.
    return DataLoader(
        dataset,
        sampler=BatchSampler(order, batch_size, drop_last=False),
        batch_size=None,
        collate_fn=_as_is,
        generator=generator,
    )


def _as_is(batch: Any) -> Any:
    """The batch as the data set gave it."""
    return batch


def _check_images(name: str, images: Tensor) -> None:
    """Raise TypeError or ValueError unless these are float32 images ``[N, C, H, W]`` in [0, 1], N >= 1."""
    if images.dtype != torch.float32:
        raise TypeError(f"{name}: images must be float32, not {images.dtype}")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"{name}: images must be a non-empty [N, C, H, W], not {list(images.shape)}")
    low, high = (float(v) for v in images.aminmax())
    if low != low:  # aminmax hands NaN on
        raise ValueError(f"{name}: images hold NaN")
    if low < 0 or high > 1:
        raise ValueError(f"{name}: images must lie in [0, 1], but span [{low:g}, {high:g}]")


def _check_labels(name: str, labels: Tensor, samples: int, classes: int) -> None:
    """Raise TypeError or ValueError unless these are classes, int64 ``[samples]``."""
    if labels.dtype != torch.int64:
        raise TypeError(f"{name}: labels must be int64, not {labels.dtype}")
    if labels.shape != (samples,):
        raise ValueError(f"{name}: {samples} samples, but labels of shape {list(labels.shape)}")
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(f"{name}: labels must lie in 0..{classes - 1}, but span {low}..{high}")
