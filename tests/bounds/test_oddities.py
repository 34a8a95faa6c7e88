"""Odd networks and inputs: bounds that hold, or a refusal in certsnn's own words; never a raw error.

`check_odd` is the property. ``benchmarks/tightness/soundness.py`` runs it on as many examples as one likes.
"""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from odd_property import check_odd
from oddities import Odd, odd_examples
from soundness import FURTHER
from torch import nn

from certsnn.bounds import certify
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF


@settings(max_examples=300)
@given(odd_examples())
def test_odd_networks_are_bounded_soundly_or_refused(odd: Odd) -> None:
    check_odd(odd)


@pytest.mark.parametrize("method", FURTHER)
@settings(max_examples=40)
@given(odd=odd_examples())
def test_every_method_bounds_odd_networks_soundly_or_refuses(method: str, odd: Odd) -> None:
    check_odd(odd, (method,))


def test_threads_that_verify_at_once_find_what_one_finds() -> None:
    torch.manual_seed(0)
    networks = [
        SpikingNetwork([nn.Conv2d(1, 4, 3), IF(0.3), nn.Flatten(), nn.Linear(64, 3)], 2, "membrane").eval()
        for _ in range(3)
    ]
    x = torch.rand(16, 1, 6, 6)
    jobs = [(network, network(x).argmax(1)) for network in networks]
    alone = [certify(network, x, y, LinfBall(0.01), "s-crown-ibp").margins for network, y in jobs]
    before = torch.backends.cudnn.enabled, torch._C._get_nnpack_enabled()
    wrong: list[int] = []

    def work(number: int) -> None:
        network, y = jobs[number]
        for _ in range(8):
            margins = certify(network, x, y, LinfBall(0.01), "s-crown-ibp").margins
            if not torch.equal(margins, alone[number]) or not torch.equal(network(x).argmax(1), y):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (torch.backends.cudnn.enabled, torch._C._get_nnpack_enabled()) == before
