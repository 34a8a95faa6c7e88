"""Lines of a neuron over all its steps: pulled back to its currents, cut, fused, and their gradients."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from dynamics import dynamics_of
from relaxations import DOUBLE, MAKERS, neuron
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.scans import scan_steps
from certsnn.bounds.linear.alpha import Slack, chosen_slopes
from certsnn.bounds.linear.lines import Stepwise, scan_back
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.neurons import Dynamics, scan


def train(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)[:, None, None]


@dataclass(frozen=True)
class Run:
    """Neurons over T steps: currents within ``box [T, B, n]``, and bounds of the membranes."""

    dynamics: Dynamics
    box: Interval
    membranes: Interval

    def trains(self, count: int, generator: torch.Generator) -> Tensor:
        """Currents ``[T, B * count, n]`` in the box: corners, the inside, ones that meet the threshold."""
        low, high = (end.repeat_interleave(count, 1) for end in self.box)
        part = torch.rand(low.shape, dtype=DOUBLE, generator=generator)
        corner = torch.rand(low.shape, generator=generator) < 0.5
        part = torch.where(corner, part.round(), part)
        currents = low + part * (high - low)
        meeting = torch.rand(low.shape, generator=generator) < 0.3
        v = self.dynamics.initial.expand(low.shape[1:])
        rows = []
        for t in range(len(low)):
            to_threshold = (self.dynamics.threshold - v).clamp(low[t], high[t])
            rows.append(torch.where(meeting[t], to_threshold, currents[t]))
            v = self.carried(v + rows[t])
        return torch.stack(rows)

    def carried(self, u: Tensor) -> Tensor:
        threshold, decay, _, gain, offset = self.dynamics.numbers()
        return torch.where(u >= threshold, gain * u + offset, decay * u)


def run(seed: int, steps: int, batch: int, shape: tuple[int, ...], narrow: bool = False) -> Run:
    """Random neurons and boxes, with membranes from the interval scan."""
    generator = torch.Generator().manual_seed(seed)

    def one(*options: float) -> float:
        return options[int(torch.randint(len(options), (), generator=generator))]

    threshold = one(1.0, 0.3)
    reset = ((0.0, 0.0), (0.5, -0.5), (1.0, -1.0), (0.0, 0.4), (0.0, -0.4), (1.3, 0.2))[int(one(*range(6)))]
    initial = threshold * one(0.0, 0.5, -0.5, 1.0)
    dynamics = neuron(threshold, one(0.5, 0.9, 1.0, 0.0), reset[0], reset[1] * threshold, initial)
    size = (steps, batch, *shape)
    centre = threshold * (2 * torch.rand(size, dtype=DOUBLE, generator=generator) - 0.7)
    radius = threshold * torch.rand(size, dtype=DOUBLE, generator=generator) * (0.05 if narrow else 0.7)
    box = Interval(centre - radius, centre + radius)
    return Run(dynamics, box, scan_steps(box, dynamics).membranes)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_pulled_forms_are_below_what_the_neurons_do(name: str, steps: int) -> None:
    """sum a s + carried v_T >= sum k I + constant, for currents anywhere in the box."""
    count, rows = 200, 12
    for seed in range(30):
        case = run(seed, steps, batch=4, shape=(), narrow=seed % 2 == 1)
        lines = MAKERS[name](*one_neuron(case))
        generator = torch.Generator().manual_seed(seed)
        currents = case.trains(count, generator)
        trace = scan(currents, case.dynamics)
        assert (trace.membranes >= case.membranes.lower.repeat_interleave(count, 1) - 1e-12).all()
        a = torch.randn(rows, steps, 4, 1, dtype=DOUBLE, generator=generator)
        carried = torch.randn(rows, 4, 1, dtype=DOUBLE, generator=generator)
        a[: rows // 3] = 0
        carried[-rows // 3 :] = 0
        for spikes_too in (a, None):
            k, constant = lines.pull_carried(spikes_too, carried)
            assert k.shape == a.shape and constant.shape == (rows, 4)
            spikes, final = (
                values.unflatten(-1, (4, count))
                for values in (trace.spikes, case.carried(trace.membranes[-1]))
            )
            done = carried * final
            if spikes_too is not None:
                done = done + torch.einsum("stb,tbm->sbm", a[..., 0], spikes)
            line = torch.einsum("stb,tbm->sbm", k[..., 0], currents.unflatten(-1, (4, count)))
            size = 1 + k.abs().sum((1, 3)) + a.abs().sum((1, 3))
            assert (line + constant[..., None] <= done + 1e-13 * size[..., None]).all()


def one_neuron(case: Run) -> tuple[Interval, Dynamics]:
    """The membranes ``[T, B]`` as ``[T, B, 1]``."""
    return Interval(*(end[..., None] for end in case.membranes)), case.dynamics


def test_pulled_forms_by_hand() -> None:
    """Two stable steps: silent, then firing with subtraction. u_1 = i + I_1, u_2 = d u_1 + I_2."""
    dynamics = neuron(1.0, 0.5, 0.5, -0.5, initial=0.25)
    membranes = Interval(train(0.0, 1.0), train(0.5, 2.0))
    a, carried = train(3.0, 5.0)[None], torch.full((1, 1, 1), 8.0, dtype=DOUBLE)
    for make in MAKERS.values():
        k, constant = make(membranes, dynamics).pull_carried(a, carried)
        # v_2 = 0.5 u_2 - 0.5; the coefficient on u_2 is 4, on u_1 it is 2.
        assert k.flatten().tolist() == [2.0, 4.0]
        assert float(constant) == pytest.approx(5 + 8 * -0.5 + 2 * 0.25)


# Some steps, some neurons.

SHAPE = (2, 3)


ROWS = 5


KINDS = ["joint", "separate", "chosen, shared by rows", "chosen for each row"]


def slack_for(membranes: Interval, rows: int) -> Slack:
    generator = torch.Generator().manual_seed(1)
    steps, *shape = membranes.lower.shape
    share, mix = torch.rand(2, steps, rows, *shape, dtype=DOUBLE, generator=generator)
    return Slack(share, mix)


def of_kind(kind: str, membranes: Interval, dynamics: Dynamics, slack: Slack) -> Stepwise:
    if kind in RELAXATIONS:
        return RELAXATIONS[kind](membranes, dynamics)
    return chosen_slopes(membranes, dynamics, slack)


def coefficients(steps: int, batch: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(ROWS, steps, batch, *shape, dtype=DOUBLE, generator=generator)
    return a, torch.randn(ROWS, batch, *shape, dtype=DOUBLE, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_first_steps_are_those_of_the_whole(kind: str, steps: int) -> None:
    case = run(3, 4, 2, SHAPE)
    slack = slack_for(case.membranes, ROWS if kind.endswith("row") else 1)
    a, carried = coefficients(steps, 2, SHAPE)
    cut = Interval(case.membranes.lower[:steps], case.membranes.upper[:steps])
    expected = of_kind(kind, cut, case.dynamics, Slack(slack.share[:steps], slack.mix[:steps]))
    found = of_kind(kind, case.membranes, case.dynamics, slack).until(steps)
    for spikes_too in (a, None):
        for one, other in zip(
            found.pull_carried(spikes_too, carried), expected.pull_carried(spikes_too, carried), strict=True
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_the_lines_of_one_neuron_are_those_of_the_layer(kind: str) -> None:
    steps, batch = 3, 2
    case = run(4, steps, batch, SHAPE)
    generator = torch.Generator().manual_seed(0)
    column = torch.randint(math.prod(SHAPE), (ROWS, batch), generator=generator)
    _, carried = coefficients(steps, batch, (1,))
    k, constant = RELAXATIONS[kind](case.membranes, case.dynamics).carried_at(column, carried)
    assert k.shape == (ROWS, steps, batch, 1) and constant.shape == (ROWS, batch)
    for row, sample in itertools.product(range(ROWS), range(batch)):

        def single(values: Tensor, row: int = row, sample: int = sample) -> Tensor:
            flat = values.flatten(values.ndim - len(SHAPE))[..., sample, column[row, sample]]
            return flat[..., None, None]

        alone = RELAXATIONS[kind](Interval(*(single(end) for end in case.membranes)), case.dynamics)
        expected = alone.pull_carried(None, carried[row : row + 1, sample : sample + 1])
        torch.testing.assert_close(k[row, :, sample], expected.currents[0, :, 0])
        torch.testing.assert_close(constant[row, sample], expected.constant[0, 0])


def followed(steps: int, neurons: int) -> Tensor:
    """Where the neurons of each step are at the next: shuffled, one of them gone."""
    generator = torch.Generator().manual_seed(3)
    places = torch.rand(steps - 1, 1, neurons, generator=generator).argsort(2).repeat(1, 2, 1)
    return places.masked_fill(places == torch.arange(steps - 1)[:, None, None] % neurons, neurons)


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_fused_scan_is_the_scan_step_by_step(steps: int, shared: bool, tracked: bool) -> None:
    """Values, and gradients towards coefficients and slacks, with neurons that change their places or not."""
    for seed in range(8):
        case = run(seed, steps, 2, (6,))
        follow = followed(steps, 6) if tracked else None
        slack = slack_for(case.membranes, 1 if shared else ROWS)
        a, _ = coefficients(steps, 2, (6,))
        inputs = [value.requires_grad_() for value in (a, slack.share, slack.mix)]
        lines = chosen_slopes(case.membranes, case.dynamics, slack)
        found = lines.pull_spikes(a, follow)
        expected = scan_back(lines, a, torch.zeros_like(a[:, 0]), follow)
        generator = torch.Generator().manual_seed(seed)
        total = []
        for pulled in (found, expected):
            weights = [torch.randn(part.shape, dtype=DOUBLE, generator=generator) for part in pulled]
            products = [(w * part).sum() for w, part in zip(weights, pulled, strict=True)]
            total.append(torch.stack(products).sum())
            generator.manual_seed(seed)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        mine, theirs = (torch.autograd.grad(part, inputs) for part in total)
        for one, other in zip(mine, theirs, strict=True):
            assert other.isfinite().all() and one.isfinite().all()
            torch.testing.assert_close(one, other)
        assert all(bool(gradient.any()) for gradient in theirs)


# Gradients.


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_finite_for_degenerate_intervals_too(name: str) -> None:
    ends = torch.tensor([-1.0, 0.0, 1 - 1e-12, 1.0, 1 + 1e-12, 2.0, 100.0], dtype=DOUBLE)
    pairs = torch.cartesian_prod(ends, ends)
    low, high = (end.clone().requires_grad_() for end in pairs[pairs[:, 0] <= pairs[:, 1]].T)
    numbers = [torch.tensor(value, dtype=DOUBLE, requires_grad=True) for value in (1, 0.5, 0.1, 0.3, -0.2)]
    dynamics = dynamics_of(numbers)
    a = torch.tensor([1.0, -1.0, 0.0, 0.5], dtype=DOUBLE).view(-1, 1, 1, 1).expand(-1, 2, len(low), -1)
    a = a.clone().requires_grad_()
    carried = torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=DOUBLE).view(-1, 1, 1).expand(-1, len(low), -1)
    carried = carried.clone().requires_grad_()
    membranes = Interval(*(end.expand(2, -1)[..., None] for end in (low, high)))
    k, constant = MAKERS[name](membranes, dynamics).pull_carried(a, carried)
    inputs = (low, high, a, carried, *numbers)
    gradients = torch.autograd.grad(constant.sum() + (k * k).sum().log1p(), inputs)
    for gradient in gradients:
        assert gradient.isfinite().all()
    assert all(bool(gradient.any()) for gradient in gradients[2:])


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Away from the kinks, for neurons of all three kinds (silent, firing, unstable on either side)."""
    low = torch.tensor([-1.0, 1.1, 0.2, -2.0, 0.9], dtype=DOUBLE)
    high = torch.tensor([0.9, 2.0, 3.0, 1.5, 1.2], dtype=DOUBLE)
    numbers = torch.tensor([1.0, 0.6, 0.1, 0.3, -0.2], dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, 1, 5, dtype=DOUBLE, generator=generator)
    carried = torch.randn(3, 1, 5, dtype=DOUBLE, generator=generator)

    def function(
        low: Tensor, high: Tensor, numbers: Tensor, a: Tensor, carried: Tensor
    ) -> tuple[Tensor, ...]:
        membranes = Interval(*(end.expand(2, 1, -1) for end in (low, high)))
        lines = MAKERS[name](membranes, dynamics_of(numbers))
        return tuple(lines.pull_carried(a, carried))

    inputs = tuple(value.requires_grad_() for value in (low, high, numbers, a, carried))
    assert torch.autograd.gradcheck(function, inputs)
