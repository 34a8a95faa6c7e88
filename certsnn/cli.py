"""The command line: what was typed becomes a call of `certsnn.commands`, errors become one line.

Help and version need no torch, so `certsnn.commands` is imported only when a command runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, final

from certsnn import __version__, arguments, launch
from certsnn.errors import UnsoundBoundError, UserError

if TYPE_CHECKING:
    from certsnn.configuration import Key

DONE, CRASHED, FAILED, UNSOUND, INTERRUPTED = 0, 1, 2, 3, 130
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
    with launch.heard():
        status = _status(words, debug)
        _settle_output()
        if status != DONE:
            launch.let_speak()
    return launch.ended(status)


def _status(words: list[str], debug: bool) -> int:
    try:
        status = _dispatch([word for word in words if word != "--debug"])
        _flush()  # a full disk or a closed pipe shows here, not in a traceback at exit
        return status
    except SystemExit as request:  # argparse, after help or a usage error
        return request.code if isinstance(request.code, int) else DONE
    except KeyboardInterrupt as stop:  # with what a command has to say about it
        print(f"certsnn: {stop.args[0] if stop.args else 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except (UserError, ValueError, TypeError, FloatingPointError, OSError) as error:
        return _report(error, debug, FAILED)
    except UnsoundBoundError as error:
        return _report(error, debug, UNSOUND)
    except Exception as error:
        if launch.count() == 1:
            raise
        traceback.print_exception(error)
        return CRASHED


def _flush() -> None:
    if sys.stdout is not None:  # as it is where a shell closed it
        sys.stdout.flush()


def _settle_output() -> None:
    """Give up standard output that takes nothing: Python would try again at exit, and print a traceback."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    own, overrides = _split(words, options)
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
        description="Train spiking neural networks whose robustness is proved, prove it, and attack them.",
        epilog=f"commands:\n{commands}\n\n`certsnn COMMAND --help` says more. Try:\n"
        "  certsnn train configs/digits.yaml\n  certsnn verify runs/digits --threat.eps 0.03\n"
        "  certsnn evaluate runs/digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"certsnn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _split(words: Sequence[str], options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, its options among them, and the config keys as ``[--key, value, ...]``."""
    own: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        top, dot, _ = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or flag in options or not (dot or top in PARTS):
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


COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "train a network as a config says, then verify it on the test set",
        """\
example:
  certsnn train configs/digits.yaml --training.epochs 40 --seed 1

The run folder gets config.yaml (with every default), metrics.jsonl (a line for each epoch),
curves.png, model.safetensors (the weights with the config inside) and results.json (the errors on
the test set). Ctrl-C or a crash loses at most an epoch: the same command goes on where it stopped.
Every key of the config is also a flag; all of them stand below. On several devices or machines:
  torchrun --nproc-per-node 4 -m -- certsnn train CONFIG --device cuda""",
        arguments.train_options,
        PARTS,
        arguments.train,
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
the data set are those of the training, unless the keys below say otherwise.

Several processes share the samples, and write one file of results together:
  torchrun --nproc-per-node 4 -m -- certsnn verify runs/digits --results digits.jsonl
Machines that share nothing take a --shard each; `certsnn merge` puts their files together.""",
        arguments.verify_options,
        ("threat", "data"),
        arguments.verify,
    ),
    "attack": Command(
        "attack a trained network on the test set, and list what each attack breaks",
        """\
examples:
  certsnn attack runs/digits
  certsnn attack runs/digits --threat.eps 0.1 --attacks PGD,FGSM --samples 100
  certsnn attack runs/digits --attacks '{class_path: PGD, iterations: 100, restarts: 10}' --seed 1

Prints the clean error and the attack error: the share of samples that are misclassified, or broken by at
least one attack. Every attack runs on every sample that the network gets right; its row says how many it
broke, and over these the mean change of a pixel (for spikes: of its firing rate) and the rounds; then how
many needed random flips (RSF) because all gradients were zero, and the forward passes of a sample.
`certsnn evaluate` sets the verified error beside these.""",
        arguments.attack_options,
        ("threat", "data"),
        arguments.attack,
    ),
    "evaluate": Command(
        "clean, attack and verified error side by side, with a report",
        """\
examples:
  certsnn evaluate runs/digits
  certsnn evaluate runs/digits --sweep 0.01,0.02,0.03 --report digits.html --json digits.json
  certsnn evaluate runs/digits --method auto --seconds 10 --results digits.jsonl

Three errors over the same samples, each with a 95% confidence interval:

  clean error      misclassified                        (nobody attacks)
  attack error     ... or broken by some attack         (the true error is at least this)
  verified error   ... or not proved robust             (the true error is at most this)

What lies between the last two is the gap: samples that no attack breaks and no bound certifies. Certified
samples are attacked too. If one of them breaks, the bounds are unsound: the command stops with exit status
3 and saves all that shows it in a folder (--evidence). With --results an evaluation that was stopped goes
on where it was; each further size of --sweep gets a file of its own beside it.""",
        arguments.evaluate_options,
        ("threat", "data"),
        arguments.evaluate,
    ),
    "bench": Command(
        "a table over configs: each trained, verified on the test set and attacked",
        """\
examples:
  certsnn bench configs/paper --seeds 0,1,2 --data.root DIR --table paper.md
  certsnn bench configs/digits.yaml configs/digits-lif.yaml --training.epochs 5 --runs short

Each config with each seed is a row with a run folder of its own, NAME-sSEED below --runs: it is trained as
`certsnn train` does it, verified on the whole test set, and its first samples (--attacked) are attacked by
the default suite for its threat, or by --attacks. The table has a line for each config, the mean over its
seeds and each of them: clean error, attack error under the attacks of the papers (G2S, RSF) and in the worst
case over the suite, verified error, minutes of training. Config keys given here hold for all configs.

A finished row stays in its run folder as bench.json and is not computed again; Ctrl-C or a crash loses at
most an epoch, or a batch of samples: the same command goes on where it stopped. A row that can't be computed,
for want of its data set for instance, is named with the reason below the table, the others go on, and the
exit status is 2. An attack that refutes a bound stops everything with exit status 3, as in `certsnn
evaluate`. A row's own command is in its bench.json.""",
        arguments.bench_options,
        PARTS,
        arguments.bench,
    ),
    "merge": Command(
        "put the results of shards together that were verified apart",
        """\
example, on two machines that share nothing, and then on either:
  certsnn verify MODEL --shard 1/2 --results one.jsonl
  certsnn verify MODEL --shard 2/2 --results two.jsonl
  certsnn merge one.jsonl two.jsonl --results all.jsonl

Prints the errors over all samples. Files of different verifications, or files that contradict each other,
are refused. If samples are missing, what there is is written all the same, the message says which ones
are not there, and the exit status is 2; `certsnn verify MODEL --results all.jsonl` does the rest. Files of
`certsnn evaluate --shard` are merged in the same way.""",
        arguments.merge_options,
        (),
        arguments.merge,
    ),
    "models": Command(
        "list the pretrained models, or describe one",
        """\
examples:
  certsnn models
  certsnn models digits-eps0.05

Each name can be given to `certsnn verify`. With a name: the model's card, as Markdown where it is not printed
on a terminal. It says what the network is, its errors, how it was trained, which commands do that again, and
known limits.""",
        arguments.models_options,
        (),
        arguments.models,
    ),
}
