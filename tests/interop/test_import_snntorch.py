"""Networks of snnTorch: imported bit for bit where that is promised, else refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from foreign_networks import Looping, images, needs_snntorch, spikes
from torch import Tensor, nn

import certsnn
from certsnn.errors import UserError

pytestmark = needs_snntorch


def leaky(**arguments: Any) -> Callable[[], nn.Module]:
    """A maker of Leaky with these arguments."""
    import snntorch

    return lambda: snntorch.Leaky(**{"beta": 0.9, **arguments})


def stepwise(*, beta: float = 0.9) -> nn.Sequential:
    """A network whose states are hidden in it, one step a call."""
    import snntorch

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 12),
        snntorch.Leaky(beta, init_hidden=True),
        nn.Linear(12, 3),
        snntorch.Leaky(beta, init_hidden=True, output=True),
    )


CASES: dict[str, dict[str, Any]] = {
    "subtract": {},
    "zero": {"reset_mechanism": "zero"},
    "none": {"reset_mechanism": "none"},
    "no delay": {"reset_mechanism": "zero", "reset_delay": False},
    "one threshold": {"threshold": 0.3, "beta": 0.5},
    "learned": {"learn_beta": True, "learn_threshold": True},
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_leaky_is_imported_bit_for_bit(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module, x = Looping(leaky(**arguments)), images()
    network, check = certsnn.from_snntorch(module, x, readout="rate", output=0)
    assert check.spikes > 1000 and check.differ == 0 and check.membranes == 0
    assert torch.equal(network(x), module.eval()(x)[0].sum(0) / 6)
    assert bool(network(x).any())


def test_membranes_without_a_reset_are_read() -> None:
    torch.manual_seed(0)
    module, x = Looping(leaky()), images()
    module.lif2 = leaky(reset_mechanism="none")()
    network, check = certsnn.from_snntorch(module, x, readout="maximum", output=1)
    assert check.differ == 0 and check.spikes == 2 * 4 * 6 * 4 * 4 * 4
    torch.testing.assert_close(network(x), module.eval()(x)[1].amax(0))


def test_a_decay_per_neuron() -> None:
    module = Looping(leaky(beta=torch.linspace(0.1, 0.9, 4)[:, None, None]))
    module.lif2 = leaky(beta=torch.tensor([0.2, 0.5, 0.7]))()
    assert certsnn.from_snntorch(module, images(), readout="rate", output=0).check.membranes == 0


def test_lapicque_scales_its_inputs() -> None:
    import snntorch

    module = Looping(lambda: snntorch.Lapicque(R=2.0, C=1.5, time_step=0.5, threshold=0.4))
    _, check = certsnn.from_snntorch(module, images(), readout="rate", output=0)
    assert check.differ == 0 and 0 < check.membranes < 1e-5
    assert str(check).startswith(f"0 of {check.spikes} spikes differ, nearest |u - threshold| = ")


SYNAPTIC: dict[str, dict[str, Any]] = {
    "subtract": {},
    "none": {"reset_mechanism": "none"},
    "zero at once": {"reset_mechanism": "zero", "reset_delay": False},
}


@pytest.mark.parametrize("arguments", SYNAPTIC.values(), ids=SYNAPTIC)
def test_synaptic_is_imported_bit_for_bit(arguments: dict[str, Any]) -> None:
    import snntorch

    torch.manual_seed(0)

    class States(Looping):
        def forward(self, x: Tensor) -> Any:
            one: Any
            two: Any
            one, two, spikes = self.lif1.reset_mem(), self.lif2.reset_mem(), []  # type: ignore[operator]
            for _ in range(6):
                out, *one = self.lif1(self.conv(x), *one)
                out, *two = self.lif2(self.fc(nn.functional.max_pool2d(out, 2).flatten(1)), *two)
                spikes.append(out)
            return torch.stack(spikes), two

    module, x = States(lambda: snntorch.Synaptic(0.8, 0.6, **arguments)), images()
    network, check = certsnn.from_snntorch(module, x, readout="rate", output=0)
    assert check.differ == 0 and check.membranes == 0
    assert torch.equal(network(x), module.eval()(x)[0].sum(0) / 6) and bool(network(x).any())


RECURRENT: dict[str, dict[str, Any]] = {
    "all to all": {"linear_features": 10},
    "to itself": {"all_to_all": False, "V": 0.5},
    "each to itself": {"all_to_all": False, "V": torch.linspace(-1, 1, 10)},
    "zero at once": {"linear_features": 10, "reset_mechanism": "zero", "reset_delay": False},
}


@pytest.mark.parametrize("arguments", RECURRENT.values(), ids=RECURRENT)
def test_rleaky_is_imported(arguments: dict[str, Any]) -> None:
    import snntorch

    torch.manual_seed(0)

    class States(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.lif = nn.Linear(64, 10), snntorch.RLeaky(beta=0.8, **arguments)

        def forward(self, x: Tensor) -> Tensor:
            spikes, membranes = self.lif.init_rleaky()
            found = []
            for _ in range(9):
                spikes, membranes = self.lif(3 * self.one(x.flatten(1)), spikes, membranes)
                found.append(spikes)
            return torch.stack(found).mean(0)

    module, x = States(), images()
    network, check = certsnn.from_snntorch(module, x)
    assert check.differ == 0 and check.membranes < 1e-5
    torch.testing.assert_close(network(x), module.eval()(x))
    alone = certsnn.SpikingNetwork([nn.Flatten(), module.one, certsnn.Scale(3.0), certsnn.LIF(1.0, 0.8)], 9)
    assert not torch.equal(network(x), alone.eval()(x))
    y = network(x).argmax(1)
    bounds = certsnn.margin_bounds(network, x, y, certsnn.LinfBall(0.001))
    for _ in range(10):  # members, on the original
        rates = module(x + 0.001 * (2 * torch.rand_like(x) - 1))
        margins = rates.gather(1, y[:, None]) - rates
        others = torch.stack([margins[i][torch.arange(10) != y[i]] for i in range(len(x))])
        assert (others >= bounds - 1e-6).all()


@pytest.mark.parametrize("x, input", [(images(), "image"), (spikes(), "spikes"), (3 * spikes(), "frames")])
def test_hidden_states_are_run_a_step_a_call(x: Tensor, input: Any) -> None:
    module = stepwise()
    network, check = certsnn.from_snntorch(module, x, steps=6, readout="rate", input=input, output=0)
    assert check.differ == 0
    module[2].mem, module[4].mem = torch.zeros(0), torch.zeros(0)
    frames = x if input != "image" else x.expand(6, *x.shape)
    rates = torch.stack([module(frame)[0] for frame in frames]).mean(0)
    torch.testing.assert_close(network(x), rates)


def test_the_original_is_not_changed_not_even_its_state() -> None:
    module = Looping(leaky())
    module(images())  # states with gradients, which deepcopy refuses
    before, state = deepcopy(module.state_dict()), module.lif1.mem
    certsnn.from_snntorch(module, images(), readout="rate", output=0)
    assert module.training and module.lif1.mem is state and "forward" not in vars(module.lif1)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_import_can_be_certified() -> None:
    torch.manual_seed(0)
    module, x = Looping(leaky(beta=0.5)), images(2)
    network, _ = certsnn.from_snntorch(module, x, readout="rate", output=0)
    y = network(x).argmax(1)
    bounds = certsnn.margin_bounds(network, x, y, certsnn.LinfBall(0.01))
    for _ in range(20):  # members, on the original
        rates = module(x + 0.01 * (2 * torch.rand_like(x) - 1))[0].mean(0)
        margins = rates.gather(1, y[:, None]) - rates
        others = torch.stack([margins[i][torch.arange(3) != y[i]] for i in range(2)])
        assert (others >= bounds - 1e-6).all()


def test_resets_that_clear_the_input_are_refused() -> None:
    import snntorch

    for kind in (snntorch.Synaptic, snntorch.RLeaky):
        more: dict[str, Any] = {"alpha": 0.5} if kind is snntorch.Synaptic else {"linear_features": 3}
        neuron = kind(beta=0.9, reset_mechanism="zero", init_hidden=True, **more)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), neuron)
        with pytest.raises(UserError, match="set their input to zero, too"):
            certsnn.from_snntorch(module, images(), steps=3, readout="rate")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "subtract without delay": ({"reset_delay": False}, "reset_delay=False"),
    "inhibition": ({"inhibition": True}, "inhibits"),
    "graded": ({"graded_spikes_factor": 2.0}, "grades"),
    "a soft spike": ({"spike_grad": torch.sigmoid}, "no step"),
    "a step at the threshold": ({"spike_grad": lambda u: (u >= 0).float()}, "no step"),
    "a threshold of zero": ({"threshold": 0.0}, "threshold must"),
}


@pytest.mark.filterwarnings("ignore:Inhibition")
@pytest.mark.parametrize("arguments, words", REFUSED.values(), ids=REFUSED)
def test_neurons_that_are_no_neuron_of_ours(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        certsnn.from_snntorch(Looping(leaky(**arguments)), images(), readout="rate", output=0)


def test_another_class_is_listed_by_its_path() -> None:
    import snntorch

    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), snntorch.Alpha(0.9, 0.5, init_hidden=True))
    module.append(nn.GELU()).append(nn.Softmax(1))
    with pytest.raises(UserError) as refusal:
        certsnn.from_snntorch(module, images(), steps=3, readout="membrane")
    for line in ("- 2 (Alpha): its reset changes two currents", "- 3 (GELU): gelu", "- 4 (Softmax): softmax"):
        assert line in str(refusal.value)


def test_a_neuron_that_acts_otherwise_is_refused_with_the_convention() -> None:
    module = Looping(leaky())
    neuron: Any = module.lif1
    neuron.state_function = neuron._base_zero
    with pytest.raises(UserError, match=r"lif1 .*from step \d+ on.*it agrees with a reset to zero"):
        certsnn.from_snntorch(module, images(), readout="rate", output=0)


def test_a_tie_breaks_as_in_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certsnn.interop.snntorch.above", lambda threshold: threshold)
    with pytest.raises(UserError, match="spikes above the threshold only"):
        certsnn.from_snntorch(Looping(leaky()), images(), readout="rate", output=0)


class Leaking(Looping):
    """Hands on another state than that of the step before."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state, outputs = self.lif1.reset_mem(), []  # type: ignore[operator]
        for _ in range(self.steps):
            out, state = self.lif1(self.conv(x), 0.5 * state)
            outputs.append(out.flatten(1))
        return torch.stack(outputs), state


def test_a_state_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match=r"lif1 \(Leaky\): it gets a state that is neither zero"):
        certsnn.from_snntorch(Leaking(leaky()), images(), readout="rate", output=0)


def test_what_must_be_said() -> None:
    module, x = Looping(leaky()), images()
    with pytest.raises(UserError, match="returns 2 outputs"):
        certsnn.from_snntorch(module, x, readout="rate")
    with pytest.raises(UserError, match="Say readout="):
        certsnn.from_snntorch(module, x, output=0)
    with pytest.raises(UserError, match="6 steps, and 5 are asked for"):
        certsnn.from_snntorch(module, x, steps=5, output=0, readout="rate")
    with pytest.raises(UserError, match="say how many steps"):
        certsnn.from_snntorch(stepwise(), x, output=0, readout="rate")
    with pytest.raises(UserError, match="a state of neurons that reset it"):
        certsnn.from_snntorch(module, x, output=1, readout="membrane")
    with pytest.raises(UserError, match="none 2"):
        certsnn.from_snntorch(module, x, output=2, readout="rate")
