"""The attack to try where there is time for one."""

from __future__ import annotations

from certsnn.attacks.base import Attack
from certsnn.attacks.events import GreedyEvents
from certsnn.attacks.greedy import GreedyFlips
from certsnn.attacks.pgd import PGD
from certsnn.attacks.shifts import GreedyShifts
from certsnn.inputsets import InputSet


def strongest(input_set: InputSet, seed: int = 0) -> tuple[Attack, ...]:
    """The attack that alone breaks the most samples of such a set; none where none fits."""
    flips = GreedyShifts(seed=seed) if input_set.reach else GreedyFlips(seed=seed)
    attacks = (GreedyEvents(seed=seed), PGD(seed=seed), flips)
    return tuple(attack for attack in attacks if attack.fits(input_set))[:1]
