"""The simulated event camera beside real N-MNIST recordings of the same digits.

    python benchmarks/saccades.py ROOT [SEEDS]      # writes benchmarks/results/saccades.{json,md}

ROOT holds MNIST as torchvision stores it, and NMNIST/{Train,Test}/<digit>/<id>.bin, all of it or a part; a
recording's id is its image's place in MNIST, counted from 1. Compares events (how many, their polarity, their
share of each saccade, where they are), then networks: 2x34x34-256-10 with LIF neurons, trained on the frames
(T = 10) of one kind, or on as many again of other digits, classify the frames of each kind.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn import __version__
from certsnn.data import Frames, ImageDataset, Saccades, SpikeDataset, load, loader
from certsnn.data.events import Events
from certsnn.data.events.nmnist import FOLDER, SENSOR, WHOLE, read
from certsnn.files import write_text
from certsnn.networks import SpikingNetwork, strictly_correct
from certsnn.neurons import LIF

RESULTS = Path(__file__).parent / "results"
FRAMES = Frames(steps=10)
HIDDEN, EPOCHS, BATCH, RATE = 256, 40, 50, 1e-3
LARGE = 10_000
"""Simulated digits for the one large training set."""
Row = dict[str, Any]


def pairs(root: Path, split: str) -> tuple[list[Events], list[Events], SpikeDataset, SpikeDataset]:
    """Real and simulated events of the same digits, and the frames of both."""
    files = sorted((root / "NMNIST" / FOLDER[split]).glob("[0-9]/*.bin"))
    images = load("mnist", "train" if split == "train" else "test", root)
    assert isinstance(images, ImageDataset)
    places = torch.tensor([int(file.stem) - 1 for file in files])
    labels = torch.tensor([int(file.parent.name) for file in files])
    if not torch.equal(images.labels[places], labels):
        raise SystemExit("the recordings' numbers are not the places of their images in MNIST")
    real = [read(file) for file in files]
    simulated = Saccades().events(images.images[places], places)
    frames = [
        SpikeDataset(kind, torch.stack([FRAMES.of(one, *SENSOR) for one in recordings]), labels, 10)
        for kind, recordings in (("real", real), ("simulated", simulated))
    ]
    return real, simulated, frames[0], frames[1]


def figures(recordings: Sequence[Events], frames: SpikeDataset) -> Row:
    """What is compared of the events."""
    third = Saccades().duration / 3
    shares = [
        np.bincount((e.time // third).astype(int).clip(0, 2), minlength=3) / len(e.time) for e in recordings
    ]
    return {
        "events": statistics.mean(len(e.time) for e in recordings),
        "events_deviation": statistics.stdev(len(e.time) for e in recordings),
        "brighter": statistics.mean(float(e.polarity.mean()) for e in recordings),
        "saccades": np.mean(shares, axis=0).tolist(),
        "bits_set": float(frames.spikes.double().mean()),
    }


def density(recordings: Sequence[Events]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Events ``[n, 2, H, W]`` of each recording, by polarity and pixel."""
    found = np.zeros((len(recordings), 2, *SENSOR))
    for one, e in zip(found, recordings, strict=True):
        np.add.at(one, (e.polarity, e.y, e.x), 1)
    return found


def likeness(real: Sequence[Events], simulated: Sequence[Events]) -> Row:
    """Correlations of the event densities: of their sums, and of each recording with its own simulation."""
    a, b = density(real), density(simulated)
    each = [np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True)]
    return {
        "of_sums": float(np.corrcoef(a.sum(0).ravel(), b.sum(0).ravel())[0, 1]),
        "of_pairs": statistics.mean(map(float, each)),
    }


