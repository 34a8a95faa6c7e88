"""What a certificate presumes of float32 is checked, so that NaN, infinity and underflow can't pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds import certify, margin_bounds
from certsnn.bounds.interval.arithmetic import MOST_TERMS, RIGOROUS, UNDERFLOW, Interval
from certsnn.bounds.interval.overflow import MOST_STEPS, Overflow, largest_number, layout
from certsnn.inputsets import LinfBall, SpikeFlips, Threat
from certsnn.kernels.rounding import accumulated_rounding
from certsnn.layers import diagonal_of
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron

METHODS = ["s-ibp", "s-crown-ibp", "s-crown", "branch-and-bound", "auto"]
TINY = 2.0**-126


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias or [0.0] * len(weight)))
    return layer


def compared(*layers: nn.Module, steps: int = 2) -> SpikingNetwork:
    """A network whose class is 0 while its last neuron (the first one of several) fires at each step."""
    return SpikingNetwork([*layers, linear([[2.0], [0.0]], [0.0, 1.0])], steps, "membrane").eval()


def refused(network: SpikingNetwork, x: Tensor, threat: Threat, message: str, rounding: bool = True) -> None:
    for method in METHODS:
        with pytest.raises(ValueError, match=message):
            certify(network, x, torch.tensor([0]), threat, method, rounding=rounding)
        with pytest.raises(ValueError, match=message):
            margin_bounds(network, x, torch.tensor([0]), threat, method, rounding=rounding)


@pytest.mark.parametrize("terms", [MOST_TERMS + 1, 2**24 - 2, 2**24, 2**25])
def test_no_rounding_error_is_claimed_for_too_many_terms(terms: int) -> None:
    with pytest.raises(ValueError, match="terms"):
        RIGOROUS.gamma(terms)


def test_gamma_grows_with_the_terms() -> None:
    found = [RIGOROUS.gamma(terms) for terms in (1, 10, 2**10, 2**20, MOST_TERMS)]
    assert found == sorted(found) and found[0] > 0 and found[-1] < 1


def test_the_rounding_of_a_membrane_adds_up_the_largest_charges_so_far() -> None:
    dynamics = IF(1.0).dynamics()._replace(offset=torch.tensor(-0.5, dtype=torch.float64))
    charge = torch.tensor([3.0, 1.0, 4.0], dtype=torch.float64)[:, None]
    found = accumulated_rounding(charge, dynamics.offset, 0.25, UNDERFLOW)  # 3.5; 3 + 1 more; 4 + 1.5 more
    torch.testing.assert_close(found[:, 0].tolist(), [3.5, 7.5, 13.0], rtol=0, atol=1e-30)
    assert accumulated_rounding(0 * charge, 0 * dynamics.offset, 0.25, UNDERFLOW).gt(0).all()


def test_a_layer_with_too_many_inputs_is_refused() -> None:
    inputs = MOST_TERMS + 1
    wide = linear([[0.0]])
    wide.weight = nn.Parameter(torch.full((1, inputs), 1e-7), requires_grad=False)
    network = compared(wide, IF(0.5))
    x = torch.full((1, inputs), 0.3)
    with pytest.raises(ValueError, match=rf"before layers\.1 sums up {inputs} terms"):
        certify(network, x, torch.tensor([0]), LinfBall(0.25))
    assert certify(network, x, torch.tensor([0]), LinfBall(0.0), rounding=False).status == ["unknown"]


def test_too_many_steps_are_refused() -> None:
    network = compared(linear([[1.0]]), IF(), steps=MOST_STEPS + 1)
    with pytest.raises(ValueError, match="steps"):
        certify(network, torch.tensor([[0.5]]), torch.tensor([0]), LinfBall(0.0))


@pytest.mark.parametrize("rounding", [True, False])
def test_batch_norm_that_folds_to_nan_is_refused(rounding: bool) -> None:
    """All stored numbers are finite; a variance of 0 with eps 0 makes infinity, and 0 times it NaN."""
    norm = nn.BatchNorm1d(2, eps=0.0)
    assert norm.running_var is not None and norm.running_mean is not None
    norm.running_var.zero_()
    norm.running_mean.fill_(-1.0)
    out = linear([[0.0, 0.0], [1.0, 1.0]], [0.5, 0.0])
    layers = [linear([[0.0, 1.0], [1.0, 1.0]]), norm, IF(), out]
    network = SpikingNetwork(layers, 2, "membrane").eval()
    refused(network, torch.tensor([[0.0, 0.5]]), LinfBall(0.1), r"before layers\.2 are NaN", rounding)


def test_batch_norm_that_folds_to_infinity_is_refused() -> None:
    norm = nn.BatchNorm1d(1)
    with torch.no_grad():
        norm.weight.fill_(3e38)
    refused(compared(linear([[100.0]]), norm, IF()), torch.tensor([[0.5]]), LinfBall(0.1), "NaN or infinite")


@pytest.mark.parametrize("rounding", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["first weight", "last weight", "bias", "mean"])
def test_stored_numbers_that_are_not_finite_are_refused(place: str, value: float, rounding: bool) -> None:
    norm = nn.BatchNorm1d(1)
    network = compared(linear([[1.0]]), norm, IF())
    first, last = network.layers[0], network.layers[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and norm.running_mean is not None
    where = {"first weight": first.weight, "last weight": last.weight, "bias": first.bias}
    with torch.no_grad():
        where.get(place, norm.running_mean).view(-1)[0] = value
    refused(network, torch.tensor([[0.5]]), LinfBall(0.1), "NaN or infinite", rounding)


TWO, ONE = [linear([[1.0], [1.0]])], [linear([[1.0, 1.0]]), IF()]
ODD = LIF(decay=torch.tensor([0.5, 1e-40]), initial=torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("field", ["threshold", "decay", "initial"])
def test_a_neuron_of_nan_is_refused(field: str) -> None:
    neuron = LIF(torch.ones(2), 0.5 * torch.ones(2), initial=torch.zeros(2))
    with torch.no_grad():
        getattr(neuron, field)[1] = math.nan
    refused(compared(*TWO, neuron, *ONE), torch.tensor([[0.5]]), LinfBall(0.1), "NaN or infinite")


def test_an_infinite_ball_is_refused_also_by_a_weight_of_zero() -> None:
    network = compared(linear([[0.0]], [2.0]), IF())
    refused(network, torch.zeros(1, 1), LinfBall(1e39, None, None), "inputs may reach inf")


def test_a_range_of_nan_is_refused() -> None:
    shapes = layout(compared(linear([[1.0]]), IF()).freeze(), torch.zeros(1, 1))
    assert largest_number(shapes, 1.0, 1e38, 2) >= 1
    with pytest.raises(Overflow):
        largest_number(shapes, math.nan, 1e38, 2)


def test_the_sum_of_a_pooling_window_must_not_overflow() -> None:
    convolution, last = nn.Conv2d(1, 2, 1), linear([[0.0, 1.0]])
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([9e37, 1.0]).view(2, 1, 1, 1))
        assert convolution.bias is not None
        convolution.bias.zero_()
    x = torch.full((1, 1, 2, 2), 0.9)
    for pool in (nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)):
        network = compared(convolution, pool, nn.Flatten(), last, IF(0.5), steps=1)
        refused(network, x, LinfBall(0.1), r"sums before layers\.4 may reach")


def test_overflow_without_rounding_is_a_status() -> None:
    network = compared(linear([[3e38]]), IF(), linear([[3e38]]), IF())
    x, y, threat = torch.tensor([[0.9]]), torch.tensor([0]), LinfBall(0.1)
    for method in METHODS:
        verdict = certify(network, x, y, threat, method, rounding=False)
        assert verdict.status == ["overflow"] and not verdict.certified.any()
        assert "layers.1 may reach" in verdict.reason[0]
    with pytest.raises(ValueError, match="may reach"):
        margin_bounds(network, x, y, threat)


def test_no_network_with_odd_weights_is_proved_and_broken() -> None:
    """rounding=False: random networks with weights up to the limits of float32, every single flip tried."""
    generator = torch.Generator().manual_seed(0)
    proved = 0
    for trial in range(150):
        first, second = linear([[0.0] * 4] * 3), linear([[0.0] * 3] * 2)
        neurons: list[Neuron] = [IF() if trial % 3 else LIF(), IF()]
        with torch.no_grad():
            for layer in (first, second):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
            (first, second)[trial % 2].weight.mul_((1.0, 1e18, 1e37, 5e37)[trial % 4])
        layers = [nn.Flatten(), first, neurons[0], second, neurons[1], linear([[1.0, 0.0], [0.0, 1.0]])]
        network = SpikingNetwork(layers, 3, "membrane", "spikes").eval()
        x = (torch.rand(3, 1, 4, generator=generator) > 0.5).float()
        y = network(x).argmax(1)
        verdict = certify(network, x, y, SpikeFlips(1), rounding=False)
        proved += int(verdict.certified)
        if verdict.certified:
            flipped = x.flatten().repeat(12, 1)
            flipped[range(12), range(12)] = 1 - flipped[range(12), range(12)]
            members = flipped.view(12, 3, 1, 4).transpose(0, 1).flatten(1, 2)
            assert (network(members[:, :, None]).argmax(1) == y).all()
    assert proved > 3


class TestUnderflow:
    """Processors may take a subnormal factor as 0, which costs the other factor times 2^-126."""

    def test_a_subnormal_weight_times_a_large_input(self) -> None:
        network = compared(linear([[1e36]]), linear([[1e-38]]), IF(0.004))
        x, y, threat = torch.tensor([[0.6]]), torch.tensor([0]), LinfBall(0.05)
        assert network(x)[0, 0] > network(x)[0, 1]
        for method in METHODS:
            assert certify(network, x, y, threat, method).status == ["unknown"], method

    def test_a_subnormal_input_times_a_large_weight(self) -> None:
        network = compared(linear([[1e-38]]), linear([[1e36]]), IF(0.004))
        x, y, threat = torch.tensor([[0.6]]), torch.tensor([0]), LinfBall(0.05)
        for method in METHODS:
            assert certify(network, x, y, threat, method).status == ["unknown"], method

    @pytest.mark.parametrize("large", [1.0, 1e10, 1e30])
    def test_bounds_hold_with_and_without_flushing(self, large: float) -> None:
        """A product of one large and one subnormal factor, executed as it is and as 0."""
        for weight, x in ((1e-39, large), (large, 1e-39)):
            dense = Dense(torch.tensor([[weight]]), None)
            point = torch.tensor([[x]], dtype=torch.float64)
            low, high = RIGOROUS.within(large).chain([dense], Interval(point, point))
            assert float(low) <= 0 and float(high) >= float(point) * weight

    @pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor can't flush subnormals")
    def test_nothing_that_is_proved_is_broken_by_flushing(self) -> None:
        generator = torch.Generator().manual_seed(0)
        proved, changed = 0, 0
        for _ in range(40):
            scale = 10.0 ** float(30 + 8 * torch.rand((), generator=generator))
            first = linear([[scale / 1e3], [scale]])
            second = linear([[0.3 / scale, 0.3 / scale]])
            network = compared(first, second, IF(0.4))
            x = torch.rand(50, 1, generator=generator)
            y = network(x).argmax(1)
            certified = certify(network, x, y, LinfBall(0.01)).certified
            torch.set_flush_denormal(True)
            try:
                flushed = network(x).argmax(1)
            finally:
                torch.set_flush_denormal(False)
            changed += int((flushed != y).sum())
            proved += int(certified.sum())
            assert (flushed == y)[certified].all()
        assert proved > 100 and changed > 10

    @pytest.mark.parametrize("neuron", [LIF(decay=1e-40), LIF(reset=(1e-39, 0.0)), IF(initial=1e-42), ODD])
    def test_a_subnormal_parameter_is_refused(self, neuron: Neuron) -> None:
        refused(compared(*TWO, neuron, *ONE), torch.tensor([[0.5]]), LinfBall(0.1), "subnormal")

    def test_a_reset_that_enlarges_for_long_is_refused(self) -> None:
        gains = torch.tensor([0.5, 100.0])
        network = compared(*TWO, LIF(reset=(gains, 0.0)), *ONE, steps=12)
        refused(network, torch.tensor([[0.5]]), LinfBall(0.1), r"may reach|multiplies membranes")
        network = compared(linear([[2.0]]), LIF(reset=(1.5, 0.0)))
        assert certify(network, torch.tensor([[0.9]]), torch.tensor([0]), LinfBall(0.0)).certified.all()


@pytest.mark.parametrize("layer", [(nn.Linear, 0, 1), (nn.Linear, 1, 0), (nn.Conv2d, 0, 1, 1)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")
def test_layers_of_no_width_are_refused(layer: Sequence[Any]) -> None:
    with pytest.raises(ValueError, match="no inputs or no outputs"):
        SpikingNetwork([layer[0](*layer[1:]), IF()], 2)


def test_verdicts_say_where_and_of_what() -> None:
    network, x, y = compared(linear([[1.0]]), IF()), torch.tensor([[0.9]]), torch.tensor([0])
    found = certify(network, x, y, LinfBall(0.0))
    assert (found.device, found.arithmetic) == ("cpu", "the float32 network as executed")
    found = certify(network, x, y, LinfBall(0.0), rounding=False)
    assert found.arithmetic == "the network without rounding errors"


def test_batch_norm_is_folded_by_correctly_rounded_operations() -> None:
    """So that every device folds it to the same bits; rsqrt would not."""
    norm = nn.BatchNorm1d(2**12, affine=False)
    variance = torch.rand(2**12, generator=torch.Generator().manual_seed(0)) * 3
    root = (variance + norm.eps).double().sqrt().float()  # a root rounded twice is rounded correctly
    expected = (1 / root.double()).float()
    assert torch.equal(diagonal_of(norm, torch.zeros(2**12), variance).scale, expected)
