"""The time of attacks that break next to nothing, over that of their forward-backward passes alone.

    python benchmarks/speed/attacks.py ROOT [SAMPLES]      # writes benchmarks/results/attacks-speed.{json,md}

ROOT is the folder of data sets; the first SAMPLES (1,000) MNIST test images are attacked. One thread.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from certsnn.architectures import build
from certsnn.attacks import G2S, PGD, RSF, Attack
from certsnn.attacks.gradients import by_step
from certsnn.data import load
from certsnn.encoding import Bernoulli
from certsnn.inputsets import CoupledBernoulli, InputSet, LinfBall, SpikeBox, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF
from certsnn.products import ieee_products

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

ITERATIONS, STEPS = 25, 10
Case = tuple[SpikingNetwork, Tensor, Tensor, InputSet, Attack]
"""Network, clean input, the input that gradients are taken of, input set, attack."""


def cases(x: Tensor, index: Tensor) -> list[Case]:
    torch.manual_seed(0)
    spiking, image = (
        build("reference-fc", (1, 28, 28), 10, lambda: LIF(0.25, 0.25), STEPS, "membrane", kind).eval()
        for kind in ("spikes", "image")
    )
    x0 = Bernoulli(STEPS)(x, index)
    nested, trains = CoupledBernoulli(0.0, STEPS).bind(x, index)
    held = x.expand(STEPS, *x.shape)  # G2S takes the gradient of an image at each step
    return [
        (spiking, x0, x0, SpikeBox(x0, x0), G2S(ITERATIONS)),
        (spiking, x0, x0, SpikeFlips(1), G2S(ITERATIONS)),
        (spiking, nested, nested, trains, G2S(ITERATIONS)),
        (spiking, x0, x0, SpikeFlips(1), RSF(ITERATIONS)),
        (image, x, held, LinfBall(0.0), G2S(ITERATIONS)),
        (image, x, x, LinfBall(0.0), PGD(ITERATIONS, surrogates=(None,))),
    ]


def row(case: Case) -> record.Row:
    network, start, differentiated, input_set, attack = case
    y = network(start).detach().argmax(1)
    forward_backward(network, differentiated, y, 1)  # warm
    begun = time.process_time()
    result = attack(network, start, y, input_set)
    whole = time.process_time() - begun
    iterations = float(result.iterations.float().mean())
    needed = forward_backward(network, differentiated, y, ITERATIONS) * iterations / ITERATIONS
    return {
        "attack": attack.describe(),
        "set": input_set.describe(),
        "iterations a sample": iterations,
        "attack (s)": whole,
        "its forward-backward passes (s)": needed,
        "ratio": whole / needed,
    }


def forward_backward(network: SpikingNetwork, x: Tensor, y: Tensor, passes: int) -> float:
    """Seconds of gradients with regard to x (``[T, B, ...]``: the input of each step), this many times."""
    program = by_step(network.freeze()) if x.ndim == 5 else network.freeze()
    begun = time.process_time()
    with ieee_products():
        for _ in range(passes):
            inputs = x.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(program.run(inputs), y), inputs)
    return time.process_time() - begun


def main(root: Path, samples: int = 1000) -> None:
    torch.set_num_threads(1)
    x, _, index = load("mnist", "test", root)[range(samples)]
    facts = (
        f"{samples} MNIST test images; reference-fc (784-512-256-10), random weights, labelled by itself, "
        f"T = {STEPS}; seconds of CPU time, one run each. The sets hold next to nothing, so that all "
        "iterations run; the work is that of larger sets. Forward-backward: the gradient of cross-entropy "
        "with regard to the input alone, on the whole batch at once."
    )
    record.write_rows("attacks-speed", "What attacks cost", facts, [row(case) for case in cases(x, index)])


if __name__ == "__main__":
    record.run(main)
