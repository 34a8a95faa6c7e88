"""Compares an original with its import: each layer, step by step, on the inputs that the original gave it.

Each layer of neurons gets the original's own spikes. So a difference is that layer's, and not what follows
from one before. A neuron's first difference in a run is explained by rounding only if its membrane is as near
to the threshold as float sums of its inputs may differ; after it the neuron has another state, and is not
looked at any more in that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from certsnn.affine import apply_chain
from certsnn.dynamics import CURRENT_FIRST, RESET_FIRST, Dynamics
from certsnn.errors import UserError
from certsnn.graph import Plan, Wire
from certsnn.inputs import FrameInput
from certsnn.interop.libraries import Cell, Library, Observed
from certsnn.networks import SpikingNetwork, frozen
from certsnn.program import Neurons, Program, over_time
from certsnn.readouts import READOUTS
from certsnn.scan import scan


@final
class Seen(NamedTuple):
    """What a module with a state did, ``[T, B, ...]``, and its path in the original."""

    path: str
    did: Observed


@final
class Case(NamedTuple):
    """Inputs, and what the original did on them.

    ``stages``: of the modules with a state, by the name of what they are in certsnn's graph (`node_of`).
    ``logits [B, K]``, with what comes last in the original, ``end(logits, 1)``, if there is any.
    """

    x: Tensor
    stages: Mapping[str, Seen]
    logits: Tensor
    end: Callable[..., Tensor] | None = None


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
    """A layer's comparison, ``[T, B, ...]``: spikes that differ, those that rounding does not explain.

    ``spikes``: how many there are; ``hints``: conventions that would explain the difference.
    """

    path: str
    spikes: int
    differ: Tensor
    wrong: Tensor
    nearest: float
    membranes: float
    hints: Sequence[str] = ()


def node_of(name: str, layers: Sequence[nn.Module]) -> str:
    """The name of the last node of layers in a row, which stand under a name in a graph."""
    return f"{name}.{len(layers) - 1}" if len(layers) > 1 else name


def tolerance(steps: int, *sizes: Tensor) -> float:
    """How far sums over T steps, in another order, may be apart: float rounding of the largest terms."""
    known = [float(size[size.isfinite()].abs().max()) for size in sizes if size.isfinite().any()]
    return torch.finfo(sizes[0].dtype).eps * (64 + 2 * steps) * max(known, default=0.0)


def compare(seen: Seen, currents: Tensor, dynamics: Dynamics) -> _Compared:
    """The original's neurons with certsnn's on the same currents ``[T, B, ...]``."""
    membranes, spikes = scan(currents, dynamics)
    slack = tolerance(len(currents), membranes, seen.did.membranes, currents, dynamics.threshold)
    differ = spikes != seen.did.spikes
    before = differ.cumsum(0) - differ.int() > 0
    distance = (membranes - dynamics.threshold).abs()
    gap = _apart(membranes, seen.did.membranes).masked_fill(before, 0)
    wrong = ((differ & (distance > slack)) | (gap > slack)) & ~before
    return _Compared(seen.path, differ.numel(), differ, wrong, float(distance.min()), float(gap.max()))


def _apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """The difference, where both are known."""
    return (ours - theirs).abs().nan_to_num(0.0, posinf=torch.inf)


def _compare_neurons(seen: Seen, node: Neurons, currents: Tensor, exact: bool) -> _Compared:
    """`compare` with what the original's own spikes add to the currents, and with hints."""
    if node.feedback:
        silent = torch.zeros_like(seen.did.spikes[:1])
        before = torch.cat([silent, seen.did.spikes[:-1]])
        currents = currents + over_time(partial(apply_chain, node.feedback), before)
    found = compare(seen, currents, node.neuron)
    if exact:  # the first step rounds nothing, so a tie must break as it does in the original
        found.wrong[0] |= found.differ[0]
    if not found.wrong.any():
        return found
    conventions = _conventions(node.neuron).items()
    hints = [
        name for name, (other, scale) in conventions if not compare(seen, scale * currents, other).wrong.any()
    ]
    return found._replace(hints=hints)


