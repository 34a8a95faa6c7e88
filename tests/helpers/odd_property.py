"""The property of odd networks and inputs: bounds that hold, or a refusal in certsnn's own words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from oddities import REFUSED, Odd
from soundness import ITERATIONS, Bound, members, true_margins
from strategies import Example
from torch import Tensor

from certsnn.bounds import Verdict, bind
from certsnn.bounds.cascade import decide
from certsnn.bounds.certify import posed
from certsnn.bounds.methods import method_named
from certsnn.bounds.options import BoundOptions
from certsnn.evaluation.verification import evaluating
from certsnn.inputsets import InputSet
from certsnn.networks import SpikingNetwork


@dataclass(frozen=True)
class Found:
    """What came of an odd example: verdicts by method, or the message of a refusal."""

    verdicts: dict[str, Verdict]
    refusal: str = ""

    def margins(self, method: str) -> int:
        """How many margins a method has bounded."""
        return self.verdicts[method].margins.numel() if self.verdicts else 0


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
    with evaluating(network):
        y = network(x0).argmax(1)
    verdicts = {}
    for method in methods:
        with torch.no_grad():
            problem = posed(network, network.freeze(), x0, y, input_set, rounding=True)
        verdicts[method] = decide(problem, method_named(method).stages, BoundOptions(iterations=ITERATIONS))
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
    with evaluating(network):
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
