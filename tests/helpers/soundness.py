"""The soundness property: whatever a member of the input set makes the network do lies within its bounds.

`check` is the property. It runs under Hypothesis in tests/bounds/test_soundness.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Literal

import torch
from strategies import PIXEL, Example
from torch import Tensor, nn

from certsnn.bounds import (
    METHODS,
    LayerBounds,
    Status,
    Verdict,
    bind,
    certify,
    layer_bounds,
    margin_bounds,
)
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.interval.propagate import interval_margins, layers_of
from certsnn.bounds.interval.topk import any_weights
from certsnn.bounds.linear.intermediate import Refinement
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.inputsets import InputSet
from certsnn.layers import Scale, SumPool2d
from certsnn.networks import SpikingNetwork
from certsnn.neurons import Reset, Trace

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
        target = network.freeze().run(x)
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
        if case.example.exact and input_set.grain == 0:
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
    options = BoundOptions(relaxation=relaxation, iterations=ITERATIONS)
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


def check_narrower(layers: list[LayerBounds], wide: list[LayerBounds], sample: int, tolerance: float) -> None:
    """Assert that one sample's bounds lie within those of a batch."""
    for narrow, layer in zip(layers, wide, strict=True):
        for (low, high), outer in zip(narrow, layer, strict=True):
            least, most = (end[:, sample : sample + 1] for end in outer)
            slack = tolerance * (1 + least.abs() + most.abs())
            assert (low >= least - slack).all()
            assert (high <= most + slack).all()


def check_refined(example: Example, relaxation: Literal["joint", "separate"], iterations: int) -> None:
    """Assert that executed traces lie within refined layers, and these within S-IBP's."""
    case = bound(example)
    found = outcome(case, list(members(case)))
    options = BoundOptions(relaxation=relaxation, iterations=iterations)

    def refined(arithmetic: Arithmetic, sample: int) -> list[LayerBounds]:
        part = problem_of(case, arithmetic).groups(1)[sample]
        layers = layers_of(Refinement(part, RELAXATIONS[relaxation], options).sources)
        return [LayerBounds(layer.membranes, layer.spikes) for layer in layers]

    for sample in range(len(case.y)):
        rigorous, plain = refined(RIGOROUS, sample), refined(PLAIN, sample)
        columns = torch.arange(sample, len(found.settled), len(case.y))
        traces = [Trace(u[:, columns], s[:, columns]) for u, s in found.traces]
        # Slopes of lines are quotients, so bounds by them are rounded even where all sums are exact.
        settled = found.settled[columns] & clear_of_threshold(example.network, traces)
        own = replace(found, traces=traces, settled=settled)
        check_layers(replace(example, numbers="smooth"), rigorous, plain, own)
        check_narrower(rigorous, case.rigorous, sample, 0)
        check_narrower(plain, case.plain, sample, 1e-5)


def weight_only(case: Bound) -> Bound:
    """The case with bounds from the weight-only ranking of flips."""

    def run(arithmetic: Arithmetic) -> tuple[Tensor, list[LayerBounds]]:
        margin, sources = interval_margins(problem_of(case, arithmetic), any_weights)
        return margin, [LayerBounds(layer.membranes, layer.spikes) for layer in layers_of(sources)]

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


FIRST_LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Flatten(), nn.Linear(6, 3)],
    "convolution": lambda: [nn.Conv2d(1, 2, 2, padding=1)],
    "strided": lambda: [nn.Conv2d(1, 2, (1, 2), stride=(2, 1))],
    "dilated": lambda: [nn.Conv2d(1, 1, 2, dilation=2, padding=1, bias=False)],
    "grouped": lambda: [nn.Conv2d(2, 4, (2, 1), groups=2)],
    "pooled convolution": lambda: [nn.AvgPool2d(2, stride=1, padding=1), nn.Conv2d(1, 2, 2)],
    "pooled": lambda: [nn.AvgPool2d(2, stride=1)],
    "pooled twice": lambda: [nn.AvgPool2d(2, stride=1, padding=1), nn.AvgPool2d(2, stride=1)],
    "pooled linear": lambda: [nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(2, 2)],
    "one axis": lambda: [nn.Flatten(2), nn.Conv1d(1, 2, 3, stride=2, padding=1)],
    "grouped, one axis": lambda: [nn.Flatten(1), nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2, groups=2)],
    "padded": lambda: [nn.ZeroPad2d((1, 0, -1, 1)), nn.Conv2d(1, 2, 2)],
    "scaled": lambda: [Scale(-0.5), nn.Conv2d(1, 2, 2)],
    "sums": lambda: [SumPool2d(2, stride=1, padding=1), nn.Flatten(), nn.Linear(12, 2)],
}


RESETS: list[Reset] = ["zero", "subtract", 0.25, -0.5, (0.5, 0.25), (1.5, -1.0), (1.0, 0.5)]
