"""Networks that Python code makes, and NIR files, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refused
from foreign_networks import needs_nir, needs_snntorch

import certsnn
from certsnn.cli.app import main

CODE = '''
import torch
from torch import nn
import certsnn


class Step(nn.Module):
    """One step, with a scale that is not the same without its weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.one, self.fire = nn.Flatten(), nn.Linear(64, 12), certsnn.LIF(0.4, 0.8)
        self.two = nn.Linear(12, 10)

    def forward(self, x):
        return self.two(self.fire(self.one(self.flat(x))))


def step():
    return Step()


def network():
    torch.manual_seed(0)
    return certsnn.SpikingNetwork([nn.Flatten(), nn.Linear(64, 10), certsnn.IF(0.5)], 4)


def imported():
    return certsnn.from_torch(Step(), torch.rand(2, 1, 8, 8), steps=3, readout="membrane")


def leaky():
    import snntorch
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), snntorch.Leaky(beta=0.5, init_hidden=True))


def number():
    return 3


def failing():
    raise RuntimeError("no such thing")
'''
KEYS = ("--data.name", "digits", "--threat.eps", "0.001", "--samples", "3")
STEP = ("--steps", "4", "--readout", "membrane")


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(CODE)
    return str(tmp_path / "net.py")


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["verify", *words, *KEYS, "--json", "-"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_module_with_its_weights(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    module = namespace["step"]()
    with torch.no_grad():
        module.two.weight.mul_(7)
    torch.save(module.state_dict(), tmp_path / "net.pt")
    found = report(capsys, f"{code}:step", "--weights", str(tmp_path / "net.pt"), *STEP)
    assert found["training"]["imported"].startswith("0 of ")
    x, y, _ = certsnn.load("digits", "test")[[0, 1, 2]]
    network, _ = certsnn.from_torch(module, x, steps=4, readout="membrane")
    margins = [sample["margin"] for sample in found["samples"]]
    expected = certsnn.margin_bounds(network, x, y, certsnn.LinfBall(0.001)).amin(1)
    assert margins == pytest.approx(expected.tolist(), abs=1e-4)  # the command covers rounding
    assert margins != [sample["margin"] for sample in report(capsys, f"{code}:step", *STEP)["samples"]]


@pytest.mark.parametrize("name", ["network", "imported"])
def test_networks_of_certsnn_s_own(name: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(capsys, f"{code}:{name}")["summary"]["samples"] == 3
    for command in ("attack", "evaluate"):
        assert main([command, f"{code}:{name}", *KEYS]) == 0


@needs_snntorch
def test_a_library_is_known_by_its_modules(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, f"{code}:leaky", "--steps", "4", "--readout", "rate")
    assert "spikes differ" in found["training"]["imported"]


@needs_nir
def test_a_nir_file(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nir

    namespace: dict[str, Any] = {}
    exec(CODE.replace("IF(0.5)", "IF(0.5, 'zero')"), namespace)
    (tmp_path / "net.py").write_text(CODE.replace("IF(0.5)", "IF(0.5, 'zero')"))
    path = str(tmp_path / "net.nir")
    nir.write(path, certsnn.to_nir(namespace["network"]().eval(), torch.rand(1, 1, 8, 8), dt=0.5))
    words = ("--dt", "0.5", "--reset", "v_reset", "--steps", "4", "--readout", "rate")
    margins = [
        [sample["margin"] for sample in report(capsys, *found)["samples"]]
        for found in ((path, *words), (f"{code}:network",))
    ]
    assert margins[0] == margins[1]
    said = refused(capsys, "verify", path, *KEYS, "--dt", "0.5")
    assert "give --reset, --steps, --readout" in said


def test_bad_sources(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        return refused(capsys, "verify", *words, *KEYS)

    assert "there is no file" in said(str(tmp_path / "none.py:make"))
    assert "has no function 'make'" in said(f"{code}:make")
    assert "raised RuntimeError: no such thing" in said(f"{code}:failing")
    assert "returned a int" in said(f"{code}:number")
    assert "--dt: a network that code makes does not take that" in said(f"{code}:network", "--dt", "1")
    assert "--steps: a SpikingNetwork does not take that" in said(f"{code}:network", "--steps", "2")
    assert "--steps: a model of certsnn's does not take that" in said("digits-eps0.05", "--steps", "2")
    assert "say how many steps" in said(f"{code}:step", "--readout", "membrane").replace("How", "how")
    assert "give --data.name NAME" in refused(capsys, "verify", f"{code}:network")
    (tmp_path / "bad.py").write_text("def")
    assert "raised SyntaxError" in said(f"{tmp_path / 'bad.py'}:make")


def test_bad_weights(code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(name: str) -> str:
        return refused(capsys, "verify", f"{code}:step", "--weights", tmp_path / name, *STEP, *KEYS)

    assert "none.pt can't be read as weights" in said("none.pt")
    (tmp_path / "text.pt").write_text("no weights")
    assert "text.pt can't be read as weights" in said("text.pt")
    torch.save({"code": Path}, tmp_path / "code.pt")
    assert "code.pt can't be read as weights" in said("code.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    assert "holds no state dict" in said("epoch.pt")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    assert "does not fit the network" in said("other.pt")
