"""The published weights of S-IBP / S-CROWN under every bound method, beside an attack.

    python benchmarks/tightness/published_weights.py SHARED [CHEAP] [SLOW] [ITERATIONS] [PART] [PARTS]

SHARED is the folder with data/MNIST and data/reference. The first CHEAP (500) MNIST test images are bounded
by the methods of one backward pass, the first SLOW (200) by those that refine every layer; these run on what
S-IBP leaves open, for they are never below it. CoupledBernoulli(0.06), T = 10, rounding covered, a tie is a
failure. Goes on where it was stopped; writes benchmarks/results/reference.{jsonl,md}. One thread: several
processes may share the work, each with its PART of PARTS; run once more without them for the table.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median_high

import torch
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn

from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import RIGOROUS
from certsnn.bounds.linear.margins import backward_margins, interval_bounds
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.data import LabelledDataset, load
from certsnn.files import write_text
from certsnn.inputsets import CoupledBernoulli, InputSet
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF
from certsnn.program import strictly_correct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

JOURNAL = record.RESULTS / "reference.jsonl"
WEIGHTS = "mnist_fc_certified_T3_eps0.06.safetensors"
EPS, STEPS, SEED = 0.06, 10, 0
ATTACK_ITERATIONS, RESTARTS, BATCH = 25, 4, 100
SLOW_METHODS = ("s-crown", "alpha-s-crown")
NAMES = {
    "s-ibp": "S-IBP",
    "separate": "S-CROWN, separate relaxation, S-IBP layers (published)",
    "joint": "S-CROWN, joint relaxation, S-IBP layers",
    "best": "the better of S-IBP and joint",
    "s-crown": "S-CROWN layers too (s-crown)",
    "alpha-s-crown": "optimised slopes (alpha-s-crown)",
}


def network(folder: Path) -> SpikingNetwork:
    """784-512-256-10, LIF(0.25, 0.25), reset to zero, rates of the last layer."""
    tensors = load_file(folder / WEIGHTS)
    layers: list[nn.Module] = [nn.Flatten()]
    for outputs, inputs in ((512, 784), (256, 512), (10, 256)):
        (name,) = (n for n, w in tensors.items() if w.shape == (outputs, inputs))
        linear = nn.Linear(inputs, outputs)
        linear.weight.data, linear.bias.data = tensors[name], tensors[name.replace("weight", "bias")]
        layers += [linear, LIF(0.25, 0.25)]
    return SpikingNetwork(layers, STEPS, "rate", "spikes").eval()


def attacked(net: SpikingNetwork, x0: Tensor, y: Tensor, members: InputSet) -> Tensor:
    """Whether surrogate gradients of the margin find a member that is not classified strictly, ``[B]``."""
    generator = torch.Generator().manual_seed(SEED)
    broken = ~strictly_correct(net(x0), y)
    for restart in range(RESTARTS):
        x = members.sample(x0, generator) if restart else x0
        for _ in range(ATTACK_ITERATIONS):
            moving = x.clone().requires_grad_()
            logits = net(moving)
            own = logits.gather(1, y[:, None])[:, 0]
            rival = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            (gradient,) = torch.autograd.grad((rival - own).sum(), moving)
            asked = torch.where(gradient == 0, x, (gradient > 0).to(x))
            some = torch.rand(x.shape, generator=generator) < 0.5
            x = members.project(x0, torch.where(some, asked, x), gradient.abs())
            broken |= ~strictly_correct(net(x), y)
    return broken


def sample(
    net: SpikingNetwork, data: LabelledDataset, number: int, slow: bool, iterations: int
) -> record.Row:
    """Least margins of an image by each method, and seconds."""
    x, y, index = data[range(number, number + 1)]
    x0, members = CoupledBernoulli(EPS, STEPS, SEED).bind(x, index)
    problem = pose(net.freeze(), x0, y, members, RIGOROUS)
    row: record.Row = {"index": number, "margin": {}, "seconds": {}}

    def note(name: str, call: Callable[[], Tensor]) -> Tensor:
        begun = time.perf_counter()
        margins = call()
        row["seconds"][name] = time.perf_counter() - begun
        row["margin"][name] = float(margins.amin())
        return margins

    with torch.no_grad():
        row["correct"] = bool(strictly_correct(net(x0), y)[0])
        found = note("s-ibp", lambda: interval_bounds(problem)[0])
        sources = interval_bounds(problem)[1]
        backward = {
            name: note(name, partial(backward_margins, problem, sources, r))
            for name, r in RELAXATIONS.items()
        }
    row["margin"]["best"] = best = float(torch.maximum(found, backward["joint"]).amin())
    for name in SLOW_METHODS if slow else ():
        if best > 0 or not row["correct"]:
            row["margin"][name] = best
        else:
            best = float(
                note(name, partial(METHODS[name], problem, BoundOptions(iterations=iterations))).amin()
            )
    return row


def attack(rows: list[record.Row], net: SpikingNetwork, data: LabelledDataset) -> None:
    """Note in each row whether the attack broke its image; ends the process where that was certified."""
    for start in track(range(0, len(rows), BATCH), description="attack"):
        x, y, index = data[range(start, min(start + BATCH, len(rows)))]
        x0, members = CoupledBernoulli(EPS, STEPS, SEED).bind(x, index)
        for row, broken in zip(rows[start:], attacked(net, x0, y, members).tolist(), strict=False):
            row["attacked"] = broken
            if broken and max(row["margin"].values()) > 0:
                raise SystemExit(f"image {row['index']} is certified and broken: the bounds are unsound")


def page(rows: list[record.Row], few: int, iterations: int) -> str:
    """Markdown: errors in percent of all rows and of the first few, and seconds an image."""
    first = rows[:few]

    def line(title: str, fails: Callable[[record.Row], bool], shown: bool, seconds: str) -> record.Row:
        whole, part = (f"{100 * sum(map(fails, some)) / len(some):.1f}%" for some in (rows, first))
        return {"title": title, "all": whole if shown else None, "few": part, "seconds": seconds}

    def seconds(name: str) -> str:
        times = [row["seconds"][name] for row in rows if name in row["seconds"]]
        return f"{median_high(times):.2f} / {max(times):.2f}" if times else "-"

    def unproved(name: str, row: record.Row) -> bool:
        return not (row["correct"] and row["margin"][name] > 0)

    lines = [line("clean", lambda row: not row["correct"], True, "")]
    lines += [line("attack", lambda row: row["attacked"], True, "")]
    for name, title in NAMES.items():
        every = name not in SLOW_METHODS
        lines.append(line(f"verified, {title}", partial(unproved, name), every, seconds(name)))
    columns = {"error": "{title}", f"first {len(rows)}": "{all}", f"first {few}": "{few}"}
    return f"""\
