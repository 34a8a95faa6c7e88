"""Attacks on spiking networks: each proposes members of an input set, `Attack.__call__` decides for all."""

from certsnn.attacks.base import Attack, AttackResult
from certsnn.attacks.events import GreedyEvents
from certsnn.attacks.exhaustive import ExhaustiveFlips
from certsnn.attacks.fgsm import FGSM
from certsnn.attacks.g2s import G2S
from certsnn.attacks.greedy import GreedyFlips
from certsnn.attacks.losses import CrossEntropy, Loss, Margin, MeanSquaredError
from certsnn.attacks.oracle import Oracle
from certsnn.attacks.pgd import PGD
from certsnn.attacks.random_search import RandomSearch
from certsnn.attacks.rsf import RSF
from certsnn.attacks.shifts import GreedyShifts

__all__ = [
    "FGSM",
    "G2S",
    "PGD",
    "RSF",
    "Attack",
    "AttackResult",
    "CrossEntropy",
    "ExhaustiveFlips",
    "GreedyEvents",
    "GreedyFlips",
    "GreedyShifts",
    "Loss",
    "Margin",
    "MeanSquaredError",
    "Oracle",
    "RandomSearch",
]
