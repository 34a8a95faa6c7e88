"""What the commands share: where to compute, how to bound, and going through a data set with a journal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
import yaml
from rich.console import Console

from certsnn import __version__
from certsnn.bounds.cascade import device_name
from certsnn.bounds.memory import interval_bytes
from certsnn.bounds.methods import method_named
from certsnn.bounds.options import STANDARD, BoundOptions
from certsnn.cli.allocator import keep_freed_memory
from certsnn.cli.distributed import launched
from certsnn.cli.sources import PLAIN, Reading, opened
from certsnn.configuration import override
from certsnn.data import Batch, LabelledDataset, load, loader
from certsnn.errors import UserError
from certsnn.evaluation.verification import SampleResult, bind_batch, check_sound
from certsnn.files import STDOUT, check_file, check_writable, digest, is_standard_output
from certsnn.machine import computed_on
from certsnn.models.pretrained import Model
from certsnn.processes import Alone, Processes
from certsnn.results.journal import Journal
from certsnn.results.schema import read_lines, written
from certsnn.results.shards import Shard
from certsnn.train.config import RunConfig

DONE, INCOMPLETE = 0, 2
"""Exit statuses of commands: all is done; what a person can mend kept some of it from being done."""

Run = Callable[[Iterable[Batch]], Iterator[list[SampleResult]]]
"""Results of batches, as they come."""


@final
@dataclass(frozen=True)
class Setting:
    """How to verify, and by which processes.

    ``batch_size``: samples that are bounded, and written down, together. None is 256, or 32 where some method
    takes so long that progress would not show, or as many as fit into the memory for bounds.
    """

    processes: Processes = field(default_factory=Alone)
    bounds: BoundOptions = STANDARD
    batch_size: int | None = None

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.processes.device

    @property
    def cascade(self) -> list[str]:
        """The names of the methods that are tried; raises ValueError for an unknown one."""
        return [method.name for method in method_named(self.bounds.method).stages]

    def batch_of(self, model: Model, config: RunConfig, data: LabelledDataset, most: int = 256) -> int:
        """The batch size, at most so large where none was given."""
        if self.batch_size is not None:
            return self.batch_size
        if any(method.limited for method in method_named(self.bounds.method).stages):
            most = min(most, 32)
        bound = bind_batch(model.network, data[[0]], config.threat, config.data.encoding)
        one = interval_bytes(model.network.freeze(), bound.x0, 8 if self.bounds.rounding else 4)
        return min(most, max(self.bounds.memory // one, 1))


@contextmanager
def prepared(device: str, threads: int | None) -> Iterator[Processes]:
    """The processes that were launched with this one, on devices that were tried.

    Args:
        device: where to compute; of several processes, each takes its own one of that kind.
        threads: torch's CPU threads in each process; None leaves them as they are.

    Raises:
        UserError: if torch can't compute there, or the processes can't work together.
    """
    _check_device(device)
    with launched(device) as processes:
        if threads is not None:
            torch.set_num_threads(threads)
        yield processes


def _check_device(device: str) -> None:
    try:
        float(torch.zeros(1, device=torch.device(device)))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        message = f"the device {device!r} can't be used: {reason}; --device cpu always can"
        raise UserError(message) from error


@final
@dataclass(frozen=True)
class Task:
    """A model, the config that it is examined under (``text`` is all of it), and the test set.

    ``samples``: only so many; ``shard``: only this part of them.
    """

    model: Model
    config: RunConfig
    text: str
    test: LabelledDataset
    samples: int | None = None
    shard: Shard | None = None

    @property
    def part(self) -> LabelledDataset:
        """The samples to examine."""
        head = self.test if self.samples is None else self.test.head(self.samples)
        return head if self.shard is None else head.subset(self.shard.positions(len(head)))

    @property
    def subset(self) -> bool:
        """Whether these are fewer than the whole test set as it was published."""
        return len(self.part) < len(self.test) or self.test.whole is not None

    @property
    def size(self) -> str:
        """How many samples, for tables."""
        every = len(self.test) if self.samples is None else min(self.samples, len(self.test))
        size = self.test.extent if every == len(self.test) else f"the first {every} of {self.test.extent}"
        return size if self.shard is None else f"{len(self.part)}: shard {self.shard} of {size}"

    @property
    def title(self) -> str:
        """Of a table."""
        return title(self.config, self.subset)


def task(
    source: str,
    overrides: Sequence[str],
    samples: int | None,
    shard: Shard | None = None,
    processes: Processes | None = None,
    reading: Reading = PLAIN,
) -> Task:
    """What to examine.

    Args:
        source: see `opened`.
        overrides: config keys, ``["--threat.eps", "0.03"]``.
        samples: only so many of the test set.
        shard: only this part of these.
        processes: that examine it; one alone if None.
        reading: how a network is read that is no model of certsnn's.

    Raises:
        UserError: if there is no such model or data set, or the threat does not fit the network.
    """
    model = opened(source, reading, overrides, lambda config: test_set(config, processes or Alone()))
    config, text = override(model.text, overrides)
    takes, gives = model.config.threat.network_input, config.threat.network_input
    if takes != gives:
        raise UserError(
            f"the network takes {takes}, but {config.threat.describe()} gives it {gives}; name "
            "a threat that fits with --threat.class_path"
        )
    test = test_set(config, processes or Alone())
    made, given = ((*one.shape, one.classes) for one in (model, test))
    if made != given:
        raise UserError(
            f"the network was made for samples of the shape {list(made[:-1])} in {made[-1]} classes, but "
            f"{test.name} has {list(given[:-1])} in {given[-1]}; leave data as it was in training"
        )
    if config.steps != model.config.steps:
        print(
            f"certsnn: note: trained with {model.config.steps} steps, examined with {config.steps}",
            file=sys.stderr,
        )
    found = Task(model, config, text, test, samples, shard)
    found.part  # noqa: B018 (raises for an empty shard)
    return found


def title(config: RunConfig, subset: bool) -> str:
    """Of a table of figures on the test set, or a subset of it."""
    return f"{config.data.name}: {'a subset of the test set' if subset else 'test set'}"


def test_set(config: RunConfig, processes: Processes) -> LabelledDataset:
    """The test set that a config names; where it has to be downloaded, one process does."""

    def loaded() -> LabelledDataset:
        return load(config.data.name, "test", config.data.root, config.data.download, config.data.frames)

    if config.data.download:
        processes.once(loaded)
    return loaded()


def identity(model: Model, text: str, data: LabelledDataset, device: torch.device) -> dict[str, Any]:
    """What the result of a sample depends on: all that must be the same to go on with a file of results.

    Bounds and attacks add their own.
    """
    config = yaml.safe_load(text)
    return {
        "weights": digest(model.network.state_dict()),
        "network": config["network"],
        "threat": config["threat"],
        "data": {
            "name": data.name,
            "samples": len(data),
            "digest": data.digest,
            "encoding": config["data"]["encoding"],
        },
        "device": device_name(device),
        "versions": {"certsnn": __version__, "torch": torch.__version__},
    }


def surroundings(model: Model, text: str, device: torch.device) -> dict[str, Any]:
    """What a report says of where its figures come from: ``training`` has where the model was trained."""
    return {
        "training": model.facts,
        **computed_on(device),
        "config": yaml.safe_load(text),
    }


def completed(
    data: LabelledDataset,
    batch_size: int,
    run: Run,
    book: Journal | None,
    shown: Callable[[Sequence[SampleResult]], None],
    processes: Processes,
) -> list[SampleResult]:
    """The results of all samples, in order: those in the journal, and by ``run`` those that are not.

    Of these, every process takes each so-manieth, so that hard and easy stretches of the data are shared
    evenly; all get the results of all.

    Args:
        data: the samples.
        batch_size: samples that are done, and written down, together.
        run: gives the results of batches.
        book: where they are written as they come; None keeps nothing.
        shown: is called with the results of each batch.
        processes: that share the samples.
    """
    keep_freed_memory()
    order = data.index.tolist()
    done = {} if book is None else {index: book.done[index] for index in order if index in book.done}
    _check_labels(done, data)
    if done:
        going = "nothing is left to do" if len(done) == len(data) else "going on from there"
        print(f"certsnn: {len(done)} of {len(data)} samples are done already; {going}", file=sys.stderr)
    check_sound(done.values())
    rest = [position for position, index in enumerate(order) if index not in done]
    rest = rest[processes.rank :: processes.count]
    shown(list(done.values()))
    mine: list[SampleResult] = []
    for results in run(loader(data.subset(rest), batch_size) if rest else ()):
        if book is not None:
            book.add(results)
        check_sound(results)
        mine += results
        shown(results)
    for text in processes.others(written(mine)):
        results = read_lines(text)
        if book is not None:
            book.learn(results)
        mine += results
    done |= {result.index: result for result in mine}
    return [done[index] for index in order]


def _check_labels(done: Mapping[int, SampleResult], data: LabelledDataset) -> None:
    """Raise UserError where a file of results says another class of a sample than the data."""
    for index, label in zip(data.index.tolist(), data.labels.tolist(), strict=True):
        if index in done and done[index].label != label:
            raise UserError(
                f"the file of results says that sample {index} is of the class {done[index].label}, but in "
                f"{data.name} it is of {label}: the file was changed. Remove it, or name another one with "
                "--results"
            )


def stopped(book: Journal | None, data: LabelledDataset, processes: Processes) -> str:
    """What becomes of an interrupted run."""
    if book is not None and processes.count > 1:
        return "what is done is kept, the same command goes on from there"
    if book is None:
        return "nothing is kept; with --results FILE.jsonl, the same command goes on where it stopped"
    done = sum(index in book.done for index in data.index.tolist())
    return f"{done} of {len(data)} samples are done, the same command goes on from there"


def check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Raise UserError if two outputs would go to the same file, or one of them can't be written.

    Args:
        outputs: by the option that names them; None is none.
    """
    taken: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        place = STDOUT if is_standard_output(path) else Path(os.path.realpath(path))
        other = taken.setdefault(place, option)
        if other != option:
            raise UserError(f"{other} and {option} name the same file; each writes one of its own")
        (check_file if option == "--results" else check_writable)(path)


def console(*outputs: Path | None) -> Console:
    """Where tables go: standard output, or standard error where one of the outputs goes to that."""
    return Console(stderr=any(path is not None and is_standard_output(path) for path in outputs))
