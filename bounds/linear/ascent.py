"""Slopes optimised by projected gradient ascent on the bound (alpha-S-CROWN); docs/theory/alpha.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from certsnn.bounds.linear.alpha import Slack

STEP = 0.2


def ascend(
    bound: Callable[[Sequence[Slack]], Tensor], start: Sequence[Slack], iterations: int, deadline: float
) -> Tensor:
    """The best lower bounds ``[S, B]`` found, never below those of the start.

    Args:
        bound: bounds for the slopes of each level; each row depends on its own slopes alone.
        start: the slopes to begin with, in [0, 1].
        iterations: steps of projected gradient ascent (Adam); with 0 the start is all.
        deadline: when to end early, in seconds of `time.monotonic`.
    """
    # Each slope gives a sound bound, so every iterate is one, and so is the greatest of them.
    with torch.no_grad():
        best = bound(start)
    numbers = [part.detach().clone().requires_grad_() for slack in start for part in (slack.share, slack.mix)]
    if not numbers or not iterations:
        return best
    slacks = [Slack(share, mix) for share, mix in zip(numbers[::2], numbers[1::2], strict=True)]
    optimizer = torch.optim.Adam(numbers, lr=STEP, betas=(0.7, 0.9), maximize=True)
    for step in range(iterations):
        if time.monotonic() > deadline:
            break
        for group in optimizer.param_groups:
            group["lr"] = STEP * (1 - step / iterations)
        with torch.enable_grad():
            found = bound(slacks)
            gradients = torch.autograd.grad(found.sum(), numbers)
        best = torch.maximum(best, found.detach())
        for number, gradient in zip(numbers, gradients, strict=True):
            number.grad = gradient
        optimizer.step()
        # A row depends on its own slopes alone, so ascending on the sum raises each row.
        with torch.no_grad():
            for number in numbers:
                number.clamp_(0, 1)
    with torch.no_grad():
        return torch.maximum(best, bound(slacks))
