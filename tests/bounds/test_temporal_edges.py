"""Filters, recurrent layers and readouts: refusals, overflow, and gradients of their bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from certsnn.bounds import certify, margin_bounds
from certsnn.bounds.interval.overflow import layout
from certsnn.filters import Synapse
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.readouts import ReadoutName
from certsnn.recurrence import Recurrent
from certsnn.surrogates import Rectangle


def test_what_is_not_supported_is_refused_by_name_and_skipped_by_auto() -> None:
    torch.manual_seed(0)
    chain = [nn.Linear(3, 4), IF(0.5), nn.Linear(4, 2)]
    recurrent = [nn.Linear(3, 4), Recurrent(IF(0.5), nn.Linear(4, 4)), nn.Linear(4, 2)]
    cases = {
        r"does not support recurrent layers \(layers\.1\); use s-crown": (recurrent, "membrane"),
        r"does not support filters over time \(layers\.3\); use s-crown": ([*chain, Synapse()], "membrane"),
        "does not support the readout 'maximum'; use s-crown": (chain, "maximum"),
    }
    x, y = torch.rand(2, 3), torch.tensor([0, 1])
    for message, (layers, readout) in cases.items():
        network = SpikingNetwork(layers, 3, readout).eval()  # type: ignore[arg-type]
        for method in ("branch-and-bound", "auto-lirpa:ibp"):
            with pytest.raises(TypeError, match=f"{method} {message}"):
                margin_bounds(network, x, y, LinfBall(0.1), method)
        with pytest.raises(TypeError, match=message):
            certify(network, x, y, LinfBall(0.1), "branch-and-bound")
        interval = margin_bounds(network, x, y, LinfBall(0.1))
        for method in ("s-crown", "alpha-s-crown", "auto"):
            assert (margin_bounds(network, x, y, LinfBall(0.1), method) >= interval - 1e-6).all()
        verdict = certify(network, x, 1 - network(x).argmax(1), LinfBall(0.01), "auto")
        assert verdict.status == ["unknown", "unknown"] and "branch-and-bound" not in verdict.stage


def constant(layer: nn.Linear, weight: float) -> nn.Linear:
    layer.weight.data.fill_(weight)
    layer.bias.data.zero_()
    return layer


@pytest.mark.parametrize(
    ("layers", "readout", "message"),
    [
        (
            lambda w: [constant(nn.Linear(1, 2), w), Synapse(1.0), LIF(1, 0)],
            "rate",
            r"values of layers\.1 may reach 1\.6",
        ),
        (
            lambda w: [constant(nn.Linear(1, 2), 4 * w), Synapse(0.75), LIF(1, 0)],
            "rate",
            r"layers\.1 may reach 1\.6",
        ),
        (
            lambda w: [
                constant(nn.Linear(1, 2), 8 * w),
                Recurrent(LIF(1, 0), constant(nn.Linear(2, 2), 4 * w)),
            ],
            "rate",
            r"membranes of layers\.1 may reach 1\.6",
        ),
        (
            lambda w: [nn.Linear(1, 2), LIF(), constant(nn.Linear(2, 2), w / 2)],
            "sum",
            r"sums over time may reach 1\.6",
        ),
    ],
    ids=["integrator", "filter", "feedback", "sum"],
)
def test_what_may_overflow_is_refused(
    layers: Callable[[float], list[nn.Module]], readout: ReadoutName, message: str
) -> None:
    """Sums over 16 steps: 16 x 1e37 is beyond a third of the largest number, and 16 x 5e36 is not."""
    x, y = torch.ones(2, 1), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=message):
        certify(SpikingNetwork(layers(1e37), 16, readout).eval(), x, y, LinfBall(0.0))
    assert certify(SpikingNetwork(layers(5e36), 16, readout).eval(), x, y, LinfBall(0.0)).status


def test_the_feedback_is_among_the_products_that_are_checked() -> None:
    program = SpikingNetwork([Recurrent(LIF(), nn.Linear(2, 2))], 3).eval().freeze()
    chains = [chain for _, chain in layout(program, torch.ones(1, 2)).named()]
    assert ((program.stages[0].feedback[0], torch.Size([2])),) in chains


@pytest.mark.parametrize("readout", ["membrane", "sum", "last", "maximum"])
def test_gradients_of_intervals_that_are_points_are_those_of_the_network(readout: ReadoutName) -> None:
    torch.manual_seed(0)
    synapse, wide = Synapse(0.7, learn_decay=True), Rectangle(4.0)
    recurrent = Recurrent(LIF(0.4, 0.9, "subtract", 0.0, wide, True, True), nn.Linear(6, 6))
    layers = [nn.Linear(4, 6), synapse, recurrent, nn.Linear(6, 3), Synapse(0.8, learn_decay=True)]
    network = SpikingNetwork(layers, 5, readout).double().eval()
    x, y = torch.rand(8, 4).double(), torch.zeros(8, dtype=torch.long)
    logits = network(x)
    found = []
    for margins in (logits[:, :1] - logits[:, 1:], margin_bounds(network, x, y, LinfBall(0.0))):
        network.zero_grad()
        margins.sum().backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    one, other = found
    assert one.keys() == other.keys() and len(one) == 10
    for name, gradient in one.items():
        assert float(gradient.abs().sum()) > 0, name
        torch.testing.assert_close(gradient, other[name])


@pytest.mark.parametrize("method", ["s-ibp", "s-crown-ibp"])
def test_bounds_train_filters_and_feedback(method: str) -> None:
    torch.manual_seed(0)
    recurrent = Recurrent(LIF(0.4, 0.9, surrogate=Rectangle(4.0)), nn.Linear(6, 6))
    synapse = Synapse(0.7, learn_decay=True)
    network = SpikingNetwork([nn.Linear(4, 6), synapse, recurrent, nn.Linear(6, 3)], 5, "membrane").eval()
    margins = margin_bounds(
        network, torch.rand(8, 4), torch.zeros(8, dtype=torch.long), LinfBall(0.1), method
    )
    margins.sum().backward()
    for parameter in (synapse.decay, *recurrent.feedback[0].parameters(), *network.layers[0].parameters()):
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert float(parameter.grad.abs().sum()) > 0
