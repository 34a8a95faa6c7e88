"""Currents that are the same at every step: the trains they cause, and lines below forms of these."""

from __future__ import annotations

import math

import pytest
import torch
from dynamics import changed
from torch import Tensor

from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, Interval
from certsnn.bounds.linear.alpha import Chosen, Slack, chosen_slopes
from certsnn.bounds.linear.constant_current import MOST_PIECES, Held, Pieces, held, pieces
from certsnn.bounds.linear.lines import Tracked, scan_back
from certsnn.neurons import IF, LIF, Dynamics, Neuron, scan

STEPS = 5
NEURONS: dict[str, Neuron] = {
    "LIF": LIF(0.3, 0.25),
    "LIF, reset to a value": LIF(0.7, 0.9, 0.2, initial=0.1),
    "LIF, by subtraction": LIF(1.0, 0.5, "subtract"),
    "IF": IF(0.3, initial=0.15),
    "growing": LIF(0.5, 0.9, (1.3, -0.2), initial=-0.5),
}


def trains(currents: Tensor, dynamics: Dynamics) -> Tensor:
    """The spikes ``[T, n]`` that constant currents ``[n]`` cause."""
    return scan(currents.expand(STEPS, 1, -1).contiguous(), dynamics).spikes[:, 0]


def doubled(dynamics: Dynamics) -> Dynamics:
    return changed(dynamics, lambda number: number.detach().double())


@pytest.mark.parametrize("name", NEURONS)
def test_every_executed_train_belongs_to_a_piece_that_holds_its_current(name: str) -> None:
    """Also next to the cuts, where rounding decides, and only there do pieces overlap."""
    dynamics = NEURONS[name].dynamics()
    found = pieces(-0.5, 2.0, STEPS, dynamics, FLOAT32_UNIT)
    assert found is not None
    ends = torch.cat([found.lower, found.upper]).float()
    near = [ends]
    for direction in (-torch.inf, torch.inf):
        moved = ends
        for _ in range(12):
            moved = torch.nextafter(moved, torch.tensor(direction))
            near.append(moved)
    grid = torch.linspace(-0.5, 2.0, 5001)
    currents = torch.cat([grid, *near]).clamp(-0.5, 2.0)
    spikes = trains(currents, dynamics)
    inside = (found.lower[:, None] <= currents.double()) & (currents.double() <= found.upper[:, None])
    same = (found.spikes.float()[:, :, None] == spikes).all(1)
    assert (inside & same).any(0).all()
    assert inside[:, :5001].sum(0).double().mean() < 1.02


@pytest.mark.parametrize("name", NEURONS)
def test_without_rounding_the_pieces_are_cut_where_the_train_changes(name: str) -> None:
    dynamics = doubled(NEURONS[name].dynamics())
    found = pieces(-0.5, 2.0, STEPS, dynamics, 0.0)
    assert found is not None
    order = found.lower.argsort()
    lower, upper, spikes = found.lower[order], found.upper[order], found.spikes[order]
    wide = upper - lower > 1e-9
    middle = ((lower + upper) / 2)[wide]
    assert torch.equal(trains(middle, dynamics), spikes[wide].T)
    assert float((upper - lower).sum()) == pytest.approx(2.5)


