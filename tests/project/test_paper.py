"""The papers' experiments: their configs, and the page that is made of their rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from scripts import benchmark

from certsnn.configuration import read_config
from certsnn.models.pretrained import build_network
from certsnn.neurons import LIF
from certsnn.train.config import RunConfig
from certsnn.train.objectives.adversarial import Adversarial
from certsnn.train.objectives.bounds import CrownMargins, IntervalMargins
from certsnn.train.objectives.certified import Certified
from certsnn.train.objectives.natural import Natural

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "paper"
TRAININGS = ("natural", "adversarial", "s-ibp", "s-crown")
IMAGES = [
    f"{data}-{architecture}-{kind}"
    for data in ("mnist", "fashion-mnist")
    for architecture in ("fc", "conv")
    for kind in ("digital", "spike")
]
GROUPS = [*IMAGES, "nmnist-fc", "digits-fc-spike"]
SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "nmnist": (2, 17, 17), "digits": (1, 8, 8)}


def read(name: str) -> tuple[RunConfig, dict[str, Any]]:
    config, text = read_config(FOLDER / f"{name}.yaml")
    return config, yaml.safe_load(text)


def test_the_folder_holds_each_group_trained_in_each_way() -> None:
    names = {path.stem for path in FOLDER.iterdir()}
    assert names == {f"{group}-{training}" for group in GROUPS for training in TRAININGS}


@pytest.mark.parametrize("group", GROUPS)
def test_the_rows_of_a_group_differ_in_nothing_but_their_training(group: str) -> None:
    configs = {training: read(f"{group}-{training}") for training in TRAININGS}
    rest = [
        {key: value for key, value in plain.items() if key != "training"} for _, plain in configs.values()
    ]
    assert all(other == rest[0] for other in rest)
    objectives = {training: config.training.objective for training, (config, _) in configs.items()}
    assert isinstance(objectives["natural"], Natural)
    assert isinstance(objectives["adversarial"], Adversarial)
    ibp, crown = objectives["s-ibp"], objectives["s-crown"]
    assert isinstance(ibp, Certified)
    assert isinstance(crown, Certified)
    assert isinstance(ibp.bound, IntervalMargins)
    assert isinstance(crown.bound, CrownMargins)
    assert ibp.steps == crown.steps == (3 if group.endswith("spike") else None)
    config, _ = configs["natural"]
    assert f"{config.data.name}-" in f"{group}-"
    expected = "LinfBall" if group.endswith("digital") else "SpikeFlips" if "nmnist" in group else "Coupled"
    assert config.threat.describe().startswith(expected)
    assert all("\n# " not in (FOLDER / f"{group}-{training}.yaml").read_text() for training in TRAININGS)


@pytest.mark.parametrize("group", GROUPS)
def test_networks_are_built_of_the_papers_neuron(group: str) -> None:
    config, _ = read(f"{group}-natural")
    shape = SHAPES[config.data.name]
    network = build_network(config, shape, 10).eval()
    neurons = [module for module in network.modules() if isinstance(module, LIF)]
    assert len(neurons) >= 2
    for neuron in neurons:
        described = (float(neuron.threshold), float(neuron.decay))
        assert described == (0.25, 0.25)
        assert neuron.reset == "zero"
    if config.threat.domain == "image":
        x, _ = config.threat.bind(torch.rand(2, *shape), torch.arange(2))
    else:
        x = (torch.rand(config.steps, 2, *shape) < 0.1).float()
    assert network(x).shape == (2, 10)


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    return benchmark("papers.paper_page")


def row(
    name: str, seed: int, clean: float, papers: float | None, attack: float, verified: float
) -> dict[str, Any]:
    """What bench.json holds of a run, as far as the page needs it."""
    _, plain = read(name)
    return {
        "config_name": name,
        "seed": seed,
        "command": f"certsnn bench /home/me/configs/{name}.yaml --seeds {seed} --data.root /home/me/data",
        "samples": 10000,
        "extent": "10000",
        "errors": {"clean": {"percent": clean}, "verified": {"percent": verified}},
        "attacked": {
            "samples": 1000,
            "papers": None if papers is None else {"percent": papers},
            "errors": {"attack": {"percent": attack}},
        },
        "training": {"training_seconds": 90.0},
        "config": {
            **plain,
            "seed": seed,
            "data": {**plain["data"], "root": "/home/me/data", "download": True},
        },
    }


def logged(paper: ModuleType, tmp_path: Path, *made: dict[str, Any]) -> Path:
    rows = tmp_path / "rows"
    for number, values in enumerate(made):
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / "bench.json").write_text(json.dumps(values))
        paper.log(run, rows=rows)
    return rows


def test_a_logged_row_names_no_place_on_the_machine(paper: ModuleType, tmp_path: Path) -> None:
    rows = logged(paper, tmp_path, row("mnist-fc-digital-natural", 1, 1.0, 2.0, 3.0, 4.0))
    (path,) = rows.iterdir()
    assert path.name == "mnist-fc-digital-natural-s1.json"
    text = path.read_text()
    assert "/home/me" not in text
    found = json.loads(text)
    assert found["command"] == "certsnn bench configs/paper/mnist-fc-digital-natural.yaml --seeds 1"
    assert found["config"]["data"]["download"] is False


def test_a_shortened_run_is_not_logged(paper: ModuleType, tmp_path: Path) -> None:
    short = row("mnist-fc-digital-natural", 0, 1.0, 2.0, 3.0, 4.0)
    short["config"]["training"]["epochs"] = 1
    with pytest.raises(ValueError, match="or the run was shortened: train mnist-fc-digital-natural-s0"):
        logged(paper, tmp_path, short)


def test_a_row_of_a_config_that_has_changed_since_is_not_shown(paper: ModuleType, tmp_path: Path) -> None:
    rows = logged(paper, tmp_path, row("mnist-fc-digital-natural", 0, 1.0, 2.0, 3.0, 4.0))
    (path,) = rows.iterdir()
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"seed": 1}))
    with pytest.raises(ValueError, match="has changed"):
        paper.groups(rows=rows)


def test_the_page_has_what_was_run_and_what_was_published(paper: ModuleType, tmp_path: Path) -> None:
    group = "mnist-fc-spike"
    rows = logged(
        paper,
        tmp_path,
        row(f"{group}-natural", 0, 2.0, 80.0, 90.0, 100.0),
        row(f"{group}-natural", 1, 3.0, 82.0, 92.0, 100.0),
        row(f"{group}-s-ibp", 0, 4.0, 10.0, 20.0, 30.0),
        row(f"{group}-s-crown", 0, 5.0, None, 21.0, 31.0),
    )
    notes = {"not run": {"fashion-mnist-*": "the data are not here"}, "remarks": {"mnist-fc-*": "In haste."}}
    (rows / "notes.json").write_text(json.dumps(notes))
    found = paper.groups(rows=rows)
    text = paper.all_tables(found)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")][:2] == [group, "Not run"]
    part = text.split(f"## {group}\n")[1].split("\n## ")[0]
    assert "| natural | 2 | 10000 (first 1000) | 2.50 (2.00, 3.00) | 81.00 (80.00, 82.00) |" in part
    assert "| s-crown | 1 | 10000 (first 1000) | 5.00 | - | 21.00 | 31.00 | 1.5 |" in part
    assert "| adversarial | 0 of 1 | not run |" in part
    assert "Not run: adversarial (not run yet)." in part
    assert (
        "| published, certified (T' = 3) | - | - | 7.13 | - | - | 54.11 by S-IBP, 59.26 by S-CROWN |" in part
    )
    assert part.endswith("In haste.\n")
    other = text.split("## Not run\n")[1].split("## ")[0]
    assert "- fashion-mnist-conv-digital, fashion-mnist-conv-spike, fashion-mnist-fc-digital, " in other
    assert "-fc-spike: the data are not here\n" in other
    assert f" {group}" not in other
    reductions = paper.reduction_table(found)
    assert f"| {group} | s-ibp | 71.0 | 71.0 | 1.5 |" in reductions
    assert f"| {group} | s-crown | - | 70.0 | 2.5 |" in reductions
    assert "| published | certified | 37.7" in reductions
    assert "adversarial" not in reductions


def test_rows_that_were_attacked_on_other_samples_are_not_compared(paper: ModuleType, tmp_path: Path) -> None:
    natural = row("mnist-fc-digital-natural", 0, 2.0, 80.0, 90.0, 100.0)
    certified = row("mnist-fc-digital-s-ibp", 0, 2.0, 80.0, 90.0, 100.0)
    certified["attacked"]["samples"] = 500
    rows = logged(paper, tmp_path, natural, certified)
    with pytest.raises(ValueError, match="attacked on different numbers of samples"):
        paper.reduction_table(paper.groups(rows=rows))


def test_the_page_is_that_of_the_rows_on_record(paper: ModuleType) -> None:
    page, found = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8"), paper.groups()
    renewed = paper.record.inserted(page, "groups", paper.all_tables(found))
    renewed = paper.record.inserted(renewed, "reductions", paper.reduction_table(found))
    assert page == renewed, "run `python benchmarks/papers/paper_page.py`"
