"""auto_LiRPA as an engine: whole programs, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from lirpa_cases import OPERATORS, executed_margins, needs_engine, normalised
from torch import nn

from certsnn.bounds import margin_bounds as own_bounds
from certsnn.errors import UserError
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, NestedTrains, SpikeFlips
from certsnn.interop.auto_lirpa import ENGINE_METHODS, Engine, margin_bounds
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF


@needs_engine
@pytest.mark.parametrize("readout", ["membrane", "rate"])
@pytest.mark.parametrize("layers", OPERATORS.values(), ids=OPERATORS.keys())
def test_a_point_has_the_executed_margins(layers: list[nn.Module], readout: Any) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 2, 6, 5)
    chain = nn.Sequential(*layers).eval()
    features = chain(x).flatten(1).shape[1]
    network = SpikingNetwork(
        [
            *layers,
            LIF(0.2, 0.5, initial=0.1),
            nn.Flatten(),
            nn.Linear(features, 4),
            *([LIF(0.1, 0.5, "subtract")] if readout == "rate" else [normalised(nn.BatchNorm1d(4), 4)]),
        ],
        3,
        readout,
    ).eval()
    y = torch.tensor([0, 3, 1])
    with torch.no_grad():
        margins = executed_margins(network, x, y)
    engine = Engine(network.freeze(), x)
    for method in ENGINE_METHODS:
        torch.testing.assert_close(engine.margins(LinfBall(0), y, method), margins, rtol=1e-5, atol=1e-5)


def spike_network() -> SpikingNetwork:
    torch.manual_seed(0)
    return SpikingNetwork(
        [nn.Linear(6, 12), LIF(0.25, 0.25), nn.Linear(12, 3), LIF(0.25, 0.25)], 4, "rate", "spikes"
    ).eval()


@needs_engine
def test_nested_trains_are_covered_by_their_box() -> None:
    network, y = spike_network(), torch.tensor([0, 1])
    x0, nested = CoupledBernoulli(0.2, 4, seed=0).bind(torch.rand(2, 6), torch.arange(2))
    assert isinstance(nested, NestedTrains)
    engine = Engine(network.freeze(), x0)
    for method in ENGINE_METHODS:
        covered = engine.margins(nested.cover(), y, method)
        assert torch.equal(engine.margins(nested, y, method), covered)
        assert (covered > -1).any()


@needs_engine
def test_an_engine_answers_again_and_again() -> None:
    network, y = spike_network(), torch.tensor([2, 1])
    x0 = (torch.rand(4, 2, 6) < 0.5).float()
    sets = [FreeSpikes(density).bind(x0, torch.arange(2))[1] for density in (0.1, 0.4, 0.0)]
    engine = Engine(network.freeze(), x0)
    asked = [(input_set, method) for input_set in sets for method in ENGINE_METHODS]
    first = [engine.margins(input_set, y, method) for input_set, method in asked]
    for (input_set, method), expected in reversed(list(zip(asked, first, strict=True))):
        assert torch.equal(engine.margins(input_set, y, method), expected)
        assert torch.equal(margin_bounds(network.freeze(), x0, y, input_set, method), expected)


@needs_engine
def test_lines_know_that_two_neurons_share_a_pixel() -> None:
    """Membranes x + 5/8 and 13/8 - x of a pixel in [1/8, 7/8]: both in [3/4, 3/2], in sum always 9/4."""
    first, last = nn.Linear(1, 2), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        first.bias.copy_(torch.tensor([0.625, 1.625]))
        last.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    network = SpikingNetwork([first, LIF(1.0, 0.5), last], 1, "membrane").eval()
    x0, y = torch.tensor([[0.5]]), torch.tensor([0])
    engine = Engine(network.freeze(), x0)
    found = {method: engine.margins(LinfBall(0.375), y, method).item() for method in ENGINE_METHODS}
    # By intervals neither needs to fire; by lines s >= (u - 1) / (1/2), in sum 2 (9/4 - 2).
    assert found == {"ibp": 0.0, "crown-ibp": 0.5, "crown": 0.5}


@needs_engine
def test_the_methods_differ_behind_the_first_layer() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 12), LIF(0.25, 0.25), nn.Linear(12, 12), LIF(0.25, 0.25), nn.Linear(12, 3)]
    network = SpikingNetwork(layers, 3, "membrane").eval()
    x0, y = torch.rand(4, 8), torch.tensor([0, 1, 2, 0])
    engine = Engine(network.freeze(), x0)
    ibp, over_ibp, throughout = (engine.margins(LinfBall(0.05), y, m) for m in ENGINE_METHODS)
    assert (over_ibp - ibp).abs().max() > 1e-3
    assert (throughout - over_ibp).abs().max() > 1e-3
    torch.testing.assert_close(ibp, own_bounds(network, x0, y, LinfBall(0.05)))


@needs_engine
def test_float64_programs() -> None:
    network = spike_network().double()
    x0 = (torch.rand(4, 2, 6) < 0.5).double()
    x0, free = FreeSpikes(0.1).bind(x0, torch.arange(2))
    y = torch.tensor([2, 1])
    for method in ENGINE_METHODS:
        bound = margin_bounds(network.freeze(), x0, y, free, method)
        assert bound.dtype == torch.float64
        own = own_bounds(network, x0, y, free)
        if method == "ibp":
            torch.testing.assert_close(bound, own)


@needs_engine
def test_the_network_is_left_as_it_was() -> None:
    network = spike_network()
    before = {name: (value.data_ptr(), value.clone()) for name, value in network.state_dict().items()}
    x0, free = FreeSpikes(0.1).bind((torch.rand(4, 2, 6) < 0.5).float(), torch.arange(2))
    margin_bounds(network.freeze(), x0, torch.tensor([0, 1]), free, "crown")
    for name, value in network.state_dict().items():
        pointer, content = before[name]
        assert value.data_ptr() == pointer
        assert torch.equal(value, content)
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [True, True, False, False] * 2


FIRST_USE = """
import logging, sys, warnings
import torch
from certsnn.interop.auto_lirpa import margin_bounds
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

