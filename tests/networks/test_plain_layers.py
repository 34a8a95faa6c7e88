"""What is bounded is what is executed: subclasses, hooks and stale weights are refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from modules import weight_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from certsnn.affine import Affine, Dense
from certsnn.bounds import certify, layer_bounds, margin_bounds
from certsnn.inputsets import LinfBall
from certsnn.layers import as_affine, operator_of
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Dynamics, Neuron


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs() * 7


class SameLinear(nn.Linear):
    """A subclass that adds nothing: refused all the same, for who could tell."""


class NegatedPool(nn.AvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class OwnSequential(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(x)
        return 2 * found


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, args, output: output + 10)
    return layer


def prehooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return layer


def patched(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x
    return layer


def pruned(layer: nn.Linear) -> nn.Linear:
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OwnLinear(4, 4), "OwnLinear is a subclass of Linear"),
        (lambda: SameLinear(4, 4), "SameLinear is a subclass of Linear"),
        (lambda: OwnConv(1, 1, 1), "OwnConv is a subclass of Conv2d"),
        (lambda: NegatedPool(1), "NegatedPool is a subclass of AvgPool2d"),
        (lambda: OwnSequential(nn.Linear(4, 4)), "OwnSequential is a subclass of Sequential"),
        (lambda: nn.Sequential(OwnLinear(4, 4)), "OwnLinear is a subclass"),
        (lambda: hooked(nn.Linear(4, 4)), "Linear has forward hooks"),
        (lambda: prehooked(nn.Linear(4, 4)), "Linear has forward hooks"),
        (lambda: hooked(nn.Sequential(nn.Linear(4, 4))), "Sequential has forward hooks"),
        (lambda: patched(nn.Linear(4, 4)), "forward of a Linear has been replaced"),
        (lambda: nn.utils.weight_norm(nn.Linear(4, 4)), r"WeightNorm.*parametrizations"),
        (lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), r"SpectralNorm.*parametrizations"),
        (lambda: pruned(nn.Linear(4, 4)), r"prune\.remove"),
        (lambda: nn.LazyLinear(4), "LazyLinear"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_layers_that_do_more_than_their_class_are_refused(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        SpikingNetwork([make(), IF(), nn.Linear(4, 2)], 2, "membrane")


class OwnForward(Neuron):
    def __init__(self) -> None:
        super().__init__(1.0, 1.0, "zero", 0.0, None, False, False)

    def forward(self, currents: Tensor) -> Tensor:
        return super().forward(currents * 100)


class OwnReset(Neuron):
    """Everything that it does is in its dynamics: taken."""

    def __init__(self) -> None:
        super().__init__(1.0, 0.5, "zero", 0.0, None, False, False)

    def dynamics(self) -> Dynamics:
        return super().dynamics()._replace(offset=torch.tensor(0.25))


class OwnLIF(LIF):  # type: ignore[misc]
    """LIF is final."""


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (OwnForward(), "OwnForward has a forward of its own"),
        (OwnLIF(), "OwnLIF is a subclass of a neuron that is final"),
        (hooked(IF()), "IF has forward hooks"),
        (patched(LIF()), "LIF has a forward of its own"),
    ],
    ids=["forward", "subclass", "hook", "patched"],
)
def test_neurons_that_do_more_than_their_dynamics_are_refused(neuron: Neuron, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SpikingNetwork([nn.Linear(4, 4), neuron, nn.Linear(4, 2)], 2, "membrane")


def network_of(first: nn.Module | None = None, neuron: Neuron | None = None) -> SpikingNetwork:
    torch.manual_seed(0)
    first, neuron = first or nn.Linear(5, 8), neuron or LIF(0.5, 0.5)
    return SpikingNetwork([first, neuron, nn.Linear(8, 3)], 3, "membrane").eval()


def test_a_neuron_of_ones_own_is_bounded_by_its_dynamics() -> None:
    network = network_of(neuron=OwnReset())
    x = torch.rand(20, 5)
    for bounds, trace in zip(
        layer_bounds(network, x, LinfBall(0.0)), network.freeze().traces(x), strict=True
    ):
        assert torch.equal(bounds.membranes.lower, trace.membranes)


X, Y, BALL = (
    torch.rand(6, 5, generator=torch.Generator().manual_seed(1)),
    torch.zeros(6).long(),
    LinfBall(0.1),
)


def spread(neuron: nn.Module, name: str) -> None:
    """Numbers for five neurons in place of one for all eight."""
    values = torch.rand(5)
    setattr(neuron, name, values if name == "initial" else nn.Parameter(values))


@pytest.mark.parametrize("call", [certify, margin_bounds], ids=["certify", "margin_bounds"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.layers.__setitem__(0, OwnLinear(5, 8)), "OwnLinear"),
        (lambda net: hooked(net.layers[0]), "forward hooks"),
        (lambda net: hooked(net.layers[1]), "forward hooks"),
        (lambda net: hooked(net), "SpikingNetwork has forward hooks"),
        (lambda net: patched(net), "forward of a SpikingNetwork has been replaced"),
        (lambda net: net.compile(), "SpikingNetwork has been compiled"),
        (lambda net: net.layers.append(LIF()), "membrane readout"),
        (lambda net: spread(net.layers[1], "threshold"), "the threshold of layers.1 has the shape"),
        (lambda net: spread(net.layers[1], "decay"), "the decay of layers.1 has the shape"),
        (lambda net: spread(net.layers[1], "initial"), "the initial of layers.1 has the shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_changes_after_construction_are_refused(
    change: Callable[[SpikingNetwork], object], message: str, call: Callable[..., object]
) -> None:
    network = network_of()
    change(network)
    with pytest.raises((TypeError, ValueError), match=message):
        call(network, X, Y, BALL)


@pytest.mark.parametrize("reset", [(-2.0, 2.2), "none", (1.0,), float("nan"), (0.0, float("inf"))])
def test_a_reset_is_checked_whenever_it_is_set(reset: object) -> None:
    neuron = LIF()
    with pytest.raises(ValueError, match=r"reset|gain"):
        neuron.reset = reset  # type: ignore[assignment]
    assert neuron.reset == "zero"


def test_training_refuses_stale_weights_too() -> None:
    network = network_of().train()
    hooked(network.layers[0])
    with pytest.raises(TypeError, match="forward hooks"):
        network(X)


class Subclass(SpikingNetwork):  # type: ignore[misc]
    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        return -super().forward(x, steps)


def test_a_subclass_of_the_network_is_refused() -> None:
    network = Subclass([nn.Linear(5, 8), IF(), nn.Linear(8, 3)], 2, "membrane").eval()
    with pytest.raises(TypeError, match="Subclass is a subclass of SpikingNetwork"):
        certify(network, X, Y, BALL)


PARAMETRISED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(5, 8)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(5, 8)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(5, 8)),
}


@pytest.mark.parametrize("name", PARAMETRISED)
def test_parametrised_weights_are_those_of_eval_mode(name: str) -> None:
    """Bounds in train mode speak of what eval mode executes, and change neither weights nor modes."""
    network = network_of(PARAMETRISED[name]())
    expected, weights = network(X), weight_of(network.layers[0]).detach().clone()
    modes = [module.training for module in network.modules()]
    found = margin_bounds(network, X, Y, LinfBall(0.0), rounding=True)
    assert [module.training for module in network.modules()] == modes
    network.train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for _ in range(3):
        assert torch.equal(margin_bounds(network, X, Y, LinfBall(0.0), rounding=True), found)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    network.eval()
    assert torch.equal(weight_of(network.layers[0]), weights)
    assert torch.equal(network(X), expected)


def test_a_parametrisation_trains() -> None:
    network = network_of(PARAMETRISED["spectral norm"]()).train()
    vector = network.layers[0].parametrizations.weight[0]._u.clone()  # type: ignore[union-attr, index]
    network(X).sum().backward()
    assert parametrize.is_parametrized(network.layers[0])
    assert network.layers[0].parametrizations.weight.original.grad is not None  # type: ignore[union-attr]
    assert not torch.equal(network.layers[0].parametrizations.weight[0]._u, vector)  # type: ignore[union-attr, index]


class Doubled(nn.Module):
    """A layer of one's own, with an operator."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@operator_of.register
