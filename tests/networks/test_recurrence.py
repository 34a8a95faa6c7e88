"""Recurrent layers: traces by hand, gradients against plain torch, wiring, errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks import PGD
from certsnn.attacks.gradients import with_penultimate_threshold, with_surrogate
from certsnn.bounds import certify
from certsnn.filters import Synapse
from certsnn.graph import Residual
from certsnn.inputsets import LinfBall
from certsnn.layers import Scale
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.program import Neurons
from certsnn.recurrence import Recurrent, RecurrentStage
from certsnn.surrogates import Rectangle
from certsnn.train.initialisation import Calibrated

STEPS = 5


def weighted(layer: nn.Linear, weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def test_a_trace_by_hand() -> None:
    """One neuron of threshold 1 that inhibits itself by 1, with the current 3/4 and a bias of 1/4."""
    feedback = weighted(nn.Linear(1, 1), [[-1.0]], [0.25])
    network = SpikingNetwork([Recurrent(LIF(1.0, 0.5), feedback)], 4, input="spikes").eval()
    currents = torch.full((4, 1, 1), 0.75)
    (trace,) = network.freeze().traces(currents)
    # Currents: 0.75 + 0.25 = 1 (fires), 1 - 1 = 0, 1 + half of 0 (fires), 0.
    assert trace.membranes.flatten().tolist() == [1, 0, 1, 0]
    assert trace.spikes.flatten().tolist() == [1, 0, 1, 0]


def plain(first: nn.Linear, back: nn.Linear, last: nn.Linear, neuron: Neuron, x: Tensor) -> Tensor:
    """The same network in torch, whose spikes have the rectangle's gradient."""
    n = neuron.dynamics()
    s, v, counts = torch.zeros(len(x[0]), 8, dtype=x.dtype), n.initial, []
    for frame in x:
        u = v + (first(frame) + back(s))
        window = ((u - n.threshold).abs() <= 0.5).to(u) * (u - n.threshold)
        s = (u >= n.threshold).to(u) + window - window.detach()
        v = n.decay * u * (1 - s) + (n.gain * u + n.offset) * s
        counts.append(last(s))
    return torch.stack(counts).mean(0)


@pytest.mark.parametrize(
    "neuron",
    [
        LIF(0.5, 0.75, "zero", 0.1, Rectangle(0.5), True, True),
        LIF(0.5, 0.75, "subtract", 0.1, Rectangle(0.5), True, True),
        IF(0.5, surrogate=Rectangle(0.5), learn_threshold=True),
    ],
    ids=["zero", "subtract", "IF"],
)
def test_logits_and_gradients_are_those_of_plain_torch(neuron: Neuron) -> None:
    torch.manual_seed(0)
    first, back, last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
    x = (torch.rand(STEPS, 10, 6) < 0.5).double()
    network = (
        SpikingNetwork([first, Recurrent(neuron, back), last], STEPS, "membrane", "spikes").double().eval()
    )
    found = []
    for logits in (network(x), plain(first, back, last, neuron, x)):
        network.zero_grad()
        (logits * torch.arange(1, 4)).sum().backward()
        gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        found.append((logits.detach(), gradients))
    (one, mine), (other, theirs) = found
    torch.testing.assert_close(one, other)
    assert float(one.std()) > 0.01
    assert mine.keys() == theirs.keys() and len(mine) >= 7
    for name, gradient in mine.items():
        assert float(gradient.abs().sum()) > 0, name
        torch.testing.assert_close(gradient, theirs[name])


def test_feedback_through_a_convolution() -> None:
    torch.manual_seed(1)
    first, back = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
    layers = [first, Recurrent(LIF(0.3, 0.5), back), nn.Flatten(), nn.Linear(32, 3)]
    network = SpikingNetwork(layers, STEPS, "membrane").eval()
    x = torch.rand(6, 1, 4, 4)
    s, v, spikes = torch.zeros(6, 2, 4, 4), torch.zeros(6, 2, 4, 4), []
    for _ in range(STEPS):
        u = v + (first(x) + back(s))
        s = (u >= 0.3).float()
        v = 0.5 * u * (1 - s)
        spikes.append(s)
    counts = torch.stack(spikes)
    assert 0.1 < float(counts.mean()) < 0.9
    torch.testing.assert_close(network(x), layers[3](counts.mean(0).flatten(1)))


