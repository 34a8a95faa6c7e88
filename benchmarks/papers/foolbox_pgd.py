"""The PGD of certsnn against that of foolbox, an outside check.

    python benchmarks/papers/foolbox_pgd.py      # writes benchmarks/results/attacks-foolbox.{json,md}

Needs the extra `foolbox`. One thread.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from certsnn.attacks import FGSM, PGD, Attack, CrossEntropy, Margin, RandomSearch
from certsnn.data import load
from certsnn.inputsets import LinfBall
from certsnn.models import load_model
from certsnn.networks import SpikingNetwork, strictly_correct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import record

EPS, ITERATIONS = 0.15, 25
STEP_SIZES = (0.01 / 0.3, 0.1)
"""Of foolbox, relative to eps."""
RUNS = len(PGD().surrogates)
OURS: Sequence[tuple[Attack, int]] = (
    (FGSM(), 1),
    (PGD(ITERATIONS, losses=(CrossEntropy(),), surrogates=(None,)), 1),
    (PGD(ITERATIONS, losses=(Margin(),), surrogates=(None,)), 1),
    (PGD(ITERATIONS), RUNS),
    (PGD(ITERATIONS, restarts=4), 4 * RUNS),
    (RandomSearch(), 1),
)
"""Attacks with their number of runs from a start."""


def row(attack: str, runs: int, wrong: Tensor) -> record.Row:
    return {"attack": attack, "runs": runs, "robust error %": 100 * float(wrong.float().mean())}


def theirs(network: SpikingNetwork, x: Tensor, y: Tensor, step_size: float) -> record.Row:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports from a deprecated place in scipy
        import foolbox
    torch.manual_seed(0)
    attack = foolbox.attacks.LinfPGD(steps=ITERATIONS, rel_stepsize=step_size)
    _, adversarial, _ = attack(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilons=EPS)
    name = f"foolbox {foolbox.__version__} LinfPGD(steps={ITERATIONS}, rel_stepsize={step_size:.3g})"
    return row(name, 1, ~strictly_correct(network(adversarial).detach(), y))


def main() -> None:
    torch.set_num_threads(1)
    network = load_model("digits-eps0.05").network
    data = load("digits", "test")
    x, y, _ = data[range(len(data))]
    rows = [theirs(network, x, y, step_size) for step_size in STEP_SIZES]
    for attack, runs in OURS:
        rows.append(row(attack.describe(), runs, attack(network, x, y, LinfBall(EPS)).success))
    facts = f"digits-eps0.05, the whole test set ({len(data)} images), LinfBall({EPS:g}); a tie is an error."
    record.write_rows("attacks-foolbox", "PGD against foolbox", facts, rows)


if __name__ == "__main__":
    record.run(main)
