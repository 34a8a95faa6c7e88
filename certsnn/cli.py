"""The command line: what was typed becomes a call of `certsnn.commands`, errors become one line.

Help and version need no torch, so `certsnn.commands` is imported only when a command runs.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, final

from certsnn import __version__
from certsnn.errors import UnsoundBoundError, UserError

if TYPE_CHECKING:
    from certsnn.configuration import Key

DONE, FAILED, UNSOUND, INTERRUPTED = 0, 2, 3, 130
PARTS = ("data", "network", "threat", "training", "seed")
"""A config's top level: flags that begin so, or have a dot, are config keys."""

Adder = Callable[[argparse.ArgumentParser], list[argparse.Action]]


@final
@dataclass(frozen=True)
class Command:
    """One command: what help says, its options, the config keys it takes, and what it does."""

    summary: str
    details: str
    options: Adder
    keys: tuple[str, ...]
    run: Callable[[argparse.Namespace, list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``certsnn``; the process's own when None.

    Returns:
        The exit status: 0, 2 for what the person can mend, 3 for unsound bounds, 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("CERTSNN_DEBUG", "") not in ("", "0")
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except SystemExit as request:  # argparse, after help or a usage error
        return request.code if isinstance(request.code, int) else DONE
    except KeyboardInterrupt:
        print("certsnn: stopped", file=sys.stderr)
        return INTERRUPTED
    except (UserError, ValueError, TypeError, FloatingPointError, OSError) as error:
        return _report(error, debug, FAILED)
    except UnsoundBoundError as error:
        return _report(error, debug, UNSOUND)


def _report(error: Exception, debug: bool, status: int) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"certsnn: error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else "--help"
    if not name.startswith("-") and name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f". Known: {', '.join(COMMANDS)}"
        raise UserError(f"{name!r} is not a command{hint}")
    if name not in COMMANDS:
        _top_parser().parse_args([name])
        raise UserError(f"name a command: {', '.join(COMMANDS)}")
    command, words = COMMANDS[name], words[1:]
    parser = argparse.ArgumentParser(
        prog=f"certsnn {name}",
        description=f"{command.summary}\n\n{command.details}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options = [flag for action in command.options(parser) for flag in action.option_strings]
    if command.keys and {"-h", "--help"} & set(words):
        parser.epilog = _keys_help(command.keys)
    own, overrides = _split(words)
    parsed, unknown = parser.parse_known_args(own)
    for word in unknown:
        near = get_close_matches(word.partition("=")[0], options, n=1)
        hint = f"; did you mean {near[0]}?" if near else _key_hint(word) if command.keys else ""
        raise UserError(f"certsnn {name} has no argument {word}{hint or f'; see certsnn {name} --help'}")
    for flag in overrides[::2]:
        if flag[2:].split(".")[0] not in command.keys and command.keys != PARTS:
            takes = ", ".join(f"--{part}.*" for part in command.keys) or "none"
            raise UserError(f"certsnn {name} does not take {flag}; config keys that it takes: {takes}")
    return command.run(parsed, overrides)


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {c.summary}" for name, c in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="certsnn",
        usage="certsnn COMMAND ...",
        description="Train spiking neural networks whose robustness is proved, and prove it.",
        epilog=f"commands:\n{commands}\n\n`certsnn COMMAND --help` says more. Try:\n"
        "  certsnn train configs/digits.yaml\n  certsnn verify runs/digits --threat.eps 0.03",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"certsnn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and the config keys as ``[--key, value, ...]``."""
    own: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        top, dot, _ = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or not (dot or top in PARTS):
            own.append(word)
            continue
        if not equals:
            following = next(rest, None)
            if following is None:
                raise UserError(f"{flag} needs a value")
            value = following
        overrides += [flag, value]
    return own, overrides


def _keys_help(parts: Sequence[str]) -> str:
    from certsnn.configuration import keys

    lines = ["config keys (what they take; default):"]
    for path, group in groupby(sorted(keys(), key=_path), key=_path):
        if path.split(".")[0] not in parts:
            continue
        same = list(group)
        first = same[0]
        owners = ", ".join(dict.fromkeys(key.owner for key in same if key.owner))
        default = f"; {first.default}" if first.default else ""
        lines.append(f"  --{path}  ({first.takes}{default})" + (f"  of {owners}" if owners else ""))
        if first.meaning:
            lines.append(f"        {first.meaning}")
    return "\n".join(lines)


def _path(key: Key) -> str:
    return key.path


def _key_hint(word: str) -> str:
    from certsnn.configuration import elsewhere

    return elsewhere(word.removeprefix("--")).replace("mean ", "mean --")


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


def _train_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    folder = "the run folder (default: runs/ and the config's name)"
    return [
        parser.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file"),
        parser.add_argument("--run", metavar="DIR", type=Path, help=folder),
        *_common(parser),
    ]


def _train(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    folder = options.run or Path("runs") / options.config.stem
    return commands.train(
        options.config, overrides, folder, commands.prepare(options.device, options.threads)
    )


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


def _verify_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    from certsnn.bounds import CASCADE, METHODS
    from certsnn.bounds.problem import Options

    run = "a run folder, a weights file or the name of a pretrained model"
    method = (
        f"the bounds: {', '.join(METHODS)} (default: s-ibp); auto tries {', '.join(CASCADE)}, each on the "
        "samples that are still undecided"
    )
    relaxation = "how S-CROWN relaxes firing and reset: joint, or separate as published (default: joint)"
    memory = "what coefficients (or constraints) may take, in bytes or as 512MiB (default: 2GiB)"
    seconds = "time limit of each sample for the methods that run on one at a time (default: none)"
    results = "write each sample's result here as it comes; the same command goes on where it stopped"
    batch = "samples that are bounded together (default: 256, or 32 with methods that run on one at a time)"
    rounding = "cover the rounding errors of the network as executed (default: true)"
    return [
        parser.add_argument("run", metavar="RUN", help=run),
        parser.add_argument("--method", default="s-ibp", metavar="NAME", help=method),
        parser.add_argument("--rounding", choices=["true", "false"], default="true", help=rounding),
        parser.add_argument("--relaxation", choices=["joint", "separate"], default="joint", help=relaxation),
        parser.add_argument("--memory", type=_bytes, default=Options.memory, metavar="SIZE", help=memory),
        parser.add_argument("--seconds", type=_seconds, metavar="S", help=seconds),
        parser.add_argument(
            "--samples", type=_positive, metavar="N", help="only the first N of the test set (default: all)"
        ),
        parser.add_argument("--batch-size", type=_positive, metavar="N", help=batch),
        parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help=results),
        parser.add_argument(
            "--json", metavar="FILE", help="write summary and samples here at the end; - is standard output"
        ),
        *_common(parser),
    ]


def _verify(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    return commands.verify(
        options.run,
        overrides,
        commands.Setting(
            method=options.method,
            rounding=options.rounding == "true",
            relaxation=options.relaxation,
            memory=options.memory,
            seconds=options.seconds,
            batch_size=options.batch_size,
            device=commands.prepare(options.device, options.threads),
        ),
        samples=options.samples,
        json_to=options.json,
        results_to=options.results,
    )


def _models_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [parser.add_argument("--debug", action="store_true", help="show the traceback of an error")]


def _models(options: argparse.Namespace, overrides: list[str]) -> int:
    from certsnn import commands

    return commands.models()


COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "train a network as a config says, then verify it on the test set",
        """\
example:
  certsnn train configs/digits.yaml --training.epochs 40 --seed 1

The run folder gets config.yaml (with every default), metrics.jsonl (a line for each epoch),
curves.png, model.safetensors (the weights with the config inside) and results.json (the errors on
the test set). Ctrl-C or a crash loses at most an epoch: the same command goes on where it stopped.
Every key of the config is also a flag; all of them stand below.""",
        _train_options,
        PARTS,
        _train,
    ),
    "verify": Command(
        "prove a trained network's robustness on the test set, sample by sample",
        """\
examples:
  certsnn verify runs/digits --threat.eps 0.03
  certsnn verify runs/digits --samples 100 --json digits.json
  certsnn verify runs/digits --method auto --seconds 10 --results digits.jsonl

Prints the clean error and the verified error: the share of samples that are misclassified, or whose
robustness is not proved. Nothing is written but the files that --json and --results name. With
--results a verification that was stopped, by Ctrl-C or a crash, goes on where it was. The threat and
the data set are those of the training, unless the keys below say otherwise.""",
        _verify_options,
        ("threat", "data"),
        _verify,
    ),
    "models": Command(
        "list the pretrained models",
        """\
example:
  certsnn models

Each name can be given to `certsnn verify`.""",
        _models_options,
        (),
        _models,
    ),
}
