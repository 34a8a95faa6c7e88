"""Linear filters over time: currents that decay instead of arriving in one step, and leaky integrators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from certsnn.graph import Composite, Plan, Wire
from certsnn.layers import check_plain
from certsnn.program import Link, Node, hold


@final
class _Filter(torch.autograd.Function):
    """All steps at once: the graph of single steps is never built."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: Tensor, steps: int) -> Tensor:
        held = hold(x, steps)
        y = torch.empty(held.shape, dtype=x.dtype, device=x.device)
        y[0] = held[0]
        for before, now, current in zip(y[:-1], y[1:], held[1:], strict=True):
            # A product and a sum, each rounded: `addcmul` may round once.
            torch.mul(before, decay, out=now)
            now += current
        ctx.save_for_backward(y, decay)
        ctx.frames = len(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        y, decay = ctx.saved_tensors
        # The transposed filter runs from the last step to the first.
        to_x = filtered(gradients[0].flip(0), decay, len(y)).flip(0)
        to_decay = None
        if ctx.needs_input_grad[1]:
            to_decay = (to_x[1:] * y[:-1]).sum(0).sum_to_size(decay.shape).to(decay)
        return (to_x if ctx.frames == len(y) else to_x.sum(0, keepdim=True)), to_decay, None


def filtered(x: Tensor, decay: Tensor, steps: int) -> Tensor:
    """``y_1 = x_1``, ``y_t = decay * y_{t-1} + x_t``: the product is rounded, then the sum.

    Args:
        x: ``[T, B, ...]``, or ``[1, B, ...]`` to hold for ``steps`` steps.
        decay: >= 0; broadcasts against ``[B, ...]``.
        steps: T.
    """
    y: Tensor = _Filter.apply(x, decay, steps)
    return y


@final
@dataclass(frozen=True)
class Filter(Node):
    """`filtered` outputs of a link; ``decay`` in [0, 1] is a number, or one for each channel or neuron."""

    links: tuple[Link]
    decay: Tensor
    name: str

    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        shape = parts[0].shape[2:]
        fits = self.decay.ndim <= len(shape) and all(
            size in (1, of) for size, of in zip(self.decay.shape[::-1], shape[::-1], strict=False)
        )
        if not fits:
            raise ValueError(
                f"the decay of {self.name} has the shape {list(self.decay.shape)}, and its currents are "
                f"{list(shape)}: give one number, or a tensor that broadcasts against one sample's currents"
            )
        return filtered(parts[0], self.decay, steps)

    def held(self, parts: Sequence[bool]) -> bool:
        return False

    def reach(self, parts: Sequence[float], steps: int) -> float:
        decay = float(self.decay.detach().max())
        # 1 + decay + decay^2 + ..., of all steps at most.
        return parts[0] * (min(steps, 1 / (1 - decay)) if decay < 1 else steps)


@final
class Synapse(Composite):
    """A current that decays: ``i_t = decay * i_{t-1} + x_t``, from ``i_1 = x_1`` on.

    Between affine layers and neurons it makes the neurons current-based (snnTorch's ``Synaptic``, Norse's
    ``LIF``). At the end of a network it is a leaky integrator, which a readout reads. A gain on x is a
    `Scale` before it.

    Args:
        decay: what is left of the current after a step, in [0, 1]: one number, or a tensor that broadcasts
            against one sample's currents, ``[C, 1, 1]`` for channels of ``[C, H, W]``.
        learn_decay: train the decay (used clamped to [0, 1]).

    Raises:
        ValueError: for a decay outside the range.
    """

    def __init__(self, decay: float | Tensor = 0.5, learn_decay: bool = False) -> None:
        super().__init__()
        given = torch.as_tensor(decay, dtype=torch.get_default_dtype()).detach().clone()
        if not bool(((given >= 0) & (given <= 1)).all()):
            raise ValueError(f"decay must lie in [0, 1], got {decay}")
        self.decay = nn.Parameter(given, requires_grad=learn_decay)

    def used_decay(self) -> Tensor:
        """The decay as it is used, differentiable where it is trained."""
        return self.decay.clamp(0, 1)

    def lay(self, plan: Plan, name: str, wire: Wire) -> Wire:
        check_plain(self, Synapse)
        return plan.add([wire], lambda links: Filter((links[0],), self.used_decay(), name))

    def forward(self, x: Tensor) -> Tensor:
        """The currents ``[T, B, ...]`` of all steps."""
        return filtered(x, self.used_decay(), len(x))

    def extra_repr(self) -> str:
        decay = self.decay.detach()
        shown = f"{float(decay):g}" if decay.numel() == 1 else f"of the shape {list(decay.shape)}"
        return f"decay={shown}"
