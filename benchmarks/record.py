"""What every benchmark shares: its command line, its results as JSON and Markdown, tables, versions, timing.

A script in a folder here adds this one to the path, then measures; it keeps how pages are written to one
function of the JSON on record, so that a page can be written again without measuring again.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from string import Formatter
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from certsnn import machine
from certsnn.data import LabelledDataset, load
from certsnn.data.events import Events
from certsnn.data.events.nmnist import FOLDER, SENSOR
from certsnn.data.events.nmnist import read as read_events
from certsnn.errors import UserError
from certsnn.files import replacing, write_text
from certsnn.kernels.setting import description
from certsnn.models import Model
from certsnn.report.bench import markdown

ROOT = Path(__file__).resolve().parents[1]
CONFIGS, DOCS, RESULTS = ROOT / "configs", ROOT / "docs", ROOT / "benchmarks" / "results"

Row = dict[str, Any]
T = TypeVar("T")


# The command line


def run(*commands: Callable[..., object]) -> None:
    """Call a function with the words of the command line; of several, the one that the first word names.

    Its parameters are words, and flags if they are keyword-only; ``*names`` take all words that are left,
    ``*flags`` unknown flags too. A word is converted by its annotation. A `UserError` ends with status 1.
    """
    module = inspect.getmodule(commands[0])
    assert module is not None
    parser = ArgumentParser(description=module.__doc__, formatter_class=RawDescriptionHelpFormatter)
    if len(commands) == 1:
        _accept(parser, commands[0])
    else:
        chosen = parser.add_subparsers(required=True, metavar="COMMAND")
        for command in commands:
            _accept(chosen.add_parser(command.__name__, help=command.__doc__), command)
    given, rest = parser.parse_known_args()
    words, command = vars(given), given.command
    open_ended = inspect.getfullargspec(command).varargs
    if rest and open_ended != "flags":
        parser.error(f"unknown: {' '.join(rest)}")
    positional = [words[name] for name in inspect.getfullargspec(command).args]
    positional += rest or words.get(open_ended or "", [])
    try:
        command(*positional, **{name: words[name] for name in inspect.getfullargspec(command).kwonlyargs})
    except UserError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def _accept(parser: ArgumentParser, command: Callable[..., object]) -> None:
    """Let a parser take the parameters of a function."""
    parser.set_defaults(command=command)
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        name, kind, default = parameter.name, parameter.annotation, parameter.default
        if name == "flags":
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            parser.add_argument(name, type=kind, nargs="*")
        elif kind is bool:
            parser.add_argument(f"--{name}", action="store_true")
        elif parameter.kind is parameter.KEYWORD_ONLY:
            parser.add_argument(f"--{name}", type=kind, default=default)
        elif default is parameter.empty:
            parser.add_argument(name, type=kind)
        else:
            parser.add_argument(name, type=kind, nargs="?", default=default)


# Results


def read(name: str, otherwise: Any = None) -> Any:
    """results/NAME.json; ``otherwise`` where there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def write_json(name: str, found: Any) -> None:
    """results/NAME.json."""
    write_text(RESULTS / f"{name}.json", json.dumps(found, indent=2) + "\n")


def write(name: str, found: Any, page: str) -> None:
    """results/NAME.json, and its page NAME.md, which is printed."""
    write_json(name, found)
    write_text(RESULTS / f"{name}.md", page)
    print(page, flush=True)


def write_rows(name: str, title: str, facts: str, rows: Sequence[Row]) -> None:
    """results/NAME.{json,md} of rows that are tables as they are."""
    found = {"title": title, "facts": facts, "setting": footer(), "rows": rows}
    write(name, found, rows_page(found))


def rows_page(found: Row) -> str:
    """The page of `write_rows`."""
    facts = f"{found['facts']}\n\n{found['setting']}"
    return f"# {found['title']}\n\n{facts}\n\n{plain_table(found['rows'], 4)}"


def inserted(page: str, name: str, text: str) -> str:
    """A page with a text between its `<!-- NAME -->` and `<!-- end of NAME -->`, or ValueError."""
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not (begin and end):
        raise ValueError(
            f"the page has no place for {name}: lines `<!-- {name} -->`, `<!-- end of {name} -->`"
        )
    return before + begin + text + end + after


def insert(page: str, **texts: str) -> None:
    """Put texts into their places in docs/PAGE.md, whose other words are written by hand."""
    path = DOCS / f"{page}.md"
    written = path.read_text(encoding="utf-8")
    for name, text in texts.items():
        written = inserted(written, name, text)
    write_text(path, written)


