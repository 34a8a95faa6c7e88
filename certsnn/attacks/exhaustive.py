"""Every member of the set: the exact answer, where there are few enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import final

import torch

from certsnn.attacks.base import FRAMES, SPIKES, Attack
from certsnn.attacks.oracle import MEMORY, Oracle
from certsnn.program import Program
from certsnn.settings import check_count

CHUNK = 256
"""Members of each sample that are held at once."""


@final
@dataclass(frozen=True)
class ExhaustiveFlips(Attack):
    """All members of a small set of spikes or counts; a failure proves that there is no success (of this
    float32 run).

    Members are tried in the order of `InputSet.enumerate`: fewer flips first where the set counts flips.
    Raises ValueError on sets with more than 2**20 members a sample. An iteration is `CHUNK` members.

    Args:
        memory: bytes that the activations of one forward pass may take.
    """

    domains = SPIKES | FRAMES
    grain = 1.0

    memory: int = field(default=MEMORY, compare=False)

    def __post_init__(self) -> None:
        check_count("memory", self.memory)

    def view(self, program: Program) -> Program:
        return program

    def search(self, oracle: Oracle) -> None:
        members = oracle.input_set.enumerate(oracle.x0)
        everyone = oracle
        while chunk := list(islice(members, CHUNK)):
            oracle, _ = everyone.unbroken()
            if not len(oracle):
                return
            oracle, found = everyone.unbroken(*chunk)
            oracle.measure(torch.stack(found), self.memory)
