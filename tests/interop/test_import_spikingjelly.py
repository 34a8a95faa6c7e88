"""Networks of SpikingJelly, in both step modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign_networks import Repeating, images, jelly, needs_spikingjelly, spikes
from torch import Tensor, nn

import certsnn
from certsnn.errors import UserError

pytestmark = [needs_spikingjelly, pytest.mark.filterwarnings("ignore")]


def make(kind: str, **arguments: Any) -> nn.Module:
    """A neuron of SpikingJelly's."""
    from spikingjelly.activation_based import neuron

    made: nn.Module = getattr(neuron, kind)(**arguments)
    return made


EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "IF": ("IFNode", {}),
    "IF, subtract": ("IFNode", {"v_reset": None}),
    "IF to a value": ("IFNode", {"v_reset": 0.25, "v_threshold": 0.75}),
}
ROUNDED: dict[str, tuple[str, dict[str, Any]]] = {
    "LIF": ("LIFNode", {}),
    "LIF, subtract": ("LIFNode", {"v_reset": None, "tau": 3.0}),
    "LIF to a value": ("LIFNode", {"v_reset": -0.2, "v_threshold": 0.5}),
    "LIF, whole input": ("LIFNode", {"decay_input": False, "tau": 1.7}),
    "LIF, whole input to a value": ("LIFNode", {"decay_input": False, "v_reset": 0.1}),
    "PLIF": ("ParametricLIFNode", {"init_tau": 2.5, "v_threshold": 0.5}),
}


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind, arguments", [*EXACT.values(), *ROUNDED.values()], ids=[*EXACT, *ROUNDED])
def test_its_neurons(kind: str, arguments: dict[str, Any], mode: str) -> None:
    from spikingjelly.activation_based import functional

    torch.manual_seed(0)
    body, x = jelly(lambda: make(kind, **arguments)), images()
    functional.set_step_mode(body, mode)
    if mode == "m":
        network, check = certsnn.from_spikingjelly(Repeating(body), x)
    else:
        network, check = certsnn.from_spikingjelly(body, x, steps=6, readout="membrane")
    assert check.spikes > 1000 and check.differ == 0 and check.membranes < 1e-5
    functional.set_step_mode(body, "m")
    functional.reset_net(body)
    rates = Repeating(body).eval()(x).detach()
    torch.testing.assert_close(network(x).detach(), rates)
    assert float(rates.abs().sum()) > 0


@pytest.mark.parametrize("kind, arguments", EXACT.values(), ids=EXACT)
def test_integrate_and_fire_bit_for_bit(kind: str, arguments: dict[str, Any]) -> None:
    from spikingjelly.activation_based import layer

    module = nn.Sequential(layer.Flatten(), layer.Linear(64, 9), make(kind, **arguments))
    _, check = certsnn.from_spikingjelly(module, images(), steps=9, readout="rate")
    assert check.differ == 0 and (check.membranes == 0 or "v_reset" in arguments)


