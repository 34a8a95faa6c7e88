"""The number of threads, and a forked process, change nothing about compiled scans."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from multiprocessing.connection import Connection

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from certsnn.dynamics import Dynamics
from certsnn.kernels import scans
from certsnn.kernels import threads as threads_of_loops
from certsnn.kernels.fused import Fused
from certsnn.neurons import LIF, Neuron

LEAKY, VARIED = LIF(0.5, 0.75), LIF(torch.linspace(0.25, 1, 700), 0.75)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three threads of torch, each worth as little as one element."""
    monkeypatch.setattr(threads_of_loops, "GRAIN", 1)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def currents() -> tuple[Tensor, Tensor]:
    low = torch.randn(3, 5, 700, generator=torch.Generator().manual_seed(0))
    return low, low + 0.25


def bounds(dynamics: Dynamics) -> list[Tensor]:
    return [*chain(*Fused().step_scan(currents(), dynamics))]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("neuron", [LEAKY, VARIED], ids=["one number", "a number a neuron"])
def test_threads_share_the_work_and_change_nothing(
    neuron: Neuron, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[tuple[int, int]] = []
    loop = scans.step_scan

    def watched(start: int, stop: int, *arguments: object) -> None:
        parts.append((start, stop))
        loop(start, stop, *arguments)

    monkeypatch.setattr(scans, "step_scan", watched)
    several = bounds(neuron.dynamics())
    assert len(parts) == 3
    torch.set_num_threads(1)
    assert same(several, bounds(neuron.dynamics())) and len(parts) == 4


def test_threads_of_a_program_scan_side_by_side(threads: None) -> None:
    expected = bounds(LEAKY.dynamics())
    with ThreadPoolExecutor(4) as pool:
        assert all(same(found, expected) for found in pool.map(bounds, [LEAKY.dynamics()] * 16))


def forked(answer: Connection, expected: list[Tensor]) -> None:
    answer.send(same(bounds(LEAKY.dynamics()), expected))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(threads: None) -> None:
    expected, context = bounds(LEAKY.dynamics()), multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=forked, args=(there, expected), daemon=True)
    child.start()
    assert here.poll(60) and here.recv()
    child.join()
    assert child.exitcode == 0
