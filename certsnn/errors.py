"""Errors whose message is meant for the person who started the program."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import final


class UserError(Exception):
    """A request that can't be met; the message names the fault and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """


@final
class DataNotFound(UserError):
    """A data set is unknown, or its files are missing or unreadable."""


@final
class CheckpointError(UserError):
    """A run folder or weights file is missing, damaged, or doesn't fit its config."""


@final
class ConfigError(UserError):
    """A config file or command-line override is not valid."""


class UnsoundBoundError(RuntimeError):
    """A bound claims what the network refutes: a defect of certsnn, never of the input."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean x?"`` for the known word nearest to this one, or "" if none is near."""
    near = get_close_matches(word, [*known], n=1)
    return f"; did you mean {near[0]}?" if near else ""