def forms(name: str, rows: int = 6) -> tuple[Dynamics, Tensor, Tensor, Tensor]:
    """Dynamics in float64, coefficients ``[S, T, 1, n]`` and bounds ``[1, n]`` of the currents."""
    generator = torch.Generator().manual_seed(3)
    dynamics = doubled(NEURONS[name].dynamics())
    a = torch.randn(rows, STEPS, 1, 8, dtype=torch.float64, generator=generator)
    low = torch.rand(1, 8, dtype=torch.float64, generator=generator) * 1.5 - 0.5
    high = low + torch.tensor([0.0, 1e-9, 0.05, 0.1, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64)
    return dynamics, a, low, high


def lines(dynamics: Dynamics, low: Tensor, high: Tensor, share: float, mix: float) -> Held:
    # All neurons share the pieces of a wider interval, as those of a layer do.
    cut = pieces(-0.5, 2.0, STEPS, dynamics, 0.0)
    assert cut is not None
    one = torch.ones(1, 1, *low.shape, dtype=torch.float64)
    return held(Interval(low, high), cut, dynamics).chosen(Slack(share * one, mix * one))


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize(("share", "mix"), [(1.0, 0.5), (1.0, 0.0), (1.0, 1.0), (0.4, 0.3), (0.0, 0.5)])
def test_the_line_is_below_the_form_and_touches_its_envelope(name: str, share: float, mix: float) -> None:
    dynamics, a, low, high = forms(name)
    found = lines(dynamics, low, high, share, mix)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for neuron in range(low.shape[1]):
        begin, end = low[0, neuron], high[0, neuron]
        currents = begin + grid * (end - begin)
        values = a[:, :, 0, neuron] @ trains(currents, dynamics)
        one = lines(dynamics, low[:, [neuron]], high[:, [neuron]], share, mix)
        k, constant = one.pull(a[..., [neuron]])
        line = k[:, 0, 0] * currents + constant
        assert (line <= values + 1e-9).all(), neuron
        if share == 1 and end - begin > 0.01:
            # It touches: no higher parallel line is below (the grid misses the cuts by its step).
            gap = (values - line).amin(1)
            assert (gap <= 1e-3 * (1 + k[:, 0, 0, 0].abs())).all(), neuron
            if mix == 0.5:
                centre = (begin + end) / 2
                left, right = currents[currents <= centre], currents[currents > centre]
                at_left, at_right = values[:, : len(left)], values[:, len(left) :]
                share_right = (centre - left)[:, None] / (right - left[:, None])
                chords = at_left[:, :, None] * (1 - share_right) + at_right[:, None] * share_right
                envelope = chords.flatten(1).amin(1)
                assert ((k[:, 0, 0, 0] * centre + constant[:, 0] - envelope).abs() < 2e-2).all(), neuron
    k, constant = found.pull(a)
    assert k.shape == (6, 1, 1, 8) and constant.shape == (6, 1)


@pytest.mark.parametrize("name", NEURONS)
def test_the_extreme_slopes_are_those_of_the_envelopes_first_and_last_segment(name: str) -> None:
    dynamics, a, low, high = forms(name)
    first, last = (lines(dynamics, low, high, 1.0, mix).pull(a).currents for mix in (0.0, 1.0))
    for neuron in range(2, low.shape[1]):
        begin, end = low[0, neuron], high[0, neuron]
        cut = pieces(float(begin), float(end), STEPS, dynamics, 0.0)
        assert cut is not None
        values = a[:, :, 0, neuron] @ cut.spikes.T  # [S, M], pieces in order
        corners = torch.minimum(values[:, :-1], values[:, 1:])
        up = torch.cat([corners, values[:, -1:]], 1) - values[:, :1]
        down = values[:, -1:] - torch.cat([values[:, :1], corners], 1)
        to_right = torch.cat([cut.upper[:-1], end[None]]) - begin
        to_left = end - torch.cat([begin[None], cut.lower[1:]])
        torch.testing.assert_close(first[:, 0, 0, neuron], (up / to_right).amin(1))
        torch.testing.assert_close(last[:, 0, 0, neuron], (down / to_left).amax(1))


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("slack", [None, (1.0, 0.0), (1.0, 1.0), (0.7, 0.4)])
def test_with_rounding_the_line_is_below_every_piece_up_to_its_very_ends(
    name: str, slack: tuple[float, float] | None
) -> None:
    """Pieces overlap there, by the error of the executed membrane."""
    dynamics, a, low, high = forms(name)
    cut = pieces(-0.5, 2.0, STEPS, dynamics, FLOAT32_UNIT)
    assert cut is not None
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for neuron in range(low.shape[1]):
        begin, end = low[:, [neuron]], high[:, [neuron]]
        middle = held(Interval(begin, end), cut, dynamics)
        line = middle if slack is None else middle.chosen(Slack(slack[0] * one, slack[1] * one))
        k, constant = line.pull(a[..., [neuron]])
        values = a[:, :, 0, neuron] @ cut.spikes.T  # [S, M]
        there = (cut.lower <= end[0, 0]) & (cut.upper >= begin[0, 0])
        for at in (cut.lower, cut.upper):
            at = at.clamp(begin[0, 0], end[0, 0])
            below = k[:, 0, 0] * at + constant <= values + 1e-13 * (1 + k[:, 0, 0].abs())
            assert below[:, there].all(), neuron


def test_zero_slopes_give_the_least_value() -> None:
    dynamics, a, low, high = forms("IF")
    k, constant = lines(dynamics, low, high, 0.0, 0.5).pull(a)
    grid = low + torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None] * (high - low)
    spikes = scan(grid.expand(STEPS, *grid.shape).contiguous(), dynamics).spikes  # [T, G, n]
    least = torch.einsum("stn,tgn->sgn", a[:, :, 0], spikes).amin(1).sum(1)
    assert (k == 0).all()
    torch.testing.assert_close(constant[:, 0], least)


