"""`certsnn train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from certsnn.commands.common import DONE, INTERRUPTED, Setting, test_set, title
from certsnn.commands.verifying import facts_of, verified
from certsnn.configuration import read_config
from certsnn.console import duration, facts_table, training_progress
from certsnn.errors import CheckpointError
from certsnn.files import write_text
from certsnn.models import MODEL, Model, load_model
from certsnn.train.run import run

RESULTS = "results.json"


def train(config_file: Path, overrides: Sequence[str], folder: Path, device: torch.device) -> int:
    """Train (or go on training) in the folder, then verify on the test set; the exit status."""
    config, text = read_config(config_file, overrides)
    test = test_set(config)  # first: a missing one should not come to light after the training
    screen = Console(stderr=True)
    model = _finished(folder, text)
    if model is not None:
        screen.print(f"{folder} holds a finished run of this config.", highlight=False)
    else:
        with training_progress(screen) as monitor:
            try:
                model = run(config, text, folder, device, monitor).model
            except KeyboardInterrupt:
                stopped = f"stopped; {monitor.epoch} epochs are done"
                print(f"certsnn: {stopped}, the same command goes on from there", file=sys.stderr)
                return INTERRUPTED
    setting = Setting(device)
    report, _ = verified(model, config, text, test, setting)
    write_text(folder / RESULTS, json.dumps(report, indent=2) + "\n")
    facts = facts_of(report, setting) | {
        "samples": test.extent,
        "training time": duration(model.facts["training_seconds"]),
        "model": str(folder / MODEL),
        "figures": str(folder / RESULTS),
    }
    Console().print(facts_table(title(config, test.whole is not None), facts))
    return DONE


def _finished(folder: Path, text: str) -> Model | None:
    """The model, where a run of this config has ended in the folder."""
    if not (folder / MODEL).exists():
        return None
    try:
        model = load_model(folder / MODEL)
    except CheckpointError:
        return None  # damaged: the run's checkpoints make it again
    if model.text != text:
        raise CheckpointError(
            f"{folder} holds a run with another config; name another folder with --run, or remove this one"
        )
    return model
