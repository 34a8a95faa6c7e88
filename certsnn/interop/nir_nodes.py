"""Nodes of NIR as certsnn's layers: its differential equations, in steps of one length.

Read literally (https://neuroir.org/docs/primitives.html), in explicit Euler steps: ``tau v' = (v_leak - v) +
r I`` is ``v + dt / tau ((v_leak - v) + r I)``, so what is kept is ``1 - dt / tau``, and the current is
multiplied by ``dt r / tau``. Spikes are where ``v > v_threshold``, and all potentials start at ``v_leak``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from certsnn.filters import Synapse
from certsnn.interop.libraries import above, after
from certsnn.interop.values import Unsupported
from certsnn.layers import Scale, SumPool2d
from certsnn.neurons import LIF

ResetName = Literal["v_reset", "subtract", "subtract-next"]
RESETS: Sequence[ResetName] = ("v_reset", "subtract", "subtract-next")


@final
@dataclass(frozen=True)
class Steps:
    """What NIR leaves open: the length of a step, in the unit of the time constants, and the reset.

    ``"v_reset"``: to that potential, as NIR has it. ``"subtract"``: by the threshold, in the step of the
    spike. ``"subtract-next"``: by the threshold, in the step after, as in snnTorch, whose files can't say so.
    """

    dt: float
    reset: ResetName

    def kept(self, tau: Any) -> np.ndarray[Any, Any]:
        """What is left after a step."""
        return 1 - self.dt / _array(tau)

    def gain(self, tau: Any, r: Any) -> np.ndarray[Any, Any]:
        """What a step's current is multiplied by."""
        return np.asarray(self.dt / _array(tau) * _array(r))


def _array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value, dtype=np.float64)


def number(value: np.ndarray[Any, Any]) -> float | Tensor:
    """Values that are alike in the default dtype as one number, others as a tensor in it.

    Raises:
        Unsupported: for NaN and infinity.
    """
    if not np.isfinite(value).all():
        raise Unsupported("its numbers are not all finite")
    found = torch.as_tensor(value, dtype=torch.get_default_dtype())
    return float(found.flatten()[0]) if bool((found == found.flatten()[:1]).all()) else found


def one(value: np.ndarray[Any, Any], what: str) -> float:
    """The one number of values that are all alike; raises Unsupported, by their name, for others."""
    found = number(value)
    if isinstance(found, Tensor):
        raise Unsupported(f"its {what} differ between neurons")
    return found


def _weight(value: Any) -> nn.Parameter:
    return nn.Parameter(torch.tensor(np.asarray(value), dtype=torch.get_default_dtype()))


def _linear(node: Any, steps: Steps) -> Sequence[nn.Module]:
    weight = _weight(node.weight)
    if weight.ndim != 2:
        raise Unsupported("its weight has more than two axes")
    bias = getattr(node, "bias", None)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = weight
    if bias is not None:
        layer.bias = _weight(bias)
    return [layer]


def _sizes(value: Any) -> Any:
    """Strides and paddings as torch takes them."""
    if isinstance(value, (str, bytes)):
        return value if isinstance(value, str) else value.decode()
    found = tuple(int(part) for part in np.atleast_1d(np.asarray(value)))
    return found if len(found) > 1 else found[0]


def _convolution(kind: type[nn.Conv1d] | type[nn.Conv2d]) -> Callable[[Any, Steps], Sequence[nn.Module]]:
    def layers(node: Any, steps: Steps) -> Sequence[nn.Module]:
        weight, groups = _weight(node.weight), int(node.groups)
        sizes = {name: _sizes(getattr(node, name)) for name in ("stride", "padding", "dilation")}
        kernel: Any = tuple(weight.shape[2:])
        layer = kind(
            *(weight.shape[1] * groups, weight.shape[0], kernel),
            groups=groups,
            bias=node.bias is not None,
            **sizes,
        )
        layer.weight = weight
        if node.bias is not None:
            layer.bias = _weight(node.bias)
        return [layer]

    return layers


def _pool(kind: type[nn.AvgPool2d] | type[SumPool2d]) -> Callable[[Any, Steps], Sequence[nn.Module]]:
    def layers(node: Any, steps: Steps) -> Sequence[nn.Module]:
        kernel, stride, padding = map(_sizes, (node.kernel_size, node.stride, node.padding))
        if kind is nn.AvgPool2d and np.any(padding):
            raise Unsupported("NIR does not say whether its padding counts in the mean: pad by nothing")
        return [kind(kernel, stride, padding)]

    return layers


def _flatten(node: Any, steps: Steps) -> Sequence[nn.Module]:
    """Its axes are those of a sample, without the batch."""
    start, end = int(node.start_dim), int(node.end_dim)
    return [nn.Flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)]


