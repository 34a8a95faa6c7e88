"""Spiking networks: the forward pass against plain torch, training statistics, readouts, errors."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from certsnn.dynamics import carry_above, carry_below
from certsnn.inputs import ImageInput, SpikeInput
from certsnn.layers import Normalize
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.products import ieee_products
from certsnn.program import hold, over_time

Readout = Literal["rate", "membrane"]
Kind = Literal["image", "spikes"]


def conv_layers(readout: Readout) -> list[nn.Module]:
    """Every kind of layer once, for ``[2, 6, 6]``."""
    return [
        Normalize([0.4, 0.6], [0.5, 0.3]),
        nn.Conv2d(2, 4, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(4),
        LIF(0.3, 0.5),
        nn.Conv2d(4, 6, 2, groups=2, dilation=2, padding=1),
        nn.AvgPool2d(2, padding=1),
        nn.Dropout(0.4),
        IF(0.1),
        nn.Flatten(),
        nn.Linear(24, 10),
        nn.BatchNorm1d(10),
        LIF(0.2, 0.9, "subtract", initial=0.1),
        nn.Linear(10, 3),
        *([LIF(0.1, 0.5, (0.2, -0.1))] if readout == "rate" else [nn.BatchNorm1d(3)]),
    ]


def build(readout: Readout, kind: Kind, steps: int = 5) -> SpikingNetwork:
    torch.manual_seed(3)
    network = SpikingNetwork(conv_layers(readout), steps, readout, kind)
    for layer in network.layers:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean = 0.1 * torch.randn(layer.num_features)
            layer.running_var = 0.1 + 0.5 * torch.rand(layer.num_features)
            nn.init.uniform_(layer.weight, -0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
    return network


def batch(kind: Kind, steps: int = 5, size: int = 4) -> Tensor:
    torch.manual_seed(4)
    if kind == "image":
        return torch.rand(size, 2, 6, 6)
    return (torch.rand(steps, size, 2, 6, 6) < 0.4).float()


def naive(network: SpikingNetwork, x: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """All layers at step 1, then all at step 2, ...: the readout, and every neuron's spikes."""
    state: dict[int, Tensor] = {}
    outputs: list[Tensor] = []
    spikes: dict[int, list[Tensor]] = {}
    for t in range(steps):
        h = x if network.input.kind == "image" else x[t]
        for number, layer in enumerate(network.layers):
            if isinstance(layer, Neuron):
                dynamics = layer.dynamics()
                u = state.get(number, dynamics.initial) + h
                h = (u >= dynamics.threshold).float()
                state[number] = torch.where(h > 0, carry_above(u, dynamics), carry_below(u, dynamics))
                spikes.setdefault(number, []).append(h)
            else:
                h = layer(h)
        outputs.append(h)
    return torch.stack(outputs).mean(0), [torch.stack(s) for s in spikes.values()]


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["image", "spikes"])
def test_layer_by_layer_equals_step_by_step(readout: Readout, kind: Kind) -> None:
    network, x = build(readout, kind).eval(), batch(kind)
    expected, spikes = naive(network, x, 5)
    traces = network.freeze().traces(x)
    for trace, reference in zip(traces, spikes, strict=True):
        assert torch.equal(trace.spikes, reference)
        assert 0 < float(reference.mean()) < 1, "the test sees both branches"
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(network(x), network.freeze().run(x))
    if readout == "rate":
        assert torch.equal(network(x), expected)


@pytest.mark.parametrize("kind", ["image", "spikes"])
def test_fewer_steps(kind: Kind) -> None:
    network, x = build("rate", kind).eval(), batch(kind)
    for steps in (1, 3, 5):
        expected = naive(network, x, steps)[0]
        torch.testing.assert_close(network(x, steps=steps), expected)
    if kind == "spikes":
        assert torch.equal(network(x, steps=2), network(x[:2]))
        with pytest.raises(ValueError, match="only 5 steps"):
            network(x, steps=6)
    else:  # more steps than the network was built with are as good
        torch.testing.assert_close(network(x, steps=9), naive(network, x, 9)[0])
    with pytest.raises(ValueError, match="at least 1"):
        network(x, steps=0)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_spikes_of_any_length(length: int) -> None:
    network, x = build("rate", "spikes", steps=5).eval(), batch("spikes", length)
    torch.testing.assert_close(network(x), naive(network, x, length)[0])


def test_each_sample_is_on_its_own_in_eval_mode() -> None:
    network, x = build("rate", "image").eval(), batch("image")
    assert torch.equal(torch.cat([network(row[None]) for row in x]), network(x))
    assert network(x[:0]).shape == (0, 3)


