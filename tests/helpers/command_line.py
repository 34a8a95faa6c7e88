"""What the tests of commands share: a config, refusals, files of results, and processes that are stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from certsnn.cli.app import main

EPOCHS = 12
"""Of `CONFIG`."""
CONFIG = f"""
data: {{name: digits}}
network: {{steps: 2, neuron: {{class_path: IF, init_args: {{initial: 0.5}}}}}}
threat: {{class_path: LinfBall, init_args: {{eps: 0.02}}}}
training:
  objective: {{class_path: Certified, init_args: {{ramp: {{start: 1, length: 3}}}}}}
  epochs: {EPOCHS}
  batch_size: 128
"""


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line that a command which can't be done says."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("certsnn: error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def verified(
    capsys: pytest.CaptureFixture[str], *words: str | Path, samples: int = 60, method: str = "auto"
) -> dict[str, Any]:
    """The report of a verification of a pretrained model's first samples."""
    capsys.readouterr()
    own = ["verify", "digits-eps0.05", "--samples", str(samples), "--method", method, "--json", "-"]
    assert main([*own, *map(str, words)]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def lines(path: Path) -> list[dict[str, Any]]:
    """A file of results, line by line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def process_of(*words: str | Path) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "certsnn", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c)


def wait_for_lines(process: subprocess.Popen[str], file: Path, least: int) -> None:
    """Until a running process has written so many lines to a file."""
    deadline = time.monotonic() + 120
    while not file.exists() or file.read_bytes().count(b"\n") < least:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stopped(process: subprocess.Popen[str]) -> str:
    """What a process says that Ctrl-C stops."""
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    return said


def _heed_ctrl_c() -> None:
    """Undo what a shell does to the jobs it runs in the background: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
