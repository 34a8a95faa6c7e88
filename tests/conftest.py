"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from command_line import CONFIG
from hypothesis import settings

from certsnn.cli.app import main

# Tests are small: one thread is faster than two, and sums are taken in one order. Also in their processes.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test waits for a compiler unless it is about compiled code, or all of them are asked to run it.
os.environ.setdefault("CERTSNN_KERNELS", "torch")

# The same examples in every run; the first one may be slow (imports), so no deadline.
settings.register_profile("certsnn", derandomize=True, deadline=None)
settings.load_profile("certsnn")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No processes of their own for tests that are named by file: their start would take longer than most.

    None leaves the number to the plugin: one a core.
    """
    named = [part for part in config.args if ".py" in part]
    return 0 if named else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets that stands beside the checkout, where there is one."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "MNIST").is_dir():
        pytest.skip(f"no data sets in {folder}")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a small run."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def finished(config: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = config.parent / "finished"
    assert main(["train", str(config), "--run", str(folder)]) == 0
    return folder
