"""How loops are compiled: by numba, with IEEE arithmetic as written.

Nothing is reassociated and no product and sum are contracted, for certificates speak about the operations in
their order. Compiled code is kept on disk, beside the source or in the user's cache. numba knows that it is
stale by the time and size of the file that defines the kernel, and of that file alone: so all that a kernel
calls stands in its own file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numba

Loop = Callable[..., Any]


def inlined(function: Loop) -> Loop:
    """A function for kernels of its own file to call."""
    compiled: Loop = numba.njit(error_model="numpy")(function)
    return compiled


def kernel(function: Loop) -> Loop:
    """A loop that is compiled for the types that it is first called with; threads run it side by side."""
    try:
        compiled: Loop = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache can be written
        compiled = numba.njit(nogil=True, error_model="numpy")(function)

    @wraps(function)
    def run(*arguments: Any) -> None:
        try:
            compiled(*arguments)
        except OSError:  # it is compiled, but cannot be saved: the disk is full, say
            compiled(*arguments)

    return run