def test_readouts_by_hand() -> None:
    identity = nn.Linear(2, 2, bias=False)
    identity.weight.data = torch.eye(2)
    spikes = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])[:, None]
    rate = SpikingNetwork([identity, LIF(1.0, 0.0)], 4, "rate", "spikes").eval()
    assert rate(spikes).tolist() == [[0.75, 0.25]]
    last = nn.Linear(2, 3)
    last.weight.data = torch.tensor([[1.0, 0.0], [0.0, 4.0], [-2.0, 2.0]])
    last.bias.data = torch.tensor([0.0, -1.0, 0.5])
    membrane = SpikingNetwork([identity, LIF(1.0, 0.0), last], 4, "membrane", "spikes").eval()
    # the mean of W s_t + b over 4 steps is W [0.75, 0.25] + b
    assert membrane(spikes).tolist() == [[0.75, 0.0, -0.5]]


# Training mode.


def torch_training_pass(network: SpikingNetwork, x: Tensor, steps: int) -> Tensor:
    """Torch's own modules in training mode, layer by layer with time folded into the batch."""
    frames = x[None] if network.input.kind == "image" else x
    for layer in network.layers:
        if isinstance(layer, Neuron):
            frames = layer(frames.expand(steps, *frames.shape[1:]))
        else:
            if layer is network.layers[-2] and network.readout == "membrane":
                frames = frames.mean(0, keepdim=True)
            frames = layer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    return frames.mean(0)


def without_dropout(network: SpikingNetwork) -> SpikingNetwork:
    for layer in network.layers:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return network


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["image", "spikes"])
def test_training_mode_is_that_of_torchs_batch_norm(
    readout: Readout, kind: Kind, momentum: float | None
) -> None:
    mine = without_dropout(build(readout, kind)).train()
    for layer in mine.layers:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = momentum  # None is the cumulative mean
    theirs = copy.deepcopy(mine)
    for size in (4, 3):
        x = batch(kind, size=size)
        torch.testing.assert_close(mine(x), torch_training_pass(theirs, x, 5), rtol=1e-4, atol=1e-4)
    for (name, a), b in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    x = batch(kind)
    torch.testing.assert_close(mine.eval()(x), naive(theirs.eval(), x, 5)[0], rtol=1e-4, atol=1e-4)


def test_training_gradients_are_those_of_torchs_batch_norm() -> None:
    mine = without_dropout(build("membrane", "image")).train()
    theirs = copy.deepcopy(mine)
    x, weights = batch("image"), torch.randn(4, 3)
    (mine(x) * weights).sum().backward()
    (torch_training_pass(theirs, x, 5) * weights).sum().backward()
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        if a.requires_grad:
            assert a.grad is not None and b.grad is not None
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["image", "spikes"])
def test_the_frozen_network_of_a_training_pass_has_its_logits(readout: Readout, kind: Kind) -> None:
    network = without_dropout(build(readout, kind)).train()
    x = batch(kind)
    logits, program = network.forward_and_freeze(x)
    torch.testing.assert_close(program.run(x), logits, rtol=1e-4, atol=1e-4)
    fewer, program = network.forward_and_freeze(x, 2)
    torch.testing.assert_close(program.run(x, 2), fewer, rtol=1e-4, atol=1e-4)
    # and keeps this batch's statistics
    assert not torch.allclose(network.eval().freeze().run(x), logits)


def test_dropout_acts_in_training_only_and_never_in_the_frozen_network() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 50), nn.Dropout(0.5), LIF(0.1), nn.Linear(50, 2)]
    network = SpikingNetwork(layers, 3, "membrane").train()
    x = torch.rand(6, 3)
    assert not torch.equal(network(x), network(x))
    logits, program = network.forward_and_freeze(x)
    clean = network.eval()(x)
    torch.testing.assert_close(program.run(x), clean)
    assert not torch.allclose(logits, clean)
    assert torch.equal(network(x), clean)


def test_batch_norm_cannot_train_on_a_single_value() -> None:
    network = SpikingNetwork([nn.Linear(3, 2), nn.BatchNorm1d(2), LIF()], 3)
    with pytest.raises(ValueError, match="batch norm"):
        network(torch.rand(1, 3))
    network.eval()(torch.rand(1, 3))


def test_gradients_reach_every_trained_parameter_in_eval_mode() -> None:
    network, x = build("membrane", "image").eval(), batch("image").requires_grad_()
    network(x).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


# The frame around it.