def test_the_program_and_training() -> None:
    torch.manual_seed(0)
    recurrent = Recurrent(LIF(0.3), [nn.Linear(8, 8, bias=False), Scale(0.5)])
    body = [nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), recurrent]
    layers = [nn.Linear(5, 8), LIF(0.3), Residual(body), nn.Linear(8, 3)]
    network = SpikingNetwork(layers, STEPS, "membrane").train()
    x = torch.rand(12, 5)
    logits, program = network.forward_and_freeze(x)
    torch.testing.assert_close(program.run(x), logits)
    logits.sum().backward()
    gradient = recurrent.feedback[0].weight.grad
    assert isinstance(gradient, Tensor) and float(gradient.abs().sum()) > 0
    stage = program.nodes[1]
    assert isinstance(stage, RecurrentStage) and stage.name == "layers.2.body.2"
    assert len(stage.feedback) == 1  # the gain is folded into the weights
    assert all(isinstance(one, Neurons) for one in program.stages) and len(program.stages) == 2
    assert not program.is_chain and len(program.traces(x)) == 2
    assert recurrent.neuron in network.leaves() and recurrent.feedback[0] in network.leaves()
    alone = SpikingNetwork([Recurrent(IF(), nn.Linear(2, 2))], 2).freeze()
    assert not alone.is_chain and alone.held(True) == [True, False]


def test_what_does_not_fit_is_refused_by_name() -> None:
    for wrong in (nn.BatchNorm1d(4), nn.Dropout(0.1)):
        with pytest.raises(TypeError, match="the feedback of a recurrent layer can't have"):
            Recurrent(IF(), [nn.Linear(4, 4), wrong])
    with pytest.raises(TypeError, match="no bound for the layer ReLU"):
        Recurrent(IF(), nn.ReLU())
    for width in (1, 3):  # one that would be spread over all neurons, and one that can't be added
        network = SpikingNetwork([nn.Linear(3, 4), Recurrent(IF(), nn.Linear(4, width))], 2).eval()
        with pytest.raises(ValueError, match=rf"feedback of layers\.1 gives \[{width}\].*currents are \[4\]"):
            network(torch.rand(2, 3))
    hooked = Recurrent(IF(), nn.Linear(4, 4))
    hooked.feedback.register_forward_hook(lambda *arguments: None)
    with pytest.raises(TypeError, match="forward hooks"):
        SpikingNetwork([nn.Linear(3, 4), hooked], 2)


def test_feedback_through_no_layer_is_refused() -> None:
    """A stage without operators in its feedback would be bounded as one without feedback."""
    with pytest.raises(ValueError, match=r"layers\.1 has no layer: nn\.Identity"):
        SpikingNetwork([nn.Linear(4, 3), Recurrent(IF(), [])], 4)
    network = SpikingNetwork([nn.Linear(4, 3), Recurrent(IF(), nn.Identity())], 4)
    assert not network.eval().freeze().is_chain


def test_attacks_and_initialisation_see_recurrent_layers() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 12), Recurrent(LIF(0.5), nn.Linear(12, 12)), nn.Linear(12, 3, bias=False)]
    network = SpikingNetwork([*layers, Synapse(0.8)], STEPS, "maximum").eval()
    x = torch.rand(60, 6)
    Calibrated(rate=0.3)(network, x)
    program = network.freeze()
    assert 0.2 < float(program.traces(x)[0].spikes.detach().mean()) < 0.4
    wide = with_surrogate(program, Rectangle(3.0))
    assert [stage.neuron.surrogate for stage in wide.stages] == [Rectangle(3.0)]
    assert isinstance(wide.nodes[0], RecurrentStage) and wide.nodes[0].feedback
    raised = with_penultimate_threshold(program, 2.0)
    assert float(raised.stages[0].neuron.threshold) == 2.0  # the integrator is the last layer
    y = network(x).argmax(1)
    x0, input_set = LinfBall(0.3).bind(x, torch.arange(60))
    result = PGD(iterations=5)(network, x0, y, input_set)
    assert result.success.any()
    certified = certify(network, x, y, LinfBall(0.3), "s-crown-ibp").certified
    assert not (certified & result.success).any()
