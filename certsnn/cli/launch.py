"""A launcher's (torchrun, accelerate launch) settings of this process, and the choice of the one heard.

The launcher starts the same command several times and tells each process its place in the environment. One
of them speaks for all: tables, progress and warnings are the first one's, and an error is told once. No
torch here: the command line asks before it imports it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from certsnn.errors import UserError


def count() -> int:
    """The number of processes that were launched together; 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """This process's number among all of them, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """This process's number among those of this machine, from 0."""
    return _number("LOCAL_RANK", 0)


@contextmanager
def heard() -> Iterator[None]:
    """Standard output and error while the block runs: those of the first process, silence in the others.

    Before torch is imported, as it reads its log level then.
    """
    if count() > 1:  # torch's own words on lost connections, with traces of C++: an error says it
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if count() == 1 or rank() == 0:
        yield
        return
    with Path(os.devnull).open("w") as silence, redirect_stdout(silence), redirect_stderr(silence):
        yield


def give_voice(speaks: bool) -> None:
    """From here on this process's standard error is heard, or silent; for what it says at its end."""
    sys.stderr = sys.__stderr__ if speaks else Path(os.devnull).open("w")  # noqa: SIM115


def let_speak() -> None:
    """In a silent process that is about to end with an error: give the one that speaks time to do so.

    The launcher ends all processes as soon as one of them fails.
    """
    if count() > 1 and getattr(sys.stderr, "name", "") == os.devnull:
        time.sleep(5)


def ended(status: int) -> int:
    """The exit status; where there are several processes, this one ends here.

    Threads of a process group may still hold tensors, and abort a Python that is being taken down
    (pytorch/pytorch#179291); everything is written by now, so it is not taken down.
    """
    if count() > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    return status


def _number(name: str, default: int) -> int:
    """The natural number of an environment variable; raises UserError for other text."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise UserError(
            f"the environment variable {name} must be a number, as launchers set it, not {text!r}"
        )
    return int(text or default)
