"""Whole networks of the less common layers: trained, bounded by every method, and sound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from soundness import FURTHER, check
from strategies import Example
from torch import Tensor, nn

from certsnn.bounds import margin_bounds
from certsnn.inputsets import LinfBall, SpikeFlips
from certsnn.layers import Normalize, Scale, SumPool1d, SumPool2d
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF


def sequence() -> list[nn.Module]:
    return [
        nn.BatchNorm1d(2),
        nn.Conv1d(2, 3, 3, padding="same"),
        nn.BatchNorm1d(3),
        LIF(0.3, 0.5),
        nn.Dropout1d(0.1),
        nn.AvgPool1d(2, stride=1, padding=1),
        nn.Conv1d(3, 4, 2, stride=2, dilation=2, bias=False),
        Scale(2.0),
        IF(0.3),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    ]


def sums() -> list[nn.Module]:
    return [
        nn.Unflatten(2, (2, 3)),
        nn.ConstantPad2d((1, 0, 0, 1), 0.0),
        nn.Conv2d(2, 2, 2),
        Scale(-3.0),
        IF(0.5),
        SumPool2d(2, padding=1),
        nn.Conv2d(2, 2, 1),
        nn.Identity(),
        LIF(0.05, 0.5, "subtract"),
        nn.Flatten(2),
        SumPool1d(2),
        nn.ZeroPad1d((0, 1)),
        nn.Flatten(),
        nn.Linear(6, 3),
        Scale(0.5),
    ]


def gains() -> list[nn.Module]:
    return [
        Scale(-1.5),
        nn.Flatten(),
        nn.Linear(12, 6),
        IF(0.2),
        Scale(0.0),
        nn.Linear(6, 3),
        Scale(10.0),
    ]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {"sequence": sequence, "sums": sums, "gains": gains}
SHAPE = (2, 6)


def trained(name: str, kind: str) -> SpikingNetwork:
    """A network that has seen a few batches, so that its batch norms have statistics of their own."""
    torch.manual_seed(len(name))
    network = SpikingNetwork(NETWORKS[name](), 3, "membrane", kind)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(3):
        x = drawn(16, kind)
        torch.nn.functional.cross_entropy(network(x), torch.randint(3, (16,))).backward()
        optimizer.step()
    return network.eval()


def drawn(batch: int, kind: str) -> Tensor:
    return torch.rand(batch, *SHAPE) if kind == "image" else (torch.rand(3, batch, *SHAPE) < 0.5).float()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("threat", "kind"),
    [(LinfBall(0.03), "image"), (SpikeFlips(1), "spikes"), (SpikeFlips(2, "drop"), "spikes")],
    ids=["image", "flip", "drops"],
)
def test_every_method_is_sound(name: str, threat: LinfBall | SpikeFlips, kind: str) -> None:
    network = trained(name, kind)
    check(Example(network, threat, drawn(2, kind), "smooth", 0), FURTHER)


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_of_a_training_pass_reach_the_weights(name: str) -> None:
    network = trained(name, "image").train()
    program = network.forward_and_freeze(drawn(8, "image"))[1]
    assert sum(map(len, [stage.link.operators for stage in program.stages])) < len(network.leaves())
    network.zero_grad()
    y = torch.zeros(4, dtype=torch.long)
    margin_bounds(network, drawn(4, "image"), y, LinfBall(0.05), "s-crown-ibp").sum().backward()
    reached = [
        p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters() if p.ndim > 1
    ]
    assert all(reached) and reached


@pytest.mark.parametrize("method", ["s-ibp", "s-crown-ibp", "s-crown"])
def test_one_mean_for_all_channels_is_bounded_by_every_method(method: str) -> None:
    network = SpikingNetwork(
        [Normalize([0.5], [0.5]), nn.Flatten(), nn.Linear(12, 4), IF(), nn.Linear(4, 2)], 2, "membrane"
    )
    x, y = torch.rand(3, 3, 2, 2), torch.zeros(3, dtype=torch.long)
    alike = SpikingNetwork([Normalize([0.5] * 3, [0.5] * 3), *network.layers[1:]], 2, "membrane")
    found = [margin_bounds(net.eval(), x, y, LinfBall(0.1), method) for net in (network, alike)]
    torch.testing.assert_close(*found)
