"""`certsnn train`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from certsnn.cli.allocator import keep_freed_memory
from certsnn.cli.commands.common import DONE, Setting, test_set, title
from certsnn.cli.commands.verify import facts_of, verified
from certsnn.cli.console import duration, facts_table, training_progress
from certsnn.configuration import read_config
from certsnn.errors import CheckpointError
from certsnn.files import check_writable, write_text
from certsnn.models.pretrained import MODEL, Model, load_model
from certsnn.processes import Processes
from certsnn.train.config import RunConfig
from certsnn.train.run import run

RESULTS = "results.json"


def train(config_file: Path, overrides: Sequence[str], folder: Path, processes: Processes) -> int:
    """Train (or resume a training) in the folder, then verify on the test set; the exit status."""
    config, text = read_config(config_file, overrides)
    check_writable(folder / RESULTS)
    test = test_set(config, processes)  # first: a missing one should not come to light after the training
    model = trained(config, text, folder, processes)
    setting = Setting(processes)
    report, _ = verified(model, config, text, test, setting)
    processes.once(partial(write_text, folder / RESULTS, json.dumps(report, indent=2) + "\n"))
    facts = facts_of(report, setting) | {
        "samples": test.extent,
        "training time": duration(model.facts["training_seconds"]),
        "model": str(folder / MODEL),
        "figures": str(folder / RESULTS),
    }
    Console().print(facts_table(title(config, test.whole is not None), facts))
    return DONE


def trained(config: RunConfig, text: str, folder: Path, processes: Processes) -> Model:
    """The model of the folder's run of this config: a new run, a resumed or a finished one.

    Raises:
        CheckpointError: if the folder holds another run.
    """
    screen = Console(stderr=True)
    model = finished(folder, text)
    processes.agree(str(model is not None), f"they do not all see the run folder {folder}")
    if model is not None:
        screen.print(f"{folder} holds a finished run of this config.", highlight=False)
        return model
    keep_freed_memory()
    with training_progress(screen) as monitor:
        try:
            return run(config, text, folder, processes.device, monitor, processes).model
        except KeyboardInterrupt:
            stopped = f"stopped; {monitor.epoch} epochs are done, the same command goes on from there"
            raise KeyboardInterrupt(stopped) from None


def finished(folder: Path, text: str) -> Model | None:
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
