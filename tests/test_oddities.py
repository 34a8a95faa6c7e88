"""Odd networks and inputs: bounds that hold, or a refusal in certsnn's own words; never a raw error.

`check_odd` is the property. ``benchmarks/soundness.py`` runs it on as many examples as one likes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import pytest
import torch
from hypothesis import given, settings
from oddities import REFUSED, Odd, odd_examples
from strategies import Example
from test_soundness import FURTHER, ITERATIONS, Bound, members, true_margins
from torch import Tensor, nn

from certsnn.bounds import Verdict, bind, certify
from certsnn.bounds.cascade import decide, stages
from certsnn.bounds.problem import Options
from certsnn.bounds.verify import _prepared
from certsnn.inputsets import InputSet, LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF


@dataclass(frozen=True)
class Found:
    """What came of an odd example: verdicts by method, or the message of a refusal."""

    verdicts: dict[str, Verdict]
    refusal: str = ""

    def margins(self, method: str) -> int:
        """How many margins a method has bounded."""
        return self.verdicts[method].margins.numel() if self.verdicts else 0


@contextmanager
def evaluated(network: SpikingNetwork) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def raised_in(trace: TracebackType | None) -> str:
    """The module that raised an error."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals["__name__"])


def executed_margins(network: SpikingNetwork, x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Margins as executed, with subnormal numbers as they are, and taken as 0 by the processor."""
    yield true_margins(network(x), y)
    if torch.set_flush_denormal(True):
        try:
            flushed = network(x)
        finally:
            torch.set_flush_denormal(False)
        yield true_margins(flushed, y)


def bounded(example: Example, methods: Sequence[str]) -> tuple[Tensor, Tensor, InputSet, dict[str, Verdict]]:
    network, threat, x = example.network, example.threat, example.x
    x0, input_set = bind(network, x, threat, None)
    with evaluated(network):
        y = network(x0).argmax(1)
    verdicts = {}
    for method in methods:
        with torch.no_grad():
            problem = _prepared(network, x, y, threat, method, True, None)
        verdicts[method] = decide(problem, stages(method), Options(iterations=ITERATIONS))
    return x0, y, input_set, verdicts


def check_odd(odd: Odd, methods: Sequence[str] = ("s-ibp",)) -> Found:
    """Bound an odd example by these methods, and run the network on members of the set.

    Raises:
        AssertionError: if a member violates a bound, or what can't be bounded was not refused.
        Exception: an error that is not certsnn's own.
    """
    network = odd.example.network
    try:
        x0, y, input_set, verdicts = bounded(odd.example, methods)
    except (TypeError, ValueError) as error:
        if not raised_in(error.__traceback__).startswith("certsnn"):
            raise
        return Found({}, str(error))
    assert odd.oddity not in REFUSED, f"{odd.oddity}: was taken"
    nothing = torch.empty(0)
    case = Bound(odd.example, x0, y, input_set, [], [], verdicts[methods[0]], nothing)
    with evaluated(network):
        xs = list(members(case))
        axis = input_set.batch_axis
        with torch.no_grad():
            found = list(executed_margins(network, torch.cat(xs, axis), y.repeat(len(xs))))
            found += list(executed_margins(network, x0, y))
    for executed in found:
        for method, verdict in verdicts.items():
            claimed = verdict.margins.repeat(len(executed) // len(y), 1)
            assert (executed >= claimed).all(), f"{method}: a margin is below its bound"
            certified = verdict.certified.repeat(len(executed) // len(y))
            assert (executed[certified] > 0).all(), f"{method}: a certified sample is misclassified"
    return Found(verdicts)


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