def _(module: Doubled) -> Affine:
    return Dense(2 * torch.eye(5), None)


class Tripled(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * x


def test_an_operator_is_for_its_class_alone() -> None:
    assert torch.equal(as_affine(Doubled()).apply(X), 2 * X)
    with pytest.raises(TypeError, match="Tripled is a subclass of Doubled"):
        as_affine(Tripled())


def test_nested_layers_are_the_same_network() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Flatten(),
        nn.Linear(5, 8),
        nn.BatchNorm1d(8),
        LIF(0.5, 0.5),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    ]
    plain = SpikingNetwork(layers, 3, "membrane")
    inner = nn.Sequential(*layers[1:3], nn.Sequential(layers[3], nn.Identity()))
    nested = SpikingNetwork([layers[0], inner, *layers[4:]], 3, "membrane")
    for network in (plain, nested):
        network.eval()
    assert torch.equal(plain(X), nested(X))
    assert torch.equal(margin_bounds(plain, X, Y, BALL), margin_bounds(nested, X, Y, BALL))
    assert [stage.name for stage in nested.freeze().stages] == ["layers.1.2.0"]
    plain.train(), nested.train()
    torch.manual_seed(3)
    one = plain(X)
    torch.manual_seed(3)
    assert torch.equal(one, nested(X))
