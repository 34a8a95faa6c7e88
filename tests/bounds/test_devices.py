"""On a GPU: bounds hold there and agree with the CPU's, and the commands run; skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import lines
from hypothesis import given, settings
from strategies import WAYS, Example, examples

from certsnn.architectures import build
from certsnn.bounds import METHODS, bind, certify, margin_bounds
from certsnn.cli.app import main
from certsnn.data import load
from certsnn.evaluation.evaluation import least_margins
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, SpikeFlips, SpikeShift, Threat
from certsnn.neurons import LIF

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

OURS = [name for name in METHODS if name != "auto" and not name.startswith("auto-lirpa")]
STEPS, SAMPLED, SAMPLES = 4, 8, 3
CONFIG = """
data: {name: digits}
network: {steps: 2}
threat: {class_path: LinfBall, init_args: {eps: 0.02}}
training: {epochs: 2, batch_size: 128}
"""


@given(examples([way for way in WAYS if way != "box"]))  # a SpikeBox holds tensors, on the CPU here
@settings(max_examples=60)
def test_members_keep_the_margins_that_are_proved(example: Example) -> None:
    network, x = example.network.to("cuda"), example.x.to("cuda")
    generator = torch.Generator().manual_seed(example.seed)
    with torch.no_grad():
        x0, input_set = bind(network, x, example.threat, None)
        y = network(x0).argmax(1)
        proved = certify(network, x, y, example.threat).margins.amin(1)
        members = [x0, *(input_set.project(x0, end) for end in input_set.box(x0))]
        members += [input_set.sample(x0, generator) for _ in range(SAMPLED)]
        for member in members:
            assert (least_margins(network(member), y).double() >= proved).all()


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize(
    "threat",
    [
        LinfBall(0.02),
        SpikeFlips(2),
        FreeSpikes(0.02),
        CoupledBernoulli(0.02, STEPS),
        SpikeShift(1, 2),
    ],
    ids=lambda threat: type(threat).__name__,
)
def test_bounds_agree_with_those_of_the_cpu(threat: Threat, method: str) -> None:
    torch.manual_seed(0)
    kind = threat.network_input
    network = build("digits-fc", (1, 8, 8), 10, lambda: LIF(0.25, 0.25), STEPS, input=kind).eval()
    x, y, _ = load("digits", "test")[range(SAMPLES)]
    if threat.domain == "spikes":
        x = (torch.rand(STEPS, *x.shape) < x).float()
    with torch.no_grad():
        here = margin_bounds(network, x, y, threat, method)
        there = margin_bounds(network.to("cuda"), x.to("cuda"), y.to("cuda"), threat, method)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu().double(), here.double(), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "config.yaml").write_text(CONFIG)
    assert main(["train", str(folder / "config.yaml"), "--run", str(folder / "run"), "--device", "cuda"]) == 0
    return folder / "run"


def test_commands_agree_with_the_cpu(trained: Path, tmp_path: Path) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        file = tmp_path / f"{device}.jsonl"
        words = ["verify", str(trained), "--samples", "100", "--results", str(file), "--device", device]
        assert main(words) == 0
        found[device] = [row["status"] for row in lines(file) if "status" in row]
    assert len(found["cpu"]) == 100
    assert found["cpu"] == found["cuda"]


def test_attacks_break_nothing_that_is_certified(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    words = ["evaluate", str(trained), "--samples", "50", "--json", str(file), "--device", "cuda"]
    assert main(words) == 0
    errors = json.loads(file.read_text())["errors"]
    assert errors["clean"]["count"] <= errors["attack"]["count"] <= errors["verified"]["count"]
