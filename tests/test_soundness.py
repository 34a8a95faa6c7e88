"""Soundness: whatever a member of the input set makes the network do lies within its bounds.

`check` is the property. It runs under Hypothesis here on some hundred examples, and on as many as
one likes in ``benchmarks/soundness.py``. S-IBP is checked on all of them, with its bounds of every layer;
the other methods are checked on fewer, and against S-IBP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PIXEL, Example, examples
from torch import Tensor, nn

from certsnn.affine import apply_chain
from certsnn.bounds import (
    METHODS,
    Interval,
    LayerBounds,
    Status,
    Verdict,
    bind,
    certify,
    layer_bounds,
    margin_bounds,
)
from certsnn.bounds.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.flips import AnyWeights, FeasibleFlips, FlippedSpikes
from certsnn.bounds.ibp import interval_margins
from certsnn.bounds.methods import RELAXATIONS
from certsnn.bounds.neurons import Summed, scan_counts, scan_steps
from certsnn.bounds.problem import Options, Problem, pose
from certsnn.bounds.refine import Refinement
from certsnn.bounds.sources import Spikes, layer_of
from certsnn.inputsets import FreeSpikes, InputSet, LinfBall, SpikeFlips
from certsnn.layers import as_affine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Reset, Trace, scan

TOLERANCE = 1e-4
ENUMERATED = 96
SAMPLED = 6
ATTACKED = 6
FURTHER = tuple(name for name in METHODS if name != "s-ibp" and not name.startswith("auto-lirpa"))
"""Our own methods beside S-IBP."""
RELAXED: tuple[Literal["joint", "separate"], ...] = ("joint", "separate")
ITERATIONS = 1
"""Slopes are optimised a little: any slope must be sound, the tightness is not tested here."""


@dataclass(frozen=True)
class Bound:
    """An example with its network input, input set and bounds."""

    example: Example
    x0: Tensor
    y: Tensor
    input_set: InputSet
    rigorous: list[LayerBounds]
    plain: list[LayerBounds]
    verdict: Verdict
    plain_margins: Tensor


def bound(example: Example) -> Bound:
    """All bounds of an example, for the classes that the network gives to x0."""
    network, threat, x = example.network, example.threat, example.x
    with torch.no_grad():
        x0, input_set = bind(network, x, threat, None)
        y = network(x0).argmax(1)
        return Bound(
            example,
            x0,
            y,
            input_set,
            layer_bounds(network, x, threat, rounding=True),
            layer_bounds(network, x, threat, rounding=False),
            certify(network, x, y, threat),
            margin_bounds(network, x, y, threat, rounding=False),
        )


def pull(network: SpikingNetwork, x0: Tensor, generator: torch.Generator) -> Tensor:
    """The surrogate gradient of one random membrane (or the logits) towards the input."""
    x = x0.clone().requires_grad_()
    traces = network.freeze().traces(x)
    layer = int(torch.randint(len(traces) + 1, (), generator=generator))
    if layer == len(traces):
        target = network.freeze().logits(traces[-1].spikes)
    else:
        # Mostly the first layer: its bounds are the exact extrema of single steps.
        membranes = traces[layer if layer > 1 else 0].membranes
        target = membranes[int(torch.randint(len(membranes), (), generator=generator))].flatten(1)
    column = int(torch.randint(target.shape[1], (), generator=generator))
    (gradient,) = torch.autograd.grad(target[:, column].sum(), x)
    return gradient.nan_to_num()


def extreme(input_set: InputSet, x0: Tensor, direction: Tensor) -> Tensor:
    """The member that goes furthest in a direction, each entry on its own."""
    return input_set.project(x0, x0 + 1e6 * direction.sign(), direction.abs())


def members(case: Bound) -> Iterator[Tensor]:
    """x0, all members (some, where they are many), random ones, corners and gradient attacks."""
    x0, input_set = case.x0, case.input_set
    generator = torch.Generator().manual_seed(case.example.seed)
    yield x0
    with suppress(ValueError):  # too many, or infinitely many
        yield from islice(input_set.enumerate(x0), ENUMERATED)
    lower, upper = input_set.box(x0)
    for x in (lower, upper):
        yield input_set.project(x0, x)
    for _ in range(SAMPLED):
        x = input_set.sample(x0, generator)
        if case.example.exact and isinstance(input_set, LinfBall):
            x = ((x / PIXEL).round() * PIXEL).clamp(lower, upper)  # stay exactly computable
        yield x
    for _ in range(ATTACKED):
        gradient = pull(case.example.network, x0, generator)
        for sign in (-1, 1):
            yield extreme(input_set, x0, sign * gradient)


def in_interval(lower: Tensor, x: Tensor, upper: Tensor, tolerance: float) -> Tensor:
    """Elementwise, in float64 so that the comparison itself is exact."""
    slack = tolerance * (1 + lower.double().abs().maximum(upper.double().abs()))
    return (lower.double() - slack <= x.double()) & (x.double() <= upper.double() + slack)


def per_sample(flags: Tensor, batch_axis: int) -> Tensor:
    return flags.movedim(batch_axis, 0).flatten(1).all(1)


def contained(bounds: list[LayerBounds], traces: list[Trace], tolerance: float) -> Tensor:
    """Whether membranes and spikes of M*B inputs lie in the bounds of B samples, ``bool [M*B]``."""
    fine = []
    for layer, trace in zip(bounds, traces, strict=True):
        for (lower, upper), values, slack in zip(layer, trace, (tolerance, 0), strict=True):
            repeats = (1, values.shape[1] // lower.shape[1], *[1] * (lower.ndim - 2))
            inside = in_interval(lower.repeat(repeats), values, upper.repeat(repeats), slack)
            fine.append(per_sample(inside, 1))
    return torch.stack(fine).all(0)


def true_margins(logits: Tensor, y: Tensor) -> Tensor:
    """``logit[y] - logit[j]`` in float64, j != y ascending."""
    logits = logits.double()
    rivals = [[j for j in range(logits.shape[1]) if j != label] for label in y.tolist()]
    return logits.gather(1, y[:, None]) - logits.gather(1, torch.tensor(rivals))


def clear_of_threshold(network: SpikingNetwork, traces: list[Trace]) -> Tensor:
    """The samples whose spikes no rounding error decides, ``bool [B]``."""
    fine = torch.ones(traces[0].membranes.shape[1], dtype=torch.bool)
    for stage, (u, _) in zip(network.freeze().stages, traces, strict=True):
        distance = (u - stage.neuron.threshold).abs()
        fine &= per_sample(distance > TOLERANCE * (1 + u.abs()), 1)
    return fine


@dataclass(frozen=True)
class Outcome:
    """What M members for each of B samples make a network do, M*B columns.

    ``margins`` are executed; ``settled``: samples that rounding=False speaks about, since no rounding
    decides a spike.
    """

    traces: list[Trace]
    margins: Tensor
    slack: Tensor
    settled: Tensor


def outcome(case: Bound, xs: list[Tensor]) -> Outcome:
    """Run M batches of one member for each sample."""
    network, axis = case.example.network, case.input_set.batch_axis
    for x in xs:
        assert bool(case.input_set.contains(case.x0, x).all()), "not a member: the test is wrong"
    x, y = torch.cat(xs, axis), case.y.repeat(len(xs))
    with torch.no_grad():
        traces, logits = network.freeze().traces(x), network(x)
    if case.example.exact:
        settled = torch.ones_like(y, dtype=torch.bool)
    elif case.example.numbers == "grid":
        settled = torch.zeros_like(y, dtype=torch.bool)  # rounding decides ties there
    else:
        settled = clear_of_threshold(network, traces)
    slack = TOLERANCE * (1 + logits.abs().amax(1, keepdim=True))
    return Outcome(traces, true_margins(logits, y), slack, settled)


def check_layers(
    example: Example, rigorous: list[LayerBounds], plain: list[LayerBounds], found: Outcome
) -> None:
    """Assert that all traces lie within the bounds of the layers."""
    assert contained(rigorous, found.traces, 0).all(), "a trace leaves its bounds with rounding=True"
    inside = contained(plain, found.traces, 0 if example.exact else TOLERANCE)
    assert inside[found.settled].all(), "a trace leaves its bounds with rounding=False"


def check_margins(rigorous: Tensor, plain: Tensor, found: Outcome) -> None:
    """Assert that no margin is below its bounds ``[B, K-1]``, and that certified samples win."""
    repeats = len(found.margins) // max(len(rigorous), 1)
    claimed = rigorous.repeat(repeats, 1)
    assert (found.margins >= claimed).all(), "a margin is below its bound with rounding=True"
    wins = (found.margins > 0).all(1)
    assert wins[(claimed > 0).all(1)].all(), "a certified sample is misclassified, or tied"
    above = found.margins >= plain.repeat(repeats, 1) - found.slack
    assert above[found.settled].all(), "a margin is below its bound with rounding=False"


def check_members(case: Bound, xs: list[Tensor]) -> None:
    """Assert everything that S-IBP claims, on M batches of one member for each sample."""
    found = outcome(case, xs)
    check_layers(case.example, case.rigorous, case.plain, found)
    check_margins(case.verdict.margins, case.plain_margins, found)
    assert torch.equal(case.verdict.certified, (case.verdict.margins > 0).all(1))


def problem_of(case: Bound, arithmetic: Arithmetic) -> Problem:
    return pose(case.example.network.freeze(), case.x0, case.y, case.input_set, arithmetic)


def check_method(case: Bound, found: Outcome, method: str, relaxation: Literal["joint", "separate"]) -> None:
    """Assert that a method's margins are sound, and nowhere below S-IBP's."""
    options = Options(relaxation=relaxation, iterations=ITERATIONS)
    with torch.no_grad():
        rigorous, plain = (METHODS[method](problem_of(case, a), options) for a in (RIGOROUS, PLAIN))
    check_margins(rigorous, plain, found)
    assert (rigorous >= case.verdict.margins - 1e-12).all(), "below S-IBP with rounding=True"
    assert (plain >= case.plain_margins - 1e-5).all(), "below S-IBP with rounding=False"


def check_widening(case: Bound) -> None:
    """Assert that rounding=True only ever widens."""
    for loose, tight in zip(case.rigorous, case.plain, strict=True):
        if case.example.exact:
            for wide, narrow in zip(loose, tight, strict=True):
                assert (wide.lower <= narrow.lower).all()
                assert (wide.upper >= narrow.upper).all()


def check(example: Example, methods: Sequence[str] = ()) -> None:
    """The soundness of S-IBP's bounds of an example, and of these methods' margins.

    Raises:
        AssertionError: if a member of the input set violates a bound.
    """
    case = bound(example)
    check_widening(case)
    xs = list(members(case))
    check_members(case, [case.x0])  # another batch size, so another order of sums
    check_members(case, xs)
    if methods:
        found = outcome(case, xs)
        for method, relaxation in product(methods, RELAXED):
            check_method(case, found, method, relaxation)


@settings(max_examples=350)
@given(examples())
def test_executed_traces_and_margins_lie_within_the_bounds(example: Example) -> None:
    check(example)


def test_all_relaxations_are_checked() -> None:
    assert set(RELAXED) == set(RELAXATIONS)


@pytest.mark.parametrize("method", FURTHER)
@settings(max_examples=40)
@given(example=examples(), relaxation=st.sampled_from(RELAXED))
def test_every_method_is_sound_and_nowhere_below_s_ibp(
    method: str, example: Example, relaxation: Literal["joint", "separate"]
) -> None:
    case = bound(example)
    check_method(case, outcome(case, list(members(case))), method, relaxation)


@settings(max_examples=60)
@given(examples(), st.sampled_from(RELAXED), st.sampled_from([0, ITERATIONS]))
def test_executed_traces_lie_within_the_refined_layers(
    example: Example, relaxation: Literal["joint", "separate"], iterations: int
) -> None:
    case = bound(example)
    found = outcome(case, list(members(case)))
    options = Options(relaxation=relaxation, iterations=iterations)
    for sample in range(len(case.y)):
        refined = []
        for arithmetic in (RIGOROUS, PLAIN):
            part = problem_of(case, arithmetic).groups(1)[sample]
            layers = Refinement(part, RELAXATIONS[relaxation], options).layers
            refined.append([LayerBounds(layer.membranes, layer.spikes) for layer in layers])
        columns = torch.arange(sample, len(found.settled), len(case.y))
        traces = [Trace(u[:, columns], s[:, columns]) for u, s in found.traces]
        own = replace(found, traces=traces, settled=found.settled[columns])
        check_layers(example, *refined, own)
        for layers, wide, tolerance in zip(refined, (case.rigorous, case.plain), (0, 1e-5), strict=True):
            check_narrower(layers, wide, sample, tolerance)


def check_narrower(layers: list[LayerBounds], wide: list[LayerBounds], sample: int, tolerance: float) -> None:
    """Assert that one sample's bounds lie within those of a batch."""
    for narrow, layer in zip(layers, wide, strict=True):
        for (low, high), outer in zip(narrow, layer, strict=True):
            least, most = (end[:, sample : sample + 1] for end in outer)
            slack = tolerance * (1 + least.abs() + most.abs())
            assert (low >= least - slack).all()
            assert (high <= most + slack).all()


