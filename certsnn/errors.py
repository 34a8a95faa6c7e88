"""Errors whose message is meant for the person who started the program."""

from __future__ import annotations


class UserError(Exception):
    """What was asked for can't be done; the message names what is wrong and what to do about it.

    The command line prints the message without a traceback and exits with status 2.
    """


class DataNotFound(UserError):
    """A data set is unknown, or its files are missing or unreadable."""


class CheckpointError(UserError):
    """A run folder or weights file is missing, damaged, or doesn't fit its config."""


class ConfigError(UserError):
    """A config file or command-line override is not valid."""


class UnsoundBoundError(RuntimeError):
    """A bound claims what the network refutes: a defect of certsnn, never of the input."""
