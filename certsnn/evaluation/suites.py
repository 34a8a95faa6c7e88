"""The attacks that an evaluation runs when none are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from certsnn.attacks import (
    FGSM,
    G2S,
    PGD,
    RSF,
    Attack,
    GreedyEvents,
    RandomSearch,
)
from certsnn.attacks.strongest import strongest
from certsnn.inputsets import InputSet, Threat
from certsnn.inputsets.base import Domain


def default_suite(input_set: InputSet, seed: int = 0) -> tuple[Attack, ...]:
    """Attacks for an input set, the cheap ones first.

    Images: FGSM, PGD with restarts, G2S, random search. Spikes: G2S, RSF, random search, and a greedy
    search for single flips, or for moves in time where the set allows no flip alone. Frames: FGSM, PGD with
    restarts, random search, and a greedy search for single events where the frames are counts.
    """
    choice: Mapping[Domain, Sequence[Attack]] = {
        "image": (FGSM(), RandomSearch(seed=seed), G2S(seed=seed), PGD(restarts=2, seed=seed)),
        "frames": (
            FGSM(),
            RandomSearch(seed=seed),
            PGD(restarts=2, seed=seed),
            GreedyEvents(seed=seed),
        ),
        "spikes": (RandomSearch(seed=seed), RSF(seed=seed), G2S(seed=seed), *strongest(input_set, seed)),
    }
    return tuple(attack for attack in choice[input_set.domain] if attack.fits(input_set))


def check_suite(attacks: Sequence[Attack], input_set: InputSet, threat: Threat) -> None:
    """Raise ValueError, before any work, unless all attacks fit the set and can be told apart by name."""
    for attack in attacks:
        if not attack.fits(input_set):
            raise ValueError(
                f"{attack.describe()} does not work on {threat.describe()}; leave it out, or name attacks "
                "that do (for instance G2S and RandomSearch)"
            )
    for name, times in Counter(attack.describe() for attack in attacks).items():
        if times > 1:
            raise ValueError(f"{times} attacks are called {name}: leave all but one out")
