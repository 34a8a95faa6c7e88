"""Networks with max pooling, on currents and on spikes: trained, bounded, and sound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from soundness import check
from strategies import Example
from torch import Tensor, nn

from certsnn.bounds import margin_bounds
from certsnn.graph import Residual
from certsnn.inputsets import LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF


def currents() -> list[nn.Module]:
    """snnTorch's order: convolution, pooling, neurons."""
    return [nn.Conv1d(2, 3, 3, padding=1), nn.MaxPool1d(2, 1), LIF(0.2, 0.5), nn.Flatten(), nn.Linear(15, 3)]


def spikes() -> list[nn.Module]:
    """An OR of spikes, over windows that overlap and are padded."""
    return [
        nn.Conv1d(2, 6, 3, padding=1),
        LIF(0.2, 0.5),
        nn.MaxPool1d(3, 2, 1),
        nn.Conv1d(6, 6, 2),
        IF(0.2),
        nn.Flatten(),
        nn.Linear(12, 3),
    ]


def both() -> list[nn.Module]:
    """Pooling of the input, within a residual block, of an image with rows, and before the readout."""
    return [
        nn.MaxPool1d(2, 1),
        nn.Unflatten(2, (1, 5)),
        Residual([nn.Conv2d(2, 2, 1), nn.MaxPool2d((1, 3), 1, (0, 1)), IF(0.2)]),
        nn.MaxPool2d((1, 2)),
        nn.Conv2d(2, 3, (1, 2)),
        LIF(0.2, 0.5, "subtract"),
        nn.MaxPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    ]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {"currents": currents, "spikes": spikes, "both": both}


def network_of(name: str, kind: str) -> SpikingNetwork:
    torch.manual_seed(1)
    network = SpikingNetwork(NETWORKS[name](), 3, "membrane", kind)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return network.eval()


def drawn(batch: int, kind: str) -> Tensor:
    return torch.rand(batch, 2, 6) if kind == "image" else (torch.rand(3, batch, 2, 6) < 0.5).float()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("threat", "kind"),
    [(LinfBall(0.05), "image"), (SpikeFlips(1), "spikes"), (SpikeFlips(2, "drop"), "spikes")],
    ids=["image", "flip", "drops"],
)
def test_methods_are_sound(name: str, threat: Threat, kind: str) -> None:
    check(Example(network_of(name, kind), threat, drawn(16, kind), "smooth", 0), ["s-crown-ibp"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_backward_pass_helps_on_average(name: str) -> None:
    network, x = network_of(name, "image"), drawn(50, "image")
    y = network(x).argmax(1)
    loose, tight = (
        margin_bounds(network, x, y, LinfBall(0.1), method) for method in ("s-ibp", "s-crown-ibp")
    )
    assert (tight >= loose - 1e-6).all() and (tight - loose).mean() > 1e-3


def test_a_maximum_of_spikes_is_a_layer_of_neurons_that_fire_at_any_spike() -> None:
    network = network_of("spikes", "spikes")
    either = nn.Conv1d(6, 6, 3, 2, 1, groups=6, bias=False)
    nn.init.ones_(either.weight)
    before, after = network.layers[:2], network.layers[3:]
    written = SpikingNetwork([*before, either, LIF(0.5, 0.0), *after], 3, "membrane", "spikes").eval()
    x, y = drawn(20, "spikes"), torch.zeros(20, dtype=torch.long)
    assert torch.equal(network(x), written(x))
    for budget in (1, 3):
        bounds = [margin_bounds(net, x, y, SpikeFlips(budget), "s-ibp") for net in (network, written)]
        assert torch.equal(*bounds)


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_of_a_training_pass_reach_the_weights(name: str) -> None:
    network = network_of(name, "image").train()
    network(drawn(4, "image"))
    y = torch.zeros(4, dtype=torch.long)
    margin_bounds(network, drawn(4, "image"), y, LinfBall(0.05), "s-crown-ibp").sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters() if p.ndim > 1)
