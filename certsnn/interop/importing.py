"""From a foreign module to a `SpikingNetwork`: recorded while it runs, rebuilt, and compared step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from certsnn.errors import UserError
from certsnn.graph import Add, Concatenate
from certsnn.inputs import Domain, input_named
from certsnn.interop.libraries import Cell, Library, Observed
from certsnn.interop.operations import ENDS
from certsnn.interop.recording import Recording, copied, membrane_of
from certsnn.interop.traces import Case, Seen, TraceCheck, check_cell, check_traces, node_of
from certsnn.interop.values import BROKEN, HELD, SEQUENCE, Value, When, free_name
from certsnn.networks import SpikingNetwork
from certsnn.readouts import ReadoutName

READ: Mapping[str, ReadoutName] = {"sum": "sum", "part": "sum", "maximum": "maximum", "step": "last"}
"""The readout that a module does itself, by the kind of its output."""
JOINTS: Mapping[str, type[nn.Module]] = {"=Add": Add, "=Concatenate": Concatenate}


@final
class Import(NamedTuple):
    """An imported network in eval mode, and how it compared with the original."""

    network: SpikingNetwork
    check: TraceCheck


@final
class Recorded(NamedTuple):
    """A finished recording; ``output``: what is read (None: unknown), ``numbers``: of the original.

    ``each_step``: whether the module was called once a step. ``end``: the key of what comes last and is left
    out (`ENDS`), if there is any.
    """

    recording: Recording
    output: Value | None
    numbers: Tensor
    steps: int
    each_step: bool
    end: str

    @property
    def problems(self) -> list[str]:
        """What can't be imported."""
        return list(self.recording.problems)


def import_module_with(
    library: Library,
    module: nn.Module,
    x: Tensor,
    steps: int | None,
    readout: ReadoutName | None,
    input: Domain,
    output: int | None,
) -> Import:
    """A module as a `SpikingNetwork`, with the record of the comparison that is always made.

    The module is copied and never changed. The copy is in eval mode, runs from a fresh state, and is
    recorded on ``x``: either one call runs all steps, or it is called once a step.

    Certificates speak about the imported network, as certsnn executes it. Where the library rounds in another
    order, they are no proof for the original's own floating-point execution. ``check`` says how near the two
    have been on the inputs that were tried.

    Args:
        library: what is known of the module's library.
        module: the network.
        x: inputs to compare on, B >= 1 of them, as the network takes them: images ``[B, ...]``, or spikes and
            frames ``[T, B, ...]``. As many random ones are tried, too.
        steps: T for images; may be left out where the module has a loop of its own.
        readout: how logits are read from the outputs over time; may be left out where the module does it.
        input: ``"image"``, ``"spikes"`` or ``"frames"``; see `SpikingNetwork`.
        output: which of the module's outputs is meant, where it returns several (0: the first).

    Raises:
        UserError: for what can't be imported, all of it at once; for a module that does not do what its
            import does; where steps, readout or output have to be said.
    """
    _check(module, x, input)
    recorder = _Recorder(library, module, input, output)
    best = _best(recorder, x, steps, type(module).__name__)
    chosen, clean, names = _readout(best, readout), copied(module), _names(best)
    inputs = best.recording.inputs
    cells = {path: library.cell(clean.get_submodule(path), inputs[path].ndim - 1) for path in inputs}
    try:
        nodes = _nodes(library, best, clean, cells, names)
        network = SpikingNetwork.from_graph(nodes, best.steps, chosen, input)
    except (TypeError, ValueError) as error:
        raise UserError(f"the {type(module).__name__} can't be imported: {error}") from error
    network.eval()
    for path, cell in cells.items():
        check_cell(library, path, cell, copied(clean.get_submodule(path)), inputs[path])
    runs = [(x, best), *((other, _again(recorder, other, best)) for other in _random(x, input))]
    calls = "once a step" if best.each_step else "once for all steps"
    check = check_traces(network, [_case(one, run, names, chosen) for one, run in runs], calls)
    return Import(network, check)


def _best(recorder: _Recorder, x: Tensor, steps: int | None, name: str) -> Recorded:
    """The record of all steps in a call or of one step a call; raises UserError, by the name, for problems.

    They are those of whichever has fewer.
    """
    # What ran one step in a call is called once a step; its problems are then those to tell.
    both = recorder.both(x, steps)
    best = min(both, key=lambda one: (len(one.problems) > 0, one.steps < 2, len(one.problems)))
    if best.problems:
        raise UserError("\n- ".join([f"the {name} can't be imported:", *best.problems]))
    return best


