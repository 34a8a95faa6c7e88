"""A spiking network and its ReLU twin under the same attacks and budgets.

    python benchmarks/papers/foolbox_twin.py ROOT [SAMPLES] [SEEDS]      # writes results/twin.{json,md}

784-256-256-10, once with LIF neurons (T = 4, membrane readout) and once with ReLU, trained alike on MNIST
(Adam, cross-entropy, 5 epochs, batch 128). foolbox, which knows nothing of either, attacks the first SAMPLES
(1,000) test images; certsnn's PGD, which is made for spikes, attacks the spiking one too. ROOT is the folder
of torchvision's data sets. Needs the extra `foolbox`.
"""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from certsnn.attacks import PGD
from certsnn.data import LabelledDataset, load, loader
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork, strictly_correct
from certsnn.neurons import LIF

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import record

WIDTHS, STEPS, EPOCHS, BATCH, RATE = (256, 256), 4, 5, 128, 1e-3
EPSILONS = (0.02, 0.05, 0.1)
PGD_STEPS = 40


def spiking() -> nn.Module:
    first, second = WIDTHS
    layers = [nn.Flatten(), nn.Linear(784, first), LIF(0.25, 0.25), nn.Linear(first, second), LIF(0.25, 0.25)]
    return SpikingNetwork([*layers, nn.Linear(second, 10)], STEPS, "membrane", "image")


def relu() -> nn.Module:
    first, second = WIDTHS
    layers = [nn.Flatten(), nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(second, 10))


TWINS = {"LIF": spiking, "ReLU": relu}


def train(network: nn.Module, data: LabelledDataset, seed: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    batches = loader(data, BATCH, seed)
    for _ in range(EPOCHS):
        for x, y, _ in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    network.eval()


def wrong(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return ~strictly_correct(network(x), y)


def errors(network: nn.Module, x: Tensor, y: Tensor, seed: int) -> list[record.Row]:
    """Robust errors in percent, a row for each eps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports from a deprecated place in scipy
        import foolbox
    clean = wrong(network, x, y)
    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    rows = []
    for eps in EPSILONS:
        row: record.Row = {"eps": eps, "clean": clean}
        for name, attack in (
            ("FGSM", foolbox.attacks.LinfFastGradientAttack()),
            ("PGD", foolbox.attacks.LinfPGD(steps=PGD_STEPS, rel_stepsize=0.1)),
        ):
            torch.manual_seed(seed)  # of foolbox's random starts
            row[name] = clean | wrong(network, attack(model, x, y, epsilons=eps)[1], y)
        if isinstance(network, SpikingNetwork):
            row["certsnn PGD"] = PGD(seed=seed)(network, x, y, LinfBall(eps)).success
        rows.append({k: v if k == "eps" else 100 * float(v.float().mean()) for k, v in row.items()})
    return rows


COLUMNS = ("clean", "FGSM", "PGD", "certsnn PGD")


def page(found: record.Row) -> str:
    """Markdown."""

    def line(eps: float, name: str) -> record.Row:
        rows = [row for row in found["rows"] if (row["network"], row["eps"]) == (name, eps)]
        errors = {column: [row[column] for row in rows if column in row] for column in COLUMNS}
        return {"eps": eps, "network": name} | {
            column: record.mean_and_range(values, 1) for column, values in errors.items()
        }

    lines = [line(eps, name) for eps in EPSILONS for name in TWINS]
    table = record.table({name: f"{{{name}}}" for name in ("eps", "network", *COLUMNS)}, lines)
    return f"# A spiking network and its ReLU twin\n\n{found['facts']}\n{table}"


def main(root: Path, samples: int = 1000, seeds: int = 3) -> None:
    train_set, test_set = (load("mnist", part, root) for part in ("train", "test"))
    x, y, _ = test_set[range(samples)]
    rows: list[record.Row] = []
    for seed in track(range(seeds), description="seeds"):
        for name, build in TWINS.items():
            torch.manual_seed(seed)
            network = build()
            train(network, train_set, seed)
            rows += [{"network": name, "seed": seed} | row for row in errors(network, x, y, seed)]
    facts = (
        f"784-256-256-10 with LIF(0.25, 0.25) (T = {STEPS}, membrane readout) or ReLU; MNIST, {EPOCHS} "
        f"epochs of natural training, {seeds} seeds: the mean, the least and the largest. The first "
        f"{samples} test images; foolbox {version('foolbox')}, PGD of {PGD_STEPS} steps; errors in percent. "
        f"{record.footer()}\n"
    )
    found = {"facts": facts, "rows": rows}
    record.write("twin", found, page(found))


if __name__ == "__main__":
    record.run(main)
