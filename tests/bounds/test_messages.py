"""Input that does not fit gets one message that says what to do, before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks import RandomSearch
from certsnn.bounds import certify, layer_bounds, margin_bounds
from certsnn.inputsets import CoupledBernoulli, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF


def net(*layers: nn.Module, **arguments: Any) -> SpikingNetwork:
    return SpikingNetwork(list(layers), **{"steps": 2, "readout": "membrane", **arguments}).eval()


DENSE = net(nn.Flatten(), nn.Linear(12, 3), IF(), nn.Linear(3, 3))
PLAIN = net(nn.Linear(4, 3), IF(), nn.Linear(3, 3))
CONV = net(nn.Conv2d(3, 2, 2), LIF(), nn.Flatten(), nn.Linear(2, 3))
POOL = net(nn.AvgPool2d(2), IF(), nn.Flatten(), nn.Linear(3, 3))
MAPS = net(nn.Conv2d(3, 2, 2), LIF(), nn.Conv2d(2, 3, 1))
FIRING_MAPS = net(nn.Conv2d(3, 2, 2), LIF(), readout="rate")
INNER = net(nn.Flatten(), nn.Linear(12, 3), IF(), nn.Linear(4, 3))
NORM = net(nn.Conv2d(3, 2, 2), nn.BatchNorm2d(5), IF(), nn.Flatten(), nn.Linear(2, 3))
NORM_OF_ONE = net(nn.Conv2d(3, 1, 2), nn.BatchNorm2d(5), IF(), nn.Flatten(), nn.Linear(5, 3))
NORM_OF_ROWS = net(nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm2d(3), IF(), nn.Linear(3, 3))
SPIKES = net(nn.Flatten(), nn.Linear(12, 3), IF(), nn.Linear(3, 3), input="spikes")
X, Y = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
S = torch.ones(4, 2, 3, 2, 2)
BALL = LinfBall(0.1)

SHAPES = [
    (DENSE, torch.rand(2, 3, 4, 4), r"Linear\(12, 3\) takes \[N, 12\], but it got \[N, 48\]: the"),
    (DENSE, X[0], r"Linear\(12, 3\) takes \[N, 12\], but it got \[N, 4\]: .*has it a batch axis"),
    (PLAIN, torch.rand(2, 1, 4), r"takes \[N, 4\], but it got \[N, 1, 4\]: put a Flatten before it"),
    (INNER, X, r"Linear\(4, 3\) takes \[N, 4\], but it got \[N, 3\]"),
    (CONV, X.permute(0, 2, 3, 1), r"Conv2d\(3, 2\) takes \[N, 3, H, W\], but it got \[N, 2, 2, 3\]: chan"),
    (CONV, X[0], r"Conv2d\(3, 2\) takes \[N, 3, H, W\], but it got \[N, 2, 2\]"),
    (CONV, X[:, :, :1], r"Conv2d\(3, 2\) takes larger maps, but it got \[N, 3, 1, 2\]: its kernel"),
    (POOL, X[0], r"AvgPool2d takes \[N, C, H, W\], but it got \[N, 2, 2\]"),
    (NORM, X, r"normalisation of 5 channels takes \[N, 5, H, W\], but it got \[N, 2, 1, 1\]"),
    (NORM_OF_ONE, X, r"normalisation of 5 channels takes \[N, 5, H, W\], but it got \[N, 1, 1, 1\]"),
    (NORM_OF_ROWS, X, r"normalisation of 3 channels takes \[N, 3, H, W\], but it got \[N, 3\]"),
    (MAPS, X, r"ends on \[B, 3, 1, 1\], not on logits \[B, K\]: put a Flatten"),
    (FIRING_MAPS, X, r"ends on \[B, 2, 1, 1\], not on logits \[B, K\]: put a Flatten"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "x", "message"), SHAPES, ids=[message for *_, message in SHAPES])
def test_shapes_that_do_not_fit_name_the_layer(network: SpikingNetwork, x: Tensor, message: str) -> None:
    y = torch.zeros(len(x), dtype=torch.int64)
    for call in (
        lambda: network(x),
        lambda: certify(network, x, y, BALL, "auto"),
        lambda: margin_bounds(network, x, y, BALL),
        lambda: margin_bounds(network, x, y, BALL, rounding=True),
        lambda: RandomSearch(1)(network, x, y, BALL),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (MAPS, X, "not on logits"),
        (FIRING_MAPS, X, "not on logits"),
        (CONV, X[0], "Conv2d"),
        (NORM, X, "normalisation of 5 channels"),
        (NORM_OF_ROWS, X, "normalisation of 3 channels"),
        (NORM_OF_ONE, X, "normalisation of 5 channels"),
    ],
)
def test_shapes_that_do_not_fit_in_training(network: SpikingNetwork, x: Tensor, message: str) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        with pytest.raises(ValueError, match=message):
            network.train()(x)
    finally:
        network.eval()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


QUESTIONS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("float labels", {"y": Y.float()}, ValueError, r"y must be int64 \[2\], got torch.float32 .*y.long"),
    ("int32 labels", {"y": Y.int()}, ValueError, r"got torch.int32 \[2\]: convert with y.long"),
    ("one-hot labels", {"y": torch.eye(3)[Y]}, ValueError, r"one-hot rows are y.argmax\(1\)"),
    ("labels from 1", {"y": Y + 2}, ValueError, r"y must lie in 0..2, got 2..3"),
    ("too few labels", {"y": Y[:1]}, ValueError, r"got torch.int64 \[1\]: one class a sample"),
    ("listed labels", {"y": [0, 1]}, TypeError, "got list: use torch.as_tensor"),
    ("bytes", {"x": (X * 255).byte()}, TypeError, "uint8: bytes are x.float() / 255"),
    ("0..255", {"x": (X * 255).round()}, ValueError, "divide bytes by 255"),
    ("normalised", {"x": (X - 0.5) / 0.2}, ValueError, r"unnormalised pixels .*Normalize\(mean, std\)"),
    ("rounded", {"x": X.clone().clamp_max(0.5) * 2 + 1e-6}, ValueError, r"1\.000001.*x.clamp\(0, 1\) mends"),
    ("an array", {"x": np.zeros((2, 3, 2, 2))}, TypeError, "must be a tensor, not ndarray"),
    ("an image alone", {"x": X[0, 0, 0]}, ValueError, "add a batch axis"),
    ("a number", {"threat": 0.1}, TypeError, r"0.1 is a number: LinfBall\(0.1\)"),
    ("another network", {"network": nn.Linear(3, 2)}, TypeError, "a SpikingNetwork is needed, not Linear"),
    ("an object", {"threat": object()}, TypeError, r"a threat is needed, e.g. LinfBall\(0.1\), not object"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"), [row[1:] for row in QUESTIONS], ids=[row[0] for row in QUESTIONS]
)
def test_questions_that_do_not_fit(change: dict[str, Any], error: type[Exception], message: str) -> None:
    asked = {"network": DENSE, "x": X, "y": Y, "threat": BALL, **change}
    for call in (certify, margin_bounds, RandomSearch(1)):
        with pytest.raises(error, match=message.replace("float()", r"float\(\)")):
            call(*asked.values())
    if "y" not in change:
        with pytest.raises(error, match=message.replace("float()", r"float\(\)")):
            layer_bounds(asked["network"], asked["x"], asked["threat"])


@pytest.mark.parametrize(
    ("network", "x", "threat"),
    [(DENSE, X, BALL), (SPIKES, X, CoupledBernoulli(0.1, 3)), (SPIKES, S, SpikeFlips(1))],
)
def test_positions_that_do_not_fit(network: SpikingNetwork, x: Tensor, threat: Threat) -> None:
    with pytest.raises(ValueError, match=r"index has shape \[1\], expected \[2\]"):
        certify(network, x, Y, threat, index=torch.tensor([0]))
    with pytest.raises(TypeError, match="index must be an integer tensor of data-set positions"):
        certify(network, x, Y, threat, index=torch.tensor([0.0, 1.0]))
    with pytest.raises(TypeError, match="positions, not NoneType"):
        threat.bind(x, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [2.5, True, "3", None])
def test_steps_are_an_integer(steps: Any) -> None:
    message = f"steps must be an integer, not {type(steps).__name__}"
    with pytest.raises(TypeError, match=message):
        net(nn.Linear(3, 2), IF(), nn.Linear(2, 2), steps=steps)
    if steps is not None:
        with pytest.raises(TypeError, match=message):
            DENSE(X, steps=steps)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        DENSE(X, steps=0)


@pytest.mark.parametrize(("name", "value"), [("readout", "rate"), ("steps", 7), ("input", "spikes")])
def test_a_network_keeps_what_it_was_made_with(name: str, value: Any) -> None:
    before = getattr(DENSE, name)
    with pytest.raises(AttributeError, match=f"{name} is fixed at construction: make another SpikingNetwork"):
        setattr(DENSE, name, value)
    assert getattr(DENSE, name) == before


def test_the_networks_own_input_errors_say_what_to_do() -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: DENSE((X * 255).byte()), "bytes are"),
        (lambda: SPIKES(S.bool()), "convert them with x.float"),
        (lambda: DENSE(np.zeros((2, 3, 2, 2))), "must be a tensor, not ndarray"),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=message):
            call()
