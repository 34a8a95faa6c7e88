"""From simulated events to a certified classifier: nothing to download, under a minute."""

from __future__ import annotations

from pathlib import Path

import torch

from certsnn.configuration import read_config
from certsnn.data import load, loader
from certsnn.evaluation.verification import summarise, verify
from certsnn.train.run import run

CONFIG = Path(__file__).parents[2] / "configs" / "digits-saccades.yaml"
SHORT = (
    *("--data.frames.steps", "4"),
    *("--training.epochs", "16"),
    *("--training.objective.ramp", "{start: 2, length: 8}"),
    *("--training.learning_rate.hold", "10"),
)


def test_a_network_on_simulated_events_is_certified_against_a_flip(tmp_path: Path) -> None:
    config, text = read_config(CONFIG, SHORT)
    model = run(config, text, tmp_path, torch.device("cpu")).model
    test = load(config.data.name, "test", frames=config.data.frames)
    results = verify(model.network, loader(test, 150), config.threat)
    summary = summarise(result for batch in results for result in batch)
    # Of 450 test digits, 5.8% and 14.4% where this was written; other machines round otherwise.
    assert summary.clean_error < 10
    assert summary.verified_error < 25
