"""The command line: what was typed becomes a call of `certsnn.cli.commands`, errors become one line.

Help and version need no torch, so `certsnn.cli.commands` is imported only when a command runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import NoReturn, final

from certsnn import __version__
from certsnn.cli import launch
from certsnn.cli.arguments import COMMANDS, HELP, PARTS, TAKES, Command
from certsnn.errors import UnsoundBoundError, UserError, nearest
from certsnn.kernels import setting

DONE, CRASHED, FAILED, UNSOUND, INTERRUPTED = 0, 1, 2, 3, 130


@final
class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


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
    said = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        said = f"{error.filename}: {error.strerror}"
    print(f"certsnn: error: {' '.join(said.split())}", file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else "--help"
    if name not in COMMANDS:
        if name.startswith("-"):
            _top_parser().parse_args([name])
        raise UserError(
            f"{name!r} is not a command{nearest(name, COMMANDS) or f'. Known: {_listed(COMMANDS)}'}"
        )
    command = COMMANDS[name]
    parser = _parser(name, command)
    if command.keys and {"-h", "--help"} & set(words):
        parser.epilog = _keys_help(command.keys)
    own, overrides = _split(words[1:], name, command)
    options, unknown = parser.parse_known_args(own)
    for word in unknown:
        hint = nearest(word.partition("=")[0], command.options.split())
        hint = hint or (_key_hint(word) if command.keys else "") or f"; see certsnn {name} --help"
        raise UserError(f"certsnn {name} has no argument {word}{hint}")
    from certsnn.cli.calls import CALLS

    return CALLS[name](options, overrides)


def _parser(name: str, command: Command) -> Parser:
    parser = Parser(
        prog=f"certsnn {name}",
        description=f"{command.summary}\n\n{command.details}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in command.options.split():
        own = f"{name} {option}"
        meaning = HELP.get(own) or HELP[option]
        if "{methods}" in meaning or "{limited}" in meaning:
            from certsnn.bounds.methods import LIST

            described = "; ".join(f"{method.name} ({method.help})" for method in LIST)
            limited = _listed(method.name for method in LIST if method.limited)
            meaning = meaning.format(methods=described, limited=limited)
        parser.add_argument(option, help=meaning, **(TAKES.get(own) or TAKES[option]))
    return parser


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {c.summary}" for name, c in COMMANDS.items())
    parser = Parser(
        prog="certsnn",
        usage="certsnn COMMAND ...",
        description="Train spiking neural networks whose robustness is proved, prove it, and attack them.",
        epilog=f"commands:\n{commands}\n\n`certsnn COMMAND --help` says more. Try:\n"
        "  certsnn train configs/digits.yaml\n  certsnn verify runs/digits --threat.eps 0.03\n"
        "  certsnn evaluate runs/digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    described = f"certsnn {__version__}, kernels: {setting.description()}"
    parser.add_argument("--version", action="version", version=described)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _split(words: Sequence[str], name: str, command: Command) -> tuple[list[str], list[str]]:
    """The command's own words, its options among them, and the config keys with their values."""
    own: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, _ = word.partition("=")
        top, dot, _ = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or flag in command.options.split() or not (dot or top in PARTS):
            own.append(word)
        elif top in command.keys or command.keys == PARTS:  # the config says best what is misspelt
            overrides += [word] if equals else [word, *islice(rest, 1)]
        else:
            takes = _listed(f"--{part}.*" for part in command.keys) or "none"
            raise UserError(f"certsnn {name} does not take {flag}; config keys that it takes: {takes}")
    return own, overrides


def _keys_help(parts: Sequence[str]) -> str:
    from certsnn.configuration import keys

    lines = ["config keys (what they take; default):"]
    found = sorted(key for key in keys() if key.path.split(".")[0] in parts)
    for (path, takes, default), group in groupby(found, itemgetter(0, 1, 2)):
        same = [*group]
        owners = ", ".join(dict.fromkeys(key.owner for key in same if key.owner))
        standard = f"; {default}" if default else ""
        lines.append(f"  --{path}  ({takes}{standard})" + (f"  of {owners}" if owners else ""))
        lines += [f"        {meaning}" for meaning in {key.meaning: 0 for key in same if key.meaning}]
    return "\n".join(lines)


def _key_hint(word: str) -> str:
    from certsnn.configuration import elsewhere

    return elsewhere(word.removeprefix("--")).replace("mean ", "mean --")
