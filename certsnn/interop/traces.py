"""Compares an original with its import: each layer, step by step, on the inputs that the original gave it.

Each layer of neurons gets the original's own spikes. So a difference is that layer's, and not what follows
from one before. A neuron's first difference in a run is explained by rounding only if its membrane is as near
to the threshold as float sums of its inputs may differ; after it the neuron has another state, and is not
looked at any more in that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import frexp
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from certsnn.dynamics import CURRENT_FIRST, RESET_FIRST, Dynamics
from certsnn.errors import UserError
from certsnn.interop.libraries import Cell, Library, Observed
from certsnn.networks import SpikingNetwork
from certsnn.program import Stage
from certsnn.scan import scan


@final
class Case(NamedTuple):
    """Inputs, and what the original did on them.

    ``stages``: by the name of a layer of neurons its path in the original, spikes and membranes ``[T, B,
    ...]``. ``logits [B, K]``.
    """

    x: Tensor
    stages: Mapping[str, tuple[str, Tensor, Tensor]]
    logits: Tensor


@final
@dataclass(frozen=True)
class TraceCheck:
    """How an import compared with the original.

    ``spikes`` were compared, ``differ`` of them differ, all as rounding explains. ``nearest``: the least
    distance of a membrane from its threshold. ``membranes``, ``logits``: their largest differences; logits
    are compared for samples without a difference in spikes. ``calls``: how the original was called.
    """

    spikes: int
    differ: int
    nearest: float
    membranes: float
    logits: float
    calls: str

    def __str__(self) -> str:
        return (
            f"{self.differ} of {self.spikes} spikes differ, nearest |u - threshold| = {self.nearest:.2g}; "
            f"membranes differ by up to {self.membranes:.2g}, logits by up to {self.logits:.2g} "
            f"(the original called {self.calls})"
        )


@final
class _Compared(NamedTuple):
    """A layer's comparison, ``[T, B, ...]``: spikes that differ, those that rounding does not explain."""

    differ: Tensor
    wrong: Tensor
    nearest: float
    membranes: float


def tolerance(steps: int, *sizes: Tensor) -> float:
    """How far sums over T steps, in another order, may be apart: float rounding of the largest terms."""
    known = [float(size[size.isfinite()].abs().max()) for size in sizes if size.isfinite().any()]
    return torch.finfo(sizes[0].dtype).eps * (64 + 2 * steps) * max(known, default=0.0)


def compare(seen: Observed, currents: Tensor, dynamics: Dynamics) -> _Compared:
    """The original's neurons with certsnn's on the same currents ``[T, B, ...]``."""
    membranes, spikes = scan(currents, dynamics)
    slack = tolerance(len(currents), membranes, seen.membranes, currents, dynamics.threshold)
    differ = spikes != seen.spikes
    before = differ.cumsum(0) - differ.int() > 0
    distance = (membranes - dynamics.threshold).abs()
    gap = (membranes - seen.membranes).abs().masked_fill(before, 0).nan_to_num(0.0, posinf=torch.inf)
    wrong = ((differ & (distance > slack)) | (gap > slack)) & ~before
    return _Compared(differ, wrong, float(distance.min()), float(gap.max()))


@torch.no_grad()
def check_traces(network: SpikingNetwork, cases: Sequence[Case], calls: str) -> TraceCheck:
    """The comparison on all cases; ``calls``: how the original was called, in words.

    Raises:
        UserError: for a difference that rounding does not explain, with its layer, its step and the
            convention that differs, if one is known that explains it.
    """
    spikes, differ, nearest, gap, apart = 0, 0, torch.inf, 0.0, 0.0
    program = network.freeze()
    for case in cases:
        frames, steps = program.input.frames(case.x, network.steps)
        values, same = [frames], torch.ones(len(case.logits), dtype=torch.bool, device=case.x.device)
        for node in program.nodes:
            parts = [link.run(values) for link in node.links]
            if isinstance(node, Stage):
                path, theirs, membranes = case.stages[node.name.rpartition(".")[2]]
                seen, currents = Observed(theirs, membranes), parts[0].expand(steps, *parts[0].shape[1:])
                found = compare(seen, currents, node.neuron)
                _refuse(path, found, seen, currents, node.neuron)
                spikes, differ = spikes + theirs.numel(), differ + int(found.differ.sum())
                nearest, gap = min(nearest, found.nearest), max(gap, found.membranes)
                same &= ~found.differ.transpose(0, 1).flatten(1).any(1)
                values.append(theirs)
            else:
                values.append(node.run(parts, steps))
        logits = network(case.x)
        apart = max(apart, _logits(logits[same], case.logits[same]))
    return TraceCheck(spikes, differ, float(nearest), gap, apart, calls)