def _compare_filter(seen: Seen, outputs: Tensor, currents: Tensor) -> _Compared:
    """A filter's outputs ``[T, B, ...]`` with certsnn's, of these currents."""
    gap = _apart(outputs, seen.did.membranes)
    wrong = gap > tolerance(len(outputs), outputs, seen.did.membranes, currents)
    return _Compared(seen.path, 0, torch.zeros_like(wrong), wrong, torch.inf, float(gap.max()))


def _walk(
    program: Program, x: Tensor, stages: Mapping[str, Seen], steps: int, exact: bool = False
) -> Iterator[_Compared]:
    """The comparison of each module with a state, on what the original's modules before it gave.

    ``exact``: whether the first step rounds nothing.

    Raises:
        UserError: for a difference that rounding does not explain.
    """
    frames, steps = program.input.frames(x, steps)
    values = [frames]
    for node in program.nodes:
        parts = [link.run(values) for link in node.links]
        seen = stages.get(node.name.removeprefix("layers.0."))
        if seen is None:
            values.append(node.run(parts, steps))
            continue
        if isinstance(node, Neurons):
            found = _compare_neurons(seen, node, parts[0].expand(steps, *parts[0].shape[1:]), exact)
        else:
            found = _compare_filter(seen, node.run(parts, steps), parts[0])
        _refuse(found)
        values.append(seen.did.spikes)
        yield found


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
        same = torch.ones(len(case.logits), dtype=torch.bool, device=case.x.device)
        for found in _walk(program, case.x, case.stages, network.steps):
            spikes, differ = spikes + found.spikes, differ + int(found.differ.sum())
            nearest, gap = min(nearest, found.nearest), max(gap, found.membranes)
            same &= ~found.differ.transpose(0, 1).flatten(1).any(1)
        logits = network(case.x)
        logits = logits if case.end is None else case.end(logits, 1)
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


def _refuse(found: _Compared) -> None:
    """Raise UserError where a layer differs by more than rounding."""
    if not found.wrong.any():
        return
    step = int(found.wrong.flatten(1).any(1).nonzero()[0])
    hint = f"; it agrees with {' or '.join(found.hints)}" if found.hints else ""
    raise UserError(
        f"{found.path} does not do what its import does, from step {step + 1} on: {int(found.wrong.sum())} "
        "spikes or membranes differ by more than rounding, the membranes by up to "
        f"{found.membranes:.3g}{hint}. The import is refused, since bounds would speak about another network"
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
def check_cell(library: Library, path: str, cell: Cell, module: nn.Module, like: Tensor) -> None:
    """Compare a copy of a module with its import, on currents that lead it to its threshold and next to it.

    Args:
        like: its inputs of one step, ``[B, ...]``.

    Raises:
        UserError: where it does not do what its import does, with the convention that differs.
    """
    plan = Plan()
    last = plan.lay("layers.0.cell", nn.Sequential(*cell.layers), Wire(0))
    program = frozen(plan, last, FrameInput(), READOUTS["last"])
    currents = _currents(cell, like)
    did = library.drive(module, cell, currents)
    if len(did.spikes) != len(currents):  # an encoder, which holds what it gets
        currents = currents[:1].expand(len(did.spikes), *like.shape)
    stages = {f"cell.{len(cell.layers) - 1}": Seen(path, did)}
    list(_walk(program, currents, stages, len(currents), cell.exact))


def _currents(cell: Cell, like: Tensor) -> Tensor:
    """Currents ``[8, B, ...]`` that meet the threshold, if that is possible."""
    threshold, gain = like.new_ones(()), 1.0
    if cell.neuron is not None and cell.gain is not None:
        dynamics, gain = cell.neuron.dynamics(), cell.gain
        threshold = dynamics.threshold - dynamics.initial
    threshold = threshold.expand(like.shape)
    draw = torch.Generator().manual_seed(0)
    parts = torch.tensor([-0.5, 0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 2.5])
    chosen = parts[torch.randint(len(parts), (8, *like.shape), generator=draw)].to(threshold)
    currents = chosen * threshold / gain
    for step, towards in enumerate((torch.inf, -torch.inf)):  # neighbours of the threshold, on both sides
        beside = torch.nextafter(threshold, threshold.new_tensor(towards)) / gain
        currents[0] = torch.where(chosen[0] == chosen[step + 1], beside, currents[0])
    return currents
