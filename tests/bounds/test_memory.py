"""The memory budget of backward passes: how samples are packed, and what a process really takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from certsnn.bounds import certify, margin_bounds
from certsnn.bounds.memory import TEMPORARIES, OverBudget, packed, rows_that_fit
from certsnn.inputsets import LinfBall, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF

PEAK = """
import re, sys, torch
from pathlib import Path
from torch import nn
from certsnn.bounds import margin_bounds
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Flatten(), nn.Linear(784, 256), LIF(0.25, 0.25), nn.Linear(256, 256), LIF(0.25, 0.25)]
network = SpikingNetwork([*layers, nn.Linear(256, 10)], 8, "membrane", "image")
x, y = torch.rand(10, 784), torch.arange(10)
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
margin_bounds(network, x, y, LinfBall(0.1), "s-ibp")
before = peak()
for memory in map(int, sys.argv[1:]):
    for method in ("s-crown-ibp", "s-crown"):
        margin_bounds(network, x, y, LinfBall(0.1), method, memory=memory * 2**20)
    print(peak() - before)
"""
SLACK = 24
"""MiB that intervals and the allocator may take besides the coefficients."""


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(50, 120), st.integers(1, 5))
def test_packed_groups_fit_and_hold_every_sample_once(sizes: list[int], memory: int, most: int) -> None:
    groups = packed(torch.tensor(sizes), memory, most)
    assert sorted(position for group in groups for position in group.tolist()) == list(range(len(sizes)))
    for group in groups:
        assert 1 <= len(group) <= most
        assert len(group) * max(sizes[i] for i in group.tolist()) <= memory
        assert group.tolist() == sorted(group.tolist())


def test_samples_of_like_size_are_packed_together() -> None:
    groups = packed(torch.tensor([9, 1, 8, 1]), 18, 8)
    assert [group.tolist() for group in groups] == [[1, 3], [0, 2]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OverBudget, match=r"takes 3\.0 MiB, and the memory budget is 2\.0 MiB"):
        packed(torch.tensor([2**20, 3 * 2**20]), 2 * 2**20, 8)
    assert rows_that_fit(10, 100 * TEMPORARIES) == 10
    with pytest.raises(OverBudget, match="raise it"):
        rows_that_fit(10, 9 * TEMPORARIES)


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory from /proc")
def test_a_process_stays_within_the_budget() -> None:
    command = [sys.executable, "-c", PEAK, "48", "512"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = map(float, run.stdout.split())
    assert small <= 48 + SLACK
    assert large > 48 + SLACK, "the example takes too little to show anything"


INTERVALS = """
import re, sys, torch
from pathlib import Path
from torch import nn
from certsnn.bounds import certify
from certsnn.inputsets import LinfBall, SpikeFlips
from certsnn.networks import Residual, SpikingNetwork
from certsnn.neurons import IF, LIF

torch.set_num_threads(1)
torch.manual_seed(0)
body = lambda neuron: [nn.Conv2d(16, 16, 3, padding=1), neuron()]
neuron = {"IF": lambda: IF(1.0), "LIF": lambda: LIF(0.5, 0.5)}[sys.argv[1]]
layers = [nn.Conv2d(2, 16, 3, padding=1), neuron(), Residual(body(neuron)), nn.MaxPool2d(2), *body(neuron)]
readout = [nn.Flatten(), nn.Linear(16 * 64, 10)]
network = SpikingNetwork([*layers, *readout], 8, "membrane", sys.argv[2])
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
x, threat = {
    "image": (torch.rand(48, 2, 16, 16), LinfBall(0.1)),
    "spikes": ((torch.rand(8, 48, 2, 16, 16) < 0.1).float(), SpikeFlips(3)),
}[sys.argv[2]]
one = x[:1] if sys.argv[2] == "image" else x[:, :1]
certify(network, one, torch.zeros(1, dtype=torch.int64), threat)
before = peak()
for memory in (32, 1024):
    certify(network, x, torch.arange(48) % 10, threat, memory=memory * 2**20)
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory from /proc")
@pytest.mark.parametrize(("neuron", "kind"), [("IF", "spikes"), ("LIF", "image")])
def test_interval_bounds_stay_within_the_budget(neuron: str, kind: str) -> None:
    command = [sys.executable, "-c", INTERVALS, neuron, kind]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = map(float, run.stdout.split())
    assert small <= 32 + SLACK
    assert large > 32 + SLACK, "the example takes too little to show anything"


def test_a_sample_whose_intervals_do_not_fit_is_an_error_that_says_what_it_takes() -> None:
    network = SpikingNetwork([nn.Linear(64, 64), IF(1.0), nn.Linear(64, 3)], 8, "membrane", "image")
    x, y = torch.rand(2, 64), torch.tensor([0, 1])
    with pytest.raises(OverBudget, match=r"takes 0\.1 MiB, and the memory budget is 0\.0 MiB; raise it"):
        margin_bounds(network, x, y, LinfBall(0.1), rounding=True, memory=1000)
    verdict = certify(network, x, y, LinfBall(0.1), memory=1000)
    assert verdict.status == ["error", "error"]
    assert all(reason.startswith("s-ibp: the least piece of the work takes") for reason in verdict.reason)


def test_pieces_have_the_bounds_of_the_whole() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork([nn.Linear(6, 5), IF(1.0), nn.Linear(5, 3)], 4, "membrane", "spikes")
    x, y = (torch.rand(4, 5, 6) < 0.5).float(), torch.arange(5) % 3
    whole = margin_bounds(network, x, y, SpikeFlips(1), rounding=True)
    pieces = margin_bounds(network, x, y, SpikeFlips(1), rounding=True, memory=2 * 8 * 4 * (8 * 11 + 10 * 6))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)
    assert pieces.shape == whole.shape
