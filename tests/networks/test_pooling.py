"""Maxima over windows: as torch computes them, and the windows themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from certsnn.pooling import max_pool_of

Layer = nn.MaxPool1d | nn.MaxPool2d


def variants() -> Iterator[tuple[int, Layer]]:
    """All layers of a grid of sizes, with the number of axes."""
    for kernel, stride, dilation, ceil in product((1, 2, 3), (None, 1, 2, 4), (1, 2), (False, True)):
        for padding in range(kernel // 2 + 1):
            for axes, layer in ((1, nn.MaxPool1d), (2, nn.MaxPool2d)):
                yield axes, layer(kernel, stride, padding, dilation, ceil_mode=ceil)
    yield 2, nn.MaxPool2d((3, 2), (1, 2), (1, 0), (1, 3), ceil_mode=True)


@pytest.mark.parametrize("size", [5, 6, 7])
def test_every_variant_is_torch_and_its_windows_hold_the_same_inputs(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for axes, layer in variants():
        pool = max_pool_of(layer)
        shape = (size,) if axes == 1 else (size, size + 1)
        x = torch.randn(2, 3, *shape, generator=generator)
        expected = layer(x)
        assert torch.equal(pool.apply(x), expected), layer
        assert pool.outputs(shape) == expected.shape[2:], layer
        places, inside = pool.windows(shape)
        held = x.flatten(2)[..., places].masked_fill(~inside, -torch.inf).amax(-1)
        assert torch.equal(held, expected.flatten(2)), layer


def test_windows_by_hand() -> None:
    pool = max_pool_of(nn.MaxPool1d(2, stride=2, padding=1, dilation=2, ceil_mode=True))
    places, inside = pool.windows((4,))
    assert places.tolist() == [[0, 1], [1, 3], [3, 0]]
    assert inside.tolist() == [[False, True], [True, True], [True, False]]
    wide = max_pool_of(nn.MaxPool2d((1, 2), stride=1)).windows((2, 3)).places
    assert wide.tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]


def test_gradients_go_to_the_maxima() -> None:
    x = torch.tensor([[[1.0, 3.0, 2.0, 0.0]]], requires_grad=True)
    max_pool_of(nn.MaxPool1d(2)).apply(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[[0, 1, 1, 0]]]


class Own(nn.MaxPool2d):
    def forward(self, input: Tensor) -> Tensor:
        pooled: Tensor = super().forward(input)
        return -pooled


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: nn.MaxPool2d(2, return_indices=True), (4, 4), "return_indices=False only"),
        (lambda: Own(2), (4, 4), "Own is a subclass of MaxPool2d"),
        (lambda: nn.MaxPool1d(2, padding=2), (4,), "pads by more than half"),
        (lambda: nn.MaxPool1d(3), (4, 4), r"MaxPool1d takes \[N, C, L\], but it got \[N, 2, 4, 4\]"),
        (lambda: nn.MaxPool2d(3), (4, 2), "MaxPool2d takes larger maps"),
        (lambda: nn.MaxPool1d(2, dilation=3, padding=1), (2,), "lies in the padding"),
    ],
    ids=["indices", "subclass", "padding", "axes", "small", "empty window"],
)
def test_what_is_no_maximum_is_refused(
    make: Callable[[], Layer], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        max_pool_of(make()).apply(torch.zeros(1, 2, *shape))
