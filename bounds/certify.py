"""The entry points: margin bounds, certificates, and the bounds of every layer."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from certsnn.bounds.cascade import Verdict, decide, overflowed
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic, Interval
from certsnn.bounds.interval.overflow import Layout, Overflow, check_float_model, largest_number, layout
from certsnn.bounds.interval.propagate import layers_of, propagate
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.memory import intervals_that_fit
from certsnn.bounds.methods import method_named
from certsnn.bounds.options import BoundOptions, Relaxing
from certsnn.bounds.problem import Problem
from certsnn.bounds.supports import support_of
from certsnn.checks import check_labels, check_question
from certsnn.inference_mode import outside_inference_mode, usable, usable_network
from certsnn.inputsets import InputSet, Threat
from certsnn.layers import check_plain
from certsnn.networks import SpikingNetwork
from certsnn.products import check_products
from certsnn.program import Program


class LayerBounds(NamedTuple):
    """Bounds ``[T, B, ...]`` of one layer's membranes before firing and of its spikes."""

    membranes: Interval
    spikes: Interval


@outside_inference_mode()
def margin_bounds(
    network: SpikingNetwork,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    method: str = "s-ibp",
    *,
    rounding: bool = False,
    index: Tensor | None = None,
    relaxation: Relaxing = "joint",
    memory: int = BoundOptions.memory,
    iterations: int = BoundOptions.iterations,
) -> Tensor:
    """Lower bounds of the margins over everything that the threat allows.

    Args:
        network: bounded as it acts in eval mode.
        x: images ``[B, ...]`` or spikes ``[T, B, ...]``, as the threat takes them.
        y: classes ``[B]``, int64.
        threat: a threat, or an input set that is bound already (then x is the network's nominal input).
        method: a name in `METHODS`; "auto" is the elementwise best of its methods (without gradients), which
            leave a sample alone once all of its margins are positive.
        rounding: also cover the rounding errors of the executed network (then computed in float64 and not
            meant to be differentiated).
        index: the samples' positions in the data set, ``[B]``, which key random encodings; 0..B-1 if None.
        relaxation: how S-CROWN relaxes firing and reset: together, or apart as published.
        memory: bytes that interval bounds may take, and as many for the coefficients of a backward pass:
            both are cut into pieces that fit. (Gradients take more, as all pieces are kept for them.)
        iterations: steps in which "alpha-s-crown" optimises slopes.

    Returns:
        ``[B, K-1]``: lower bounds of ``logit[y] - logit[j]`` for j != y in ascending order.

    Raises:
        ValueError, TypeError: for inputs, labels or combinations that do not fit; before any work.
        ValueError: if the memory holds neither one sample's bounds nor one row of coefficients.
    """
    options = BoundOptions(method, rounding, relaxation, memory, iterations=iterations)
    bound = method_named(method)
    x0, input_set = bind(network, x, threat, index)
    program = usable_network(network).freeze()
    pieces = intervals_that_fit(posed(network, program, x0, y, input_set, rounding), memory)
    return torch.cat([bound(piece, options) for piece in pieces])


@outside_inference_mode()
def certify(
    network: SpikingNetwork,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    method: str = "s-ibp",
    *,
    rounding: bool = True,
    index: Tensor | None = None,
    relaxation: Relaxing = "joint",
    memory: int = BoundOptions.memory,
    seconds: float | None = None,
    iterations: int = BoundOptions.iterations,
) -> Verdict:
    """Decide for each sample whether its class is proved; arguments as `margin_bounds`.

    A margin of 0 (a tie) is not certified. With ``rounding=True`` the verdict holds for the float32 network
    as executed in eval mode, in any summation order. Where a method runs out of memory or time, or gives
    bounds that are not finite, the status says so, and the other samples go on.

    Args:
        network, x, y, threat, rounding, index, relaxation, memory, iterations: see `margin_bounds`.
        method: a name in `METHODS`; "auto" tries its stages one after the other, each on the samples
            that are still undecided (and that the network gets right), and before the slow ones an attack.
        seconds: the time limit of a sample. It ends the attack and the methods that refine layers or search
            ("s-crown", "branch-and-bound", "alpha-s-crown"), of which each gets an equal share, and what
            those before have left; the quick methods always run. Samples that are refined together share
            the sum of theirs.
    """
    options = BoundOptions(method, rounding, relaxation, memory, seconds, iterations)
    method_named(method)  # raises for an unknown one, before any work
    with torch.no_grad():
        x0, input_set = bind(network, x, threat, index)
        return certified(network, usable_network(network).freeze(), x0, y, input_set, options)


