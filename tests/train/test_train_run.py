"""A run folder from config to model."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch

from certsnn import machine
from certsnn.configuration import override
from certsnn.data import load
from certsnn.errors import CheckpointError
from certsnn.machine import versions
from certsnn.models import load_model
from certsnn.train.run import run

CONFIG = """
network: {architecture: digits-fc, steps: 2}
training: {epochs: 2, batch_size: 200, objective: {class_path: Natural}}
"""
CPU = torch.device("cpu")


def test_a_run_leaves_all_its_files(tmp_path: Path) -> None:
    config, text = override(CONFIG, ())
    found = run(config, text, tmp_path, CPU)
    assert (tmp_path / "config.yaml").read_text() == text
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".partial*"))
    model = load_model(tmp_path)
    x, _, _ = load("digits", "test")[range(20)]
    assert torch.equal(model.network(x), found.model.network(x))


def test_another_config_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    config, text = override(CONFIG, ())
    run(config, text, tmp_path, CPU)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="another config"):
        run(*override(CONFIG, ["--seed", "5"]), tmp_path, CPU)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_budget_above_the_input_is_refused_before_training(tmp_path: Path) -> None:
    flags = ["--threat.class_path=SpikeFlips", "--threat.budget=9999"]
    encoding = ["--data.encoding.class_path=Bernoulli", "--data.encoding.steps=2"]
    with pytest.raises(ValueError, match="exceeds the 128 bits"):
        run(*override(CONFIG, [*flags, *encoding]), tmp_path, CPU)
    assert not list(tmp_path.iterdir())


def test_a_model_keeps_where_it_was_trained(tmp_path: Path) -> None:
    run(*override(CONFIG, ["--training.epochs", "1"]), tmp_path, CPU)
    facts = load_model(tmp_path).facts
    assert facts["threads"] == torch.get_num_threads()
    assert facts["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert facts["versions"] == versions()
    assert facts["device"] == "cpu"


@pytest.mark.parametrize(
    ("told", "name"),
    [("flags\t: fpu\nmodel name\t: A B @ 2\nmodel name\t: C\n", "A B @ 2"), ("BogoMIPS: 50\n", None)],
)
def test_the_processor_has_the_name_that_linux_gives_or_its_architecture(
    told: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    other = platform.processor() or platform.machine()
    assert machine.processor() == other
    (tmp_path / "cpuinfo").write_text(told)
    assert machine.processor() == (name or other)
