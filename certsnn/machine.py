"""The versions and the machine of a computation: its last digits depend on them, beside the config."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from certsnn import __version__
from certsnn.kernels.setting import description

CPUINFO = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """The versions of certsnn, torch and Python."""
    return {"certsnn": __version__, "torch": torch.__version__, "python": platform.python_version()}


def computed_on(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads and processor of this process, for JSON.

    Sums of floats are taken in an order that all of these decide, so a training comes out bit by bit the same
    only where they are the same.
    """
    return {
        "versions": versions(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "kernels": description(),
        "machine": f"{platform.platform()}, {os.cpu_count()} CPU cores",
        "cpu": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def processor() -> str:
    """The CPU's name, or its architecture where the system has no name."""
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
