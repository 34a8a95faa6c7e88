"""Networks that certsnn did not train, in files: layers, numbers and bounds come back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import certsnn
from certsnn.cli.app import main
from certsnn.errors import CheckpointError, ConfigError, UserError
from certsnn.files import read_tensors, write_tensors
from certsnn.graph import Add, Concatenate
from certsnn.layers import Normalize, SumPool2d
from certsnn.models.descriptions import FORMS, described
from certsnn.networks import SpikingNetwork
from certsnn.surrogates import ArcTan

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def graph() -> SpikingNetwork:
    """Neurons of every kind, in a graph."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    per_channel = torch.rand(4, 1, 1)
    one = certsnn.LIF(0.3 + per_channel, per_channel, (0.5 * per_channel, -0.1), surrogate=ArcTan(3.0))
    two = certsnn.LIF(0.4, 0.7, (0.7, -0.4), order="current-first", learn_decay=True)
    nodes: dict[str, Any] = {
        "normal": (Normalize([0.2], [0.7]), ["input"]),
        "conv": (nn.Conv2d(1, 4, 3, padding="same", bias=False), ["normal"]),
        "norm": (norm, ["conv"]),
        "one": (one, ["norm"]),
        "body": (nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), certsnn.Scale(0.5), two), ["one"]),
        "sum": (Add(), ["one", "body"]),
        "both": (Concatenate(), ["sum", "one"]),
        "max": (nn.MaxPool2d(2), ["both"]),
        "pool": (SumPool2d(2, 1), ["max"]),
        "fc": (nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(72, 6)), ["pool"]),
        "back": (certsnn.Recurrent(certsnn.IF(0.5, 0.1, initial=0.05), nn.Linear(6, 6)), ["fc"]),
        "end": (nn.Sequential(nn.Linear(6, 3), certsnn.Synapse(0.8)), ["back"]),
    }
    return SpikingNetwork.from_graph(nodes, 5, "membrane").eval()


def composites() -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [
        certsnn.Residual([nn.Conv2d(1, 2, 3, padding=1), certsnn.IF(0.5)], nn.Conv2d(1, 2, 1)),
        certsnn.Branches([nn.ZeroPad2d(1), nn.AvgPool2d(3, 1)], nn.Identity()),
        *(
            certsnn.LIF(0.5, learn_threshold=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Unflatten(1, (4, 4)),
        ),
        *(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(8, 3), certsnn.IF(0.5, torch.rand(3))),
    ]
    return SpikingNetwork(layers, 4).eval()


NETWORKS = {"graph": graph, "composites": composites}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    network, path = NETWORKS[name](), tmp_path / "net.safetensors"
    threat = certsnn.LinfBall(0.01)
    certsnn.save(network, path, X, data="digits", threat=threat, facts={"from": "elsewhere"})
    before = torch.get_rng_state()
    model = certsnn.load_model(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.shape, model.classes, model.facts) == ((1, 8, 8), 3, {"from": "elsewhere"})
    assert model.config.threat == threat and model.config.network.steps == network.steps
    found, y = model.network, network(X).argmax(1)
    assert str(found) == str(network) and described(found) == described(network)
    assert torch.equal(found(X), network(X)) and network(X).std() > 0
    bounds = [certsnn.margin_bounds(one, X, y, threat, method="s-crown") for one in (found, network)]
    assert torch.equal(*bounds)
    kept = [[p.requires_grad for p in one.parameters()] for one in (found, network)]
    assert kept[0] == kept[1]
    surrogates = [[str(stage.neuron.surrogate) for stage in one.freeze().stages] for one in (found, network)]
    assert surrogates[0] == surrogates[1]


def test_every_class_is_described_somewhere() -> None:
    others = {
        "AvgPool1d",
        "Conv1d",
        "MaxPool1d",
        "AdaptiveAvgPool1d",
        "SumPool1d",
        "ZeroPad1d",
        "BatchNorm1d",
    }
    others |= {"ConstantPad1d", "ConstantPad2d", "Dropout1d", "Dropout2d", "Dropout3d"}
    texts = json.dumps([described(graph()), described(composites())])
    assert {name for name in FORMS if f'"class": "{name}"' not in texts} <= others


def test_another_stride_is_another_architecture(tmp_path: Path) -> None:
    names = []
    for stride in (1, 2):
        pool = nn.AvgPool2d(2, stride)
        layers = [pool, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3), certsnn.IF()]
        path = tmp_path / f"{stride}.safetensors"
        certsnn.save(SpikingNetwork(layers, 4), path, X, data="digits", threat=certsnn.LinfBall(0.1))
        names.append(certsnn.load_model(path).config.network.architecture)
    assert names[0] != names[1]