class Summing(nn.Module):
    """A residual network over all steps, whose steps a container merges with the batch."""

    def __init__(self) -> None:
        from spikingjelly.activation_based import functional, layer

        super().__init__()
        self.stem = nn.Sequential(layer.Conv2d(1, 4, 3, padding=1), make("IFNode", v_threshold=0.25))
        merged = layer.SeqToANNContainer(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.block = nn.Sequential(merged, make("IFNode", v_threshold=0.25))
        self.pool, self.fc = layer.AdaptiveAvgPool2d(1), layer.Linear(8, 3)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all steps ``[T, B, 3]``."""
        y = self.stem(x)
        total = self.block(y) + y
        outputs: Tensor = self.fc(torch.flatten(self.pool(torch.cat([total, y], 2)), 2))
        return outputs


def test_residual_sums_and_concatenations() -> None:
    x = spikes()
    network, check = certsnn.from_spikingjelly(Summing(), x, readout="membrane", input="spikes")
    assert check.differ == 0 and check.logits < 1e-6
    assert [type(node).__name__ for node in network.freeze().nodes].count("Sum") >= 1


class Accumulating(nn.Module):
    """Adds up outputs step by step, and divides by their number."""

    def __init__(self, body: nn.Module, steps: int, divisor: int, in_place: bool) -> None:
        super().__init__()
        self.body, self.steps, self.divisor, self.in_place = body, steps, divisor, in_place

    def forward(self, x: Tensor) -> Tensor:
        """Rates ``[B, K]``."""
        total: Any = torch.zeros(len(x), 3) if self.in_place else 0
        for _ in range(self.steps):
            if self.in_place:
                total += self.body(x)
            else:
                total = total + self.body(x)
        rates: Tensor = total / self.divisor
        return rates


@pytest.mark.parametrize("in_place", [False, True])
def test_a_loop_that_adds_up(in_place: bool) -> None:
    module = Accumulating(jelly(lambda: make("IFNode")), 6, 6, in_place)
    network, check = certsnn.from_spikingjelly(module, images())
    assert network.steps == 6 and network.readout == "membrane" and check.logits < 1e-6


def test_a_wrong_divisor_is_no_mean() -> None:
    with pytest.raises(UserError, match="div: it scales what has been read over time"):
        certsnn.from_spikingjelly(Accumulating(jelly(lambda: make("IFNode")), 6, 5, False), images())


def test_a_layer_in_the_wrong_step_mode() -> None:
    from spikingjelly.activation_based import functional, layer

    body = nn.Sequential(layer.MaxPool2d(2), make("IFNode"), layer.Flatten(), layer.Linear(16, 3))
    functional.set_step_mode(body, "m")
    body[1].step_mode = "s"  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"1 \(IFNode\): it gets all steps"):
        certsnn.from_spikingjelly(body, spikes(), readout="membrane", input="spikes")


@pytest.mark.parametrize("kind", ["QIFNode", "EIFNode", "IzhikevichNode"])
def test_other_neurons_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"({kind})"):
        certsnn.from_spikingjelly(jelly(lambda: make(kind)), images(), steps=3, readout="membrane")


def container(kind: str, neuron: nn.Module, mode: str) -> nn.Module:
    """A recurrent container behind a linear layer."""
    from spikingjelly.activation_based import layer

    made: nn.Module
    if kind == "linear":
        inner = nn.Sequential(nn.Linear(10, 7), neuron)
        made = layer.LinearRecurrentContainer(inner, 10, 7, bias=True, step_mode=mode)
        with torch.no_grad():
            made.rc.weight.mul_(3)  # type: ignore[union-attr, operator]
    else:
        made = layer.ElementWiseRecurrentContainer(neuron, lambda y, x: x + y, step_mode=mode)
    return nn.Sequential(layer.Flatten(step_mode=mode), layer.Linear(64, 10, step_mode=mode), made)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", ["linear", "element-wise"])
def test_recurrent_containers(kind: str, mode: str) -> None:
    torch.manual_seed(0)
    body, x = container(kind, make("LIFNode", v_threshold=0.2, v_reset=-0.1), mode), images()
    arguments: dict[str, Any] = {"steps": 6, "readout": "rate"} if mode == "s" else {}
    module = body if mode == "s" else Repeating(body)
    network, check = certsnn.from_spikingjelly(module, x, **arguments)
    assert check.differ == 0 and "Recurrent(" in str(network)
    rates = torch.stack([body(x) for _ in range(6)]).mean(0) if mode == "s" else module.eval()(x)
    torch.testing.assert_close(network(x), rates)
    assert 0 < network(x).mean().item() < 1


def test_another_function_of_the_spikes_is_refused() -> None:
    from spikingjelly.activation_based import layer

    inner = layer.ElementWiseRecurrentContainer(make("IFNode"), lambda y, x: x - y)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), inner)
    with pytest.raises(UserError, match=r"element_wise_function is not y \+ x"):
        certsnn.from_spikingjelly(module, images(), steps=3, readout="rate")