def train(data: SpikeDataset, seed: int) -> SpikingNetwork:
    torch.manual_seed(seed)
    inputs = 2 * SENSOR[0] * SENSOR[1]
    layers = [nn.Flatten(), nn.Linear(inputs, HIDDEN), LIF(1.0, 0.5), nn.Linear(HIDDEN, 10)]
    network = SpikingNetwork(layers, FRAMES.steps, "membrane", "spikes")
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    batches = loader(data, BATCH, seed)
    for _ in range(EPOCHS if len(data) <= 1000 else EPOCHS * 1000 // len(data)):
        for x, y, _ in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def error(network: SpikingNetwork, data: SpikeDataset) -> float:
    wrong: list[Tensor] = [~strictly_correct(network(x), y) for x, y, _ in loader(data, 200)]
    return 100 * float(torch.cat(wrong).float().mean())


def main(folder: str, seeds: int = 3) -> None:
    root = Path(folder)
    found: dict[str, Row] = {}
    frames: dict[str, dict[str, SpikeDataset]] = {}
    for split in FOLDER:
        real, simulated, real_frames, simulated_frames = pairs(root, split)
        frames[split] = {"real": real_frames, "simulated": simulated_frames}
        found[split] = {
            "recordings": len(real),
            "real": figures(real, real_frames),
            "simulated": figures(simulated, simulated_frames),
            "likeness": likeness(real, simulated),
        }
    large = load("mnist", "train", root).head(LARGE)
    assert isinstance(large, ImageDataset)
    spikes = Saccades().frames(large.images, large.index, FRAMES)
    frames["train"]["simulated, more"] = SpikeDataset("more", spikes, large.labels, 10)
    rows: list[Row] = []
    for kind, data in frames["train"].items():
        for seed in range(seeds):
            network = train(data, seed)
            rows += [
                {"trained_on": kind, "samples": len(data), "seed": seed, "tested_on": other}
                | {"error": error(network, test)}
                for other, test in frames["test"].items()
            ]
            print(rows[-2:], file=sys.stderr)
    sizes = ", ".join(f"{found[s]['recordings']} of the {WHOLE[s]:,} {s} recordings" for s in FOLDER)
    facts = (
        f"N-MNIST, a subset: {sizes}, and simulations (`{Saccades()!r}`) of the same MNIST digits. The "
        "simulated threshold was set by the number of events of the training recordings. Networks: "
        f"2x34x34-{HIDDEN}-10, LIF(1, 0.5), T = {FRAMES.steps}, membrane readout, natural training, {EPOCHS} "
        f"passes over 1,000 samples or as many steps; {seeds} seeds: the mean, the least and the largest. "
        f"certsnn {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} thread(s).\n"
    )
    written = {"facts": facts, "events": found, "errors": rows}
    write_text(RESULTS / "saccades.json", json.dumps(written, indent=2) + "\n")
    text = f"# The simulated event camera and N-MNIST\n\n{facts}\n{events_table(found)}\n{errors_table(rows)}"
    write_text(RESULTS / "saccades.md", text)
    print(text)


def events_table(found: dict[str, Row]) -> str:
    lines = [
        "| digits of | camera | events (deviation) | brighter | share of each saccade | bits set, T = 10 |",
        "|---|---|---|---|---|---|",
    ]
    for split, facts in found.items():
        for kind in ("real", "simulated"):
            row = facts[kind]
            shares = " / ".join(f"{100 * share:.0f}%" for share in row["saccades"])
            lines.append(
                f"| {split} | {kind} | {row['events']:.0f} ({row['events_deviation']:.0f}) | "
                f"{100 * row['brighter']:.1f}% | {shares} | {100 * row['bits_set']:.2f}% |"
            )
    pair = found["test"]["likeness"]
    lines.append(
        f"\nCorrelation of the events' densities by pixel and polarity, real with simulated, test digits: "
        f"{pair['of_sums']:.3f} of their sums over all digits, {pair['of_pairs']:.3f} of each digit with "
        "itself (the mean)."
    )
    return "\n".join(lines) + "\n"


def errors_table(rows: list[Row]) -> str:
    kinds = list(dict.fromkeys((row["trained_on"], row["samples"]) for row in rows))
    tests = list(dict.fromkeys(row["tested_on"] for row in rows))
    lines = [
        f"| trained on | samples | {' | '.join(f'error on {test}' for test in tests)} |",
        f"|---|---|{'---|' * len(tests)}",
    ]
    for kind, samples in kinds:
        cells = []
        for test in tests:
            values = [row["error"] for row in rows if (row["trained_on"], row["tested_on"]) == (kind, test)]
            cells.append(f"{statistics.mean(values):.1f}% ({min(values):.0f}-{max(values):.0f})")
        lines.append(f"| {kind} | {samples} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