def test_hold_and_over_time() -> None:
    frames = torch.arange(12.0).view(2, 3, 2)
    assert torch.equal(over_time(lambda x: x.sum(1), frames), frames.sum(2))
    assert hold(frames[:1], 4).shape == (4, 3, 2)
    assert hold(frames, 2) is not None
    assert ImageInput(3).frames(frames[0], None)[1] == 3
    assert SpikeInput().frames(frames, None)[1] == 2


def test_products_are_plain_under_autocast() -> None:
    network, x = build("membrane", "image").eval(), batch("image")
    expected = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(x), expected)


def test_ieee_products_restores_the_settings() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, torch.backends.cudnn.enabled
    with pytest.raises(RuntimeError, match="inside"), ieee_products():
        assert not matmul.allow_tf32
        assert not torch.backends.cudnn.enabled
        raise RuntimeError("inside")
    assert (matmul.allow_tf32, torch.backends.cudnn.enabled) == before


PRECISION = """
import torch
torch.backends.{where}fp32_precision = "{how}"
from torch import nn
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF
network = SpikingNetwork([nn.Linear(3, 2), LIF()], 2).eval()
network(torch.rand(2, 3))
assert torch.backends.{where}fp32_precision == "{how}"
"""


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="an older torch")
@pytest.mark.parametrize(("where", "how"), [("", "tf32"), ("cuda.matmul.", "tf32")])
def test_precision_settings_of_newer_torch(where: str, how: str) -> None:
    # In a process of its own, for torch keeps track of which interface was used.
    code = PRECISION.format(where=where, how=how)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_copy_loads_the_state_dict() -> None:
    network, x = build("rate", "image").eval(), batch("image")
    other = SpikingNetwork(conv_layers("rate"), 5).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


@pytest.mark.parametrize(
    ("layers", "arguments", "error", "message"),
    [
        ([nn.Linear(3, 2), nn.ReLU(), LIF()], {}, TypeError, "ReLU"),
        ([nn.Linear(3, 2)], {"readout": "membrane"}, ValueError, "at least one layer of neurons"),
        ([nn.Linear(3, 2)], {}, ValueError, "at least one layer of neurons"),
        ([], {}, ValueError, "at least one layer of neurons"),
        ([nn.Linear(3, 2), LIF(), nn.Linear(2, 2)], {}, ValueError, "rate readout"),
        ([nn.Linear(3, 2), LIF()], {"readout": "membrane"}, ValueError, "membrane readout"),
        ([nn.Linear(3, 2), LIF()], {"readout": "mean"}, ValueError, "readout"),
        ([nn.Linear(3, 2), LIF()], {"input": "events"}, ValueError, "input"),
        ([nn.Linear(3, 2), LIF()], {"steps": 0}, ValueError, "steps"),
        ([nn.Linear(3, 2), LIF()], {"steps": -1}, ValueError, "steps"),
    ],
    ids=str,
)
def test_construction_errors(
    layers: list[nn.Module], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SpikingNetwork(layers, **{"steps": 3, **arguments})


@pytest.mark.parametrize(
    ("kind", "x", "error", "message"),
    [
        ("image", torch.tensor([[0.5, float("nan"), 0.0]]), ValueError, "NaN"),
        ("image", torch.tensor([[0.5, float("inf"), 0.0]]), ValueError, "infinite"),
        ("image", torch.ones(2, 3, dtype=torch.float64), TypeError, "float64"),
        ("image", torch.ones(2, 3, dtype=torch.int64), TypeError, "int64"),
        ("image", torch.ones(3), ValueError, r"\[B, ...\]"),
        ("spikes", torch.full((4, 2, 3), 0.5), ValueError, "0 or 1"),
        ("spikes", torch.full((4, 2, 3), float("nan")), ValueError, "NaN"),
        ("spikes", torch.ones(2, 3), ValueError, r"\[T, B, ...\]"),
        ("spikes", torch.ones(0, 2, 3), ValueError, "T >= 1"),
        ("spikes", torch.ones(4, 2, 3, dtype=torch.bool), TypeError, "bool"),
        ("spikes", torch.ones(4, 2, 3, dtype=torch.float64), TypeError, "float64"),
        ("image", torch.ones(2, 3, device="meta"), ValueError, "meta"),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_input_errors(kind: Kind, x: Tensor, error: type[Exception], message: str, training: bool) -> None:
    network = SpikingNetwork([nn.Linear(3, 2), LIF()], 4, input=kind).train(training)
    with pytest.raises(error, match=message):
        network(x)