def draw(name: str, figure: Figure, dpi: int = 110) -> None:
    """docs/NAME.png."""
    with replacing(DOCS / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def versions() -> str:
    """Those of certsnn, torch and Python, in words."""
    return "certsnn {certsnn}, torch {torch}, Python {python}".format(**machine.versions())


def all_versions(rows: Iterable[Row]) -> str:
    """The versions that rows were made with, each once."""
    return " or ".join(dict.fromkeys(row["versions"] for row in rows))


def footer() -> str:
    """Versions and threads, in words."""
    return f"{versions()}, {torch.get_num_threads()} thread(s)."


def setting(**facts: Any) -> Row:
    """Facts of a measurement, with versions, the machine and how busy it is."""
    where = f"{machine.processor()}, {os.cpu_count()} cores"
    kernels = {"kernels": description(), **facts}
    return {**kernels, **machine.versions(), "machine": where, "load": round(os.getloadavg()[0], 1)}


def explained(script: str) -> str:
    """A script's docstring less its title and command."""
    return script.split("\n", 3)[3].strip()


# Tables


class _Cells(Formatter):
    """Formats of cells: None is a dash, "{one/other:.2f}" a ratio."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        names = field_name.split("/")
        values = [super(_Cells, self).get_field(name, args, kwargs)[0] for name in names]
        if None in values:
            return None, ""
        return values[0] if len(values) == 1 else values[0] / values[1], ""

    def format_field(self, value: Any, format_spec: str) -> str:
        return "-" if value is None else str(super().format_field(value, format_spec))


def columns(headings: str, cells: str) -> dict[str, str]:
    """The columns of a `table` from both its lines, split at " | "."""
    return dict(zip(headings.split(" | "), cells.split(" | "), strict=True))


def table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table in Markdown: headings with the formats of their cells, such as "{errors[clean]:.2f}"."""
    cells = _Cells()
    return markdown(
        list(columns), [[cells.vformat(text, (), row) for text in columns.values()] for row in rows]
    )


def named(rows: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows by name as rows with their "name"."""
    return [{"name": name, **row} for name, row in rows.items()]


def plain_table(rows: Sequence[Row], digits: int) -> str:
    """A table of rows under their own keys, floats with so many significant digits."""
    shown = [{k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    return table({key: f"{{{key}}}" for key in rows[0]}, shown)


def mean_and_range(values: Sequence[float], digits: int = 0, unit: str = "") -> str:
    """The mean, then the least and the largest where they differ; "-" where there is no value."""
    if not values:
        return "-"
    least, largest = min(values), max(values)
    ends = f" ({least:.{digits}f}-{largest:.{digits}f})" if least < largest else ""
    return f"{mean(values):.1f}{unit}{ends}"


# Timing


def interleaved(calls: Mapping[str, Callable[[], T]], rounds: int, warm_up: int) -> dict[str, list[T]]:
    """What each call returned in each round; they take turns, so a slow moment of the machine meets all."""
    found: dict[str, list[T]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            returned = call()
            if turn >= warm_up:
                found[name].append(returned)
    return found


def medians(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each call; they take turns. The clock counts seconds."""

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def milliseconds() -> float:
            begun = clock()
            call()
            return 1e3 * (clock() - begun)

        return milliseconds

    spent = interleaved({name: timed(call) for name, call in calls.items()}, rounds, warm_up)
    return {name: median(values) for name, values in spent.items()}


# Data and networks


def test_set(model: Model, root: Path) -> LabelledDataset:
    """The test set of the data that a model was trained on, below the folder of data sets."""
    data = model.config.data
    return load(data.name, "test", root, frames=data.frames)


def recordings(root: Path, split: str) -> tuple[list[Path], list[Events]]:
    """The files of N-MNIST below the folder of data sets, and their events."""
    files = sorted((root / "NMNIST" / FOLDER[split]).glob("[0-9]/*.bin"))
    return files, [read_events(file) for file in files]


def event_counts(recordings: Sequence[Events]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Events ``[n, 2, H, W]`` of each recording, by polarity and pixel."""
    found = np.zeros((len(recordings), 2, *SENSOR))
    for one, events in zip(found, recordings, strict=True):
        np.add.at(one, (events.polarity, events.y, events.x), 1)
    return found


def train(network: nn.Module, batches: Iterable[tuple[Tensor, ...]], epochs: int, rate: float) -> None:
    """Natural training by Adam; the network is in evaluation mode afterwards."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for _ in range(epochs):
        for x, y, _ in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    network.eval()
