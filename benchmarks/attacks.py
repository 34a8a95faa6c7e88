"""Attacks: the tables of the attack papers, what greedy search misses, foolbox's PGD, and what attacks cost.

    python benchmarks/attacks.py papers ROOT RUN [--samples N]        # writes attacks-papers-LOSS.{json,md}
    python benchmarks/attacks.py pictures ROOT RUN                    # writes docs/attacks-*.png
    python benchmarks/attacks.py greedy                               # writes attacks-greedy.{json,md}
    python benchmarks/attacks.py foolbox                              # writes attacks-foolbox.{json,md}
    python benchmarks/attacks.py speed ROOT [--samples N]             # writes attacks-speed.{json,md}

All files go to benchmarks/results. ROOT is the folder of torchvision's data sets; RUN is a run folder of
configs/mnist-cnn-natural.yaml (`certsnn train`), with any loss. The first N test images are attacked.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from certsnn import __version__
from certsnn.architectures import build
from certsnn.attacks import (
    FGSM,
    G2S,
    PGD,
    RSF,
    Attack,
    CrossEntropy,
    ExhaustiveFlips,
    GreedyFlips,
    Loss,
    Margin,
    RandomSearch,
)
from certsnn.attacks.gradients import by_step
from certsnn.attacks.pictures import plot_images, plot_raster
from certsnn.attacks.statistics import outcome, statistics
from certsnn.data import load
from certsnn.encoding import Bernoulli
from certsnn.files import replacing, write_text
from certsnn.inputsets import CoupledBernoulli, InputSet, LinfBall, SpikeBox, SpikeFlips
from certsnn.models import load_model
from certsnn.networks import SpikingNetwork, strictly_correct
from certsnn.neurons import IF, LIF
from certsnn.products import ieee_products

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
BATCH = 250
THRESHOLDS = (None, 1.0, 2.0)
"""Penultimate thresholds in gradient passes: the network's own 0.3, the paper's, and the best for targets of
0.6, 1, 1.5 and 2 on 200 training images."""
Row = dict[str, Any]


def write(name: str, title: str, facts: str, rows: Sequence[Row]) -> None:
    """The rows as JSON and as a table."""
    setting = (
        f"certsnn {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} thread."
    )
    keys = list(rows[0])
    lines = [f"# {title}", "", facts, "", setting, "", f"| {' | '.join(keys)} |", "|---" * len(keys) + "|"]
    lines += [f"| {' | '.join(_cell(row[key]) for key in keys)} |" for row in rows]
    write_text(RESULTS / f"{name}.md", "\n".join(lines) + "\n")
    data = {"title": title, "facts": facts, "setting": setting, "rows": list(rows)}
    write_text(RESULTS / f"{name}.json", json.dumps(data, indent=1) + "\n")
    print("\n".join(lines))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def any_spikes(x: Tensor) -> SpikeBox:
    """All spikes: the papers' adversary has no budget."""
    return SpikeBox(torch.zeros_like(x), torch.ones_like(x))


# The papers' tables


def paper_row(
    network: SpikingNetwork, data: Any, samples: int, attack: G2S, targeted: bool, steps: int
) -> Row:
    """One row of the papers' tables; samples whose gradient vanished at the start are counted apart, too."""
    outcomes = []
    without: list[Tensor] = []  # success of the samples that have no gradient to begin with
    for start in range(0, samples, BATCH):
        x, y, index = data[range(start, min(start + BATCH, samples))]
        x0 = Bernoulli(steps)(x, index)
        correct = strictly_correct(network(x0).detach(), y)
        targets = (y + 1 + index % 9) % 10 if targeted else None
        input_set = any_spikes(x0)
        result = attack(network, x0, y, input_set, targets)
        outcomes.append(outcome(x0, correct, input_set, result))
        without.append(result.success[correct & vanished_gradients(network, attack, x0, y)])
    found, vanished = statistics(outcomes), torch.cat(without)
    return {
        "goal": "targeted" if targeted else "untargeted",
        "penultimate threshold": attack.penultimate_threshold or "own",
        "RSF": "yes" if attack.gamma else "no",
        "correct": found.correct,
        "success %": found.success_rate,
        "iterations": found.iterations,
        "flipped bits %": None if found.entry_change is None else 100 * found.entry_change,
        "pixel change": found.pixel_change,
        "RSF needed %": found.random_share if attack.gamma else None,
        "all-zero gradient at the start %": 100 * len(vanished) / max(1, found.correct),
        "success % of these": 100 * float(vanished.float().mean()) if len(vanished) else None,
    }


def vanished_gradients(network: SpikingNetwork, attack: G2S, x: Tensor, y: Tensor) -> Tensor:
    """Whether the attack's gradient is zero in all spikes of x itself (untargeted loss), bool ``[B]``."""
    x = x.clone().requires_grad_()
    loss = attack.loss(attack.view(network.freeze()).run(x), y).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return (gradient == 0).movedim(1, 0).flatten(1).all(1)