def _again(recorder: _Recorder, x: Tensor, best: Recorded) -> Recorded:
    """The record on other inputs; raises UserError unless it is of the same graph."""
    again = recorder.record(x, best.steps, best.each_step)
    if again.recording.entries != best.recording.entries or again.problems:
        raise UserError("the module computes another graph on other inputs: take the condition out of it")
    return again


def _check(module: nn.Module, x: Tensor, input: Domain) -> None:
    """Raise UserError for what is no module and no inputs, or has another dtype."""
    if not isinstance(module, nn.Module) or not isinstance(x, Tensor):
        raise UserError(
            f"give a torch module and a tensor, not {type(module).__name__} and {type(x).__name__}"
        )
    input_named(input, 1).check(x)
    kinds = {part.dtype for part in [x, *module.parameters()] if part.is_floating_point()}
    if kinds != {torch.get_default_dtype()}:
        raise UserError(
            f"the module and x must both be {torch.get_default_dtype()}: convert them with .float()"
        )


@final
class _Recorder:
    """Records a module on inputs of one kind."""

    def __init__(self, library: Library, module: nn.Module, input: Domain, output: int | None) -> None:
        self._library, self._module = library, module
        self._image, self._output = input == "image", output

    def both(self, x: Tensor, steps: int | None) -> list[Recorded]:
        """One call for all steps, and one a step where it is known how many there are."""
        found = [self.record(x, steps, False)]
        if not self._image:
            steps = len(x)
        return found if steps is None else [*found, self.record(x, steps, True)]

    def record(self, x: Tensor, steps: int | None, each_step: bool) -> Recorded:
        """A recording of either kind."""
        recording = Recording(self._library, self._module)
        if each_step:
            frames = [x] * (steps or 0) if self._image else list(x)
            whens = [HELD if self._image else When("step", number) for number in range(len(frames))]
        else:
            frames, whens = [x], [HELD if self._image else SEQUENCE]
        outputs: list[Tensor] = []
        for frame, when in zip(frames, whens, strict=True):
            recording.emit(frame, Value(0, when))
            output = self._call(recording, frame)
            if output is not None:
                outputs.append(output)
        return self._finish(recording, outputs, steps if self._image else len(x), each_step)

    def _call(self, recording: Recording, frame: Tensor) -> Tensor | None:
        """The output that is meant of a call; None where there is none."""
        try:
            with torch.no_grad(), recording:
                found = recording.twin(frame)
        except Exception as error:  # whatever a foreign module raises is a problem to report
            recording.report(f"it raised {type(error).__name__}: {error}")
            return None
        several = isinstance(found, (tuple, list))
        if several and self._output is None:
            recording.report(f"it returns {len(found)} outputs: say which holds the logits, as output=0, ...")
            return None
        try:
            found = found[self._output] if several else found
        except IndexError:
            recording.report(f"it returns {len(found)} outputs, counted from 0: there is none {self._output}")
        return found if isinstance(found, Tensor) else None

    def _finish(
        self, recording: Recording, outputs: Sequence[Tensor], steps: int | None, each_step: bool
    ) -> Recorded:
        """The recording with the value of its output, or with the problems that it has."""
        counts = {len(seen) for seen in recording.observed.values()}
        found = max(counts, default=0)
        values = [recording.value(output) for output in outputs]
        value, end = recording.without_end(values[0] if values else None)
        if recording.problems:
            pass
        elif counts != {found} or not found:
            recording.report("its neurons run for different numbers of steps, or there are none")
        elif value is None or value.node == BROKEN:
            recording.report("its output does not come from its input by operations that are known")
        elif recording.ended(value.node):
            recording.report("it goes on behind a softmax: leave that out")
        elif recording.hidden(value.node):
            recording.report(
                "it reads a state of neurons that reset it: read spikes, an affine layer, or the membrane of "
                "neurons that have no reset"
            )
        elif steps is None and value.when.kind == "step" and found == 1:
            recording.report("it runs one step a call: say how many steps you run it for, as steps=25")
        elif not each_step and _length(value.when, outputs[0]) not in (found, None):
            recording.report(
                f"its output holds {_length(value.when, outputs[0])} of its {found} steps: return all"
            )
        elif found != (steps or found):
            recording.report(f"it runs {found} steps, and {steps} are asked for: make them the same")
        if each_step and value is not None:
            if len({one.node for one in values if one}) > 1 or value.when.kind not in ("held", "step"):
                recording.report("its output is not that of one step: let one call run all steps")
            value = Value(value.node, SEQUENCE)
        numbers = (torch.stack(list(outputs)) if each_step else outputs[0]) if outputs else torch.zeros(0)
        return Recorded(recording, value, numbers, found, each_step, end)


def _length(when: When, output: Tensor) -> int | None:
    """How many steps an output holds or has been read from; None where that is not counted."""
    if when.kind == "step":
        return when.number + 1
    return len(output) if when == SEQUENCE else when.number or None


