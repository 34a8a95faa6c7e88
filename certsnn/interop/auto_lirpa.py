"""auto_LiRPA as a second engine: the same network, bounded by code that shares nothing with ours but neurons.

The engine is optional: ``pip install --no-deps auto_LiRPA==0.3 tqdm appdirs``, imported on first use. Version
0.3, the latest on PyPI, is run in a compatibility layer; 0.4 and later (from source) are untested.

Boxes are all that it takes: images (`LinfBall`) and spikes between two trains (`SpikeBox`, and the box
around `NestedTrains`). Its sets of flips ignore a layer's bounds and are unsound unless the first layer is
linear, so a budget of flips or events is refused. Neurons are relaxed separately for firing and carry, and
rounding errors are not covered: these bounds are for comparison, not for certificates. Source: Xu et al.,
*Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond*, 2020 (auto_LiRPA),
https://arxiv.org/abs/2002.12920.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from certsnn.inputsets import EventChanges, InputSet, SpikeFlips
from certsnn.interop._lirpa_compat import borrowing, bounded_module, hosting, load
from certsnn.interop._lirpa_module import Unrolled
from certsnn.interop._lirpa_neurons import bound_classes
from certsnn.products import ieee_products
from certsnn.program import Program

_METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN"}
ENGINE_METHODS = tuple(_METHODS)
"""Intervals; linear bounds of the margins over intervals of the membranes; linear bounds throughout."""


@final
class Engine:
    """A program converted for a batch; converting takes longer than bounding, so keep it for more bounds.

    Args:
        program: the network; its weights are copied.
        x0: the nominal inputs, images ``[B, ...]`` or spikes ``[T, B, ...]``, B >= 1.

    Raises:
        UserError: if auto_LiRPA is not installed.
        TypeError: for an affine operator that it does not take.
        ValueError: for a network without weights.
    """

    def __init__(self, program: Program, x0: Tensor) -> None:
        self._lirpa: Any = load()
        self._x0 = x0
        self._frames = program.input.frames
        dynamics = [stage.neuron for stage in program.stages]
        with torch.no_grad(), hosting(), borrowing():
            module = Unrolled(program, x0).eval()
            if next(module.parameters(), None) is None:
                raise ValueError("auto-lirpa takes its dtype from a network's weights, and this one has none")
            self._classes = module(*self._split(x0)).shape[1]
            self._bounded = bounded_module(self._lirpa)(
                module,
                tuple(self._split(x0)),
                bound_opts={"conv_mode": "matrix"},
                custom_ops=bound_classes(self._lirpa.bound_ops.Bound, dynamics),
            )
            self._bounded.eval()

    def _split(self, x: Tensor) -> list[Tensor]:
        """The frames ``[B, ...]``, each an input of its own."""
        return list(self._frames(x, None)[0])

    def margins(self, input_set: InputSet, y: Tensor, method: str) -> Tensor:
        """Lower bounds ``[B, K-1]`` of the margins around x0; see `margin_bounds`."""
        check(input_set, method)
        lower, upper = input_set.box(self._x0)
        inputs = [
            self._lirpa.BoundedTensor(x, self._lirpa.PerturbationLpNorm(x_L=low, x_U=high))
            for x, low, high in zip(*map(self._split, (self._x0, lower, upper)), strict=True)
        ]
        with torch.no_grad(), hosting(), ieee_products():
            bound: Tensor = self._bounded.compute_bounds(
                x=tuple(inputs),
                C=self._differences(y),
                method=_METHODS[method],
                bound_upper=False,
            )[0]
        return bound

    def _differences(self, y: Tensor) -> Tensor:
        """The specification ``[B, K-1, K]``: rows logit[y] - logit[j] for j != y, ascending."""
        identity = torch.eye(self._classes, dtype=self._x0.dtype, device=self._x0.device)
        rival = torch.arange(self._classes, device=y.device) != y[:, None]
        return (identity[y][:, None] - identity)[rival].reshape(len(y), -1, self._classes)


def check(input_set: InputSet, method: str) -> None:
    """Raise ValueError for an unknown method or a set that the engine has no sound bounds for."""
    if method not in _METHODS:
        raise ValueError(f"auto-lirpa has no method {method!r}; known: {', '.join(_METHODS)}")
    if isinstance(input_set, (SpikeFlips, EventChanges)) and input_set.budget > 0:
        raise ValueError(
            f"auto-lirpa has no sound bounds for {input_set.describe()}: use a box, or one of "
            "certsnn's own methods"
        )


def margin_bounds(program: Program, x0: Tensor, y: Tensor, input_set: InputSet, method: str) -> Tensor:
    """Lower bounds of the margins, computed by auto_LiRPA; rounding errors are not covered.

    Args:
        program: the network.
        x0: its nominal inputs, images ``[B, ...]`` or spikes ``[T, B, ...]``.
        y: classes ``[B]``, int64.
        input_set: the set around x0, taken as its box.
        method: a name in `ENGINE_METHODS`.

    Returns:
        ``[B, K-1]``: lower bounds of ``logit[y] - logit[j]`` for j != y, ascending; without gradients.

    Raises:
        ValueError: for an unknown method, a flip budget, or a network without weights.
        UserError: if auto_LiRPA is not installed.
    """
    check(input_set, method)
    if len(y) == 0:
        with torch.no_grad():
            return program.run(x0)[:, 1:]
    return Engine(program, x0).margins(input_set, y, method)
