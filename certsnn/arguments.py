"""The options of each command, and the call of `certsnn.commands` that they become.

Nothing here imports torch before a command runs, or its own help is asked for.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from certsnn import launch
from certsnn.errors import UserError

if TYPE_CHECKING:
    from certsnn.commands import Setting
    from certsnn.processes import Processes
    from certsnn.shards import Shard


def _common(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    device = "where to compute: cpu, cuda, cuda:1, ... (default: cpu)"
    return [
        parser.add_argument("--device", default="cpu", help=device),
        parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads of torch"),
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error"),
    ]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def train_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    folder = "the run folder (default: runs/ and the config's name)"
    return [
        parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file"),
        parser.add_argument("--run", metavar="DIR", type=Path, help=folder),
        *_common(parser),
    ]


def train(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    folder = options.run or Path("runs") / options.config.stem
    with commands.prepared(options.device, options.threads) as processes:
        return commands.train(options.config, overrides, folder, processes)


UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
"""Bytes of each unit that a size can be given in."""


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.lower())
    size = 0 if found is None else int(float(found[1]) * UNITS.get(found[2], 0))
    if size < 1:
        message = f"must be a size such as 512MiB, 2GiB or 2147483648 (bytes), not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return size


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds > 0, not {text!r}")
    return seconds


RUN = "a run folder, a weights file or the name of a pretrained model"
SAMPLES = "only the first N of the test set (default: all)"
RESULTS = "write each sample's result here as it comes; the same command goes on where it stopped"
SHARD = "only every N-th sample, from the K-th on: a part for one of N machines (see certsnn merge)"
JSON = "write summary and samples here at the end; - is standard output"
ATTACKS = (
    "attacks by name, as a YAML list: PGD, or PGD,FGSM, or '{class_path: PGD, restarts: 10},FGSM' (default: "
    "a suite that fits the threat)"
)
EVIDENCE = "where the evidence goes if an attack refutes a bound (default: unsound/)"


def _bounds_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    from certsnn.bounds import CASCADE, METHODS
    from certsnn.bounds.problem import Options

    method = (
        f"the bounds: {', '.join(METHODS)} (default: s-ibp); auto tries {', '.join(CASCADE)}, each on the "
        "samples that are still undecided"
    )
    relaxation = "how S-CROWN relaxes firing and reset: joint, or separate as published (default: joint)"
    memory = "what S-CROWN and branch-and-bound may take, in bytes or as 512MiB (default: 2GiB)"
    seconds = "time limit of each sample for s-crown, branch-and-bound and alpha-s-crown (default: none)"
    rounding = "cover the rounding errors of the network as executed (default: true)"
    return [
        parser.add_argument("--method", default="s-ibp", metavar="NAME", help=method),
        parser.add_argument("--rounding", choices=["true", "false"], default="true", help=rounding),
        parser.add_argument("--relaxation", choices=["joint", "separate"], default="joint", help=relaxation),
        parser.add_argument("--memory", type=_bytes, default=Options.memory, metavar="SIZE", help=memory),
        parser.add_argument("--seconds", type=_seconds, metavar="S", help=seconds),
    ]


def _setting(options: argparse.Namespace, processes: Processes) -> Setting:
    from certsnn import commands

    return commands.Setting(
        processes,
        method=options.method,
        rounding=options.rounding == "true",
        relaxation=options.relaxation,
        memory=options.memory,
        seconds=options.seconds,
        batch_size=options.batch_size,
    )


def _samples_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        parser.add_argument("--samples", type=_positive, metavar="N", help=SAMPLES),
        parser.add_argument("--shard", type=_shard, metavar="K/N", help=SHARD),
        parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help=RESULTS),
        parser.add_argument("--json", type=Path, metavar="FILE", help=JSON),
    ]


def _shard(text: str) -> Shard:
    from certsnn.shards import Shard

    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"must be K/N with 1 <= K <= N, such as 2/4, not {text!r}")
    return Shard(int(number), int(of))


def merge_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    files = "files of --results, one for each shard"
    results = "the file to write; what it holds already of the same verification is kept"
    return [
        parser.add_argument("files", metavar="FILE.jsonl", type=Path, nargs="+", help=files),
        parser.add_argument("--results", type=Path, metavar="OUT.jsonl", required=True, help=results),
        parser.add_argument("--samples", type=_positive, metavar="N", help=SAMPLES),
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error"),
    ]


def merge(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    return commands.merge(options.files, options.results, options.samples)


def verify_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    batch = "samples that are bounded together (default: 256, or 32 with the methods that have a time limit)"
    return [
        parser.add_argument("run", metavar="RUN", help=RUN),
        *_bounds_options(parser),
        parser.add_argument("--batch-size", type=_positive, metavar="N", help=batch),
        *_samples_options(parser),
        *_common(parser),
    ]


def verify(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    with commands.prepared(options.device, options.threads) as processes:
        return commands.verify(
            options.run,
            overrides,
            _setting(options, processes),
            samples=options.samples,
            json_to=options.json,
            results_to=options.results,
            shard=options.shard,
        )


def _attacks_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        parser.add_argument("--attacks", metavar="LIST", help=ATTACKS),
        parser.add_argument(
            "--seed", type=_natural, metavar="N", help="of all attacks that draw (default: 0)"
        ),
        *_samples_options(parser),
    ]


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, not {text!r}")
    return int(text)


def _sizes(text: str) -> list[str]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(sizes):
        raise argparse.ArgumentTypeError(f"must be sizes such as 0.01,0.02,0.05, not {text!r}")
    return sizes


def evaluate_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    batch = "samples that are evaluated together (default: 64, or 32 with the methods that have a time limit)"
    page = (
        "write a report here: one page with tables, curves, margins and examples, to be read anywhere "
        "(default: report.html in RUN, if that is a run folder)"
    )
    sweep = (
        "further sizes of the threat (eps, budget or density), such as 0.01,0.02,0.05: the errors of each, "
        "and curves in the report"
    )
    return [
        parser.add_argument("run", metavar="RUN", help=RUN),
        *_bounds_options(parser),
        *_attacks_options(parser),
        parser.add_argument("--batch-size", type=_positive, metavar="N", help=batch),
        parser.add_argument("--sweep", type=_sizes, default=[], metavar="SIZES", help=sweep),
        parser.add_argument("--report", type=Path, metavar="FILE.html", help=page),
        parser.add_argument("--evidence", type=Path, default=Path("unsound"), metavar="DIR", help=EVIDENCE),
        *_common(parser),
    ]


def evaluate(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    page = options.report
    if page is None and Path(options.run).is_dir():
        page = Path(options.run) / "report.html"
    with commands.prepared(options.device, options.threads) as processes:
        return commands.evaluate(
            options.run,
            overrides,
            _setting(options, processes),
            commands.Suite(options.attacks, options.seed),
            commands.Outputs(options.json, options.results, page, options.evidence),
            samples=options.samples,
            sweep=options.sweep,
            shard=options.shard,
        )


def attack_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    batch = "samples that are attacked together (default: 64)"
    return [
        parser.add_argument("run", metavar="RUN", help=RUN),
        *_attacks_options(parser),
        parser.add_argument("--batch-size", type=_positive, metavar="N", help=batch),
        *_common(parser),
    ]


def attack(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    with commands.prepared(options.device, options.threads) as processes:
        return commands.attack(
            options.run,
            overrides,
            commands.Setting(processes, batch_size=options.batch_size),
            commands.Suite(options.attacks, options.seed),
            commands.Outputs(options.json, options.results),
            samples=options.samples,
            shard=options.shard,
        )


def _seeds(text: str) -> list[int]:
    return list(dict.fromkeys(_natural(part.strip()) for part in text.split(",")))


def bench_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    configs = "YAML files, and folders of them"
    runs = "the folder of the run folders (default: runs)"
    seeds = "the seeds of every config, such as 0,1,2 (default: the config's own one)"
    attacked = "how many samples are attacked, the first of the test set (default: 1000)"
    batch = "samples that are verified, or attacked, together (default: 256 and 64, or 32 with slow methods)"
    table = "write the table here, as Markdown"
    rows = "write all rows here at the end; - is standard output"
    return [
        parser.add_argument("configs", metavar="CONFIG", type=Path, nargs="+", help=configs),
        parser.add_argument("--seeds", type=_seeds, default=[], metavar="LIST", help=seeds),
        parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help=runs),
        *_bounds_options(parser),
        parser.add_argument("--attacks", metavar="LIST", help=ATTACKS),
        parser.add_argument("--attacked", type=_positive, default=1000, metavar="N", help=attacked),
        parser.add_argument("--batch-size", type=_positive, metavar="N", help=batch),
        parser.add_argument("--table", type=Path, metavar="FILE.md", help=table),
        parser.add_argument("--json", type=Path, metavar="FILE", help=rows),
        parser.add_argument("--evidence", type=Path, default=Path("unsound"), metavar="DIR", help=EVIDENCE),
        *_common(parser),
    ]


def bench(options: argparse.Namespace, overrides: list[str]) -> int:
    if launch.count() > 1:
        raise UserError(
            f"bench works in one process, but a launcher started {launch.count()}: start it by itself, or "
            "train and evaluate each config with `certsnn train` and `certsnn evaluate`, which share the work"
        )
    if options.seeds and any(flag.partition("=")[0] == "--seed" for flag in overrides[::2]):
        raise UserError("--seed and --seeds both name seeds; leave one of them out")
    from certsnn import commands

    with commands.prepared(options.device, options.threads) as processes:
        setting = _setting(options, processes)
        suite = commands.Suite(options.attacks)
        return commands.bench(
            options.configs,
            overrides,
            options.seeds,
            options.runs,
            commands.Examination(setting, suite, options.attacked, options.evidence),
            table_to=options.table,
            json_to=options.json,
        )


def models_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    name = "a pretrained model, a run folder or a weights file to describe (default: list the pretrained)"
    return [
        parser.add_argument("name", metavar="NAME", nargs="?", help=name),
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error"),
    ]


def models(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    return commands.models() if options.name is None else commands.describe(options.name)