def weight_only(case: Bound) -> Bound:
    """The case with bounds from the weight-only ranking of flips."""
    program = case.example.network.freeze()

    def run(arithmetic: Arithmetic) -> tuple[Tensor, list[LayerBounds]]:
        margin, layers = interval_margins(program, case.x0, case.y, case.input_set, arithmetic, AnyWeights())
        return margin, [LayerBounds(layer.membranes, layer.spikes) for layer in layers]

    with torch.no_grad():
        (plain_margins, plain), (rigorous_margins, rigorous) = run(PLAIN), run(RIGOROUS)
    status: list[Status] = ["certified" if m.gt(0).all() else "unknown" for m in rigorous_margins]
    return replace(
        case,
        plain=plain,
        plain_margins=plain_margins,
        rigorous=rigorous,
        verdict=Verdict(rigorous_margins, status),
    )


@settings(max_examples=120)
@given(examples(ways=("flips",)))
def test_the_weight_only_ranking_is_sound_and_never_tighter(example: Example) -> None:
    case = bound(example)
    loose = weight_only(case)
    check_members(loose, list(members(case)))
    for wide, tight in zip(loose.rigorous, case.rigorous, strict=True):
        for outer, inner in zip(wide, tight, strict=True):
            assert (outer.lower <= inner.lower + 1e-9).all()
            assert (outer.upper >= inner.upper - 1e-9).all()
    assert (loose.verdict.margins <= case.verdict.margins + 1e-9).all()