def certified(
    network: SpikingNetwork,
    program: Program,
    x0: Tensor,
    y: Tensor,
    input_set: InputSet,
    options: BoundOptions,
) -> Verdict:
    """`certify` for a network that is frozen and inputs that are bound (`bind`)."""
    method = method_named(options.method)
    try:
        problem = posed(network, program, x0, y, input_set, options.rounding)
    except Overflow as error:
        if options.rounding:
            raise
        return overflowed(x0, y, str(error))
    return decide(problem, method.stages, options, method.attack)


@outside_inference_mode()
def layer_bounds(
    network: SpikingNetwork,
    x: Tensor,
    threat: Threat,
    *,
    rounding: bool = False,
    index: Tensor | None = None,
) -> list[LayerBounds]:
    """S-IBP's bounds of every layer's membranes and spikes, at every step; arguments as `margin_bounds`."""
    x0, input_set = bind(network, x, threat, index)
    program = usable_network(network).freeze()
    y = torch.zeros(x0.shape[input_set.batch_axis], dtype=torch.int64, device=x0.device)  # of no account
    sources = propagate(posed(network, program, x0, y, input_set, rounding), feasible_flips)
    return [LayerBounds(layer.membranes, layer.spikes) for layer in layers_of(sources)]


def bind(network: SpikingNetwork, x: Tensor, threat: Threat, index: Tensor | None) -> tuple[Tensor, InputSet]:
    """The network's nominal input and the input set around it.

    Raises:
        ValueError, TypeError: if the threat does not fit the network, or x does not fit either.
    """
    check_question(network, x, threat)
    check_plain(network, SpikingNetwork)
    if threat.network_input != network.input.kind:
        raise ValueError(
            f"{threat.describe()} needs a network with input={threat.network_input!r}, this one has "
            f"input={network.input.kind!r}"
        )
    if index is None:
        if threat.random:
            warnings.warn(
                f"{threat.describe()} draws each sample's noise by its position in the data set; without "
                "index= this batch is taken to be the first one",
                stacklevel=3,
            )
        index = torch.arange(x.shape[0 if threat.domain == "image" else 1] if x.ndim > 1 else 0)
    x0, input_set = threat.bind(x, index)
    network.check(x0)
    return usable(x0), input_set


def posed(
    network: SpikingNetwork, program: Program, x0: Tensor, y: Tensor, input_set: InputSet, rounding: bool
) -> Problem:
    """The problem of a network that is frozen and inputs that are bound.

    Raises:
        ValueError, TypeError: for labels that do not fit, a set without a support, or a network that
            certificates do not cover.
        Overflow: if sums of the network may leave the range of its dtype.
    """
    support, shapes = support_of(input_set), layout(program, x0)
    check_labels("y", y, x0.shape[network.input.batch_axis], shapes.classes, x0.device)
    arithmetic = _arithmetic(network, shapes, x0, input_set, rounding)
    return Problem(program, x0, usable(y), support, arithmetic, shapes.classes)


def pose(program: Program, x0: Tensor, y: Tensor, input_set: InputSet, arithmetic: Arithmetic) -> Problem:
    """The problem in an arithmetic of one's choice; nothing is checked."""
    return Problem(program, x0, y, support_of(input_set), arithmetic, layout(program, x0).classes)


def _arithmetic(
    network: SpikingNetwork, shapes: Layout, x0: Tensor, input_set: InputSet, rounding: bool
) -> Arithmetic:
    """How to compute; raises TypeError or ValueError unless what is computed then holds."""
    for name, values in network.state_dict().items() if rounding else ():
        if values.is_floating_point() and values.dtype != torch.float32:
            raise TypeError(
                f"rounding=True covers float32 networks, but {name} is {values.dtype}; convert the "
                "network with .float()"
            )
    lower, upper = input_set.box(x0)
    largest = float(torch.maximum(-lower, upper).max()) if x0.numel() else 0.0
    steps = shapes.program.input.frames(x0, None)[1]
    # Sums up to a third of the largest number stay finite, whatever they are rounded to on the way.
    largest = largest_number(shapes, largest, torch.finfo(x0.dtype).max / 3, steps)
    if not rounding:
        return PLAIN
    check_float_model(shapes, steps)
    check_products(x0.device)
    return RIGOROUS.within(largest)
