"""A SpikingNetwork works with foolbox unchanged, and foolbox checks from outside how strong our PGD is."""

from __future__ import annotations

import warnings

import pytest
import torch

from certsnn.attacks import PGD
from certsnn.attacks.losses import CrossEntropy
from certsnn.data import load
from certsnn.inputsets import LinfBall
from certsnn.models import load_model
from certsnn.program import strictly_correct

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # foolbox imports from a deprecated place in scipy
    foolbox = pytest.importorskip("foolbox", reason="pip install 'certsnn[foolbox]'")

EPS, ITERATIONS = 0.15, 25


@pytest.mark.parametrize(
    "step_size", [0.01 / 0.3, 2.5 / ITERATIONS], ids=["foolbox's default", "2.5 / iterations"]
)
def test_pgd_is_at_least_as_strong_as_that_of_foolbox(step_size: float) -> None:
    """One run of ours, with the network's own surrogate, against one run of the same length."""
    network = load_model("digits-eps0.05").network
    x, y, _ = load("digits", "test")[range(300)]
    torch.manual_seed(0)  # of foolbox's random start
    attack = foolbox.attacks.LinfPGD(steps=ITERATIONS, rel_stepsize=step_size)
    _, adversarial, _ = attack(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilons=EPS)
    with torch.no_grad():
        theirs = ~strictly_correct(network(adversarial), y)
    one_run = PGD(ITERATIONS, losses=(CrossEntropy(),), surrogates=(None,))
    ours = one_run(network, x, y, LinfBall(EPS)).success
    clean = ~strictly_correct(network(x).detach(), y)
    assert theirs.sum() > clean.sum()  # foolbox gets through to the gradients
    assert ours.sum() >= theirs.sum()
