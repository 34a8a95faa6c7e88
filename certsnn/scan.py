"""A layer of neurons run over time."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certsnn.dynamics import NUMBERS, Dynamics
from certsnn.kernels.choice import kernels
from certsnn.kernels.gradients import pull_scan


class Trace(NamedTuple):
    """A layer of neurons over time: ``membranes`` (before firing) and ``spikes``, both ``[T, B, ...]``."""

    membranes: Tensor
    spikes: Tensor


@final
class _Scan(torch.autograd.Function):
    """All steps at once, keeping membranes and spikes alone: the graph of single steps is never built."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, steps: int, dynamics: Dynamics, *parameters: Tensor) -> Any:
        trace = kernels([currents], parameters).scan(currents, steps, dynamics)
        ctx.save_for_backward(*trace)
        ctx.set_materialize_grads(False)
        ctx.dynamics, ctx.held = dynamics, len(currents) == 1
        return trace

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        trace, dynamics, wanted = ctx.saved_tensors, ctx.dynamics, any(ctx.needs_input_grad[3:])
        to_currents, to_numbers = pull_scan(trace, dynamics, gradients, ctx.held, wanted)
        return to_currents, None, None, *(to_numbers[name] if wanted else None for name in NUMBERS)


def scan(currents: Tensor, dynamics: Dynamics, steps: int | None = None, name: str = "the neurons") -> Trace:
    """Run a layer of neurons over time.

    Args:
        currents: ``[T, B, ...]``, or ``[1, B, ...]`` to hold for ``steps`` steps.
        dynamics: the neurons. Gradients flow to its parameters and, through the surrogate, to the currents.
        steps: T; the length of the currents if None.
        name: of the layer, for messages.

    Raises:
        ValueError: for parameters that do not fit the currents (`Dynamics.check_fits`).
    """
    dynamics.check_fits(currents.shape[2:], name)
    steps = len(currents) if steps is None else steps
    membranes, spikes = _Scan.apply(currents, steps, dynamics, *dynamics.numbers())
    return Trace(membranes, spikes)
