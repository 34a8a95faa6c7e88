"""Functional operations of foreign modules, as layers of torch's or as joints of a graph.

Each handler notes what the results of a call are, or raises Unsupported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from certsnn.interop.values import HELD, ONE, SEQUENCE, Unsupported, Value, When, together
from certsnn.layers import Scale

if TYPE_CHECKING:
    from certsnn.interop.recording import Recording

READS = (
    "item",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "tolist",
    "numpy",
    "__array__",
    "__contains__",
)
"""Methods by which a module looks at numbers, and may go on as they say."""
SILENT = (*READS, "__setitem__")
"""Methods that count though they return no tensor."""
SAME_SIGN = (
    *(
        nn.Flatten,
        nn.Unflatten,
        nn.Identity,
        nn.Dropout,
        nn.MaxPool1d,
        nn.MaxPool2d,
        nn.AvgPool1d,
        nn.AvgPool2d,
    ),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
"""Layers that make no negative number of others that are none."""
ENDS: Mapping[str, Callable[..., Tensor]] = {"=softmax": torch.softmax, "=log_softmax": torch.log_softmax}
"""What may stand at the end, where it is left out, since it keeps the order of logits; by its key."""
CONSTANTS = ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty")
RANDOM = ("rand_like", "randn_like", "bernoulli", "le", "lt", "gt", "ge", "multinomial", "poisson")


@final
@dataclass(frozen=True)
class Call:
    """A call of an operation; ``shape``: of its first tensor, before the call."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    shape: torch.Size
    record: Recording

    @property
    def operation(self) -> str:
        """The name without the class or module, and without the mark of an operation in place."""
        parts = self.name.split(".")
        name = parts[-2] if parts[-1] == "__get__" else parts[-1]
        return name if name.startswith("__") else name.rstrip("_")

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place (0: the first) or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def tracked(self) -> Value:
        """The value of the first argument; raises Unsupported for a constant."""
        value = self.record.value(self.argument(0, "input"))
        if value is None:
            raise Unsupported("its first argument is a constant: exchange them")
        return value

    def returns(self, value: Value) -> None:
        """Note what the one result is."""
        self.record.emit(self.result, value)


def advice(operation: str) -> str:
    """What to do about an operation without a handler."""
    if operation in READS:
        return (
            "the module goes on as numbers of the network say, which a graph can't: take that out of forward"
        )
    if operation in RANDOM:
        return (
            "the module draws or compares inside: encode the input before it (certsnn.encoding), and import "
            "it with input='spikes'"
        )
    return "certsnn has no bound for it: use a layer or an operation that docs/guide/import.md lists"


def _same(call: Call) -> None:
    """The same numbers in the same shape; a copy, a view, another device."""
    if call.result.is_floating_point() and call.result.shape == call.shape:
        call.returns(call.tracked())
        return
    raise Unsupported("it changes the numbers' type: keep floats")


def _reshape(call: Call) -> None:
    value, x, y = call.tracked(), call.shape, call.result
    lead = value.when.lead
    if y.shape == x:
        call.returns(value)
    elif value.when.kind == "held" and y.shape == (1, *x) and call.operation in ("unsqueeze", "__getitem__"):
        call.returns(Value(value.node, ONE))
    elif y.shape[:lead] != x[:lead] or y.shape.numel() != x.numel():
        raise Unsupported("it mixes samples or steps: keep the axes of steps and batch as they are")
    else:
        layers: list[nn.Module] = [] if len(x) == lead + 1 else [nn.Flatten(1)]
        if y.ndim != lead + 1:
            layers.append(nn.Unflatten(1, tuple(y.shape[lead:])))
        for layer in layers:
            value = call.record.layer(layer, value)
        call.returns(value)


def _repeat(call: Call) -> None:
    """A held value repeated at all steps."""
    value, y = call.tracked(), call.result
    sample = call.shape if value.when == HELD else call.shape[1:]
    if y.shape == call.shape:
        call.returns(value)
    elif value.when in (HELD, ONE) and y.shape[1:] == sample:
        call.returns(Value(value.node, SEQUENCE))
    else:
        raise Unsupported("it repeats other axes than that of the steps")