def test_what_can_not_be_saved(tmp_path: Path) -> None:
    class Own(certsnn.Neuron):
        pass

    network, threat = graph(), certsnn.LinfBall(0.1)
    own = SpikingNetwork([nn.Flatten(), nn.Linear(64, 3), Own(1.0, 0.5, "zero", 0.0, None, False, False)], 2)
    path = tmp_path / "never.safetensors"
    namesake = type("LIF", (certsnn.Neuron,), {})(1.0, 0.5, "zero", 0.0, None, False, False)
    other = SpikingNetwork([nn.Flatten(), nn.Linear(64, 3), namesake], 2)
    with pytest.raises(UserError, match="a LIF can't be saved"):
        certsnn.save(other, path, X, data="digits", threat=threat)
    with pytest.raises(UserError, match="a Own can't be saved"):
        certsnn.save(own, path, X, data="digits", threat=threat)
    with pytest.raises(UserError, match="no data set is called 'digit'"):
        certsnn.save(network, path, X, data="digit", threat=threat)
    with pytest.raises(UserError, match=r"the network takes image, but .* gives it spikes"):
        certsnn.save(network, path, X, data="digits", threat=certsnn.SpikeFlips(1))
    with pytest.raises(ConfigError, match=r"threat and data\.name do not fit"):
        certsnn.save(network, path, X, data="digits-rows", threat=threat)
    assert not path.exists()


BROKEN: dict[str, Any] = {
    "no class": {"layers": [{}], "steps": 2, "readout": "rate", "input": "image"},
    "another class": {"layers": [{"class": "system"}], "steps": 2, "readout": "rate", "input": "image"},
    "arguments": {"layers": [{"class": "Flatten", "x": 1}], "steps": 2, "readout": "rate", "input": "image"},
    "no layers": {"steps": 2, "readout": "rate", "input": "image"},
    "no neurons": {"layers": [{"class": "Identity"}], "steps": 2, "readout": "rate", "input": "image"},
    "a list": [],
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_descriptions_are_refused(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    certsnn.save(graph(), path, X, data="digits", threat=certsnn.LinfBall(0.1))
    tensors, facts = read_tensors(path)
    del facts["digest"]
    write_tensors(path, tensors, facts | {"layers": json.dumps(data)})
    with pytest.raises(CheckpointError, match="do not fit its config"):
        certsnn.load_model(path)


def ten(steps: int = 4) -> tuple[SpikingNetwork, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 12), certsnn.IF(0.5), nn.Linear(12, 10)]
    return SpikingNetwork(layers, steps, "membrane").eval(), torch.rand(2, 1, 8, 8)


def test_the_commands_take_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, x = ten()
    path = str(tmp_path / "net.safetensors")
    certsnn.save(network, path, x, data="digits", threat=certsnn.LinfBall(0.001))
    for command in ("verify", "attack", "evaluate"):
        assert main([command, path, "--samples", "4", "--threat.eps", "0.002"]) == 0
    assert "LinfBall(eps=0.002)" in capsys.readouterr().out
    assert main(["models", path]) == 0
    shown = capsys.readouterr().out
    assert "linear 12-10" in shown and "| training | not by certsnn |" in shown and "proves" in shown
