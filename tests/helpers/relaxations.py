"""The relaxations of one neuron, by name, and a neuron of given numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from dynamics import dynamics_of

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.linear.alpha import Slack, chosen_slopes, midpoint
from certsnn.bounds.linear.lines import Stepwise
from certsnn.bounds.linear.relaxation import joint, separate
from certsnn.neurons import Dynamics

DOUBLE = torch.float64
EPS = torch.finfo(DOUBLE).eps

Make = Callable[[Interval, Dynamics], Stepwise]


def neuron(
    threshold: float,
    decay: float,
    gain: float,
    offset: float,
    initial: float = 0.0,
    dtype: torch.dtype = DOUBLE,
) -> Dynamics:
    numbers = (torch.tensor(value, dtype=dtype) for value in (threshold, decay, initial, gain, offset))
    return dynamics_of(numbers, decay == gain == 1)


def with_slack(share: float, mix: float) -> Make:
    """`chosen_slopes` with the same slack everywhere."""

    def make(membranes: Interval, dynamics: Dynamics) -> Stepwise:
        one = torch.ones_like(membranes.lower)[:, None]
        return chosen_slopes(membranes, dynamics, Slack(share * one, mix * one))

    return make


def with_midpoint(membranes: Interval, dynamics: Dynamics) -> Stepwise:
    return chosen_slopes(membranes, dynamics, midpoint(membranes, dynamics))


CHOSEN = {
    f"chosen {share:g} {mix:g}": with_slack(share, mix)
    for share, mix in ((0, 0), (1, 0), (1, 1), (1, 0.5), (0.3, 0.7), (0.9, 0.1))
}
MAKERS: dict[str, Make] = {
    "joint": joint,
    "separate": separate,
    "chosen midpoint": with_midpoint,
    **CHOSEN,
}
