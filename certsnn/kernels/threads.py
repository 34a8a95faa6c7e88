"""Threads for compiled loops.

They are Python's, as many as torch has: they hold no lock while a loop runs, need no second OpenMP beside
torch's, and a forked process makes its own. Each writes neurons of its own, so their number changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch

GRAIN = 2**20
"""Elements that a thread of its own is worth; with fewer, waking it takes longer than it saves."""


def run(loop: Callable[..., None], units: int, elements: int, *arguments: Any) -> None:
    """Do all units of work of a loop, in several threads where there is enough for them."""
    threads = max(1, min(torch.get_num_threads(), units, elements // GRAIN))
    cuts = [units * part // threads for part in range(threads + 1)]
    (own, *others) = pairwise(cuts)
    running = [_pool(os.getpid(), threads).submit(loop, *cut, *arguments) for cut in others]
    loop(*own, *arguments)
    for part in running:
        part.result()


@lru_cache(1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "certsnn-kernels")