def papers(root: str, run: str, samples: int) -> None:
    data = load("mnist", "test", root)
    model = load_model(run)
    loss: Loss = model.config.training.objective.loss  # type: ignore[attr-defined]
    rows = []
    for targeted in (False, True):
        for threshold in THRESHOLDS:
            for gamma in (0.0, 0.05):
                attack = G2S(gamma=gamma, loss=loss, penultimate_threshold=threshold)
                rows.append(paper_row(model.network, data, samples, attack, targeted, model.config.steps))
                print(rows[-1], flush=True)
    name = type(loss).__name__
    facts = (
        f"The first {samples} MNIST test images, Bernoulli-encoded (T = {model.config.steps}); a small CNN "
        "of LIF(0.3, 0.3), rate readout, naturally trained by configs/mnist-cnn-natural.yaml with "
        f"{name}, which is the attack's loss too. G2S, 25 iterations, no budget. Success is over the samples "
        "that the network gets right; iterations and changes are means over those that were broken. A tie is "
        "an untargeted success, but no targeted one. Target: another class, by the position of the image."
    )
    write(f"attacks-papers-{name}", f"G2S and RSF on a CNN trained with {name}", facts, rows)


def pictures(root: str, run: str, samples: int = 6) -> None:
    """The first images of the test set before and after a targeted attack, and the spikes of one of them."""
    model = load_model(run)
    x, y, index = load("mnist", "test", root)[range(samples)]
    x0 = Bernoulli(model.config.steps)(x, index)
    targets = (y + 1 + index % 9) % 10
    attack = G2S(penultimate_threshold=THRESHOLDS[-1])
    result = attack(model.network, x0, y, any_spikes(x0), targets)
    titles = [
        f"{label} as {target}" if done else f"{label} holds"
        for label, target, done in zip(y.tolist(), targets.tolist(), result.success.tolist(), strict=True)
    ]
    images = plot_images(x0.mean(0), result.adversarial.mean(0), titles)
    raster = plot_raster(x0[:, 0], result.adversarial[:, 0], titles[0])
    for name, figure in (("images", images), ("raster", raster)):
        with replacing(DOCS / f"attacks-{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100)


# Greedy against exhaustive search


def tiny(seed: int, steps: int, features: int, readout: str) -> SpikingNetwork:
    torch.manual_seed(seed)
    neuron: Callable[[], nn.Module] = (lambda: LIF(0.5, 0.7)) if seed % 2 else (lambda: IF(0.5))
    layers = [nn.Linear(features, 12), neuron(), nn.Linear(12, 12), neuron(), nn.Linear(12, 3)]
    network = SpikingNetwork(
        layers if readout == "membrane" else [*layers, neuron()],
        steps,
        readout,  # type: ignore[arg-type]
        "spikes",
    )
    with torch.no_grad():
        for layer in network.chain():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2)
    return network.eval()


def greedy(networks: int = 20, samples: int = 20, steps: int = 4, features: int = 10) -> None:
    attacks: list[Attack] = [
        ExhaustiveFlips(),
        GreedyFlips(),
        GreedyFlips(rounds=3),
        G2S(),
        G2S(loss=Margin()),
        RSF(),
        RandomSearch(),
    ]
    rows = []
    for budget in track((1, 2, 3)):
        found = [0] * len(attacks)
        total = 0
        for seed in range(networks):
            network = tiny(seed, steps, features, "rate" if seed % 4 < 2 else "membrane")
            generator = torch.Generator().manual_seed(seed)
            x = torch.randint(0, 2, (steps, samples, features), generator=generator).float()
            logits = network(x).detach()
            y = logits.argmax(1)
            clear = strictly_correct(logits, y)
            x, y = x[:, clear], y[clear]
            total += len(y)
            for place, attack in enumerate(attacks):
                found[place] += int(attack(network, x, y, SpikeFlips(budget)).success.sum())
        for attack, count in zip(attacks, found, strict=True):
            share = 100 * count / found[0]
            rows.append(
                {
                    "budget": budget,
                    "attack": attack.describe(),
                    "broken": count,
                    "of": total,
                    "% of exhaustive": share,
                }
            )
    facts = (
        f"{networks} random networks {features}-12-12-3 on spikes, T = {steps} ({steps * features} bits), "
        f"LIF and IF, both readouts; of {samples} random samples each, those classified without a tie."
    )
    write("attacks-greedy", "Flips under a budget, against exhaustive search", facts, rows)


# foolbox


