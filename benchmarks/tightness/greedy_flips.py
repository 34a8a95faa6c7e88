"""What greedy search and other attacks miss of the flips that exhaustive search finds.

    python benchmarks/tightness/greedy_flips.py      # writes benchmarks/results/attacks-greedy.{json,md}

Random networks on spikes, small enough that all flips under the budget are tried.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn

from certsnn.attacks import G2S, RSF, Attack, ExhaustiveFlips, GreedyFlips, Margin, RandomSearch
from certsnn.inputsets import SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.program import strictly_correct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

NETWORKS, SAMPLES, STEPS, FEATURES = 20, 20, 4, 10
BUDGETS = (1, 2, 3)
ATTACKS: Sequence[Attack] = (
    ExhaustiveFlips(),
    GreedyFlips(),
    GreedyFlips(rounds=3),
    G2S(),
    G2S(loss=Margin()),
    RSF(),
    RandomSearch(),
)


def tiny(seed: int) -> SpikingNetwork:
    """IF and LIF in turn, rates and membranes in pairs."""
    torch.manual_seed(seed)
    neuron: Callable[[], nn.Module] = (lambda: LIF(0.5, 0.7)) if seed % 2 else (lambda: IF(0.5))
    layers = [nn.Linear(FEATURES, 12), neuron(), nn.Linear(12, 12), neuron(), nn.Linear(12, 3)]
    if seed % 4 < 2:
        network = SpikingNetwork([*layers, neuron()], STEPS, "rate", "spikes")
    else:
        network = SpikingNetwork(layers, STEPS, "membrane", "spikes")
    with torch.no_grad():
        for layer in network.leaves():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2)
    return network.eval()


def samples(network: SpikingNetwork, seed: int) -> tuple[Tensor, Tensor]:
    """Random spikes that the network classifies without a tie, and its labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (STEPS, SAMPLES, FEATURES), generator=generator).float()
    logits = network(x).detach()
    y = logits.argmax(1)
    clear = strictly_correct(logits, y)
    return x[:, clear], y[clear]


def rows(budget: int) -> list[record.Row]:
    """A row for each attack: how many samples it broke."""
    found = [0] * len(ATTACKS)
    total = 0
    for seed in range(NETWORKS):
        network = tiny(seed)
        x, y = samples(network, seed)
        total += len(y)
        for place, attack in enumerate(ATTACKS):
            found[place] += int(attack(network, x, y, SpikeFlips(budget)).success.sum())
    return [
        {"budget": budget, "attack": attack.describe(), "broken": count, "of": total}
        | {"% of exhaustive": 100 * count / found[0]}
        for attack, count in zip(ATTACKS, found, strict=True)
    ]


def main() -> None:
    torch.set_num_threads(1)
    facts = (
        f"{NETWORKS} random networks {FEATURES}-12-12-3 on spikes, T = {STEPS} ({STEPS * FEATURES} bits), "
        f"LIF and IF, both readouts; of {SAMPLES} random samples each, those classified without a tie."
    )
    measured = [row for budget in track(BUDGETS) for row in rows(budget)]
    record.write_rows("attacks-greedy", "Flips under a budget, against exhaustive search", facts, measured)


if __name__ == "__main__":
    record.run(main)
