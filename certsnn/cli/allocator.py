"""The C library's memory allocator, set up for processes that train or verify for long."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep freed memory, for the next step to use again.

    glibc gives the top of its heap back to the system whenever much of it is free, as it is after every
    training step and after every batch that was verified, and the next one then takes a page fault for every
    4 KiB that it writes first: a quarter of a convolutional network's certified step, half of its bounds with
    rounding covered. The price is that the process stays as large as it once was.

    Returns:
        Whether it was done; False where the C library is not glibc, and nothing is changed there.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, _LARGEST) == 1 for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
