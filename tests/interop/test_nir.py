"""NIR graphs: read literally, written so that reading gives the same network, else refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_networks import images, needs_nir, needs_snntorch, spikes
from torch import Tensor, nn

import certsnn
from certsnn.errors import UserError
from certsnn.networks import SpikingNetwork

pytestmark = needs_nir

Numbers = np.ndarray[Any, Any]


def graph(*nodes: Any, shape: tuple[int, ...] = (4,), edges: list[tuple[str, str]] | None = None) -> Any:
    """Nodes a, b, ... in a row between an input and an output of the shape, or with these edges."""
    import nir

    named = {chr(ord("a") + place): node for place, node in enumerate(nodes)}
    names = ["input", *named, "output"]
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array([3]))}
    row = list(pairwise(names)) if edges is None else edges
    return nir.NIRGraph({**ends, **named}, row, type_check=False)


def affine(inputs: int = 4, outputs: int = 3, seed: int = 0) -> Any:
    import nir

    draw = np.random.default_rng(seed)
    return nir.Affine(draw.normal(size=(outputs, inputs)), draw.normal(size=outputs))


def lif(**changed: Any) -> Any:
    """Three neurons whose every number matters."""
    import nir

    numbers = {"tau": 0.02, "r": 3.0, "v_leak": -0.1, "v_threshold": 0.4, "v_reset": 0.1}
    given = {name: np.full(3, number) for name, number in numbers.items()}
    return nir.LIF(**{**given, **{name: np.asarray(value) for name, value in changed.items()}})


def inputs() -> Tensor:
    return torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


def read(found: Any, reset: Any = "v_reset", readout: Any = "rate", **arguments: Any) -> SpikingNetwork:
    return certsnn.from_nir(found, dt=0.001, reset=reset, steps=30, readout=readout, **arguments)


def simulated(x: Tensor, step: Callable[[Numbers, Numbers], tuple[Numbers, Numbers]], leak: float) -> Numbers:
    """Rates of `affine` and neurons by their equations in float64: ``spikes, v = step(v, current)``."""
    node = affine()
    current = x.double().numpy() @ node.weight.T + node.bias
    v, total = np.full(current.shape, leak), np.zeros(current.shape)
    for _ in range(30):
        fired, v = step(v, current)
        total += fired
    return total / 30


@pytest.mark.parametrize("reset", ["v_reset", "subtract", "subtract-next"])
def test_a_lif_follows_its_equation(reset: str) -> None:
    late = np.zeros((2, 3))

    def step(v: Numbers, current: Numbers) -> tuple[Numbers, Numbers]:
        nonlocal late
        v = v + 0.001 / 0.02 * ((-0.1 - v) + 3.0 * current) - late * 0.4
        fired = v > 0.4
        if reset == "subtract-next":
            late = fired.astype(float)
        elif reset == "subtract":
            v = v - 0.4 * fired
        else:
            v = np.where(fired, 0.1, v)
        return fired, v

    found, x = read(graph(affine(), lif()), reset), inputs()
    rates = simulated(x, step, -0.1)
    assert 0.05 < rates.mean() < 0.9
    np.testing.assert_allclose(found(x).detach().numpy(), rates, atol=1e-6)


def test_gains_that_differ_between_neurons() -> None:
    r = np.array([1.0, 2.0, 4.0])

    def step(v: Numbers, current: Numbers) -> tuple[Numbers, Numbers]:
        v = v + 0.001 / 0.02 * ((-0.1 - v) + r * current)
        return v > 0.4, np.where(v > 0.4, 0.1, v)

    x = inputs()
    found = read(graph(affine(), lif(r=r)))(x).detach().numpy()
    np.testing.assert_allclose(found, simulated(x, step, -0.1), atol=1e-6)


def test_a_current_based_lif_follows_its_equations() -> None:
    import nir

    i = np.zeros((2, 3))

    def step(v: Numbers, current: Numbers) -> tuple[Numbers, Numbers]:
        nonlocal i
        i = i + 0.001 / 0.005 * (-i + 2.0 * current)
        v = v + 0.001 / 0.02 * (-v + 3.0 * i)
        return v > 0.4, np.where(v > 0.4, 0.0, v)

    numbers = {"tau_syn": 0.005, "tau_mem": 0.02, "r": 3.0, "v_leak": 0.0, "v_threshold": 0.4, "w_in": 2.0}
    node = nir.CubaLIF(**{name: np.full(3, number) for name, number in numbers.items()})
    x = inputs()
    found = read(graph(affine(), node))(x).detach().numpy()
    np.testing.assert_allclose(found, simulated(x, step, 0.0), atol=1e-6)


def test_integrators_thresholds_and_sums() -> None:
    import nir

    nodes = (
        *(affine(4, 3, 0), affine(4, 3, 1)),
        *(nir.Threshold(np.full(3, 0.5)), nir.Scale(np.full(3, 2.0)), nir.I(np.full(3, 10.0))),
    )
    edges = [("input", "a"), ("input", "b"), ("a", "c"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "output")]
    x = inputs()
    currents = sum(x.double().numpy() @ node.weight.T + node.bias for node in nodes[:2])
    found = read(graph(*nodes, edges=edges), readout="last")(x).detach().numpy()
    np.testing.assert_allclose(found, 30 * 0.01 * 2.0 * (currents > 0.5), atol=1e-6)


def test_a_tie_does_not_fire() -> None:
    import nir

    node = nir.Linear(np.eye(4))
    found = certsnn.from_nir(
        graph(node, nir.IF(np.ones(4), np.full(4, 0.5))), dt=1, reset="v_reset", steps=1, readout="rate"
    )
    x = torch.tensor([[0.5, torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)), 0.4, 0.6]])
    assert found(x).tolist() == [[0, 1, 0, 1]]


def test_recurrence_and_a_graph_inside() -> None:
    import nir

    ends = {"in": nir.Input(np.array([3])), "out": nir.Output(np.array([3]))}
    neurons = nir.IF(np.full(3, 1000.0), np.full(3, 0.4))
    inner = nir.NIRGraph(
        {**ends, "fire": neurons, "back": affine(3, 3, 1)},
        [("in", "fire"), ("fire", "back"), ("back", "fire"), ("fire", "out")],
        type_check=False,
    )
    found, x = read(graph(affine(), inner)), inputs()
    first, back = nn.Linear(4, 3), nn.Linear(3, 3)
    for layer, node in ((first, affine()), (back, affine(3, 3, 1))):
        layer.weight.data, layer.bias.data = (
            torch.tensor(node.weight).float(),
            torch.tensor(node.bias).float(),
        )
    neuron = certsnn.IF(torch.nextafter(torch.tensor(0.4), torch.tensor(1.0)).item(), "zero")
    by_hand = SpikingNetwork([first, certsnn.Recurrent(neuron, back)], 30).eval()
    assert torch.equal(found(x), by_hand(x)) and bool(found(x).any())


@needs_snntorch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_snntorch_exports_is_its_own_network() -> None:
    pytest.importorskip("nirtorch")
    import snntorch
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(0)
    neurons = [
        snntorch.Leaky(torch.full((n,), 0.8), threshold=torch.full((n,), 0.5), init_hidden=True)
        for n in (9, 3)
    ]
    module, x = nn.Sequential(nn.Linear(4, 9), neurons[0], nn.Linear(9, 3), neurons[1]), inputs()
    exported = export_to_nir(module, torch.zeros(4))
    found = certsnn.from_nir(exported, dt=1e-4, reset="subtract-next", steps=40, readout="rate")
    network, _ = certsnn.from_snntorch(module, x, steps=40, readout="rate")
    assert torch.equal(found(x), network(x)) and bool(found(x).any())
    literally = certsnn.from_nir(exported, dt=1e-4, reset="v_reset", steps=40, readout="rate")
    assert not torch.equal(literally(x), network(x))


def networks() -> dict[str, SpikingNetwork]:
    torch.manual_seed(0)
    decays = torch.rand(4, 1, 1)
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    graphs = [
        *(nn.Conv2d(1, 4, 3, padding=1), norm, certsnn.LIF(0.3, 0.9)),
        certsnn.Residual([nn.Conv2d(4, 4, 3, padding=1), certsnn.LIF(0.2, decays, 0.1)]),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 8)),
        *(certsnn.Recurrent(certsnn.IF(0.2, "zero"), nn.Linear(8, 8)), nn.Linear(8, 3)),
    ]
    flat = [nn.Flatten(), certsnn.Scale(2.0), nn.Linear(64, 9, bias=False), certsnn.LIF(0.3, 0.0)]
    return {
        "graph": SpikingNetwork(graphs, 6, "membrane").eval(),
        "filters": SpikingNetwork(
            [*flat, nn.Linear(9, 3), certsnn.Synapse(0.7), certsnn.Synapse(1.0)], 6, "last"
        ).eval(),
        "spikes": SpikingNetwork(
            [certsnn.SumPool2d(2), nn.Flatten(), nn.Linear(16, 3), certsnn.IF(0.7, 0.2)], 6, input="spikes"
        ).eval(),
    }


@pytest.mark.parametrize("name", ["graph", "filters", "spikes"])
def test_a_round_trip_keeps_logits_and_bounds(name: str, tmp_path: Path) -> None:
    import nir

    network, sequence = networks()[name], name == "spikes"
    x = spikes() if sequence else images()
    readout: Any = {"graph": "membrane", "filters": "last", "spikes": "rate"}[name]
    nir.write(tmp_path / "net.nir", certsnn.to_nir(network, x, dt=0.003))
    nir.read(tmp_path / "net.nir")  # its types fit
    found = certsnn.from_nir(
        str(tmp_path / "net.nir"),
        **{"dt": 0.003, "reset": "v_reset", "steps": 6, "readout": readout},
        input="spikes" if sequence else "image",
    )
    assert torch.equal(found(x), network(x)) and network(x).std() > 0
    threat = certsnn.SpikeFlips(1) if sequence else certsnn.LinfBall(0.002)
    y = network(x).argmax(1)
    for method in ("s-ibp", "s-crown"):
        bounds = (certsnn.margin_bounds(one, x, y, threat, method=method) for one in (found, network))
        assert torch.equal(*bounds)


def test_what_nir_cannot_say_is_listed() -> None:
    layers = [
        *(nn.Conv2d(1, 4, 3, padding=1), certsnn.LIF(0.3, 0.9, "subtract"), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 3), certsnn.LIF(0.3, 0.9, initial=0.1)),
    ]
    with pytest.raises(UserError) as refusal:
        certsnn.to_nir(SpikingNetwork(layers, 6).eval(), images())
    for line in ("no reset to a potential (but by subtraction", "NIR has no Maximum", "don't start at 0"):
        assert line in str(refusal.value)


def test_a_decay_that_a_time_constant_does_not_give_back() -> None:
    network = SpikingNetwork([nn.Flatten(), nn.Linear(64, 3), certsnn.LIF(0.3, 1e-12)], 6).eval()
    with pytest.raises(UserError, match=r"does not give the decay 9\.99999996e-13"):
        certsnn.to_nir(network, images())


def test_what_certsnn_has_no_layer_for_is_listed() -> None:
    import nir

    nodes = (
        affine(),
        nir.Delay(np.ones(3)),
        nir.LI(np.ones(3), np.ones(3), np.ones(3)),
        lif(tau=np.full(3, 1e-4)),
    )
    with pytest.raises(UserError) as refusal:
        read(graph(*nodes))
    for line in (
        "- b (Delay): certsnn has no layer",
        "- c (LI): it leaks towards",
        "- d (LIF): decay must lie in",
    ):
        assert line in str(refusal.value)


WIRINGS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "a cycle": ([("input", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("b", "output")], "a cycle that is no"),
    "a missing node": ([("input", "a"), ("a", "z"), ("a", "output")], "nodes that are not there: z"),
    "a node from nowhere": ([("input", "b"), ("b", "output"), ("a", "output")], "nothing leads to a"),
    "no output": ([("input", "a"), ("a", "b")], "nothing of the NIR graph leads|nothing leads to output"),
    "shapes": ([("input", "a"), ("a", "b"), ("b", "c"), ("c", "output")], "can't be imported: "),
}


@pytest.mark.parametrize("edges, words", WIRINGS.values(), ids=WIRINGS)
def test_wirings_that_are_no_network(edges: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(
            graph(affine(), lif(), affine(), edges=edges), readout="membrane" if "shapes" in words else "rate"
        )


def test_arguments_and_files_that_are_none(tmp_path: Path) -> None:
    good = graph(affine(), lif())
    with pytest.raises(UserError, match="dt must be"):
        certsnn.from_nir(good, dt=0.0, reset="v_reset", steps=3, readout="rate")
    with pytest.raises(UserError, match="reset must be one of 'v_reset', "):
        read(good, reset="zero")
    with pytest.raises(UserError, match=r"give a nir\.NIRGraph"):
        read(3)
    with pytest.raises(UserError, match="there is no file"):
        read(tmp_path / "none.nir")
    for content in (b"", b"no HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(64)):
        (tmp_path / "bad.nir").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.nir is no NIR file"):
            read(tmp_path / "bad.nir")


def test_a_file_cut_off_is_refused(tmp_path: Path) -> None:
    import nir

    path = tmp_path / "net.nir"
    nir.write(path, graph(affine(), lif()))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match="is no NIR file"):
        read(path)
