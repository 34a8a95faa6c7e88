"""Runs a foreign module and records its graph: which layers and operations, on what, at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from certsnn.interop.libraries import Cell, Library, Observed
from certsnn.interop.operations import CONSTANTS, ENDS, HANDLERS, SAME_SIGN, SILENT, Call, advice
from certsnn.interop.values import BROKEN, HELD, SEQUENCE, Entry, Unsupported, Value, When

OF_STEPS = ("held", "step", "sequence")
"""The kinds of values that have not been read over time."""


def copied(module: nn.Module) -> nn.Module:
    """A copy in eval mode; states that carry gradients, which torch does not copy, are detached in it."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for store in (vars(part), part._buffers, vars(part).get("_memories", {})):
            for value in store.values():
                if isinstance(value, Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
    return deepcopy(module, memo).eval()


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of arguments or results, in lists, tuples and dicts too."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from tensors(part)
    elif isinstance(tree, dict):
        yield from tensors(list(tree.values()))


def state_of(path: str, place: int) -> str:
    """The key of what a module returns beside its spikes or outputs, by its place there from 0 on."""
    return f"={place} of {path}"


def membrane_of(key: str) -> str | None:
    """The path of the module whose state a key means; None for any other key."""
    place, between, path = key.partition(" of ")
    return path if between and place[1:].isdigit() else None


@final
class Recording(TorchFunctionMode):
    """A copy of the module, and what has been recorded of its runs.

    ``entries``: the nodes; ``made``: layers of functional operations, by their keys; ``observed``,
    ``inputs``: what each module with a state did, and its inputs of one step, by its path; ``problems``: what
    can't be imported, in the order it was met.
    """

    def __init__(self, library: Library, module: nn.Module) -> None:
        super().__init__()
        self.entries: list[Entry] = [Entry("input", ())]
        self.made: dict[str, nn.Module] = {}
        self.cells: dict[str, Cell] = {}
        self.observed: dict[str, list[Observed]] = {}
        self.inputs: dict[str, Tensor] = {}
        self.drives: dict[str, int] = {}
        self.problems: dict[str, None] = {}
        self.twin = copied(module)
        self._library = library
        self._values: dict[int, tuple[Tensor, Value]] = {}
        self._scopes = [f"the {type(module).__name__}"]
        self._in_leaf = False
        self._attach(self.twin, "", set())

    # Values and nodes.

    def value(self, tensor: Any) -> Value | None:
        """What a tensor is; None for a constant."""
        found = self._values.get(id(tensor))
        return None if found is None else found[1]

    def emit(self, tensor: Tensor, value: Value) -> None:
        """Note what a tensor is. It is kept, so that its id stays its own."""
        self._values[id(tensor)] = (tensor, value)

    def node(self, key: str, sources: Sequence[int]) -> int:
        """The node with this key and these sources: the one that is there, or a new one."""
        entry = Entry(key, tuple(sources))
        if entry not in self.entries:
            self.entries.append(entry)
        return self.entries.index(entry)

    def layer(self, layer: nn.Module, value: Value, when: When | None = None) -> Value:
        """The output of a layer that stands for a functional operation.

        Raises:
            Unsupported: for a maximum of what has been read over time, which is no reading of maxima.
        """
        if isinstance(layer, (nn.MaxPool1d, nn.MaxPool2d)) and value.when.kind not in OF_STEPS:
            raise Unsupported("it works on what has been read over time: pool before that")
        key = f"={layer}"
        self.made.setdefault(key, layer)
        return Value(self.node(key, [value.node]), when or value.when)

    def used(self, node: int) -> list[int]:
        """The nodes that lead to one and itself, in order, without the input."""
        used, waiting = {0}, [node]
        while waiting:
            node = waiting.pop()
            if node not in used:
                used.add(node)
                waiting += self.entries[node].sources
        return sorted(used - {0})

    def counts(self, node: int) -> bool:
        """Whether a node's values are >= 0: spikes, and what pools or reshapes them."""
        entry = self.entries[node]
        if entry.key in self.cells:
            return self.cells[entry.key].neuron is not None
        layer = self.made.get(entry.key, None if entry.key[0] == "=" else self.twin.get_submodule(entry.key))
        return isinstance(layer, SAME_SIGN) and all(map(self.counts, entry.sources))

    def without_end(self, value: Value | None) -> tuple[Value | None, str]:
        """A value before what comes last and keeps the order of logits, and the key of that, or ""."""
        if value is None or value.node == BROKEN or self.entries[value.node].key not in ENDS:
            return value, ""
        entry = self.entries[value.node]
        return Value(entry.sources[0], value.when), entry.key

    def ended(self, node: int) -> bool:
        """Whether something that may only come last leads to the node."""
        return any(self.entries[one].key in ENDS for one in self.used(node))

    def hidden(self, node: int) -> bool:
        """Whether a state that is no filter's leads to the node."""
        for key in (self.entries[one].key for one in self.used(node)):
            path = membrane_of(key)
            cell = None if path is None else self.cells[path]
            if cell and path and (cell.filter is None or key != state_of(path, cell.membrane)):
                return True
        return False

    def report(self, message: str) -> None:
        """Note a problem where it is met."""
        self.problems[f"{self._scopes[-1]}: {message}"] = None

    # Modules.

    def _attach(self, module: nn.Module, path: str, met: set[int]) -> None:
        """Watch a module, and those in it unless it is a leaf."""
        if id(module) in met:
            return
        met.add(id(module))
        name = f"{path} ({type(module).__name__})" if path else self._scopes[0]
        if self._library.is_neuron(module):
            self._library.prepare(module)
            self._watch(module, name, lambda forward: self._neuron(path, module, forward))
            return
        if type(module) not in (nn.Flatten, nn.Unflatten) and self._library.layers(module) is not None:
            self._watch(module, name, lambda forward: self._layer(path, module, forward))
            return
        self._watch(module, name, lambda forward: forward)  # Flatten too: which axes it joins depends on them
        for child, part in module.named_children():
            self._attach(part, f"{path}.{child}" if path else child, met)

    def _watch(self, module: nn.Module, name: str, wrap: Callable[[Any], Any]) -> None:
        """Replace the copy's forward by a wrapped one that knows where it is."""
        run = wrap(module.forward)

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._scopes.append(name)
            try:
                return run(*args, **kwargs)
            finally:
                self._scopes.pop()

        module.forward = forward

    @contextmanager
    def _leaf(self) -> Iterator[None]:
        self._in_leaf = True
        try:
            yield
        finally:
            self._in_leaf = False

    def _layer(self, path: str, module: nn.Module, forward: Any) -> Any:
        def run(x: Tensor) -> Any:
            with self._leaf():
                y = forward(x)
            value = self.value(x)
            if value is not None:
                self.emit(y, self._through(path, module, value))
            return y

        return run

    def _through(self, path: str, module: nn.Module, value: Value) -> Value:
        """The output of a leaf."""
        if value.node == BROKEN:
            return value
        mean = value.when.kind == "mean" and path not in self.cells and self._library.affine(module)
        if value.when.kind not in OF_STEPS and not mean:
            self.report(
                "it works on what has been read over time: keep layers before that (affine ones may stand "
                "behind a mean)"
            )
        elif not self._library.fits(module, value.when.lead):
            self.report(
                "it gets all steps [T, B, ...] but takes one, or the other way round: give it a step at a "
                "time, or set its step mode"
            )
        else:
            return Value(self.node(path, [value.node]), value.when)
        return Value(BROKEN, value.when)

    def _neuron(self, path: str, module: nn.Module, forward: Any) -> Any:
        def run(x: Tensor, *state: Any, **named: Any) -> Any:
            with self._leaf():
                output = forward(x, *state, **named)
            value = self.value(x)
            if value is None:
                self.report("its input does not come from the network's input by operations that are known")
                value = Value(BROKEN, HELD)
            self._fired(path, module, x, value, [state, named], output)
            return output

        return run

    def _fired(self, path: str, module: nn.Module, x: Tensor, value: Value, state: Any, output: Any) -> None:
        """Record a call of a neuron on x, which is this value."""
        number = len(self.observed.setdefault(path, []))
        held = value
        if value.when == HELD and self._library.encodes(module):
            value = Value(value.node, SEQUENCE)
        spikes, *states = tensors(output)
        when = value.when if value.when.kind == "sequence" else When("step", number)
        after = Value(BROKEN if value.node == BROKEN else self.node(f"?{path}", [value.node]), when)
        try:
            if path not in self.cells:
                self.inputs[path] = x[0] if held.when.lead == 2 else x
                self.cells[path] = self._library.cell(module, self.inputs[path].ndim - 1)
            seen = self._library.observe(module, self.cells[path], output)
            self._keep(path, Observed(*(part.clone() for part in seen)), value.when)
            self._check_state(path, state, number)
            through = self._through(path, module, value)
            if through.node != BROKEN:
                after = Value(through.node, self._when(path, value, through.node, number))
            else:
                after = through
        except Unsupported as problem:
            self.report(str(problem))
        self.emit(spikes, after)
        for place, part in enumerate(states):
            known = after.node != BROKEN and after.when.kind == "step" and part is not spikes
            node = self.node(state_of(path, place), [value.node]) if known else BROKEN
            if part is not spikes:
                self.emit(part, Value(node, after.when))

    def _keep(self, path: str, seen: Observed, when: When) -> None:
        """Note what a neuron did, step by step."""
        steps = zip(*seen, strict=True) if when.kind == "sequence" else [seen]
        self.observed[path] += [Observed(*step) for step in steps]

    def _when(self, path: str, value: Value, node: int, number: int) -> When:
        """The time of a neuron's spikes at its call of this number; raises Unsupported for another graph."""
        if self.drives.setdefault(path, node) != node:
            raise Unsupported(
                "what drives it differs between steps, or it is used at two places: each step must compute "
                "the same, and each place needs a neuron of its own"
            )
        if value.when.kind == "sequence" and number == 0:
            return value.when
        if value.when not in (HELD, When("step", number)):
            raise Unsupported(
                f"its call {number + 1} does not get what step {number + 1} computes: recurrence, and "
                "several calls a step, are not imported"
            )
        return When("step", number)

    def _check_state(self, path: str, state: Any, number: int) -> None:
        """Raise Unsupported unless a state that is passed in is what certsnn's neuron carries anyway."""
        parts = list(tensors(state))
        if number and not parts and not self._library.keeps_states:
            raise Unsupported("it starts anew at each call: hand on the state that it returned")
        for given in parts:
            value = self.value(given) or Value(0, HELD)
            if value.node == BROKEN or (self.value(given) is None and number == 0 and not given.any()):
                continue
            own = path in (self.entries[value.node].key, membrane_of(self.entries[value.node].key))
            if value.when == When("step", number - 1) and own:
                continue
            raise Unsupported("it gets a state that is neither zero at first nor its own of the step before")

    # Functional operations.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._in_leaf:
            return func(*args, **kwargs)
        values = [value for value in map(self.value, tensors([args, kwargs])) if value is not None]
        if not values:
            return func(*args, **kwargs)
        name = (resolve_name(func) or getattr(func, "__name__", str(func))).removeprefix("torch.")
        shape, before = next(tensors([args, kwargs])).shape, args
        if name.endswith("_") and not name.endswith("__") and self.value(args[0]) is None:
            before = (args[0].clone(), *args[1:])  # the operation changes it
        result = func(*args, **kwargs)
        self._operation(Call(name, before, kwargs, result, shape, self), values)
        return result

    def _operation(self, call: Call, values: Sequence[Value]) -> None:
        """Record a call of an operation that takes one of these values at least."""
        results = list(tensors(call.result))
        if call.operation in CONSTANTS or not (results or call.operation in SILENT):
            return
        first, node = values[0], BROKEN
        if all(value.node != BROKEN for value in values):
            try:
                handler = HANDLERS.get(call.operation)
                if handler is None:
                    raise Unsupported(advice(call.operation))
                handler(call)
                return
            except Unsupported as problem:
                self.report(f"{call.operation}: {problem}")
            # Recording goes on behind it, to find the other problems, too.
            node = self.node(f"?{call.operation}", [value.node for value in values])
        for result in results:
            alike = result.shape[: first.when.lead] == call.shape[: first.when.lead]
            self.emit(result, Value(node if alike else BROKEN, first.when))


def run_module(recording: Recording, x: Tensor) -> Any:
    """One call of the recorded module, without gradients."""
    with torch.no_grad(), recording:
        return recording.twin(x)