def _logits(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; raises UserError for one that rounding does not explain."""
    if ours.shape != theirs.shape:
        raise UserError(
            f"the original's output has the shape {list(theirs.shape)} and the import's {list(ours.shape)}: "
            "return logits [B, K], or those of all steps [T, B, K]"
        )
    apart = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    if apart > tolerance(64, ours, theirs, torch.ones(1)):
        raise UserError(
            f"all spikes agree, but logits differ by {apart:.3g}: what the module does after its last layer "
            "is not what the readout says"
        )
    return apart


def _refuse(path: str, found: _Compared, seen: Observed, currents: Tensor, dynamics: Dynamics) -> None:
    """Raise UserError where a layer differs by more than rounding."""
    if not found.wrong.any():
        return
    step = int(found.wrong.flatten(1).any(1).nonzero()[0])
    hints = [
        name
        for name, (other, scale) in _conventions(dynamics).items()
        if not compare(seen, scale * currents, other).wrong.any()
    ]
    hint = f"; it agrees with {' or '.join(hints)}" if hints else ""
    raise UserError(
        f"{path} does not do what its import does, from step {step + 1} on: {int(found.wrong.sum())} spikes "
        f"or membranes differ by more than rounding, the membranes by up to {found.membranes:.3g}{hint}. The "
        "import is refused, since bounds would speak about another network"
    )


def _conventions(dynamics: Dynamics) -> dict[str, tuple[Dynamics, Tensor]]:
    """Neurons as others define them, by what they do otherwise, and a factor of their currents."""
    decay, threshold = dynamics.decay, dynamics.threshold
    zero, one = torch.zeros_like(decay), torch.ones_like(decay)
    high, low = threshold.new_tensor(torch.inf), threshold.new_tensor(-torch.inf)

    def reset(gain: Tensor, offset: Tensor, order: object) -> tuple[Dynamics, Tensor]:
        return dynamics._replace(gain=gain, offset=offset, order=order, lossless=False), one  # type: ignore[arg-type]

    return {
        "a reset to zero": reset(zero, zero, RESET_FIRST),
        "a reset by subtraction before the decay": reset(decay, -decay * threshold, RESET_FIRST),
        "a reset by subtraction after the decay": reset(decay, -threshold, CURRENT_FIRST),
        "no reset": reset(decay, zero, RESET_FIRST),
        "inputs that the decay scales": (dynamics, 1 - decay),
        "inputs that the decay does not scale": (dynamics, 1 / (1 - decay)),
        "spikes above the threshold only": (dynamics._replace(threshold=threshold.nextafter(high)), one),
        "spikes at the threshold, too": (dynamics._replace(threshold=threshold.nextafter(low)), one),
    }


@torch.no_grad()
def check_neuron(library: Library, path: str, cell: Cell, module: nn.Module, like: Observed) -> None:
    """Compare a copy of a neuron with its import on currents that lead it to its threshold and next to it.

    Raises:
        UserError: where it does not do what its import does, with the convention that differs.
    """
    dynamics = cell.neuron.dynamics()
    threshold = (dynamics.threshold - dynamics.initial).expand(like.spikes.shape)
    draw = torch.Generator().manual_seed(0)
    parts = torch.tensor([-0.5, 0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 2.5])
    chosen = parts[torch.randint(len(parts), (8, *like.spikes.shape), generator=draw)].to(threshold)
    currents = chosen * threshold / cell.gain
    for step, towards in enumerate((torch.inf, -torch.inf)):  # neighbours of the threshold, on both sides
        beside = torch.nextafter(threshold, threshold.new_tensor(towards)) / cell.gain
        currents[0] = torch.where(chosen[0] == chosen[step + 1], beside, currents[0])
    seen = library.drive(module, cell, currents)
    driven = currents * cell.gain
    found = compare(seen, driven, dynamics)
    if frexp(cell.gain)[0] == 0.5 and cell.shift == 0 and not dynamics.initial.any():
        # The first step rounds nothing, so a tie must break as it does in the original.
        found.wrong[0] |= found.differ[0]
    _refuse(path, found, seen, driven, dynamics)