# Published weights: MNIST 784-512-256-10, T = 10, CoupledBernoulli(0.06)

The first {len(rows)} MNIST test images, and the first {few} of them for the methods that refine \
layers ({iterations} iterations for slopes). Rounding covered, a tie is a failure. Seconds: median \
/ largest for an image on its own; refining methods ran on what cheaper ones left open.

{record.versions()}, {platform.machine()} with {os.cpu_count()} cores, 1 thread; weights \
{WEIGHTS}, noise seed {SEED}; attack: surrogate gradients, {RESTARTS} starts of \
{ATTACK_ITERATIONS} steps.

{record.table({**columns, "seconds an image": "{seconds}"}, lines)}"""


def main(
    shared: Path, many: int = 500, few: int = 200, iterations: int = 15, part: int = 0, parts: int = 1
) -> None:
    torch.set_num_threads(1)
    net = network(shared / "data" / "reference")
    data = load("mnist", "test", shared / "data")
    done: dict[int, record.Row] = {}
    if JOURNAL.exists():
        done = {row["index"]: row for row in map(json.loads, JOURNAL.read_text().splitlines())}
    with JOURNAL.open("a") as file:
        for number in track(range(part, many, parts), description="images"):
            if number not in done:
                done[number] = sample(net, data, number, number < few, iterations)
                file.write(json.dumps(done[number]) + "\n")
                file.flush()
    if parts == 1:
        rows = [done[number] for number in range(many)]
        attack(rows, net, data)
        write_text(record.RESULTS / "reference.md", page(rows, few, iterations))


if __name__ == "__main__":
    record.run(main)
