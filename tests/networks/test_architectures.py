"""Every named architecture: it takes samples of its size, and S-IBP bounds it."""

from __future__ import annotations

import pytest
import torch
from soundness import true_margins

from certsnn.architectures import ARCHITECTURES, build
from certsnn.bounds import margin_bounds
from certsnn.inputsets import LinfBall
from certsnn.neurons import IF

HIDDEN = {
    "sew-resnet-8": 9,
    "sew-resnet-14": 15,
    "sew-resnet-20": 21,
    "ms-resnet-8": 7,
    "ms-resnet-14": 13,
    "ms-resnet-20": 19,
    "vgg": 7,
    "dvs-gesture": 6,
    "recurrent": 1,
}
"""Layers of neurons; a SEW-ResNet has them in its two projections, too."""


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_named_architectures_are_built_and_bounded(name: str) -> None:
    torch.manual_seed(0)
    shape = (2, 32, 32) if "gesture" in name else (1, 28, 28)
    network = build(name, shape, 3, lambda: IF(0.5, initial=0.25), 1, norm="batch").eval()
    x = torch.rand(1, *shape)
    logits = network(x)
    y = logits.argmax(1)
    assert logits.shape == (1, 3)
    assert len(network.freeze().stages) == HIDDEN.get(name, len(network.freeze().stages))
    bounds = margin_bounds(network, x, y, LinfBall(0.01))
    assert (bounds <= true_margins(logits, y) + 1e-5).all()
