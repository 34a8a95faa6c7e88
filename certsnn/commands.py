"""What the commands of the command line do."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
import yaml
from rich.console import Console
from safetensors.torch import save as packed

from certsnn import __version__, verification
from certsnn.bounds.cascade import AUTO, stages
from certsnn.bounds.problem import Options
from certsnn.configuration import override, read_config
from certsnn.console import (
    duration,
    facts_table,
    percent,
    rows_table,
    training_progress,
    verification_progress,
)
from certsnn.data import ImageDataset, load, loader
from certsnn.errors import CheckpointError, UserError
from certsnn.files import portable, write_text
from certsnn.journal import Journal, journal, row
from certsnn.models import MODEL, Model, load_model, pretrained
from certsnn.train.config import RunConfig
from certsnn.train.run import run
from certsnn.verification import SampleResult, check_sound, summarise

DONE, INTERRUPTED = 0, 130
RESULTS = "results.json"


@final
@dataclass(frozen=True)
class Setting:
    """How to verify; method to seconds as in `certsnn.bounds.certify`.

    ``batch_size``: samples that are bounded, and written down, together. None is 256, or 32 where some method
    takes so long that progress would not show.
    """

    device: torch.device
    method: str = "s-ibp"
    rounding: bool = True
    relaxation: Literal["joint", "separate"] = "joint"
    memory: int = Options.memory
    seconds: float | None = None
    batch_size: int | None = None

    @property
    def cascade(self) -> list[str]:
        """The names of the methods that are tried; raises ValueError for an unknown one."""
        return [stage.name for stage in stages(self.method)]

    @property
    def batch(self) -> int:
        """The batch size."""
        if self.batch_size is not None:
            return self.batch_size
        return 32 if any(stage.limited for stage in stages(self.method)) else 256


def prepare(device: str, threads: int | None) -> torch.device:
    """Set torch's CPU threads (None leaves them as they are), and try the device.

    Raises:
        UserError: if torch can't compute there.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        place = torch.device(device)
        float(torch.zeros(1, device=place))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        message = f"the device {device!r} can't be used: {reason}; --device cpu always can"
        raise UserError(message) from error
    return place


def train(config_file: Path, overrides: Sequence[str], folder: Path, device: torch.device) -> int:
    """Train (or go on training) in the folder, then verify on the test set; the exit status."""
    config, text = read_config(config_file, overrides)
    test = _test_set(config)  # first: a missing one should not come to light after the training
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
    report, _ = _verified(model, config, text, test, Setting(device))
    write_text(folder / RESULTS, json.dumps(report, indent=2) + "\n")
    facts = _facts(report) | {
        "training time": duration(model.facts["training_seconds"]),
        "model": str(folder / MODEL),
        "figures": str(folder / RESULTS),
    }
    Console().print(facts_table(f"{config.data.name}: test set", facts))
    return DONE


def verify(
    source: str,
    overrides: Sequence[str],
    setting: Setting,
    samples: int | None = None,
    json_to: str | None = None,
    results_to: Path | None = None,
) -> int:
    """Verify a model (see `load_model`) on the test set, or its first samples; the exit status.

    Args:
        source: a run folder, a weights file or a pretrained name.
        overrides: config keys, ``["--threat.eps", "0.03"]``.
        setting: how to verify.
        samples: only so many of the test set.
        json_to: a file for the summary and all samples as JSON; ``-`` is standard output.
        results_to: a file for each sample's result as it comes (see `certsnn.journal`); samples that are
            there already are not verified again.
    """
    if results_to is not None and json_to not in (None, "-") and Path(json_to or "") == results_to:
        raise UserError("--json and --results name the same file; each writes one of its own")
    stages(setting.method)  # raises for an unknown one
    model = load_model(source)
    config, text = override(model.text, overrides)
    takes, gives = model.config.threat.network_input, config.threat.network_input
    if takes != gives:
        raise UserError(
            f"the network takes {takes}, but {config.threat.describe()} gives it {gives}; name "
            "a threat that fits with --threat.class_path"
        )
    test = _test_set(config)
    part = test if samples is None else test.head(samples)
    keeping: AbstractContextManager[Journal | None] = nullcontext()
    if results_to is not None:
        keeping = journal(results_to, _identity(model, text, test, setting))
    with keeping as book:
        try:
            report, results = _verified(model, config, text, part, setting, book)
        except KeyboardInterrupt:
            print(f"certsnn: stopped; {_stopped(book, part)}", file=sys.stderr)
            return INTERRUPTED
    whole = len(part) == len(test)
    facts = _facts(report)
    facts["samples"] = str(len(part)) if whole else f"the first {len(part)} of {len(test)}"
    title = f"{config.data.name}: {'test set' if whole else 'a subset of the test set'}"
    Console(stderr=json_to == "-").print(facts_table(title, facts))
    if json_to is not None:
        rows = [row(result) for result in results]
        written = json.dumps(report | {"subset": not whole, "samples": rows}, indent=2) + "\n"
        if json_to == "-":
            sys.stdout.write(written)
        else:
            write_text(Path(json_to), written)
    return DONE


