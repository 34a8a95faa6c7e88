"""The neuron models: voltage traces worked out by hand, surrogate gradients, parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference_spike import ReferenceSpike
from torch import Tensor

from certsnn.dynamics import RESET_FIRST, Dynamics, carry_above, carry_below
from certsnn.neurons import IF, LEAST_THRESHOLD, LIF, Neuron
from certsnn.scan import scan
from certsnn.surrogates import ArcTan, FastSigmoid, Rectangle, Surrogate, Triangle

CURRENTS = [0.75, 0.75, 0.75, -1.0, 2.0]

# Worked out by hand: the membranes before firing under CURRENTS; a spike wherever one is >= 1.
GOLDEN: dict[str, tuple[Neuron, list[float], list[int]]] = {
    "LIF, reset to zero": (LIF(1.0, 0.5), [0.75, 1.125, 0.75, -0.625, 1.6875], [0, 1, 0, 0, 1]),
    "LIF, reset by subtraction": (
        LIF(1.0, 0.5, "subtract"),
        # after the spike 0.5 * 1.125 - 0.5 * 1 = 0.0625 is carried on
        [0.75, 1.125, 0.8125, -0.59375, 1.703125],
        [0, 1, 0, 0, 1],
    ),
    "LIF, reset to 0.5, hits the threshold exactly": (
        LIF(1.0, 0.5, 0.5),
        # after a spike 0.5 * 0.5 = 0.25 is carried on, and 0.25 + 0.75 = 1 fires
        [0.75, 1.125, 1.0, -0.75, 1.625],
        [0, 1, 1, 0, 1],
    ),
    "LIF, a pair": (
        LIF(1.0, 0.5, (0.25, -0.5)),
        # after the spike 0.25 * 1.125 - 0.5 = -0.21875 is carried on
        [0.75, 1.125, 0.53125, -0.734375, 1.6328125],
        [0, 1, 0, 0, 1],
    ),
    "LIF, subtraction after the decay (snnTorch)": (
        LIF(1.0, 0.5, (0.5, -1.0)),
        # after the spike 0.5 * 1.125 - 1 = -0.4375 is carried on
        [0.75, 1.125, 0.3125, -0.84375, 1.578125],
        [0, 1, 0, 0, 1],
    ),
    "LIF, initial potential": (
        LIF(1.0, 0.5, initial=0.5),  # not decayed before the first step
        [1.25, 0.75, 1.125, -1.0, 1.5],
        [1, 0, 1, 0, 1],
    ),
    "no memory": (LIF(1.0, 0.0, "subtract"), CURRENTS, [0, 0, 0, 0, 1]),
    "IF, reset by subtraction": (IF(1.0), [0.75, 1.5, 1.25, -0.75, 1.25], [0, 1, 1, 0, 1]),
    "IF, reset to zero": (IF(1.0, "zero"), [0.75, 1.5, 0.75, -0.25, 1.75], [0, 1, 0, 0, 1]),
    "IF, reset to 0.25": (IF(1.0, 0.25), [0.75, 1.5, 1.0, -0.75, 1.25], [0, 1, 1, 0, 1]),
    "IF, negative initial potential, hits the threshold exactly": (
        IF(1.0, initial=-0.5),
        [0.25, 1.0, 0.75, -0.25, 1.75],
        [0, 1, 0, 0, 1],
    ),
    "LIF of decay 1 is IF": (
        LIF(1.0, 1.0, "subtract"),
        [0.75, 1.5, 1.25, -0.75, 1.25],
        [0, 1, 1, 0, 1],
    ),
    "another threshold": (IF(0.5, "subtract"), [0.75, 1.0, 1.25, -0.25, 1.75], [1, 1, 1, 0, 1]),
}


def currents(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None]


@pytest.mark.parametrize("name", GOLDEN)
def test_hand_computed_traces(name: str) -> None:
    neuron, membranes, spikes = GOLDEN[name]
    trace = scan(currents(*CURRENTS), neuron.dynamics())
    assert trace.membranes.flatten().tolist() == membranes
    assert trace.spikes.flatten().tolist() == spikes
    assert torch.equal(neuron(currents(*CURRENTS)), trace.spikes)


def test_the_threshold_itself_fires_and_the_number_below_does_not() -> None:
    for threshold in (1.0, 0.25, 0.3, 0.1):
        neuron = LIF(threshold)
        at = neuron.threshold.detach()
        below = torch.nextafter(at, torch.tensor(0.0))
        assert neuron(at.view(1, 1, 1)).item() == 1
        assert neuron(below.view(1, 1, 1)).item() == 0


def test_shapes_and_neurons_side_by_side() -> None:
    x = torch.stack([currents(*CURRENTS), currents(*reversed(CURRENTS))], 1).view(5, 2, 1)
    x = x[:, :, :, None].expand(5, 2, 3, 4)
    spikes = LIF(1.0, 0.5)(x)
    assert spikes.shape == x.shape
    assert spikes[:, 0, 2, 1].tolist() == [0, 1, 0, 0, 1]
    # reversed currents 2, -1, 0.75, 0.75, 0.75: u = 2, -1, 0.25, 0.875, 1.1875
    assert spikes[:, 1, 0, 3].tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("neuron", "gain", "offset"),
    [
        (LIF(0.5, 0.25), 0, 0),
        (LIF(0.5, 0.25, "subtract"), 0.25, -0.125),
        (LIF(0.5, 0.25, 2.0), 0, 0.5),
        (LIF(0.5, 0.25, (3.0, 0.75)), 3, 0.75),
        (LIF(0.5, 0.25, [3, 1]), 3, 1),  # type: ignore[arg-type]  # a list, as configs have it
        (IF(0.5), 1, -0.5),
        (IF(0.5, 2), 0, 2),
    ],
)
def test_upper_branch(neuron: Neuron, gain: float, offset: float) -> None:
    dynamics = neuron.dynamics()
    assert (float(dynamics.gain), float(dynamics.offset)) == (gain, offset)


@pytest.mark.parametrize(
    ("neuron", "lossless"),
    [
        (IF(0.5), True),
        (IF(0.5, "zero"), False),
        (IF(0.5, (1.0, 0.3)), True),
        (IF(0.5, (0.5, -0.3)), False),
        (LIF(0.5, 1.0, "subtract"), True),
        (LIF(0.5, 0.75, "subtract"), False),
        (LIF(0.5, 0.75, (1.0, -0.5)), False),
    ],
)
def test_charge_is_conserved_only_without_leak_and_with_unit_gain(neuron: Neuron, lossless: bool) -> None:
    assert neuron.dynamics().lossless is lossless


SURROGATES: list[tuple[Surrogate, list[tuple[float, float]]]] = [
    (Rectangle(), [(0, 1), (0.5, 1), (-0.5, 1), (0.51, 0), (-0.51, 0)]),
    (Rectangle(2.0), [(0, 0.25), (-2, 0.25), (2.01, 0)]),
    (Triangle(), [(0, 1), (0.5, 0.5), (-0.25, 0.75), (1, 0), (-3, 0)]),
    (Triangle(2.0), [(0, 0.5), (1, 0.25), (-1.5, 0.125)]),
    (ArcTan(), [(0, 1), (1 / math.pi, 0.5), (-3 / math.pi, 0.1)]),
    (ArcTan(4.0), [(0, 2), (-0.5 / math.pi, 1)]),
    (FastSigmoid(), [(0, 2.5), (0.2, 0.625), (-0.6, 2.5 / 16)]),
    (FastSigmoid(1.0), [(0, 0.5), (1, 0.125)]),
]


@pytest.mark.parametrize(("surrogate", "values"), SURROGATES, ids=str)
def test_surrogates_by_hand(surrogate: Surrogate, values: list[tuple[float, float]]) -> None:
    x, expected = torch.tensor(values, dtype=torch.float64).T
    torch.testing.assert_close(surrogate.derivative(x), expected)


@pytest.mark.parametrize("surrogate", [surrogate for surrogate, _ in SURROGATES], ids=str)
def test_surrogates_have_area_one(surrogate: Surrogate) -> None:
    x = torch.linspace(-500, 500, 1_000_001, dtype=torch.float64)
    area = torch.trapezoid(surrogate.derivative(x), x)
    assert float(area) == pytest.approx(1, abs=3e-3)


def test_spike_compares_forward_and_uses_the_surrogate_backward() -> None:
    u = torch.tensor([0.0, 0.999, 1.0, 1.5, 2.0], requires_grad=True)
    neuron = LIF(1.0, surrogate=Triangle(2.0), learn_threshold=True)
    s = neuron(u[None, None])[0, 0]
    assert s.tolist() == [0, 0, 1, 1, 1]
    (s * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    slopes = [0.25, 0.49975, 0.5, 0.375, 0.25]
    expected = [weight * slope for weight, slope in zip([1, 2, 3, 4, 5], slopes, strict=True)]
    torch.testing.assert_close(u.grad, torch.tensor(expected))
    torch.testing.assert_close(neuron.threshold.grad, -torch.tensor(sum(expected)))


def reference_scan(x: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """The equations, a step at a time under autograd."""
    v = dynamics.initial
    membranes, spikes = [], []
    for current in x:
        u = v + current
        s = ReferenceSpike.apply(u - dynamics.threshold, dynamics.surrogate)
        v = s * (dynamics.gain * u + dynamics.offset) + (1 - s) * (dynamics.decay * u)
        membranes.append(u)
        spikes.append(s)
    return torch.stack(membranes), torch.stack(spikes)


@pytest.mark.parametrize("surrogate", [Rectangle(1.0), Triangle(2.0), ArcTan(), FastSigmoid()], ids=str)
@pytest.mark.parametrize("parameter_shape", [(), (3,)], ids=str)
def test_gradients_through_time_are_those_of_the_equations(
    surrogate: Surrogate, parameter_shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)

    def number(value: float) -> Tensor:
        noise = 0.1 * torch.rand(parameter_shape, generator=generator, dtype=torch.float64)
        return (value + noise).requires_grad_()

    threshold, decay, initial, gain, offset = map(number, (0.8, 0.7, 0.2, 0.5, -0.3))
    dynamics = Dynamics(threshold, decay, initial, gain, offset, False, surrogate, RESET_FIRST)
    x = torch.randn(6, 4, 3, generator=generator, dtype=torch.float64).add(0.5).requires_grad_()
    weights = torch.randn(2, 6, 4, 3, generator=generator, dtype=torch.float64)
    inputs = (x, threshold, decay, initial, gain, offset)

    trace, expected = scan(x, dynamics), reference_scan(x, dynamics)
    assert torch.equal(trace.spikes, expected[1])
    torch.testing.assert_close(trace.membranes, expected[0])
    assert 0.2 < float(trace.spikes.detach().mean()) < 0.8, "both branches are taken"
    found = torch.autograd.grad((torch.stack([*trace]) * weights).sum(), inputs)
    wanted = torch.autograd.grad((torch.stack(expected) * weights).sum(), inputs)
    for mine, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(mine, theirs)


def test_gradient_by_hand() -> None:
    # u1 = 0.8, silent, v1 = 0.5 u1 = 0.4; u2 = 0.4 + 0.7 = 1.1, fires. With the triangle of
    # half-width 1, ds1/du1 = 0.8 and ds2/du2 = 0.9. Reset to zero: v1 = (1 - s1) u1 / 2, so
    # dv1/du1 = 0.5 - 0.4 * 0.8 = 0.18.
    x = currents(0.8, 0.7).requires_grad_()
    scan(x, LIF(1.0, 0.5, surrogate=Triangle()).dynamics()).spikes[1].sum().backward()
    torch.testing.assert_close(x.grad, currents(0.9 * 0.18, 0.9))


@pytest.mark.parametrize("reset", ["zero", "subtract", 0.25, (0.5, -0.25)], ids=str)
def test_learnable_parameters_get_gradients_and_others_do_not(reset: Any) -> None:
    x = torch.linspace(-0.5, 1.0, 12).view(4, 1, 3)
    for threshold, decay in ((True, True), (True, False), (False, True), (False, False)):
        neuron = LIF(0.5, 0.5, reset, learn_threshold=threshold, learn_decay=decay)
        trained = {name for name, p in neuron.named_parameters() if p.requires_grad}
        assert trained == {n for n, flag in (("threshold", threshold), ("decay", decay)) if flag}
        spikes = neuron(x.clone().requires_grad_())
        spikes.sum().backward()
        assert (neuron.threshold.grad is not None) == threshold
        assert (neuron.decay.grad is not None) == decay
        if threshold:
            assert (
                neuron.threshold.grad is not None and float(neuron.threshold.grad) < 0
            )  # a higher threshold, fewer spikes


def test_trained_parameters_are_used_within_their_range() -> None:
    neuron = LIF(0.5, 0.5, "subtract", learn_threshold=True, learn_decay=True)
    with torch.no_grad():
        neuron.threshold.fill_(-3.0)
        neuron.decay.fill_(1.7)
    dynamics = neuron.dynamics()
    assert float(dynamics.threshold.detach()) == pytest.approx(LEAST_THRESHOLD)
    assert float(dynamics.decay.detach()) == 1
    assert dynamics.lossless
    with torch.no_grad():
        neuron.decay.fill_(-0.2)
    assert float(neuron.dynamics().decay.detach()) == 0


def test_the_state_dict_holds_threshold_and_decay() -> None:
    source, target = LIF(0.3, 0.9, initial=0.1), LIF()
    target.load_state_dict(source.state_dict())
    for name in ("threshold", "decay", "initial"):
        assert torch.equal(getattr(target.dynamics(), name), getattr(source.dynamics(), name))
    assert "threshold=0.3" in repr(source)


def test_carries() -> None:
    dynamics = LIF(1.0, 0.5, (0.25, -2.0)).dynamics()
    u = torch.tensor([-1.0, 4.0])
    assert carry_below(u, dynamics).tolist() == [-0.5, 2.0]
    assert carry_above(u, dynamics).tolist() == [-2.25, -1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": -1.0}, "threshold"),
        ({"threshold": LEAST_THRESHOLD / 2}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"threshold": math.inf}, "threshold"),
        ({"decay": -0.1}, "decay"),
        ({"decay": 1.1}, "decay"),
        ({"decay": math.nan}, "decay"),
        ({"reset": "none"}, "reset"),
        ({"reset": math.nan}, "reset"),
        ({"reset": (-0.5, 0.0)}, "gain"),
        ({"reset": (math.inf, 0.0)}, "reset"),
        ({"reset": (0.5, math.nan)}, "reset"),
        ({"initial": math.inf}, "initial"),
    ],
    ids=str,
)
def test_parameter_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LIF(**arguments)
    if "decay" not in arguments:
        with pytest.raises(ValueError, match=message):
            IF(**arguments)
