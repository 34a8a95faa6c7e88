"""Random members of the input set: the floor that every attack should beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from certsnn.attacks.base import EVERY, Attack
from certsnn.attacks.oracle import Oracle
from certsnn.encoding import check_seed
from certsnn.program import Program
from certsnn.settings import check_count


@final
@dataclass(frozen=True)
class RandomSearch(Attack):
    """`InputSet.sample`, again and again.

    The set draws for a whole batch at once, so a sample's draws depend on its batch.

    Args:
        tries: the largest number of members of each sample's set.
        seed: of all randomness.
    """

    domains = EVERY

    tries: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("tries", self.tries)
        check_seed(self.seed)

    def view(self, program: Program) -> Program:
        return program

    def search(self, oracle: Oracle) -> None:
        generator = torch.Generator().manual_seed(self.seed % 2**63)
        for _ in range(self.tries):
            oracle, _ = oracle.unbroken()
            if not len(oracle):
                return
            oracle.attempt(oracle.input_set.sample(oracle.x0, generator))