def outside_check(iterations: int = 25, eps: float = 0.15) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    network = load_model("digits-eps0.05").network
    data = load("digits", "test")
    x, y, _ = data[range(len(data))]
    rows = []
    for step_size in (0.01 / 0.3, 0.1):
        torch.manual_seed(0)
        attack = foolbox.attacks.LinfPGD(steps=iterations, rel_stepsize=step_size)
        _, adversarial, _ = attack(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilons=eps)
        wrong = ~strictly_correct(network(adversarial).detach(), y)
        name = f"foolbox {foolbox.__version__} LinfPGD(steps={iterations}, rel_stepsize={step_size:.3g})"
        rows.append({"attack": name, "runs": 1, "robust error %": 100 * float(wrong.float().mean())})
    ours: list[tuple[Attack, int]] = [
        (FGSM(), 1),
        (PGD(iterations, losses=(CrossEntropy(),), surrogates=(None,)), 1),
        (PGD(iterations, losses=(Margin(),), surrogates=(None,)), 1),
        (PGD(iterations), len(PGD().surrogates)),
        (PGD(iterations, restarts=4), 4 * len(PGD().surrogates)),
        (RandomSearch(), 1),
    ]
    for mine, runs in ours:
        wrong = mine(network, x, y, LinfBall(eps)).success
        rows.append(
            {"attack": mine.describe(), "runs": runs, "robust error %": 100 * float(wrong.float().mean())}
        )
    facts = f"digits-eps0.05, the whole test set ({len(data)} images), LinfBall({eps:g}); a tie is an error."
    write("attacks-foolbox", "PGD against foolbox", facts, rows)


# Cost


def speed(root: str, samples: int, iterations: int = 25, steps: int = 10) -> None:
    """Time of attacks that break next to nothing, over that of their forward-backward passes alone."""
    torch.manual_seed(0)
    x, _, index = load("mnist", "test", root)[range(samples)]
    spiking, image = (
        build("reference-fc", (1, 28, 28), 10, lambda: LIF(0.25, 0.25), steps, "membrane", kind).eval()
        for kind in ("spikes", "image")
    )
    x0 = Bernoulli(steps)(x, index)
    nested, trains = CoupledBernoulli(0.0, steps).bind(x, index)
    held = x.expand(steps, *x.shape)  # G2S takes the gradient of an image at each step
    cases: list[tuple[SpikingNetwork, Tensor, Tensor, InputSet, Attack]] = [
        (spiking, x0, x0, SpikeBox(x0, x0), G2S(iterations)),
        (spiking, x0, x0, SpikeFlips(1), G2S(iterations)),
        (spiking, nested, nested, trains, G2S(iterations)),
        (spiking, x0, x0, SpikeFlips(1), RSF(iterations)),
        (image, x, held, LinfBall(0.0), G2S(iterations)),
        (image, x, x, LinfBall(0.0), PGD(iterations, surrogates=(None,))),
    ]
    rows = []
    for network, start, differentiated, input_set, attack in cases:
        y = network(start).detach().argmax(1)
        forward_backward(network, differentiated, y, 1)  # warm
        begun = time.process_time()
        result = attack(network, start, y, input_set)
        whole = time.process_time() - begun
        passes = int(result.iterations.sum())
        needed = forward_backward(network, differentiated, y, iterations) * passes / (iterations * samples)
        rows.append(
            {
                "attack": attack.describe(),
                "set": input_set.describe(),
                "iterations a sample": passes / samples,
                "attack (s)": whole,
                "its forward-backward passes (s)": needed,
                "ratio": whole / needed,
            }
        )
        print(rows[-1], flush=True)
    facts = (
        f"{samples} MNIST test images; reference-fc (784-512-256-10), random weights, labelled by itself, "
        f"T = {steps}; seconds of CPU time, one run each. The sets hold next to nothing, so that all "
        "iterations run; the work is that of larger sets. Forward-backward: the gradient of cross-entropy "
        "with regard to the input alone, on the whole batch at once."
    )
    write("attacks-speed", "What attacks cost", facts, rows)


def forward_backward(network: SpikingNetwork, x: Tensor, y: Tensor, passes: int) -> float:
    """Seconds of so many gradients with regard to x (``[T, B, ...]``: what enters at each step)."""
    program = by_step(network.freeze()) if x.ndim == 5 else network.freeze()
    begun = time.process_time()
    with ieee_products():
        for _ in range(passes):
            inputs = x.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(program.run(inputs), y), inputs)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("papers", "pictures", "greedy", "foolbox", "speed"):
        command = commands.add_parser(name)
        if name in ("papers", "pictures", "speed"):
            command.add_argument("root")
        if name in ("papers", "pictures"):
            command.add_argument("run")
        if name in ("papers", "speed"):
            command.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "papers":
        papers(arguments.root, arguments.run, arguments.samples)
    elif arguments.command == "pictures":
        pictures(arguments.root, arguments.run)
    elif arguments.command == "speed":
        speed(arguments.root, arguments.samples)
    elif arguments.command == "greedy":
        greedy()
    else:
        outside_check()


if __name__ == "__main__":
    main()
