"""Batches of any loader as the evaluation takes them: with the samples' positions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import RandomSampler

from certsnn.data import Batch
from certsnn.encoding import Encoding
from certsnn.inputsets import Threat


def numbered(batches: Iterable[Any], threat: Threat, encoding: Encoding | None) -> Iterator[Batch]:
    """Batches ``(x, y, index)`` as they are; pairs ``(x, y)`` with their positions, counted as they come.

    Raises:
        ValueError: for a batch of another length, or pairs that are shuffled where threat or encoding draw
            noise by their positions.
    """
    drawing = [part for part in (threat, encoding) if part is not None and part.random]
    shuffled = isinstance(getattr(batches, "sampler", None), RandomSampler)
    start = 0
    for batch in batches:
        if len(batch) not in (2, 3):
            raise ValueError(f"a batch is (x, y) or (x, y, index), and this one has {len(batch)} parts")
        x, y, *rest = batch
        if not rest:
            if drawing and shuffled:
                raise ValueError(
                    f"{type(drawing[0]).__name__} draws each sample's noise by its position in the data "
                    "set, which a loader that shuffles (x, y) does not say: use shuffle=False, or batches "
                    "(x, y, index)"
                )
            rest = [torch.arange(start, start + len(y))]
        start += len(y)
        yield x, y, rest[0]