FIRST_LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Flatten(), nn.Linear(6, 3)],
    "convolution": lambda: [nn.Conv2d(1, 2, 2, padding=1)],
    "strided": lambda: [nn.Conv2d(1, 2, (1, 2), stride=(2, 1))],
    "dilated": lambda: [nn.Conv2d(1, 1, 2, dilation=2, padding=1, bias=False)],
    "grouped": lambda: [nn.Conv2d(2, 4, (2, 1), groups=2)],
    "pooled convolution": lambda: [nn.AvgPool2d(2, stride=1, padding=1), nn.Conv2d(1, 2, 2)],
    "pooled": lambda: [nn.AvgPool2d(2, stride=1)],
    "pooled linear": lambda: [nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(2, 2)],
}


@pytest.mark.parametrize("name", FIRST_LAYERS)
@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@pytest.mark.parametrize(("steps", "budget"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_currents_under_a_flip_budget_are_the_enumerated_extremes(
    name: str, kind: Literal["any", "add", "drop"], steps: int, budget: int
) -> None:
    generator = torch.Generator().manual_seed(steps + 10 * budget)
    layers = FIRST_LAYERS[name]()
    for layer in layers:
        for parameter in layer.parameters():
            eighths = torch.randint(-8, 9, parameter.shape, generator=generator)
            parameter.data = eighths / 8
    operators = [as_affine(layer) for layer in layers]
    shape = (2, 2, 2) if name == "grouped" else (1, 2, 3)
    x0 = (torch.rand(steps, 2, *shape, generator=generator) < 0.5).float()
    flips = SpikeFlips(budget, kind)

    every = torch.stack(list(flips.enumerate(x0)))  # [M, T, B, ...]
    with torch.no_grad():
        currents = apply_chain(operators, every.flatten(0, 2)).unflatten(0, every.shape[:3])
        source = FlippedSpikes(x0, flips, FeasibleFlips())
        low, high = source.currents(operators, PLAIN)
        sum_low, sum_high = source.charge(operators, PLAIN).sums
    # Eighths are summed without rounding errors, so the bounds are exactly the extremes.
    assert torch.equal(low, currents.amin(0))
    assert torch.equal(high, currents.amax(0))
    assert torch.equal(sum_low, currents.cumsum(1).amin(0))
    assert torch.equal(sum_high, currents.cumsum(1).amax(0))


@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@pytest.mark.parametrize("name", ["linear", "convolution", "strided", "grouped"])
def test_the_ranking_in_small_pieces_is_the_same(
    name: str, kind: Literal["any", "add", "drop"], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    operators = [as_affine(layer) for layer in FIRST_LAYERS[name]()]
    shape = (2, 2, 2) if name == "grouped" else (1, 2, 3)
    x0 = (torch.rand(3, 2, *shape) < 0.5).float()
    source = FlippedSpikes(x0, SpikeFlips(2, kind), FeasibleFlips())
    whole = source.charge(operators, PLAIN).sums
    monkeypatch.setattr("certsnn.bounds.flips.WINDOW_ELEMENTS", 1)
    pieces = source.charge(operators, PLAIN).sums
    assert torch.equal(whole.lower, pieces.lower)
    assert torch.equal(whole.upper, pieces.upper)


RESETS: list[Reset] = ["zero", "subtract", 0.25, -0.5, (0.5, 0.25), (1.5, -1.0), (1.0, 0.5)]


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("reset", RESETS, ids=str)
@pytest.mark.parametrize("interval", [(0.25, 0.75), (-0.5, 1.5), (0.5, 0.5), (0.75, 1.25), (1.0, 2.0)])
def test_one_neuron_against_all_current_trains(
    decay: float, reset: Reset, interval: tuple[float, float]
) -> None:
    low, high = interval
    neuron = LIF(1.0, decay, reset, initial=0.125).dynamics()
    values = torch.linspace(low, high, 7)
    trains = torch.cartesian_prod(*[values] * 4).T[..., None].contiguous()  # [T, 7^4, 1]
    trace = scan(trains, neuron)
    box = Interval(torch.full((4, 1, 1), low), torch.full((4, 1, 1), high))
    source = Spikes(box)  # any numbers within an interval: the bounds do not ask for more
    layer = layer_of(source, (), neuron, PLAIN)
    for bound, found in ((layer.membranes, trace.membranes), (layer.spikes, trace.spikes)):
        assert (bound.lower <= found).all()
        assert (found <= bound.upper).all()
    # Step by step, the first two membranes have no slack: they follow an interval whose ends are
    # reached, or approached from below the threshold.
    membranes, spikes = scan_steps(Interval(box.lower, box.upper), neuron)
    assert torch.equal(membranes.lower[0, 0], trace.membranes[0].amin(0))
    assert torch.equal(membranes.upper[0, 0], trace.membranes[0].amax(0))
    assert torch.equal(spikes.lower[0, 0], trace.spikes[0].amin(0))
    assert torch.equal(spikes.upper[0, 0], trace.spikes[0].amax(0))
    reach = (high - low) / 6 * max(decay, float(neuron.gain))
    assert (membranes.lower[1, 0] >= trace.membranes[1].amin(0) - reach).all()
    assert (membranes.upper[1, 0] <= trace.membranes[1].amax(0) + reach).all()
    assert (membranes.lower[:, 0] <= trace.membranes.amin(1)).all()
    assert (membranes.upper[:, 0] >= trace.membranes.amax(1)).all()


@pytest.mark.parametrize("reset", ["subtract", (1.0, 0.5), (1.0, -0.25), (1.0, -2.0)], ids=str)
@pytest.mark.parametrize("initial", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("interval", [(0.25, 0.75), (-0.5, 1.5), (0.5, 0.5), (1.0, 2.5)])
def test_counts_of_one_neuron_are_the_enumerated_extremes(
    reset: Reset, initial: float, interval: tuple[float, float]
) -> None:
    neuron = IF(1.0, reset, initial=initial).dynamics()
    assert neuron.lossless
    trains = torch.cartesian_prod(*[torch.tensor(interval)] * 6).T[..., None].contiguous()
    counts = scan(trains, neuron).spikes.cumsum(0)
    times = torch.arange(1.0, 7.0)[:, None, None]
    cumulative = Interval(interval[0] * times, interval[1] * times)
    bounds = scan_counts(Summed(cumulative), neuron, 0.0).counts
    assert torch.equal(bounds.lower[:, 0], counts.amin(1))
    assert torch.equal(bounds.upper[:, 0], counts.amax(1))


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["image", "spikes"])
def test_an_empty_threat_gives_the_executed_traces(
    readout: Literal["rate", "membrane"], kind: Literal["image", "spikes"]
) -> None:
    torch.manual_seed(1)
    last: list[nn.Module] = [nn.Linear(8, 3)] if readout == "membrane" else [nn.Linear(8, 3), IF(0.4)]
    layers = [nn.Linear(6, 8), LIF(0.3), nn.Linear(8, 8), IF(0.3), *last]
    network = SpikingNetwork(layers, 5, readout, kind).eval()
    x = torch.rand(4, 6) if kind == "image" else (torch.rand(5, 4, 6) < 0.5).float()
    y = network(x).argmax(1)
    empty, real = (LinfBall(0.0), LinfBall(0.1)) if kind == "image" else (SpikeFlips(0), SpikeFlips(2))
    for layer, trace in zip(layer_bounds(network, x, empty), network.freeze().traces(x), strict=True):
        for interval, values in zip(layer, trace, strict=True):
            torch.testing.assert_close(interval.lower, values)
            torch.testing.assert_close(interval.upper, values)
    margin = margin_bounds(network, x, y, empty)
    torch.testing.assert_close(margin, true_margins(network(x), y).float())
    assert (margin_bounds(network, x, y, real) <= margin + 1e-6).all()
    # A box of spikes around x0 alone says the same.
    if kind == "spikes":
        same = margin_bounds(network, x, y, FreeSpikes(0.0))
        torch.testing.assert_close(same, margin)


def test_a_flip_budget_of_all_bits_is_no_looser_than_the_free_box() -> None:
    torch.manual_seed(2)
    network = SpikingNetwork([nn.Linear(4, 6), LIF(0.3), nn.Linear(6, 3), IF(0.4)], 3, input="spikes").eval()
    x = (torch.rand(3, 5, 4) < 0.5).float()
    y = network(x).argmax(1)
    box = margin_bounds(network, x, y, FreeSpikes(1.0))
    flips = margin_bounds(network, x, y, SpikeFlips(12))
    torch.testing.assert_close(flips, box)


@pytest.mark.parametrize(
    "layers",
    [
        [LIF(0.5), nn.Linear(4, 3), LIF(0.5)],
        [IF(0.5), nn.Linear(4, 3), LIF(0.5)],
    ],
    ids=["LIF first", "IF first"],
)
def test_a_network_may_begin_with_neurons(layers: list[nn.Module]) -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(layers, 3, input="spikes").eval()
    x = (torch.rand(3, 2, 4) < 0.5).float()
    for threat in (FreeSpikes(0.2), SpikeFlips(0), SpikeFlips(2, "add"), SpikeFlips(2)):
        check(Example(network, threat, x, "smooth", 0))


def test_a_linear_layer_over_rows_is_refused() -> None:
    layers = [nn.Linear(4, 2), LIF(0.3), nn.Flatten(), nn.Linear(6, 3), LIF(0.3)]
    network = SpikingNetwork(layers, 3, input="spikes").eval()
    x = (torch.rand(3, 2, 3, 4) < 0.5).float()
    with pytest.raises(ValueError, match="put a Flatten before it"):
        margin_bounds(network, x, torch.tensor([0, 1]), SpikeFlips(2))
