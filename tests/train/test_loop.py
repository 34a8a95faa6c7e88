"""The loop of training, and its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_networks import network_of
from monitors import Stop, StopAfter

from certsnn.data.digits import digits
from certsnn.encoding import Encoding
from certsnn.errors import CheckpointError
from certsnn.inputsets import CoupledBernoulli, LinfBall, Threat
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.train import checkpoint as checkpoints
from certsnn.train.config import TrainingConfig
from certsnn.train.loop import Task, train
from certsnn.train.monitor import Monitor, Silent
from certsnn.train.objectives.base import Objective
from certsnn.train.objectives.bounds import CrownMargins
from certsnn.train.objectives.certified import Certified
from certsnn.train.objectives.natural import Natural
from certsnn.train.schedules import LearningRate, Ramp

BALL = LinfBall(0.02)


def task_of(threat: Threat = BALL, encoding: Encoding | None = None) -> Task:
    data = digits("train", Path(), False).head(300)
    return Task(*data.split(0.2, 0), threat, encoding)


SETTINGS = TrainingConfig(Certified(Ramp(0, 1)), epochs=4, batch_size=60, learning_rate=LearningRate(5e-3))


def weights(network: SpikingNetwork) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


class TestCheckpoints:
    def example(self) -> checkpoints.Checkpoint:
        return checkpoints.Checkpoint({"a": torch.arange(3.0)}, {"epoch": 2, "best": [1.5, 0.5]})

    def test_round_trip(self, tmp_path: Path) -> None:
        checkpoints.save(tmp_path, self.example())
        found, refused = checkpoints.load_latest(tmp_path)
        assert found is not None and not refused
        assert found.facts == self.example().facts
        assert torch.equal(found.tensors["a"], torch.arange(3.0))

    def test_no_checkpoint_is_a_fresh_start(self, tmp_path: Path) -> None:
        assert checkpoints.load_latest(tmp_path) == (None, [])

    @pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"x", lambda b: b""])
    def test_a_damaged_one_is_refused_and_the_previous_used(
        self, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        checkpoints.save(tmp_path, self.example())
        checkpoints.save(tmp_path, replace(self.example(), facts={"epoch": 3}))
        last = tmp_path / checkpoints.LAST
        last.write_bytes(damage(last.read_bytes()))
        found, refused = checkpoints.load_latest(tmp_path)
        assert found is not None and found.facts["epoch"] == 2
        assert len(refused) == 1 and str(last) in refused[0]
        (tmp_path / checkpoints.PREVIOUS).unlink()
        with pytest.raises(CheckpointError, match="no checkpoint"):
            checkpoints.load_latest(tmp_path)

    def test_a_failed_save_leaves_the_old_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoints.save(tmp_path, self.example())

        def full(*arguments: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr("certsnn.files.save_file", full)
        with pytest.raises(OSError, match="no space"):
            checkpoints.save(tmp_path, replace(self.example(), facts={"epoch": 3}))
        assert [path.name for path in tmp_path.iterdir()] == [checkpoints.LAST]
        assert checkpoints.load(tmp_path / checkpoints.LAST).facts["epoch"] == 2


class TestLoop:
    def test_training_certifies(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, epochs=15)
        progress = train(network_of(), task_of(), settings, tmp_path)
        first, last = progress.rows[0], progress.rows[-1]
        assert last["clean_error"] < 20 and last["verified_error"] < 40 < first["verified_error"]
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == progress.rows

    @pytest.mark.parametrize("stop", [1, 4, 10])  # batches; an epoch has 4
    @pytest.mark.parametrize("kind", ["image", "spikes"])
    @pytest.mark.parametrize(
        "objective", [Certified(Ramp(0, 1)), Certified(Ramp(0, 3), bound=CrownMargins(), steps=2)]
    )
    def test_resumed_equals_undisturbed(
        self, tmp_path: Path, stop: int, kind: Domain, objective: Objective
    ) -> None:
        task = task_of() if kind == "image" else task_of(CoupledBernoulli(0.05, 3))
        settings = replace(SETTINGS, objective=objective)

        def start(folder: str, monitor: Monitor) -> SpikingNetwork:
            network = network_of(kind)
            train(network, task, settings, tmp_path / folder, seed=5, monitor=monitor)
            return network

        undisturbed = start("whole", Silent())
        with pytest.raises(Stop):
            start("parts", StopAfter(stop))
        resuming = StopAfter(99)
        resumed = start("parts", resuming)
        assert resuming.begun_at == stop // 4
        assert torch.equal(weights(undisturbed), weights(resumed))

    def test_seeds_matter(self, tmp_path: Path) -> None:
        found = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            network = network_of()
            train(network, task_of(), SETTINGS, tmp_path / name, seed=seed)
            found.append(weights(network))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])

    def test_best_weights_win(self, tmp_path: Path) -> None:
        network = network_of()
        progress = train(network, task_of(), SETTINGS, tmp_path)
        settled = [(row["verified_error"], row["clean_error"]) for row in progress.rows]
        assert progress.best == min(settled)

    def test_natural_training_keeps_the_least_clean_error(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, objective=Natural(), epochs=8)
        progress = train(network_of(), task_of(), settings, tmp_path)
        rows = [(row["clean_error"], row["verified_error"]) for row in progress.rows]
        assert min(rows, key=lambda row: row[::-1]) != min(rows)  # the other order would choose another epoch
        assert progress.best == min(rows)

    def test_another_config_is_refused(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, epochs=1)
        train(network_of(), task_of(), settings, tmp_path, identity={"config": "a"})
        with pytest.raises(CheckpointError, match="another config"):
            train(network_of(), task_of(), settings, tmp_path, identity={"config": "b"})

    def test_a_diverged_loss_stops(self, tmp_path: Path) -> None:
        network = network_of()
        with torch.no_grad():
            next(network.parameters()).fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="learning_rate"):
            train(network, task_of(), SETTINGS, tmp_path)
