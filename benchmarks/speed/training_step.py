"""What a certified training step costs against a natural one, and where its time goes, in one process.

    python benchmarks/speed/training_step.py [NAME]    # writes benchmarks/results/NAME.{json,md}

``fc`` (784-256-256-10) and ``small-cnn`` of `certsnn.architectures` on random images as large as MNIST's,
batch 128, membrane readout, ``LinfBall(0.1)`` fully ramped up, Adam with clipped gradients as in training.
One thread, and its CPU time, so that other work on the machine counts as little as may be. All figures are
medians over rounds in which the two kinds of step take turns; the parts of a step are timed within it. All is
measured twice: with the memory allocator as it is, then with `certsnn.cli.allocator.keep_freed_memory`, as
``certsnn train`` does. The groups of operations are torch.profiler's, of other rounds that it slows down, in
wall time: read them as shares.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from certsnn.architectures import build
from certsnn.bounds.certify import bind, pose
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.cli.allocator import keep_freed_memory
from certsnn.inputsets import LinfBall
from certsnn.neurons import IF, LIF, Neuron
from certsnn.train.objectives.bounds import IntervalMargins
from certsnn.train.objectives.certified import robust_cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

BATCH, ROUNDS, WARM_UP, PROFILED = 128, 15, 2, 4
THREAT = LinfBall(0.1)
NEURONS: dict[str, Callable[[], Neuron]] = {
    "IF": lambda: IF(1.0, initial=0.5),
    "LIF": lambda: LIF(0.25, 0.25),
}
CASES = [
    (architecture, neuron, steps)
    for architecture in ("fc", "small-cnn")
    for neuron in NEURONS
    for steps in (2, 4, 8)
]
PARTS = ("clean forward", "bound forward", "backward", "optimizer")
GROUPS = {
    "products": (
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::mkldnn_convolution",
        "aten::convolution_backward",
    ),
    "clean neurons": ("_Scan", "_ScanBackward"),
    "bounds of neurons": ("_Steps", "_StepsBackward", "_Counts", "_CountsBackward"),
}
Measured = dict[str, float]


class Steps:
    """A network in training, and its two kinds of step, by the clock in seconds."""

    def __init__(
        self,
        architecture: str,
        neuron: str,
        steps: int,
        device: str = "cpu",
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        torch.manual_seed(0)
        self.clock = clock
        self.network = build(architecture, (1, 28, 28), 10, NEURONS[neuron], steps).to(device)
        self.x = torch.rand(BATCH, 1, 28, 28).to(device)
        self.y = torch.randint(0, 10, (BATCH,)).to(device)
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-4)

    def natural(self) -> Measured:
        """Milliseconds of the parts of a natural step."""
        times = [self.clock()]
        x0, _ = bind(self.network, self.x, THREAT, None)
        loss = F.cross_entropy(self.network(x0), self.y)
        times.append(self.clock())
        return self._descend(loss, [*times, times[-1]])

    def certified(self) -> Measured:
        """Milliseconds of the parts of a certified step."""
        times = [self.clock()]
        x0, input_set = bind(self.network, self.x, THREAT, None)
        logits, program = self.network.forward_and_freeze(x0)
        clean = F.cross_entropy(logits, self.y)
        times.append(self.clock())
        margins = IntervalMargins()(pose(program, x0, self.y, input_set, PLAIN), 1.0).margins
        loss = 0.5 * clean + 0.5 * robust_cross_entropy(margins)
        return self._descend(loss, [*times, self.clock()])

    def _descend(self, loss: Tensor, times: list[float]) -> Measured:
        self.optimizer.zero_grad()
        loss.backward()
        times.append(self.clock())
        nn.utils.clip_grad_norm_(self.trained, 5.0)
        self.optimizer.step()
        times.append(self.clock())
        spans = [1e3 * (end - start) for start, end in pairwise(times)]
        return dict(zip(PARTS, spans, strict=True)) | {"step": sum(spans)}


def measure(steps: Steps) -> dict[str, Measured]:
    """Median milliseconds of the steps and their parts."""
    kinds = {"natural": steps.natural, "certified": steps.certified}
    return {
        name: {part: median(row[part] for row in rows) for part in rows[0]}
        for name, rows in record.interleaved(kinds, ROUNDS, WARM_UP).items()
    }


def profiled(steps: Steps) -> Measured:
    """Milliseconds of a certified step by group of operations, under the profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED):
            steps.certified()
    events = {event.key: event for event in profiler.key_averages()}
    total = sum(event.self_cpu_time_total for event in events.values())
    groups = {
        group: sum(events[name].cpu_time_total for name in names if name in events)
        for group, names in GROUPS.items()
    }
    groups["the rest"] = total - sum(groups.values())
    return {group: spent / (1e3 * PROFILED) for group, spent in groups.items()}


CASE = {"network": "{network}", "neuron": "{neuron}", "T": "{steps}"}
STEPS = CASE | record.columns(
    f"natural step | certified step | ratio | {' | '.join(PARTS)}",
    "{natural[step]:.1f} | {certified[step]:.1f} | {certified[step]/natural[step]:.2f} | "
    + " | ".join(f"{{certified[{part}]:.1f}}" for part in PARTS),
)
OPERATIONS = CASE | {group: f"{{groups[{group}]:.1f}}" for group in (*GROUPS, "the rest")}


def page(found: record.Row) -> str:
    text = f"# A training step\n\nMilliseconds of CPU time. {found['setting']}\n"
    for memory in [name for name in found if name != "setting"]:
        steps, operations = (record.table(columns, found[memory]) for columns in (STEPS, OPERATIONS))
        text += f"\n## {memory.capitalize()}\n\n{steps}\nBy operations, under the profiler:\n\n{operations}"
    return text


def all_cases() -> list[record.Row]:
    rows = []
    for architecture, neuron, steps in CASES:
        case = Steps(architecture, neuron, steps)
        row = {"network": architecture, "neuron": neuron, "steps": steps}
        rows.append({**row, **measure(case), "groups": profiled(case)})
    return rows


def main(name: str = "training-step") -> None:
    torch.set_num_threads(1)
    found = {"allocator as it is": all_cases()}
    if keep_freed_memory():
        found["freed memory kept"] = all_cases()
    setting = record.setting(batch=BATCH, rounds=ROUNDS, threads=1, clock="CPU time")
    written = {"setting": setting, **found}
    record.write(name, written, page(written))


if __name__ == "__main__":
    record.run(main)
