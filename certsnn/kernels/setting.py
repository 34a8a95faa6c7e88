"""Which kernels a person asks for; needs neither torch nor numba."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec

from certsnn.errors import UserError, nearest

VARIABLE = "CERTSNN_KERNELS"
AUTO, TORCH, NUMBA = "auto", "torch", "numba"
NAMES = (AUTO, TORCH, NUMBA)


def asked_for() -> str:
    """One of `NAMES`: ``numba`` at once, ``torch`` alone, or ``auto``, numba once that pays.

    Raises:
        UserError: where the environment variable has another value, or asks for numba, which is missing.
    """
    name = os.environ.get(VARIABLE) or AUTO
    if name not in NAMES:
        raise UserError(f"{VARIABLE} must be one of {', '.join(NAMES)}, not {name!r}{nearest(name, NAMES)}")
    if name == NUMBA and not installed():
        raise UserError(f"{VARIABLE}=numba needs numba: pip install 'certsnn[fast]', or unset {VARIABLE}")
    return name


def installed() -> bool:
    """Whether there is a numba to import."""
    return find_spec("numba") is not None


def description() -> str:
    """The kernels on the CPU in words, with numba's version: ``numba 0.68.1``."""
    compiled = asked_for() != TORCH and installed()
    return f"numba {version('numba')}" if compiled else TORCH