def models() -> int:
    """Print the pretrained models; the exit status."""
    rows = []
    for name in pretrained():
        model = load_model(name)
        config, errors = (
            model.config,
            (model.facts.get(k) for k in ("clean_error", "verified_error")),
        )
        parts = [name, config.data.name, config.threat.describe()]
        rows.append(parts + ["-" if error is None else percent(error) for error in errors])
    columns = ["name", "data", "threat", "clean", "verified"]
    if rows:
        Console().print(rows_table(columns, rows))
        print("Errors on the whole test set; verified by S-IBP, rounding covered.")
    else:
        print("No pretrained models are installed.")
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


def _test_set(config: RunConfig) -> ImageDataset:
    return load(config.data.name, "test", config.data.root, config.data.download)


def _identity(model: Model, text: str, data: ImageDataset, setting: Setting) -> dict[str, Any]:
    """What the result of a sample depends on: all that must be the same to go on with a file of results."""
    config = yaml.safe_load(text)
    return {
        "weights": hashlib.sha256(packed(portable(model.network.state_dict()))).hexdigest(),
        "network": config["network"],
        "threat": config["threat"],
        "data": {"name": data.name, "samples": len(data), "encoding": config["data"]["encoding"]},
        "method": setting.method,
        "rounding": setting.rounding,
        "relaxation": setting.relaxation,
        "seconds": setting.seconds,
        "versions": {"certsnn": __version__, "torch": torch.__version__},
    }


def _stopped(book: Journal | None, data: ImageDataset) -> str:
    """What becomes of an interrupted verification."""
    if book is None:
        return "nothing is kept; with --results FILE.jsonl, the same command goes on where it stopped"
    done = sum(index in book.done for index in data.index.tolist())
    return f"{done} of {len(data)} samples are done, the same command goes on from there"


def _verified(
    model: Model,
    config: RunConfig,
    text: str,
    data: ImageDataset,
    setting: Setting,
    book: Journal | None = None,
) -> tuple[dict[str, Any], list[SampleResult]]:
    """Verify what the journal does not hold, showing progress: the report for JSON, and all results."""
    order = data.index.tolist()
    done = {} if book is None else {index: book.done[index] for index in order if index in book.done}
    if done:
        going = "nothing is left to do" if len(done) == len(data) else "going on from there"
        print(f"certsnn: {len(done)} of {len(data)} samples are done already; {going}", file=sys.stderr)
    check_sound(done.values())
    rest = [position for position, index in enumerate(order) if index not in done]
    batches = loader(data.subset(rest), setting.batch) if rest else ()
    with verification_progress(Console(stderr=True), len(data), setting.cascade) as batch_done:
        batch_done(list(done.values()))
        for results in verification.verify(
            model.network.to(setting.device),
            batches,
            config.threat,
            encoding=config.data.encoding,
            method=setting.method,
            rounding=setting.rounding,
            relaxation=setting.relaxation,
            memory=setting.memory,
            seconds=setting.seconds,
        ):
            if book is not None:
                book.add(results)
            check_sound(results)
            done |= {result.index: result for result in results}
            batch_done(results)
    results = [done[index] for index in order]
    report = {
        "summary": summarise(results).as_dict(),
        "threat": config.threat.describe(),
        "method": setting.method,
        "rounding": setting.rounding,
        "relaxation": setting.relaxation,
        "memory": setting.memory,
        "seconds": setting.seconds,
        "reasons": list(dict.fromkeys(result.reason for result in results if result.reason)),
        "training": model.facts,
        "versions": {
            "certsnn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": str(setting.device),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.platform()}, {os.cpu_count()} CPU cores",
        "config": yaml.safe_load(text),
    }
    return report, results


def _facts(report: dict[str, Any]) -> dict[str, str]:
    """A report's figures as its table shows them."""
    summary = report["summary"]
    how = [report["method"]]
    if report["relaxation"] != Options.relaxation:
        how.append(f"{report['relaxation']} relaxation")
    how.append("rounding covered" if report["rounding"] else "rounding not covered")
    if report["seconds"] is not None:
        how.append(f"at most {report['seconds']:g} s a sample")
    facts = {
        "samples": str(summary["samples"]),
        "clean error": percent(summary["clean_error"]),
        "verified error": percent(summary["verified_error"]),
        "method": ", ".join(how),
        "threat": report["threat"],
    }
    if report["method"] == AUTO:
        counts = {stage.name: summary["by_stage"].get(stage.name, 0) for stage in stages(AUTO)}
        facts |= {f"certified by {name}": f"{count} samples" for name, count in counts.items()}
    odd = {status: summary[status] for status in ("timeout", "error") if summary[status]}
    facts |= {f"status {status}": f"{count} samples" for status, count in odd.items()}
    if report["reasons"]:
        facts["status error"] += f" ({report['reasons'][0]})"
    return facts