def _index(call: Call) -> None:
    index = call.args[1]
    first, *rest = index if isinstance(index, tuple) else (index,)
    whole = all(part in (Ellipsis, slice(None)) for part in rest if not isinstance(part, Tensor))
    value = call.tracked()
    if first is None and whole:
        _reshape(call)
    elif value.when == SEQUENCE and isinstance(first, int) and whole and call.result.shape == call.shape[1:]:
        call.returns(Value(value.node, When("step", first % call.shape[0])))
    else:
        raise Unsupported("of a tensor over time one whole step can be taken, x[t], and nothing else")


def _unbind(call: Call) -> None:
    value = call.tracked()
    if value.when != SEQUENCE or call.argument(1, "dim", 0) != 0:
        raise Unsupported("only steps can be unbound")
    for number, part in enumerate(call.result):
        call.record.emit(part, Value(value.node, When("step", number)))


def _parts(call: Call) -> list[Value]:
    found = [call.record.value(part) for part in call.argument(0, "tensors")]
    parts = [value for value in found if value is not None]
    if len(parts) < len(found):
        raise Unsupported("some of its tensors are constants")
    return parts


def _stack(call: Call) -> None:
    parts = _parts(call)
    in_order = [value.when for value in parts] == [When("step", number) for number in range(len(parts))]
    alike = len({value.node for value in parts}) == 1 and call.argument(1, "dim", 0) == 0
    if not alike or not (in_order or all(value.when == HELD for value in parts)):
        raise Unsupported("only one output at all steps, in their order, can be stacked, on axis 0")
    call.returns(Value(parts[0].node, SEQUENCE))


def _concatenate(call: Call) -> None:
    parts = _parts(call)
    when = together(parts)
    if call.argument(1, "dim", 0) % call.result.ndim != when.lead:
        raise Unsupported("outputs can be joined along channels or features only")
    call.returns(Value(call.record.node("=Concatenate", [value.node for value in parts]), when))


def _add(call: Call) -> None:
    _combine(call, 1.0)


def _subtract(call: Call) -> None:
    _combine(call, -1.0)


def _combine(call: Call, sign: float) -> None:
    """``a + sign b``: a joint, the next step of a sum over time, or nothing for a zero."""
    a, b = call.argument(0, "input"), call.argument(1, "other")
    one, other = call.record.value(a), call.record.value(b)
    if call.kwargs.get("alpha", 1) != 1:
        raise Unsupported("alpha is not understood: multiply first")
    if one is None or other is None:
        constant, value = (a, other) if one is None else (b, one)
        assert value is not None
        if torch.as_tensor(constant).any() or (one is None and sign < 0):
            raise Unsupported("it adds a constant: put it into the bias of a layer")
        call.returns(value)
        return
    if sign > 0 and _is_next(one, other):
        call.returns(Value(one.node, When("part", other.when.number + 1)))
        return
    when = together([one, other])
    if sign < 0:
        other = call.record.layer(Scale(-1.0), other)
    call.returns(Value(call.record.node("=Add", [one.node, other.node]), when))


def _is_next(total: Value, value: Value) -> bool:
    """Whether a value is the next summand of a sum over the first steps."""
    counted = 1 if total.when == When("step", 0) else total.when.number if total.when.kind == "part" else 0
    return counted > 0 and total.node == value.node and value.when == When("step", counted)


def _multiply(call: Call) -> None:
    a, b = call.argument(0, "input"), call.argument(1, "other")
    value, constant = (call.record.value(a), b) if call.record.value(b) is None else (call.record.value(b), a)
    assert value is not None
    _scale(call, value, constant, False)


def _divide(call: Call) -> None:
    _scale(call, call.tracked(), call.argument(1, "other"), True)


def _scale(call: Call, value: Value, constant: Any, divide: bool) -> None:
    if call.record.value(constant) is not None or torch.as_tensor(constant).numel() != 1:
        raise Unsupported("only one number can multiply or divide: use a layer")
    factor = 1 / float(constant) if divide else float(constant)
    if value.when.kind in ("part", "sum") and divide and float(constant) == value.when.number:
        call.returns(Value(value.node, When("mean", value.when.number)))
    elif value.when.kind not in ("held", "step", "sequence"):
        raise Unsupported("it scales what has been read over time: scale before that")
    else:
        call.returns(value if factor == 1 else call.record.layer(Scale(factor), value))


def _negate(call: Call) -> None:
    call.returns(call.record.layer(Scale(-1.0), call.tracked()))