def test_too_many_pieces_are_refused() -> None:
    dynamics = IF(0.1).dynamics()
    assert pieces(0.0, 1.0, 40, dynamics, 0.0) is None
    few = pieces(0.0, 1.0, 4, dynamics, 0.0)
    assert few is not None and len(few.lower) <= MOST_PIECES


@pytest.mark.parametrize("field", ["threshold", "decay", "initial"])
def test_pieces_are_for_neurons_that_are_alike(field: str) -> None:
    def found(value: float | Tensor) -> Pieces | None:
        parameters: dict[str, float | Tensor] = {"threshold": 1.0, "decay": 0.5, "initial": 0.0, field: value}
        neuron = LIF(parameters["threshold"], parameters["decay"], initial=parameters["initial"])
        return pieces(0.0, 1.0, 4, neuron.dynamics(), 0.0)

    one, alike = found(0.5), found(torch.tensor([0.5, 0.5]))
    assert alike is not None and one is not None
    assert torch.equal(alike.spikes, one.spikes)
    assert found(torch.tensor([0.5, 0.25])) is None


def tracked(name: str) -> tuple[Chosen, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    dynamics = doubled(NEURONS[name].dynamics())

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    low = 2 * random(STEPS, 1, 7) - 0.7
    share, mix = (random(STEPS, 3, 1, 7).requires_grad_() for _ in range(2))
    found = chosen_slopes(Interval(low, low + 1.5 * random(STEPS, 1, 7)), dynamics, Slack(share, mix))
    a = (random(3, STEPS, 1, 7) - 0.5).requires_grad_()
    places = torch.rand(STEPS - 1, 1, 8, generator=generator).argsort(2)[:, :, :7]
    return found, a, places, share, mix


@pytest.mark.parametrize("name", NEURONS)
def test_the_fused_scan_is_the_plain_one_with_its_gradient(name: str) -> None:
    found, a, places, share, mix = tracked(name)
    weights = torch.linspace(-1, 1, 7, dtype=torch.float64)
    gradients = []
    for k, constant in (
        scan_back(found, a, torch.zeros_like(a[:, 0]), places),
        Tracked(found, places).pull(a),
    ):
        value = (k * weights).sum() + (constant[:, 0] * torch.tensor([1.0, 2.0, -1.0])).sum()
        gradients.append((k, constant, *torch.autograd.grad(value, (a, share, mix))))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("ends", [(math.nan, math.nan), (0.0, math.inf), (-math.inf, 1.0)])
def test_currents_that_are_not_finite_have_no_pieces(ends: tuple[float, float]) -> None:
    assert pieces(*ends, 4, LIF().dynamics(), 0.0) is None
