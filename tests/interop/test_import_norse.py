"""Networks of Norse: currents with a state, leaky integrators, states that are handed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign_networks import images, needs_norse, spikes
from torch import Tensor, nn

import certsnn
from certsnn.errors import UserError

pytestmark = [needs_norse, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]

Maker = Callable[[Any], nn.Module]


def parameters(kind: str = "LIFParameters", **numbers: float) -> Any:
    """Parameters of Norse's, of numbers."""
    import norse.torch as norse

    return getattr(norse, kind)(**{name: torch.as_tensor(value) for name, value in numbers.items()})


class Cells(nn.Module):
    """A loop over spikes ``[T, B, 1, 8, 8]`` that hands states on, and fills a tensor with the outputs."""

    def __init__(self, neuron: Maker, end: Maker) -> None:
        import norse.torch as norse

        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 3)
        self.neuron, self.out = neuron(norse), end(norse)
        with torch.no_grad():
            self.conv.weight.mul_(5)
            self.fc.weight.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[T, B, 3]``."""
        states, found = [None, None], torch.zeros(len(x), x.shape[1], 3)
        for step in range(len(x)):
            z, states[0] = self.neuron(self.conv(x[step, :]), states[0])
            z = F.max_pool2d(F.relu(z), 2, 2).flatten(1)
            found[step, :, :], states[1] = self.out(self.fc(z), states[1])
        return found


def integrator(norse: Any) -> nn.Module:
    cell: nn.Module = norse.LICell()
    return cell


NEURONS: dict[str, Maker] = {
    "LIF": lambda norse: norse.LIFCell(parameters(v_th=0.3)),
    "LIF with a leak": lambda norse: norse.LIFCell(parameters(v_th=0.3, v_leak=-0.2, v_reset=0.1), dt=0.002),
    "a current that does not decay": lambda norse: norse.LIFCell(parameters(v_th=0.5, tau_syn_inv=0.0)),
    "LIFBox": lambda norse: norse.LIFBoxCell(parameters("LIFBoxParameters", v_th=0.3)),
    "LIFBox, subtract": lambda norse: norse.LIFBoxCell(
        parameters("LIFBoxParameters", v_th=0.2, v_leak=0.05)._replace(
            reset_method=norse.functional.reset.reset_subtract
        )
    ),
    "IAF to zero": lambda norse: norse.IAFCell(),
    "IAF": lambda norse: norse.IAFCell(parameters("IAFParameters", v_reset=0.2)),
}


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
def test_cells_are_imported(neuron: Maker) -> None:
    torch.manual_seed(0)
    module, x = Cells(neuron, integrator), spikes(steps=25)
    network, check = certsnn.from_norse(module, x, input="spikes", readout="maximum")
    assert check.differ == 0 and check.membranes < 2e-5
    assert 0.01 < network.freeze().traces(x)[0].spikes.mean().item() < 0.9
    torch.testing.assert_close(network(x), module(x).amax(0))


ENDS: dict[str, Maker] = {
    "LI": lambda norse: norse.LILinearCell(3, 3),
    "LIBox": lambda norse: norse.LIBoxCell(),
    "LIF": lambda norse: norse.LIFCell(parameters(v_th=0.1)),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_ends_are_imported(end: Maker) -> None:
    torch.manual_seed(0)
    module, x = Cells(NEURONS["LIF"], end), spikes(steps=12)
    network, check = certsnn.from_norse(module, x, input="spikes", readout="last")
    assert check.differ == 0
    torch.testing.assert_close(network(x), module(x)[-1])


def test_a_sequence_of_layers_over_time_behind_an_encoder() -> None:
    import norse.torch as norse

    class Encoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = norse.ConstantCurrentLIFEncoder(10, parameters(v_leak=0.1, v_th=0.5))
            self.body = norse.SequentialState(
                *(norse.Lift(nn.Conv2d(1, 4, 3, padding=1)), norse.LIF(parameters(v_th=0.2))),
                *(norse.Lift(nn.MaxPool2d(2)), nn.Flatten(2), nn.Linear(64, 3), norse.LI()),
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(torch.max(self.body(self.encoder(2 * x))[0], 0)[0], dim=1)

    torch.manual_seed(0)
    module, x = Encoded(), images()
    network, check = certsnn.from_norse(module, x)
    assert network.steps == 10 and network.readout == "maximum" and check.differ == 0
    torch.testing.assert_close(network(x).log_softmax(1), module(x))


def test_bounds_hold_on_the_original() -> None:
    torch.manual_seed(0)
    module, x = Cells(NEURONS["LIF"], integrator), spikes(steps=5, batch=1)
    network, _ = certsnn.from_norse(module, x, input="frames", readout="membrane")
    y = network(x).argmax(1)
    (bounds,) = certsnn.margin_bounds(network, x, y, certsnn.LinfFrames(0.002))
    for _ in range(20):
        logits = module(x + 0.002 * (2 * torch.rand_like(x) - 1)).mean(0)
        margins = (logits.gather(1, y[:, None]) - logits)[0]
        assert (margins[torch.arange(3) != y[0]] >= bounds - 1e-6).all()


REFUSED: dict[str, tuple[Maker, str]] = {
    "another class": (lambda norse: norse.LSNNCell(), "certsnn imports LIFCell, "),
    "a class without a potential": (lambda norse: norse.LIFRefracCell(), "certsnn imports LIFCell, "),
    "a decay below 0": (lambda norse: norse.LIFCell(dt=0.02), "decay must lie in"),
    "a threshold below the leak": (lambda norse: norse.LIFCell(parameters(v_leak=2.0)), "threshold must be"),
    "a reset of its own": (
        lambda norse: norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=lambda z, v, reset, th: v - z)),
        "reset_value and reset_subtract only",
    ),
    "gains": (
        lambda norse: norse.LIFCell(norse.LIFParameters(tau_mem_inv=torch.full((8,), 100.0))),
        "time constants",
    ),
}


@pytest.mark.parametrize("neuron, words", REFUSED.values(), ids=REFUSED)
def test_what_is_no_neuron_of_ours(neuron: Maker, words: str) -> None:
    with pytest.raises(UserError, match=rf"neuron \(.*{words}"):
        certsnn.from_norse(Cells(neuron, integrator), spikes(), input="spikes", readout="last")


def test_recurrence_in_a_current_is_refused() -> None:
    import norse.torch as norse

    module = norse.SequentialState(nn.Flatten(2), norse.LIFRecurrent(64, 3))
    with pytest.raises(UserError, match=r"1 \(LIFRecurrent\): its spikes come back into a current"):
        certsnn.from_norse(module, spikes(), input="spikes", readout="rate", output=0)


def test_an_integrator_that_leaks_elsewhere_is_refused() -> None:
    module = Cells(NEURONS["LIF"], lambda norse: norse.LICell(parameters("LIParameters", v_leak=0.5)))
    with pytest.raises(UserError, match="set v_leak to 0"):
        certsnn.from_norse(module, spikes(), input="spikes", readout="last")


def test_a_state_must_be_handed_on() -> None:
    class Forgetting(Cells):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.neuron(self.conv(frame))[0].flatten(1) for frame in x])

    module = Forgetting(NEURONS["LIF"], integrator)
    with pytest.raises(UserError, match=r"neuron \(LIFCell\): it starts anew at each call"):
        certsnn.from_norse(module, spikes(), input="spikes", readout="rate")


def test_a_module_that_acts_otherwise_is_refused() -> None:
    module = Cells(NEURONS["LIF"], integrator)
    neuron: Any = module.neuron
    step = neuron.activation

    def slower(x: Tensor, state: Any, p: Any, dt: float) -> Any:
        return step(x, state, p, 0.9 * dt)

    neuron.activation = slower
    with pytest.raises(UserError, match="neuron does not do what its import does"):
        certsnn.from_norse(module, spikes(), input="spikes", readout="last")


def test_an_integrator_that_acts_otherwise_is_refused() -> None:
    module = Cells(NEURONS["LIF"], integrator)
    out: Any = module.out
    step = out.activation
    out.activation = lambda x, state, p, dt: step(x, state, p, 0.9 * dt)
    with pytest.raises(UserError, match="out does not do what its import does"):
        certsnn.from_norse(module, spikes(), input="spikes", readout="last")
