"""The tables of the attack papers: G2S and RSF on a naturally trained CNN, and pictures of what they change.

    python benchmarks/papers/attack_tables.py tables ROOT RUN [SAMPLES]   # attacks-papers-LOSS.{json,md}
    python benchmarks/papers/attack_tables.py pictures ROOT RUN [SAMPLES] # docs/attacks-*.png

ROOT is the folder of data sets; RUN is a run folder of configs/mnist-cnn-natural.yaml (`certsnn train`), with
any loss. The first SAMPLES test images are attacked (1,000, or 6 for pictures). One thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from certsnn.attacks import G2S
from certsnn.attacks.pictures import plot_images, plot_raster
from certsnn.attacks.statistics import outcome, statistics
from certsnn.data import LabelledDataset, load
from certsnn.encoding import Bernoulli
from certsnn.inputsets import SpikeBox
from certsnn.models import load_model
from certsnn.networks import SpikingNetwork
from certsnn.program import strictly_correct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

BATCH = 250
THRESHOLDS = (None, 1.0, 2.0)
"""Penultimate thresholds in gradient passes: the network's own 0.3, the paper's, and the best for targets of
0.6, 1, 1.5 and 2 on 200 training images."""


def any_spikes(x: Tensor) -> SpikeBox:
    """All spikes: the papers' adversary has no budget."""
    return SpikeBox(torch.zeros_like(x), torch.ones_like(x))


def other_class(y: Tensor, index: Tensor) -> Tensor:
    """The target of each image, by its position."""
    return (y + 1 + index % 9) % 10


def row(
    network: SpikingNetwork, data: LabelledDataset, samples: int, attack: G2S, targeted: bool, steps: int
) -> record.Row:
    """One row of the papers' tables; samples whose gradient vanished at the start are counted apart, too."""
    outcomes = []
    without: list[Tensor] = []  # success of the samples that have no gradient to begin with
    for start in range(0, samples, BATCH):
        x, y, index = data[range(start, min(start + BATCH, samples))]
        x0 = Bernoulli(steps)(x, index)
        correct = strictly_correct(network(x0).detach(), y)
        input_set = any_spikes(x0)
        result = attack(network, x0, y, input_set, other_class(y, index) if targeted else None)
        outcomes.append(outcome(x0, correct, input_set, result))
        without.append(result.success[correct & vanished_gradients(network, attack, x0, y)])
    found, vanished = statistics(outcomes), torch.cat(without)
    return {
        "goal": "targeted" if targeted else "untargeted",
        "penultimate threshold": attack.penultimate_threshold or "own",
        "RSF": "yes" if attack.gamma else "no",
        "correct": found.correct,
        "success %": found.success_rate,
        "iterations": found.iterations,
        "flipped bits %": None if found.entry_change is None else 100 * found.entry_change,
        "pixel change": found.pixel_change,
        "RSF needed %": found.random_share if attack.gamma else None,
        "all-zero gradient at the start %": 100 * len(vanished) / max(1, found.correct),
        "success % of these": 100 * float(vanished.float().mean()) if len(vanished) else None,
    }


def vanished_gradients(network: SpikingNetwork, attack: G2S, x: Tensor, y: Tensor) -> Tensor:
    """Whether the attack's gradient is zero in all spikes of x itself (untargeted loss), bool ``[B]``."""
    x = x.clone().requires_grad_()
    loss = attack.loss(attack.view(network.freeze()).run(x), y).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return (gradient == 0).movedim(1, 0).flatten(1).all(1)


def tables(root: Path, run: Path, samples: int = 1000) -> None:
    """The papers' table of a run."""
    torch.set_num_threads(1)
    data, model = load("mnist", "test", root), load_model(run)
    loss = model.config.training.objective.loss  # type: ignore[attr-defined]
    rows = []
    for targeted in (False, True):
        for threshold in THRESHOLDS:
            for gamma in (0.0, 0.05):
                attack = G2S(gamma=gamma, loss=loss, penultimate_threshold=threshold)
                rows.append(row(model.network, data, samples, attack, targeted, model.config.steps))
                print(rows[-1], flush=True)
    name = type(loss).__name__
    facts = (
        f"The first {samples} MNIST test images, Bernoulli-encoded (T = {model.config.steps}); a small CNN "
        "of LIF(0.3, 0.3), rate readout, naturally trained by configs/mnist-cnn-natural.yaml with "
        f"{name}, which is the attack's loss too. G2S, 25 iterations, no budget. Success is over the samples "
        "that the network gets right; iterations and changes are means over those that were broken. A tie is "
        "an untargeted success, but no targeted one. Target: another class, by the position of the image."
    )
    record.write_rows(f"attacks-papers-{name}", f"G2S and RSF on a CNN trained with {name}", facts, rows)


def pictures(root: Path, run: Path, samples: int = 6) -> None:
    """The first images before and after a targeted attack, and the spikes of one of them."""
    torch.set_num_threads(1)
    model = load_model(run)
    x, y, index = load("mnist", "test", root)[range(samples)]
    x0, targets = Bernoulli(model.config.steps)(x, index), other_class(y, index)
    attack = G2S(penultimate_threshold=THRESHOLDS[-1])
    result = attack(model.network, x0, y, any_spikes(x0), targets)
    titles = [
        f"{label} as {target}" if done else f"{label} holds"
        for label, target, done in zip(y.tolist(), targets.tolist(), result.success.tolist(), strict=True)
    ]
    images = plot_images(x0.mean(0), result.adversarial.mean(0), titles)
    record.draw("attacks-images", images, dpi=100)
    record.draw("attacks-raster", plot_raster(x0[:, 0], result.adversarial[:, 0], titles[0]), dpi=100)


if __name__ == "__main__":
    record.run(tables, pictures)
