"""Networks whose neurons conserve charge, and the property that constraints on their counts must have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from certsnn.bounds import bind
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import RIGOROUS
from certsnn.bounds.interval.propagate import propagate
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.problem import Problem
from certsnn.bounds.search.constraints import Box
from certsnn.bounds.search.encoding import encode
from certsnn.graph import Branches, Residual
from certsnn.inputsets import LinfBall, SpikeBox, SpikeFlips, SpikeShift, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Reset

KINDS = ("smooth", "dyadic", "grid")
WIRED = ("spikes", "currents", "membrane", "branches")
RESETS: tuple[Reset, ...] = ("subtract", "subtract", (1.0, -0.5), (1.0, 0.25))


@dataclass(frozen=True)
class Case:
    """A network whose neurons conserve charge, with one sample."""

    network: SpikingNetwork
    threat: Threat
    x: Tensor

    def problem(self) -> Problem:
        x0, input_set = bind(self.network, self.x, self.threat, None)
        return pose(self.network.freeze(), x0, self.network(x0).argmax(1), input_set, RIGOROUS)

    def members(self, count: int) -> Tensor:
        """Members of the set: all of them for spikes, corners and random ones for images; ``[M, ...]``."""
        problem = self.problem()
        x0, input_set = problem.x0, problem.input_set
        if input_set.domain == "spikes":
            return torch.cat(list(input_set.enumerate(x0)), 1).movedim(1, 0)
        generator = torch.Generator().manual_seed(0)
        lower, upper = input_set.box(x0)
        corners = torch.rand(count, *x0.shape[1:], generator=generator) < 0.5
        inner = lower + torch.rand(count, *x0.shape[1:], generator=generator) * (upper - lower)
        sixteenths = ((inner * 16).round() / 16).clamp(lower, upper)
        return torch.cat([x0, torch.where(corners, lower, upper), inner.clamp(lower, upper), sixteenths])

    def clear(self, members: Tensor) -> bool:
        """Whether no rounding error decides a spike."""
        problem = self.problem()
        x = members if problem.input_set.domain == "image" else members.movedim(0, 1)
        distances = [
            (trace.membranes - stage.neuron.threshold).abs().min()
            for stage, trace in zip(problem.program.stages, problem.program.traces(x), strict=True)
        ]
        return bool(min(distances) > 1e-4)

    def run(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """Executed margins ``[M, K-1]``, and what the readout takes, summed over time, ``[M, n]``."""
        problem = self.problem()
        x = members if problem.input_set.domain == "image" else members.movedim(0, 1)
        logits = self.network(x).double()
        rivals = [j for j in range(logits.shape[1]) if j != int(problem.y)]
        last = problem.program.values(x)[problem.program.readout.source]
        return logits[:, problem.y] - logits[:, rivals], last.double().sum(0).flatten(1)


def draw_input(draw: st.DrawFn, network: SpikingNetwork, way: str, generator: torch.Generator) -> Case:
    """An input set of some kind, and its centre, for a network."""
    shape = (1, 1, 2, 2)
    if way == "image":
        x = (torch.rand(shape, generator=generator) * 16).round() / 16
        return Case(network, LinfBall(draw(st.sampled_from([1 / 16, 0.2, 0.0]))), x)
    x = (torch.rand(network.steps, *shape, generator=generator) < 0.5).float()
    if way == "flips":
        return Case(
            network, SpikeFlips(draw(st.integers(0, 2)), draw(st.sampled_from(["any", "add", "drop"]))), x
        )
    if way == "shifts":
        return Case(network, SpikeShift(draw(st.integers(1, 2)), draw(st.integers(0, 2))), x)
    free = (torch.rand(x.shape, generator=generator) < 0.4).float()
    return Case(network, SpikeBox(x * (1 - free), torch.maximum(x, free)), x)


def _hidden(way: str, neuron: Callable[[], nn.Module]) -> list[nn.Module]:
    """A hidden layer of four, and what is around it."""
    if way == "spikes":
        return [Residual([nn.Linear(4, 4), neuron()])]
    if way == "currents":
        return [Residual(nn.Linear(4, 4), nn.Linear(4, 4)), neuron()]
    if way == "membrane":
        return [nn.Linear(4, 4), Residual([neuron(), nn.Linear(4, 4)]), neuron()]
    if way == "branches":
        return [Branches([nn.Linear(4, 2), neuron()], []), nn.Linear(6, 4), neuron()]
    return [nn.Linear(4, 4), neuron()]


@st.composite
def cases(
    draw: st.DrawFn,
    inputs: tuple[str, ...] = ("image", "box", "flips", "shifts"),
    kinds: tuple[str, ...] = KINDS,
    graphs: bool = False,
) -> Case:
    """``graphs``: with shortcuts and branches, also at both ends; otherwise chains."""
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    threshold = {"smooth": 0.7, "dyadic": 0.5, "grid": 0.3}[kind]
    way = draw(st.sampled_from(inputs))
    readout: Literal["rate", "membrane"] = draw(st.sampled_from(["rate", "membrane"]))
    steps = draw(st.integers(1, 4 if way == "image" else 3))
    spatial = draw(st.booleans())

    def weights(shape: torch.Size) -> Tensor:
        if kind == "smooth":
            return threshold * torch.randn(shape, generator=generator)
        parts = 4 if kind == "dyadic" else 10
        return torch.randint(-parts, parts + 1, shape, generator=generator) * (threshold / parts)

    def neuron() -> nn.Module:
        initial = threshold * draw(st.sampled_from([0.5, 0.0, -0.5, 1.0]))
        reset = draw(st.sampled_from(RESETS))
        return (
            IF(threshold, reset, initial=initial)
            if reset == "subtract"
            else LIF(threshold, 1.0, reset, initial)
        )

    layers: list[nn.Module] = []
    if graphs and draw(st.booleans()):
        layers += [Residual(nn.Conv2d(1, 1, 1))]
    if spatial:
        layers += [nn.Conv2d(1, 2, 2, padding=1, stride=2), neuron()]
    layers += [nn.Flatten(), nn.Linear(8 if spatial else 4, 4), neuron()]
    if graphs or draw(st.booleans()):
        layers += _hidden(draw(st.sampled_from(WIRED)) if graphs else "chain", neuron)
    layers += [nn.Linear(4, 3)] if readout == "membrane" else [nn.Linear(4, 3), neuron()]
    if readout == "rate" and graphs and draw(st.booleans()):
        layers += [Residual([nn.Linear(3, 3), neuron()])]
    for layer in nn.Sequential(*layers).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for parameter in layer.parameters():
                parameter.data = weights(parameter.shape)
    network = SpikingNetwork(layers, steps, readout, "image" if way == "image" else "spikes").eval()
    return draw_input(draw, network, way, generator)


def check_executed(case: Case, members: Tensor) -> None:
    """Assert that the constraints hold for what members make the network do, and for nothing else.

    With the inputs fixed, propagation alone finds all spikes, unless rounding decides them.
    """
    problem = case.problem()
    layers = propagate(problem, feasible_flips)
    model, sums, inputs = encode(problem, layers, 2**30)
    row = csr_matrix((1, model.size))
    constraints = model.constraints(row, 0.0)
    last, lost = sums.matrix(problem.steps - 1, model.size), sums.lost[-1]
    for member, executed in zip(members, case.run(members)[1], strict=True):
        values = member.double().flatten().numpy()
        box = Box(model.box.lower.copy(), model.box.upper.copy())
        free = inputs >= 0
        box.lower[inputs[free]] = box.upper[inputs[free]] = values[free]
        found = constraints.propagated(box)
        assert found is not None, "the constraints refute what is executed"
        positive, negative = last.maximum(0), last.minimum(0)
        least = positive @ found.lower + negative @ found.upper + sums.constant[-1]
        most = positive @ found.upper + negative @ found.lower + sums.constant[-1]
        assert (least - lost <= executed.numpy()).all() and (executed.numpy() <= most + lost).all()
        if case.clear(member[None]):
            assert (least == most).all()
