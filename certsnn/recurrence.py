"""Recurrent layers: neurons that their own spikes of the step before drive, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from certsnn.affine import Affine, apply_chain, fold
from certsnn.dynamics import Dynamics, fires, integrate
from certsnn.graph import Composite, Layers, Plan, Wire, sequential
from certsnn.layers import BatchNorm, Dropout, as_affine, check_plain
from certsnn.neurons import Neuron
from certsnn.program import Link, Neurons, hold
from certsnn.scan import Trace
from certsnn.surrogates import Surrogate


@final
class _Spike(torch.autograd.Function):
    """`fires` with the surrogate's gradient."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, dynamics: Dynamics) -> Tensor:
        ctx.save_for_backward(u, threshold)
        ctx.surrogate = dynamics.surrogate
        return fires(u, dynamics)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        u, threshold = ctx.saved_tensors
        surrogate: Surrogate = ctx.surrogate
        to_u = gradients[0] * surrogate.derivative(u - threshold)
        return to_u, -to_u.sum_to_size(threshold.shape), None


def spike(u: Tensor, dynamics: Dynamics) -> Tensor:
    """Spikes (0 or 1, with the surrogate's gradient) of membranes of a single step ``[B, ...]``."""
    spikes: Tensor = _Spike.apply(u, dynamics.threshold, dynamics)
    return spikes


@final
@dataclass(frozen=True)
class RecurrentStage(Neurons):
    """Neurons with the currents ``I_t + F(s_{t-1})``, ``s_0 = 0``; F is the affine ``feedback``, with bias.

    Executed: the operators of F, one addition of their output to I_t, then the neurons' step.
    """

    feedback: tuple[Affine, ...] = ()

    def trace(self, currents: Tensor, steps: int) -> Trace:
        self.neuron.check_fits(currents.shape[2:], self.name)
        membranes: list[Tensor] = []
        spikes = [torch.zeros_like(currents[0])]
        for current in hold(currents, steps):
            back = apply_chain(self.feedback, spikes[-1])
            if back.shape != current.shape:
                raise ValueError(
                    f"the feedback of {self.name} gives {list(back.shape[1:])}, and its currents are "
                    f"{list(current.shape[1:])}; they must have one shape"
                )
            current = current + back
            if membranes:
                u = self.neuron.order.advance(membranes[-1], spikes[-1], current, self.neuron)
            else:
                u = integrate(self.neuron.initial, current)
            membranes.append(u)
            spikes.append(spike(u, self.neuron))
        return Trace(torch.stack(membranes), torch.stack(spikes[1:]))


@final
class Recurrent(Composite):
    """Neurons that take their own spikes of the step before through affine layers, beside what drives them.

    The feedback of no spikes, its bias, is there at the first step, too, as in snnTorch's ``RLeaky``.

    Args:
        neuron: the neurons.
        feedback: an affine layer (Linear, Conv2d) or a list of them, whose outputs have the spikes' shape.

    Raises:
        TypeError: for feedback through batch norm or dropout, which act otherwise in training.
        ValueError: for feedback through nothing.
    """

    def __init__(self, neuron: Neuron, feedback: nn.Module | Layers) -> None:
        super().__init__()
        self.neuron = neuron
        self.feedback = feedback if isinstance(feedback, nn.Sequential) else sequential(feedback)
        for layer in self.feedback:
            if isinstance(layer, (*BatchNorm, *Dropout)):
                raise TypeError(f"the feedback of a recurrent layer can't have {layer}: leave it out")
            as_affine(layer)

    def lay(self, plan: Plan, name: str, wire: Wire) -> Wire:
        check_plain(self, Recurrent)
        check_plain(self.feedback, nn.Sequential)
        if not len(self.feedback):  # a stage without operators here is one without feedback
            raise ValueError(
                f"the feedback of {name} has no layer: nn.Identity() hands spikes on as they are"
            )
        self.neuron.check_plain()
        plan.layers += [self.neuron, *self.feedback]
        plan.within += self.feedback

        def make(links: tuple[Link, ...]) -> RecurrentStage:
            feedback = fold([as_affine(layer) for layer in self.feedback])
            return RecurrentStage((links[0],), self.neuron.dynamics(), name, feedback)

        return plan.add([wire], make)
