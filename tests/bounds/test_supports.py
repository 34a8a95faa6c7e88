"""The bound supports: every input set has each seat, and a set without a support is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certsnn import inputsets
from certsnn.bounds import SUPPORTS, BoundSupport, certify, layer_bounds, margin_bounds
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.interval.layers import Source
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.active_neurons import Selection
from certsnn.bounds.linear.backward import Entry
from certsnn.bounds.search.model import Model
from certsnn.bounds.supports import FreeSpikesBox, support_of
from certsnn.inputsets import (
    CoupledBernoulli,
    EventChanges,
    FreeSpikes,
    InputSet,
    LinfBall,
    LinfFrames,
    SpikeBox,
    SpikeFlips,
    SpikeShift,
    Threat,
)
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF

STEPS, BATCH, SIZE = 3, 2, 4
SPIKES = (torch.arange(STEPS * BATCH * SIZE) % 3 == 0).float().view(STEPS, BATCH, SIZE)
IMAGES = torch.linspace(0.1, 0.9, BATCH * SIZE).view(BATCH, SIZE)
THREATS: Mapping[str, Threat] = {
    "LinfBall": LinfBall(0.1),
    "LinfFrames": LinfFrames(0.1),
    "EventChanges": EventChanges(2),
    "CoupledBernoulli": CoupledBernoulli(0.1, STEPS),
    "FreeSpikes": FreeSpikes(0.3),
    "SpikeBox": SpikeBox(SPIKES * 0, SPIKES),
    "SpikeFlips": SpikeFlips(2),
    "SpikeShift": SpikeShift(1, 1),
}
"""A threat of each class that binds to an input set."""


def listed() -> list[type[Threat]]:
    """All concrete threats and input sets of `certsnn.inputsets`, from every module of it."""
    found: list[type[Threat]] = Threat.__subclasses__()
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub not in found]
    ours = [kind for kind in found if kind.__module__.startswith(inputsets.__name__)]
    return [kind for kind in ours if not inspect.isabstract(kind)]


def sets() -> list[type[InputSet]]:
    return [kind for kind in listed() if issubclass(kind, InputSet)]


def bound(name: str) -> tuple[Tensor, InputSet]:
    threat = THREATS[name]
    return threat.bind(IMAGES if threat.domain == "image" else SPIKES, torch.arange(BATCH))


def test_every_input_set_has_a_support() -> None:
    assert set(SUPPORTS) == set(sets())
    assert len(sets()) >= 5


def test_every_threat_binds_to_a_set_with_a_support() -> None:
    assert set(THREATS) | {"NestedTrains"} == {kind.__name__ for kind in listed()}
    assert {type(bound(name)[1]) for name in THREATS} == set(SUPPORTS)


@pytest.mark.parametrize("name", THREATS)
def test_every_support_has_every_seat(name: str) -> None:
    x0, input_set = bound(name)
    support = support_of(input_set)
    assert not inspect.isabstract(type(support)), "a seat is missing"
    steps = STEPS if input_set.domain == "image" else len(x0)
    assert isinstance(support.start(x0, steps, feasible_flips), Source)
    selection, entry = support.selected(x0, PLAIN)
    assert isinstance(selection, Selection) and isinstance(entry, Entry)
    one = support.select(torch.tensor([True, False]))
    assert type(one) is type(support)
    model = Model()
    inputs = np.arange(steps * SIZE).reshape(steps, SIZE)
    model.variables(np.zeros(inputs.size), np.ones(inputs.size), True)
    support.restrict(model, np.zeros(inputs.shape), inputs)
    assert set(BoundSupport.__abstractmethods__) == {"start", "selected", "restrict"}, "test the new seat"


def network(kind: str) -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [nn.Linear(SIZE, 5), IF(0.4), nn.Linear(5, 3)]
    return SpikingNetwork(layers, STEPS, "membrane", kind).eval()  # type: ignore[arg-type]


def own_set() -> InputSet:
    """A set of another class than ours, that behaves as a box of spikes."""
    kind: type[SpikeBox] = type("Own", (SpikeBox,), {})
    return kind(SPIKES * 0, SPIKES)


def test_a_set_without_a_support_is_refused_and_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_set()
    net = network("spikes")
    y = net(SPIKES).argmax(1)
    message = r"there are no bounds for Own: set certsnn\.bounds\.SUPPORTS\[Own\] to a subclass"
    for method in ("s-ibp", "s-crown", "branch-and-bound", "auto"):
        for call in (margin_bounds, certify):
            with pytest.raises(TypeError, match=message):
                call(net, SPIKES, y, own, method)
    with pytest.raises(TypeError, match=message):
        layer_bounds(net, SPIKES, own)
    monkeypatch.setitem(SUPPORTS, type(own), FreeSpikesBox)
    for method in ("s-ibp", "s-crown", "branch-and-bound", "auto"):
        same = margin_bounds(net, SPIKES, y, THREATS["SpikeBox"], method)
        assert torch.equal(margin_bounds(net, SPIKES, y, own, method), same)


def test_a_support_that_lacks_a_seat_can_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Half(BoundSupport):
        input_set: SpikeBox

    own = own_set()
    monkeypatch.setitem(SUPPORTS, type(own), Half)
    net = network("spikes")
    with pytest.raises(TypeError, match=r"abstract.*restrict.*selected.*start"):
        margin_bounds(net, SPIKES, net(SPIKES).argmax(1), own)
