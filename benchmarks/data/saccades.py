"""The simulated event camera beside real N-MNIST recordings of the same digits.

    python benchmarks/data/saccades.py ROOT [SEEDS]    # writes benchmarks/results/saccades.{json,md}

ROOT holds MNIST as torchvision stores it, and NMNIST/{Train,Test}/<digit>/<id>.bin, all of it or a part; a
recording's id is its image's place in MNIST, counted from 1. Compares events (how many, their polarity, their
share of each saccade, where they are), then networks: 2x34x34-256-10 with LIF neurons, trained on the frames
(T = 10) of one kind, or on as many again of other digits, classify the frames of each kind.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor, nn

from certsnn.data import Frames, ImageDataset, Saccades, SpikeDataset, load, loader
from certsnn.data.events import Events
from certsnn.data.events.nmnist import FOLDER, SENSOR, WHOLE
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF
from certsnn.program import strictly_correct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

FRAMES = Frames(steps=10)
HIDDEN, EPOCHS, BATCH, RATE = 256, 40, 50, 1e-3
LARGE = 10_000
"""Simulated digits for the one large training set."""


def pairs(root: Path, split: str) -> tuple[list[Events], list[Events], SpikeDataset, SpikeDataset]:
    """Real and simulated events of the same digits, and the frames of both."""
    files, real = record.recordings(root, split)
    images = load("mnist", "train" if split == "train" else "test", root)
    assert isinstance(images, ImageDataset)
    places = torch.tensor([int(file.stem) - 1 for file in files])
    labels = torch.tensor([int(file.parent.name) for file in files])
    if not torch.equal(images.labels[places], labels):
        raise SystemExit("the recordings' numbers are not the places of their images in MNIST")
    simulated = Saccades().events(images.images[places], places)
    frames = [
        SpikeDataset(kind, torch.stack([FRAMES.of(one, *SENSOR) for one in recordings]), labels, 10)
        for kind, recordings in (("real", real), ("simulated", simulated))
    ]
    return real, simulated, frames[0], frames[1]


def figures(recordings: Sequence[Events], frames: SpikeDataset) -> record.Row:
    """What is compared of the events."""
    third = Saccades().duration / 3
    shares = [
        np.bincount((e.time // third).astype(int).clip(0, 2), minlength=3) / len(e.time) for e in recordings
    ]
    return {
        "events": mean(len(e.time) for e in recordings),
        "events_deviation": stdev(len(e.time) for e in recordings),
        "brighter": mean(float(e.polarity.mean()) for e in recordings),
        "saccades": np.mean(shares, axis=0).tolist(),
        "bits_set": float(frames.spikes.double().mean()),
    }


def likeness(real: Sequence[Events], simulated: Sequence[Events]) -> record.Row:
    """Correlations of the event densities: of their sums, and of each recording with its own simulation."""
    a, b = record.event_counts(real), record.event_counts(simulated)
    each = [np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True)]
    return {
        "of_sums": float(np.corrcoef(a.sum(0).ravel(), b.sum(0).ravel())[0, 1]),
        "of_pairs": mean(map(float, each)),
    }


def train(data: SpikeDataset, seed: int) -> SpikingNetwork:
    torch.manual_seed(seed)
    inputs = 2 * SENSOR[0] * SENSOR[1]
    layers = [nn.Flatten(), nn.Linear(inputs, HIDDEN), LIF(1.0, 0.5), nn.Linear(HIDDEN, 10)]
    network = SpikingNetwork(layers, FRAMES.steps, "membrane", "spikes")
    epochs = EPOCHS if len(data) <= 1000 else EPOCHS * 1000 // len(data)
    record.train(network, loader(data, BATCH, seed), epochs, RATE)
    return network


@torch.no_grad()
def error(network: SpikingNetwork, data: SpikeDataset) -> float:
    wrong: list[Tensor] = [~strictly_correct(network(x), y) for x, y, _ in loader(data, 200)]
    return 100 * float(torch.cat(wrong).float().mean())


def classified(frames: dict[str, dict[str, SpikeDataset]], seeds: int) -> list[record.Row]:
    """Errors of networks trained on each kind of frames, on the frames of each kind."""
    rows: list[record.Row] = []
    for kind, data in frames["train"].items():
        for seed in range(seeds):
            network = train(data, seed)
            rows += [
                {"trained_on": kind, "samples": len(data), "seed": seed, "tested_on": other}
                | {"error": error(network, test)}
                for other, test in frames["test"].items()
            ]
            print(rows[-2:], file=sys.stderr)
    return rows


def described(found: dict[str, record.Row], seeds: int) -> str:
    """What was compared."""
    sizes = ", ".join(f"{found[s]['recordings']} of the {WHOLE[s]:,} {s} recordings" for s in FOLDER)
    return (
        f"N-MNIST, a subset: {sizes}, and simulations (`{Saccades()!r}`) of the same MNIST digits. The "
        "simulated threshold was set by the number of events of the training recordings. Networks: "
        f"2x34x34-{HIDDEN}-10, LIF(1, 0.5), T = {FRAMES.steps}, membrane readout, natural training, {EPOCHS} "
        f"passes over 1,000 samples or as many steps; {seeds} seeds: the mean, the least and the largest. "
        f"{record.footer()}\n"
    )


EVENTS = record.columns(
    f"digits of | camera | events (deviation) | brighter | share of each saccade | "
    f"bits set, T = {FRAMES.steps}",
    "{split} | {kind} | {events:.0f} ({events_deviation:.0f}) | {brighter:.1%} | "
    "{saccades[0]:.0%} / {saccades[1]:.0%} / {saccades[2]:.0%} | {bits_set:.2%}",
)


def page(found: record.Row) -> str:
    events = [
        {"split": split, "kind": kind, **facts[kind]}
        for split, facts in found["events"].items()
        for kind in ("real", "simulated")
    ]
    pair = found["events"]["test"]["likeness"]
    return f"""\
