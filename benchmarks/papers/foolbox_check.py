"""foolbox, an outside check: its PGD beside that of certsnn, and a spiking network beside its ReLU twin.

    python benchmarks/papers/foolbox_check.py pgd                          # results/attacks-foolbox.{json,md}
    python benchmarks/papers/foolbox_check.py twins ROOT [SAMPLES] [SEEDS] # results/twin.{json,md}

*pgd*: both attack the pretrained digits-eps0.05, one thread. *twins*: 784-256-256-10, once with LIF neurons
(T = 4, membrane readout) and once with ReLU, trained alike on MNIST (Adam, cross-entropy, 5 epochs, batch
128). foolbox, which knows nothing of either, attacks the first SAMPLES (1,000) test images; certsnn's PGD,
which is made for spikes, attacks the spiking one too. ROOT is the folder of data sets. Needs the extra
`foolbox`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from certsnn.attacks import FGSM, PGD, Attack, CrossEntropy, Margin, RandomSearch
from certsnn.data import load, loader
from certsnn.inputsets import LinfBall
from certsnn.models import load_model
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF
from certsnn.program import strictly_correct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record


def imported() -> Any:
    """foolbox, which imports from a deprecated place in scipy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    return foolbox


# PGD on a pretrained model


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
    foolbox = imported()
    torch.manual_seed(0)
    attack = foolbox.attacks.LinfPGD(steps=ITERATIONS, rel_stepsize=step_size)
    _, adversarial, _ = attack(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilons=EPS)
    name = f"foolbox {foolbox.__version__} LinfPGD(steps={ITERATIONS}, rel_stepsize={step_size:.3g})"
    return row(name, 1, ~strictly_correct(network(adversarial).detach(), y))


def pgd() -> None:
    """Measure PGD on a pretrained model."""
    torch.set_num_threads(1)
    network = load_model("digits-eps0.05").network
    data = load("digits", "test")
    x, y, _ = data[range(len(data))]
    rows = [theirs(network, x, y, step_size) for step_size in STEP_SIZES]
    for attack, runs in OURS:
        rows.append(row(attack.describe(), runs, attack(network, x, y, LinfBall(EPS)).success))
    facts = f"digits-eps0.05, the whole test set ({len(data)} images), LinfBall({EPS:g}); a tie is an error."
    record.write_rows("attacks-foolbox", "PGD against foolbox", facts, rows)


# A spiking network and its ReLU twin

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


def wrong(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return ~strictly_correct(network(x), y)


def errors(network: nn.Module, x: Tensor, y: Tensor, seed: int) -> list[record.Row]:
    """Robust errors in percent, a row for each eps."""
    foolbox = imported()
    clean = wrong(network, x, y)
    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    pgd = foolbox.attacks.LinfPGD(steps=PGD_STEPS, rel_stepsize=0.1)
    attacks = {"FGSM": foolbox.attacks.LinfFastGradientAttack(), "PGD": pgd}
    rows = []
    for eps in EPSILONS:
        row: record.Row = {"eps": eps, "clean": clean}
        for name, attack in attacks.items():
            torch.manual_seed(seed)  # of foolbox's random starts
            row[name] = clean | wrong(network, attack(model, x, y, epsilons=eps)[1], y)
        if isinstance(network, SpikingNetwork):
            row["certsnn PGD"] = PGD(seed=seed)(network, x, y, LinfBall(eps)).success
        rows.append({k: v if k == "eps" else 100 * float(v.float().mean()) for k, v in row.items()})
    return rows


COLUMNS = ("clean", "FGSM", "PGD", "certsnn PGD")


def twins_page(found: record.Row) -> str:
    def line(eps: float, name: str) -> record.Row:
        rows = [row for row in found["rows"] if (row["network"], row["eps"]) == (name, eps)]
        errors = {column: [row[column] for row in rows if column in row] for column in COLUMNS}
        return {"eps": eps, "network": name} | {
            column: record.mean_and_range(values, 1) for column, values in errors.items()
        }

    lines = [line(eps, name) for eps in EPSILONS for name in TWINS]
    table = record.table({name: f"{{{name}}}" for name in ("eps", "network", *COLUMNS)}, lines)
    return f"# A spiking network and its ReLU twin\n\n{found['facts']}\n{table}"


def twins(root: Path, samples: int = 1000, seeds: int = 3) -> None:
    """Measure a spiking network and its ReLU twin."""
    train_set, test_set = (load("mnist", part, root) for part in ("train", "test"))
    x, y, _ = test_set[range(samples)]
    rows: list[record.Row] = []
    for seed in track(range(seeds), description="seeds"):
        for name, build in TWINS.items():
            torch.manual_seed(seed)
            network = build()
            record.train(network, loader(train_set, BATCH, seed), EPOCHS, RATE)
            rows += [{"network": name, "seed": seed} | row for row in errors(network, x, y, seed)]
    facts = (
        f"784-256-256-10 with LIF(0.25, 0.25) (T = {STEPS}, membrane readout) or ReLU; MNIST, {EPOCHS} "
        f"epochs of natural training, {seeds} seeds: the mean, the least and the largest. The first "
        f"{samples} test images; foolbox {version('foolbox')}, PGD of {PGD_STEPS} steps; errors in percent. "
        f"{record.footer()}\n"
    )
    found = {"facts": facts, "rows": rows}
    record.write("twin", found, twins_page(found))


if __name__ == "__main__":
    record.run(pgd, twins)