def state():
    setters = (torch._C._jit_set_profiling_executor, torch._C._jit_set_profiling_mode)
    profiling = [setter(True) for setter in setters]
    for setter, value in zip(setters, profiling):
        setter(value)
    return (
        list(logging.root.handlers), logging.root.level, logging.root.manager.disable,
        list(warnings.filters), warnings.showwarning, sys.getrecursionlimit(), profiling,
        "numpy.lib.arraysetops" in sys.modules, hasattr(torch._C.Node, "__getitem__"),
        hasattr(torch.onnx.symbolic_helper, "_set_opset_version"),
    )

assert "auto_LiRPA" not in sys.modules
before = state()
network = SpikingNetwork([torch.nn.Linear(3, 4), LIF(), torch.nn.Linear(4, 2), LIF()], 2).eval()
margin_bounds(network.freeze(), torch.rand(2, 3), torch.tensor([0, 1]), LinfBall(0.1), "crown")
assert "auto_LiRPA" in sys.modules
assert state() == before, (state(), before)
"""


@needs_engine
def test_the_process_is_left_as_it_was() -> None:
    """In a process of its own, as the package is imported only once."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", FIRST_USE], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# What is refused, and what needs no engine.


def test_flip_budgets_are_refused() -> None:
    network, x0, y = spike_network(), torch.zeros(4, 1, 6), torch.tensor([0])
    with pytest.raises(ValueError, match=r"no sound bounds for SpikeFlips\(budget=1"):
        margin_bounds(network.freeze(), x0, y, SpikeFlips(1), "ibp")


@needs_engine
def test_a_budget_of_no_flips_is_a_point() -> None:
    network, x0, y = spike_network(), torch.ones(4, 1, 6), torch.tensor([0])
    bound = margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "crown")
    with torch.no_grad():
        torch.testing.assert_close(bound, executed_margins(network, x0, y))


@needs_engine
def test_networks_without_weights_are_refused() -> None:
    network, x0 = SpikingNetwork([LIF(0.5)], 2).eval(), torch.rand(1, 3)
    with pytest.raises(ValueError, match="this one has none"):
        margin_bounds(network.freeze(), x0, torch.tensor([0]), LinfBall(0.1), "ibp")


def test_unknown_methods_are_refused() -> None:
    network, x0, y = spike_network(), torch.zeros(4, 1, 6), torch.tensor([0])
    with pytest.raises(ValueError, match="no method 'alpha'; known: ibp, crown-ibp, crown"):
        margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "alpha")


@pytest.mark.parametrize("missing", ["auto_LiRPA", "appdirs"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("auto_LiRPA", missing)]:
        monkeypatch.delitem(sys.modules, name)
    if missing != "auto_LiRPA" and find_spec("auto_LiRPA") is None:
        pytest.skip("auto_LiRPA is not installed")
    monkeypatch.setitem(sys.modules, missing, None)
    network, x0, y = spike_network(), torch.zeros(4, 1, 6), torch.tensor([0])
    install = "pip install --no-deps auto_LiRPA==0.3 tqdm appdirs"
    with pytest.raises(UserError, match=f"{missing}.*{install}"):
        margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "ibp")


def test_an_empty_batch_needs_no_engine() -> None:
    network, x0, y = spike_network(), torch.zeros(4, 0, 6), torch.zeros(0, dtype=torch.int64)
    assert margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "crown").shape == (0, 2)