def _scale(node: Any, steps: Steps) -> Sequence[nn.Module]:
    factor = one(_array(node.scale), "factors")
    return [nn.Identity() if factor == 1 else Scale(factor)]


def _threshold(node: Any, steps: Steps) -> Sequence[nn.Module]:
    return [LIF(above(number(_array(node.threshold))), 0.0)]


def _fire(node: Any, steps: Steps, decay: np.ndarray[Any, Any], gain: Any, *before: nn.Module) -> Any:
    """Neurons behind other layers, in potentials less ``v_leak``, and divided by gains that differ."""
    leak = _array(getattr(node, "v_leak", 0.0))
    factor = number(gain)
    unit = gain if isinstance(factor, Tensor) else np.ones(())  # differs between neurons
    if not (unit > 0).all():
        raise Unsupported("its resistances differ, and not all of them are positive")
    kept, threshold = number(decay), (_array(node.v_threshold) - leak) / unit
    offset = _array(node.v_threshold) / unit
    order: Literal["reset-first", "current-first"] = "reset-first"
    if steps.reset == "v_reset":
        to = number((_array(node.v_reset) - leak) / unit)
        reset: Any = "zero" if isinstance(to, float) and to == 0 else to
    elif steps.reset == "subtract":
        reset = (kept, number(-decay * offset))
    else:
        reset, order = (kept, number(-offset)), "current-first"
    neuron = LIF(above(number(threshold)), kept, reset, order=order)
    return after(1.0 if isinstance(factor, Tensor) else factor, *before, neuron)


def _lif(node: Any, steps: Steps) -> Sequence[nn.Module]:
    return list(_fire(node, steps, steps.kept(node.tau), steps.gain(node.tau, node.r)))


def _if(node: Any, steps: Steps) -> Sequence[nn.Module]:
    return list(_fire(node, steps, np.ones(()), steps.gain(1.0, node.r)))


def _current(node: Any, steps: Steps) -> list[nn.Module]:
    """The current of CubaLI and CubaLIF; a step's input is in it at once."""
    gain = one(steps.gain(node.tau_syn, node.w_in), "input weights")
    return list(after(gain, Synapse(number(steps.kept(node.tau_syn)))))


def _cuba_lif(node: Any, steps: Steps) -> Sequence[nn.Module]:
    return [
        *_current(node, steps),
        *_fire(node, steps, steps.kept(node.tau_mem), steps.gain(node.tau_mem, node.r)),
    ]


def _integrate(node: Any, decay: np.ndarray[Any, Any], gain: np.ndarray[Any, Any]) -> Sequence[nn.Module]:
    if np.any(_array(getattr(node, "v_leak", 0.0))):
        raise Unsupported("it leaks towards another potential than zero: set v_leak to 0, and add a bias")
    return after(one(gain, "resistances"), Synapse(number(decay)))


def _li(node: Any, steps: Steps) -> Sequence[nn.Module]:
    return _integrate(node, steps.kept(node.tau), steps.gain(node.tau, node.r))


def _i(node: Any, steps: Steps) -> Sequence[nn.Module]:
    return _integrate(node, np.ones(()), steps.gain(1.0, node.r))


def _cuba_li(node: Any, steps: Steps) -> Sequence[nn.Module]:
    after_current = _integrate(node, steps.kept(node.tau_mem), steps.gain(node.tau_mem, node.r))
    return [*_current(node, steps), *after_current]


LAYERS: Mapping[str, Callable[[Any, Steps], Sequence[nn.Module]]] = {
    "Affine": _linear,
    "Linear": _linear,
    "Conv1d": _convolution(nn.Conv1d),
    "Conv2d": _convolution(nn.Conv2d),
    "AvgPool2d": _pool(nn.AvgPool2d),
    "SumPool2d": _pool(SumPool2d),
    "Flatten": _flatten,
    "Scale": _scale,
    "Threshold": _threshold,
    "LIF": _lif,
    "IF": _if,
    "CubaLIF": _cuba_lif,
    "LI": _li,
    "I": _i,
    "CubaLI": _cuba_li,
}
"""By the name of a node's class."""


def layers_of(node: Any, steps: Steps) -> Sequence[nn.Module]:
    """A node as layers in a row; raises Unsupported for one that certsnn has no layers for."""
    kind = type(node).__name__
    if kind not in LAYERS:
        raise Unsupported(f"certsnn has no layer for a {kind}; it knows {', '.join(LAYERS)}")
    try:
        return LAYERS[kind](node, steps)
    except (TypeError, ValueError, AttributeError) as error:
        raise Unsupported(str(error)) from error