# The simulated event camera and N-MNIST

{found["facts"]}
{record.table(EVENTS, events)}
Correlation of the events' densities by pixel and polarity, real with simulated, test digits: \
{pair["of_sums"]:.3f} of their sums over all digits, {pair["of_pairs"]:.3f} of each digit with \
itself (the mean).

{errors_table(found["errors"])}"""


def errors_table(rows: list[record.Row]) -> str:
    kinds = dict.fromkeys((row["trained_on"], row["samples"]) for row in rows)
    tests = dict.fromkeys(row["tested_on"] for row in rows)

    def errors(kind: str, test: str) -> str:
        chosen = [row["error"] for row in rows if (row["trained_on"], row["tested_on"]) == (kind, test)]
        return record.mean_and_range(chosen, unit="%")

    lines = [
        {"kind": kind, "samples": samples, **{test: errors(kind, test) for test in tests}}
        for kind, samples in kinds
    ]
    columns = {f"error on {test}": f"{{{test}}}" for test in tests}
    return record.table({"trained on": "{kind}", "samples": "{samples}", **columns}, lines)


def main(root: Path, seeds: int = 3) -> None:
    events: dict[str, record.Row] = {}
    frames: dict[str, dict[str, SpikeDataset]] = {}
    for split in FOLDER:
        real, simulated, real_frames, simulated_frames = pairs(root, split)
        frames[split] = {"real": real_frames, "simulated": simulated_frames}
        events[split] = {
            "recordings": len(real),
            "real": figures(real, real_frames),
            "simulated": figures(simulated, simulated_frames),
            "likeness": likeness(real, simulated),
        }
    large = load("mnist", "train", root).head(LARGE)
    assert isinstance(large, ImageDataset)
    spikes = Saccades().frames(large.images, large.index, FRAMES)
    frames["train"]["simulated, more"] = SpikeDataset("more", spikes, large.labels, 10)
    found = {"facts": described(events, seeds), "events": events, "errors": classified(frames, seeds)}
    record.write("saccades", found, page(found))


if __name__ == "__main__":
    record.run(main)