def _over_time(kind: Any) -> Callable[[Call], None]:
    """A reduction over the steps."""

    def handler(call: Call) -> None:
        value = call.tracked()
        axis = call.argument(1, "dim", call.kwargs.get("axis"))
        if value.when != SEQUENCE or axis not in (0, (0,), [0]) or call.kwargs.get("keepdim", False):
            raise Unsupported("of outputs over time [T, B, ...] only axis 0, the steps, can be reduced")
        found = call.result if isinstance(call.result, Tensor) else call.result[0]
        call.record.emit(found, Value(value.node, When(kind, call.shape[0])))

    return handler


def _pool(kind: Callable[..., nn.Module], names: Sequence[str]) -> Callable[[Call], None]:
    """A functional pooling, as the layer with the same arguments."""

    def handler(call: Call) -> None:
        value = call.tracked()
        if value.when.lead != 1:
            raise Unsupported("it takes one step: give it x[t]")
        given = {**dict(zip(names, call.args[1:], strict=False)), **call.kwargs}
        call.returns(call.record.layer(kind(**given), value))

    return handler


def _relu(call: Call) -> None:
    value = call.tracked()
    if not call.record.counts(value.node):
        raise Unsupported("certsnn has no bound for it but on spikes, which it leaves as they are")
    call.returns(value)


def _write(call: Call) -> None:
    """A step's output written to its place in a tensor for all steps."""
    target, index, part = call.args
    value, before = call.record.value(part), call.record.value(target)
    first, *rest = index if isinstance(index, tuple) else (index,)
    whole = isinstance(first, int) and all(one in (Ellipsis, slice(None)) for one in rest)
    node = None if value is None or not whole else value.node
    filled = Value(node or 0, When("filled", first)) if first else None
    if value is None or not node or value.when != When("step", first) or before != filled:
        raise Unsupported(
            "of a tensor for all steps each is written once, in their order, as a whole: y[t] = ..."
        )
    full = first + 1 == len(target)
    call.record.emit(target, Value(node, SEQUENCE if full else When("filled", first + 1)))


def _end(call: Call) -> None:
    """What keeps the order of logits, behind all that reads them over time."""
    value = call.tracked()
    if value.when.kind in ("held", "step", "sequence", "one", "filled") or call.result.ndim != 2:
        raise Unsupported("it stands before what reads outputs over time: leave it out, or put it at the end")
    if call.argument(1, "dim") not in (1, -1):
        raise Unsupported("it is taken over other axes than the classes: say dim=1")
    call.returns(Value(call.record.node(f"={call.operation}", [value.node]), value.when))


def _dropout(call: Call) -> None:
    if call.argument(2, "training", True):
        raise Unsupported("it drops values in eval mode, too: pass training=self.training")
    _same(call)


MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
MEAN = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

HANDLERS: Mapping[str, Callable[[Call], None]] = {
    **dict.fromkeys(("clone", "contiguous", "detach", "data", "float", "to", "double", "cpu", "cuda"), _same),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as"), _reshape),
    **dict.fromkeys(("repeat", "expand"), _repeat),
    "__getitem__": _index,
    "unbind": _unbind,
    "stack": _stack,
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    "add": _add,
    "sub": _subtract,
    **dict.fromkeys(("mul", "multiply"), _multiply),
    **dict.fromkeys(("div", "true_divide"), _divide),
    "neg": _negate,
    "mean": _over_time("mean"),
    "sum": _over_time("sum"),
    **dict.fromkeys(("max", "amax"), _over_time("maximum")),
    "max_pool1d": _pool(nn.MaxPool1d, MAX),
    "max_pool2d": _pool(nn.MaxPool2d, MAX),
    "avg_pool1d": _pool(nn.AvgPool1d, MEAN),
    "avg_pool2d": _pool(nn.AvgPool2d, MEAN),
    "adaptive_avg_pool1d": _pool(nn.AdaptiveAvgPool1d, ("output_size",)),
    "adaptive_avg_pool2d": _pool(nn.AdaptiveAvgPool2d, ("output_size",)),
    "dropout": _dropout,
    "relu": _relu,
    "__setitem__": _write,
    **dict.fromkeys(("softmax", "log_softmax"), _end),
}
"""Handlers by the names of operations."""
