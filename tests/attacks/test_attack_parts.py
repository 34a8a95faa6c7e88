"""The parts of attacks, against values by hand: losses, criteria, views of networks and of spikes, steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks import (
    FGSM,
    G2S,
    PGD,
    RSF,
    CrossEntropy,
    ExhaustiveFlips,
    GreedyFlips,
    Loss,
    Margin,
    MeanSquaredError,
)
from certsnn.attacks.criterion import Criterion
from certsnn.attacks.gradients import by_step, with_penultimate_threshold, with_surrogate
from certsnn.attacks.oracle import Ledger, sample_keys
from certsnn.attacks.spike_view import ternary
from certsnn.graph import Branches, Residual
from certsnn.inputsets import LinfBall, SpikeBox, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.surrogates import Adaptive, ArcTan, Rectangle

LOGITS = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 0.0]])
Y = torch.tensor([1, 0])


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        (CrossEntropy(), [math.log(1 + math.e + math.e**3) - 1, math.log(2 + math.e**-2)]),
        (MeanSquaredError(), [(0 + 0 + 9) / 3, (1 + 4 + 0) / 3]),
        (Margin(), [2.0, 0.0]),
    ],
)
def test_losses(loss: Loss, values: list[float]) -> None:
    assert loss(LOGITS, Y).tolist() == pytest.approx(values)


def test_margin_without_rivals() -> None:
    assert Margin()(torch.zeros(1, 1), torch.tensor([0])).tolist() == [-math.inf]


def test_goals() -> None:
    criterion = Criterion(torch.tensor([1, 0, 2]), torch.tensor([2, 1, 0]))
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 0.0], [0.0, 0.0, math.nan]])
    assert criterion.met(logits).tolist() == [True, False, False]  # a tie is no target, NaN neither
    assert Criterion(criterion.y).met(logits).tolist() == [True, True, True]  # but both are errors
    part = criterion.select(torch.tensor([True, True, False]))
    assert part.gap(logits[:2]).tolist() == [-2.0, 0.0]
    assert Criterion(part.y).gap(logits[:2]).tolist() == [-2.0, 0.0]
    twice = criterion.repeat(2)
    assert twice.y.tolist() == [1, 0, 2, 1, 0, 2]


def _program(readout: str, hidden: int = 2):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(hidden):
        layers += [nn.Linear(3, 3), LIF(0.5, 0.5)]
    layers += [nn.Linear(3, 3), LIF(0.5, 0.5)] if readout == "rate" else [nn.Linear(3, 3)]
    return SpikingNetwork(layers, 4, readout, "image").freeze()  # type: ignore[arg-type]


@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_the_penultimate_threshold_is_that_of_the_last_hidden_layer(readout: str) -> None:
    program = _program(readout)
    before = [float(stage.neuron.threshold) for stage in program.stages]
    view = with_penultimate_threshold(program, 2.0)
    wanted = [0.5, 2.0, 0.5][: len(before)]
    assert [float(stage.neuron.threshold) for stage in view.stages] == wanted
    assert [float(stage.neuron.threshold) for stage in program.stages] == before
    assert with_penultimate_threshold(program, None) is program


@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_in_a_graph_all_neurons_before_the_last_layer_have_the_penultimate_threshold(readout: Any) -> None:
    hidden = [nn.Linear(3, 3), LIF(0.5), Residual([nn.Linear(3, 3), LIF(0.5)]), Branches([], [])]
    last = [Branches([nn.Linear(6, 3), LIF(0.5)], [nn.Linear(6, 2), LIF(0.5)])]
    network = SpikingNetwork([*hidden, *(last if readout == "rate" else [nn.Linear(6, 3)])], 2, readout)
    view = with_penultimate_threshold(network.freeze(), 2.0)
    outputs = [0.5, 0.5] if readout == "rate" else []
    assert [float(stage.neuron.threshold) for stage in view.stages] == [2.0, 2.0, *outputs]


def test_the_memory_of_sums_and_concatenations_counts() -> None:
    chain = SpikingNetwork([nn.Linear(3, 4), LIF(0.5), nn.Linear(4, 2)], 5, "membrane").freeze()
    graph = SpikingNetwork([nn.Linear(3, 4), LIF(0.5), Residual([]), nn.Linear(4, 2)], 5, "membrane").freeze()
    x = torch.zeros(2, 3)
    assert Ledger(x, 0, chain, lambda: False).bytes == 4 * (3 + 2 * 20)
    assert Ledger(x, 0, graph, lambda: False).bytes == 4 * (3 + 2 * 20 + 2 * 20)


def test_a_network_of_one_layer_has_no_penultimate_threshold() -> None:
    network = SpikingNetwork([nn.Linear(3, 3), IF(0.5)], 2, "rate", "image")
    attack = G2S(penultimate_threshold=1.0)
    with pytest.raises(ValueError, match="needs a hidden layer"):
        attack(network, torch.zeros(1, 3), torch.tensor([0]), LinfBall(0.1))


def test_views_share_spikes_but_not_gradients() -> None:
    program = _program("membrane")
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for surrogate in (None, Rectangle(5.0), ArcTan(3.0), Adaptive()):
        view = with_surrogate(program, surrogate)
        assert torch.equal(view.run(x), program.run(x))
        inputs = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(view.run(inputs).square().sum(), inputs)[0])
    assert all(not torch.equal(one, other) for i, one in enumerate(gradients) for other in gradients[:i])


def test_gradients_by_step_sum_to_that_of_the_image() -> None:
    program = with_surrogate(_program("membrane"), Rectangle(5.0))
    x = torch.rand(5, 3).requires_grad_()
    held = x.detach().expand(4, 5, 3).clone().requires_grad_()
    whole = torch.autograd.grad(program.run(x).square().sum(), x)[0]
    steps = torch.autograd.grad(by_step(program).run(held).square().sum(), held)[0]
    torch.testing.assert_close(steps.sum(0), whole)
    assert not torch.equal(steps[0], steps[-1])


def test_adaptive_is_arctan_of_the_samples_own_width() -> None:
    x = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    found = Adaptive(sharpness=2.0).derivative(x)
    torch.testing.assert_close(found[0], ArcTan(2.0 / 2.0).derivative(x[0]))
    torch.testing.assert_close(found[1], ArcTan(2.0 / 0.5).derivative(x[1]))
    assert Adaptive().derivative(torch.zeros(2, 3)).isfinite().all()


def test_ternary_changes_leave_spikes() -> None:
    spikes = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    change = torch.tensor([-1.0, 0.0, 1.0, -1.0, 0.0, 1.0])
    assert ternary(change, spikes).tolist() == [0, 0, 1, -1, 0, 0]


def test_keys_are_those_of_the_content() -> None:
    x = torch.rand(3, 4, 5)
    keys = sample_keys(x, 1)
    assert len(set(keys.tolist())) == 4 and (keys >= 0).all()
    assert torch.equal(sample_keys(x[:, [2, 0]], 1), keys[[2, 0]])


def linear(
    weights: list[float], rival: float, threshold: float = 0.5, kind: str = "spikes"
) -> SpikingNetwork:
    """One step: spikes 1[x >= threshold], logits (weights . spikes, rival), a surrogate that is constant."""
    first = nn.Linear(len(weights), len(weights), bias=False)
    last = nn.Linear(len(weights), 2)
    with torch.no_grad():
        first.weight.copy_(torch.eye(len(weights)))
        last.weight.copy_(torch.tensor([weights, [0.0] * len(weights)]))
        last.bias.copy_(torch.tensor([0.0, rival]))
    neuron = IF(threshold, surrogate=Rectangle(10.0))
    return SpikingNetwork([first, neuron, last], 1, "membrane", kind).eval()  # type: ignore[arg-type]


def free(x: Tensor) -> SpikeBox:
    return SpikeBox(torch.zeros_like(x), torch.ones_like(x))


def test_g2s_flips_in_proportion_to_the_gradient() -> None:
    """Without the first spike the sample breaks at once, so the first round is what we see."""
    samples = 500
    codes = torch.arange(samples)[:, None] >> torch.arange(9) & 1  # features of no weight tell samples apart
    x = torch.cat([torch.ones(samples, 4), codes.float()], 1)[None]
    network = linear([1.0, 0.5, 0.25, -0.5, *[0.0] * 9], rival=1.1)
    result = G2S(iterations=1)(network, x, torch.zeros(samples, dtype=torch.int64), free(x))
    assert result.success.all() and (result.iterations == 1).all() and not result.random.any()
    shares = (result.adversarial != x).float().mean((0, 1))
    assert shares[:4].tolist() == pytest.approx([1.0, 0.5, 0.25, 0.0], abs=0.07)  # a spike can't rise
    assert (shares[4:] == 0).all()


def test_targeted_g2s_descends() -> None:
    x, y = torch.zeros(1, 1, 2), torch.tensor([1])
    network = linear([1.0, -1.0], rival=0.5)
    result = G2S(iterations=1)(network, x, y, free(x), targets=torch.tensor([0]))
    assert result.success.all() and result.adversarial.flatten().tolist() == [1.0, 0.0]


def test_g2s_under_a_budget_keeps_the_steepest() -> None:
    """Of the flips that the gradient wants, the budget of one goes to the last, whose weight is largest."""
    x = torch.ones(1, 1, 4)
    network = linear([0.8, 0.85, 0.9, 1.0], rival=2.6)
    result = G2S(iterations=1)(network, x, torch.tensor([0]), SpikeFlips(1))
    assert result.adversarial.flatten().tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(("gamma", "random"), [(0.0, False), (0.5, True)])
def test_flips_are_random_where_gradients_vanish(gamma: float, random: bool) -> None:
    network = linear([1.0, 1.0], rival=0.0)
    neuron = network.layers[1]
    assert isinstance(neuron, IF)
    neuron.surrogate = Rectangle(1e-3)
    x = torch.ones(1, 1, 2)
    result = G2S(gamma=gamma)(network, x, torch.tensor([0]), free(x))
    assert result.random.tolist() == [random] and result.success.tolist() == [random]


def test_the_turnover_rate_is_the_share_of_flips() -> None:
    """Each flip breaks the sample: those that stay whole had none, (1 - gamma)^bits of them."""
    samples, bits = 512, 10
    codes = (torch.arange(samples)[:, None] >> torch.arange(9) & 1).float()
    x = torch.cat([torch.ones(samples, bits), codes], 1)[None]
    network = linear([1.0] * bits + [0.0] * 9, rival=bits - 0.5)
    y = torch.zeros(samples, dtype=torch.int64)
    success = RSF(iterations=1, gamma=0.05)(network, x, y, free(x)).success
    assert float(success.float().mean()) == pytest.approx(1 - 0.95**bits, abs=0.07)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(),
        PGD(iterations=5, surrogates=(None,)),
        PGD(iterations=5, surrogates=(None,), momentum=0.0),
        G2S(),
    ],
)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_image_attacks_go_where_the_loss_rises(attack: FGSM | PGD | G2S, direction: float) -> None:
    """One pixel at 0.5 whose spike decides the class; only the right direction crosses the threshold."""
    threshold = 0.4 if direction < 0 else 0.6
    network = linear([-direction], rival=-0.5 * direction, threshold=threshold, kind="image")
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    result = attack(network, x, y, LinfBall(0.15))
    assert result.success.all() and (result.adversarial - x).sign().item() == direction


@pytest.mark.parametrize("attack", [ExhaustiveFlips(), GreedyFlips(), G2S()])
def test_a_tie_at_the_target_is_no_success(attack: ExhaustiveFlips | GreedyFlips | G2S) -> None:
    """The best that an adversary can do is a tie, of which argmax would name the target."""
    network = linear([1.0], rival=1.0)
    x, y, target = torch.zeros(1, 1, 1), torch.tensor([1]), torch.tensor([0])
    assert attack(network, x, y, SpikeFlips(1)).success.all()
    assert not attack(network, x, y, SpikeFlips(1), targets=target).success.any()