def _readout(recorded: Recorded, given: ReadoutName | None) -> ReadoutName:
    """The readout; raises UserError where it must be said, or is another than the module's."""
    assert recorded.output is not None
    kind, node = recorded.output.when.kind, recorded.output.node
    cell = recorded.recording.cells.get(recorded.recording.entries[node].key)
    mean: ReadoutName = "membrane" if cell is None or cell.neuron is None else "rate"
    found = mean if kind == "mean" else READ.get(kind)
    if found is None and given is None:
        raise UserError(
            "how are logits read from the outputs over time? Say readout='rate' (spike counts / T, of "
            "neurons), 'membrane' (the mean over T, of an affine layer), 'sum', 'last' or 'maximum'"
        )
    if None not in (found, given) and given != found and (found, given) != ("sum", mean):
        raise UserError(f"the module reads its outputs itself, which is readout={found!r}, not {given!r}")
    chosen = given or found
    assert chosen is not None
    return chosen


def _logits(recorded: Recorded, readout: ReadoutName) -> Tensor:
    """The original's logits, read over time where it does not do so itself."""
    assert recorded.output is not None
    kind, numbers = recorded.output.when.kind, recorded.numbers
    if kind != "sequence":
        return numbers / recorded.steps if READ.get(kind) == "sum" != readout else numbers
    readings = {"sum": numbers.sum(0), "last": numbers[-1], "maximum": numbers.amax(0)}
    return readings.get(readout, numbers.mean(0))


def _names(recorded: Recorded) -> dict[int, str]:
    """Names for the nodes that are used: the paths of modules with _ for dots, or what an operation does."""
    names = {0: "input"}
    assert recorded.output is not None
    for node in recorded.recording.used(recorded.output.node):
        key = recorded.recording.entries[node].key
        base = key.replace(".", "_") or "module"
        if key.startswith("="):
            base = key.lstrip("=").partition("(")[0].replace(".", "_").lower()
        names[node] = free_name(base, names.values())
    return names


def _nodes(
    library: Library,
    recorded: Recorded,
    clean: nn.Module,
    cells: Mapping[str, Cell],
    names: Mapping[int, str],
) -> dict[str, tuple[nn.Module, Sequence[str]]]:
    """The nodes for `SpikingNetwork.from_graph`, with the layers of a clean copy."""
    nodes: dict[str, tuple[nn.Module, Sequence[str]]] = {}
    for node, name in list(names.items())[1:]:
        entry = recorded.recording.entries[node]
        sources = [names[source] for source in entry.sources]
        if entry.key in JOINTS:
            nodes[name] = (JOINTS[entry.key](), sources)
        elif entry.key in recorded.recording.made:
            nodes[name] = (recorded.recording.made[entry.key], sources)
        else:
            layers = _cell_layers(cells, entry.key) or library.layers(clean.get_submodule(entry.key))
            assert layers is not None
            nodes[name] = (layers[0] if len(layers) == 1 else nn.Sequential(*layers), sources)
    return nodes


def _cell_layers(cells: Mapping[str, Cell], key: str) -> Sequence[nn.Module]:
    """The layers of a module with a state, or of its potentials where they are read; none for other keys."""
    path = membrane_of(key)
    if path is not None:
        return cells[path].filter or ()
    return cells[key].layers if key in cells else ()


def _case(x: Tensor, recorded: Recorded, names: Mapping[int, str], readout: ReadoutName) -> Case:
    """What the original did on x: per layer of neurons, by the name of its node, and its logits."""
    output, recording = recorded.output, recorded.recording
    assert output is not None
    stages = {}
    for node, name in names.items():
        key = recording.entries[node].key
        path = membrane_of(key) or key
        if path in recording.cells:
            spikes, membranes = map(torch.stack, zip(*recording.observed[path], strict=True))
            did = Observed(spikes if path == key else membranes, membranes)
            stages[node_of(name, _cell_layers(recording.cells, key))] = Seen(path, did)
    return Case(x, stages, _logits(recorded, readout), ENDS.get(recorded.end))


def _random(x: Tensor, input: Domain) -> list[Tensor]:
    """A random batch of the shape of x: pixels between its extremes, spikes as frequent, its frames mixed."""
    draw = torch.Generator().manual_seed(0)
    if input == "frames":
        return [x.flatten()[torch.randperm(x.numel(), generator=draw).to(x.device)].view(x.shape)]
    uniform = torch.rand(x.shape, generator=draw).to(x)
    if input == "spikes":
        return [(uniform < x.mean()).to(x.dtype)]
    return [x.min() + (x.max() - x.min()) * uniform]
