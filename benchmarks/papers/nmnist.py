"""N-MNIST under flipped bits: certified training beside natural, a ReLU network, and logistic regression.

    python benchmarks/papers/nmnist.py ROOT RUNS [SEEDS]      # writes benchmarks/results/nmnist.{json,md}

ROOT holds NMNIST/{Train,Test}/<digit>/<id>.bin, all of it or a part; RUNS gets a run folder for each network,
and one that is finished is taken as it is; the files are written anew after each. Every network is verified
by S-IBP, rounding covered, and attacked on all test recordings, at several budgets of `SpikeFlips`; the
attack error is the worst over the suite.

The ReLU network has the layers of the spiking one, but takes all frames at once (its first layer is T times
as large), is trained by interval bounds with the config's batches, augmentation and schedule, and verified in
float32 without rounding terms; it is not attacked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor

from certsnn.attacks import G2S, Attack, GreedyFlips, RandomSearch
from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.flips import FlippedSpikes
from certsnn.bounds.interval.layers import Held, Source
from certsnn.bounds.interval.topk import any_weights, feasible_flips
from certsnn.cli.allocator import keep_freed_memory
from certsnn.configuration import read_config
from certsnn.data import Split, load, loader
from certsnn.evaluation import evaluate
from certsnn.files import write_text
from certsnn.inputsets import SpikeFlips, Threat
from certsnn.train.config import RunConfig
from certsnn.train.run import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record
from papers.relu_twin import Twin

BUDGETS = (1, 5, 10, 50)
SUITE: tuple[Attack, ...] = (RandomSearch(), G2S(), GreedyFlips(candidates=16))
NETWORKS = {
    "certified, 1 flip": ("nmnist", ()),
    "certified, 10 flips": ("nmnist-flips10", ()),
    "natural": ("nmnist", ("--training.objective=Natural",)),
}
"""Each with its config and flags."""
RELU = "ReLU, certified, 1 flip"
SPLITS: tuple[Split, Split] = ("train", "test")
REGRESSION_SIZES = (200, 1000)


def configured(name: str, flags: Sequence[str], root: Path, seed: int) -> tuple[RunConfig, str]:
    return read_config(record.CONFIGS / f"{name}.yaml", [*flags, f"--data.root={root}", f"--seed={seed}"])


def slug(what: str, seed: int) -> str:
    return f"{what.replace(', ', '-').replace(' ', '-')}-s{seed}"


def kept(folder: Path, text: str, make: Callable[[], list[record.Row]]) -> list[record.Row]:
    """The rows that a run folder holds of this config, or those that are made and left there."""
    path = folder / "benchmark.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found["config"] == text:
            return list(found["rows"])
    rows = make()
    write_text(path, json.dumps({"config": text, "rows": rows}))
    return rows


def spiking(what: str, root: Path, runs: Path, seed: int) -> list[record.Row]:
    """Train, verify and attack; a row for each budget."""
    name, flags = NETWORKS[what]
    config, text = configured(name, flags, root, seed)
    folder = runs / slug(what, seed)
    model = run(config, text, folder, torch.device("cpu")).model
    test = load("nmnist", "test", root, frames=config.data.frames)
    rows = []
    for budget in BUDGETS:
        report = evaluate(model.network, loader(test, 50), SpikeFlips(budget), attacks=SUITE)
        errors = {"clean": report.clean, "attacked": report.attack, "verified": report.verified}
        rows.append(
            {"network": what, "config": name, "flags": list(flags), "seed": seed, "budget": budget}
            | {key: rate.percent for key, rate in errors.items()}
            | {"training_seconds": model.facts["training_seconds"]}
        )
    return rows


@final
class FlipTwin(Twin):
    """For trains with flipped bits; the network takes all frames at once, as channels."""

    def view(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1, 2)

    def source(self, x: Tensor, threat: Threat) -> Source:
        assert isinstance(threat, SpikeFlips)
        bits = self.view(x)
        if threat.budget == 0:
            return Held(Interval(bits, bits), 1)
        ranking = any_weights if self.network.training else feasible_flips
        return FlippedSpikes(bits[None], threat, ranking)


def relu(root: Path, seed: int) -> list[record.Row]:
    """Train and verify the ReLU network; a row for each budget."""
    config, _ = configured("nmnist", (), root, seed)
    train_set, test_set = (load("nmnist", split, root, frames=config.data.frames) for split in SPLITS)
    channels, height, width = train_set.shape
    twin = FlipTwin(config, (config.steps * channels, height, width), train_set.classes)
    seconds = round(twin.train(train_set), 1)
    found = [(budget, twin.errors(test_set, SpikeFlips(budget))) for budget in BUDGETS]
    return [
        {"network": RELU, "config": "nmnist", "flags": [], "seed": seed, "budget": budget}
        | {"clean": clean, "attacked": None, "verified": verified, "training_seconds": seconds}
        for budget, (verified, clean) in found
    ]


def counts(root: Path, split: str) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[int]]:
    """log(1 + events) ``[N, 2 34 34]`` of each pixel and polarity over the recording, and the labels."""
    files, events = record.recordings(root, split)
    found = record.event_counts(events).reshape(len(files), -1)
    return np.log1p(found), [int(file.parent.name) for file in files]


def regressions(root: Path, seeds: int) -> list[record.Row]:
    """Clean error of logistic regression on event counts, on parts of the training recordings."""
    (x, y), (x_test, y_test) = counts(root, "train"), counts(root, "test")
    rows = []
    for size in REGRESSION_SIZES:
        for seed in range(seeds if size < len(x) else 1):
            part, labels = x, y
            if size < len(x):
                part, _, labels, _ = train_test_split(x, y, train_size=size, stratify=y, random_state=seed)
            model = LogisticRegression(max_iter=1000).fit(part, labels)
            error = 100 * (1 - model.score(x_test, y_test))
            rows.append({"recordings": len(part), "seed": seed, "clean": error})
    return rows


def described(root: Path) -> str:
    """What was measured."""
    train, test = (load("nmnist", split, root) for split in SPLITS)
    return (
        f"N-MNIST, a subset: {train.extent} training recordings, {test.extent} test recordings. All tuning "
        "was done on a part of the training recordings. Errors in percent: the mean over seeds, then the "
        "least and the largest. For each budget of flips (any bit, anywhere in the train of 2,890 bits): "
        "attack error / verified error; the truth lies between them, their difference is what is not known. "
        f"Attacks: {', '.join(attack.describe() for attack in SUITE)}, the worst for each recording; "
        f"verified by S-IBP, rounding covered. {record.footer()}\n"
    )


COLUMNS = {
    "network": "{network}",
    "seeds": "{seeds}",
    "clean": "{clean}",
    **{
        f"{budget} flip{'s' * (budget > 1)}": f"{{attacked{budget}}} / {{verified{budget}}}"
        for budget in BUDGETS
    },
}


def line(network: str, rows: Sequence[record.Row]) -> record.Row:
    """The table's line of a network from its rows."""
    first = [row for row in rows if row["budget"] == BUDGETS[0]]
    clean = record.mean_and_range([row["clean"] for row in first])
    found: record.Row = {"network": network, "seeds": len(first), "clean": clean}
    for budget in BUDGETS:
        for error in ("attacked", "verified"):
            values = [row[error] for row in rows if row["budget"] == budget and row[error] is not None]
            found[f"{error}{budget}"] = record.mean_and_range(values)
    return found


def page(found: record.Row) -> str:
    by_network: dict[str, list[record.Row]] = {}
    for row in found["networks"]:
        by_network.setdefault(row["network"], []).append(row)
    by_size: dict[int, list[float]] = {}
    for row in found["regression"]:
        by_size.setdefault(row["recordings"], []).append(row["clean"])
    regressions = "".join(
        f"- on {size} recordings: {record.mean_and_range(errors)}\n" for size, errors in by_size.items()
    )
    return f"""\
# N-MNIST under flipped bits

{found["facts"]}
{record.table(COLUMNS, [line(*one) for one in by_network.items()])}
*natural* is configs/nmnist.yaml with `--training.objective=Natural`. The ReLU network is described \
in benchmarks/papers/nmnist.py.

Clean error of logistic regression on event counts \
(log(1 + count) of each pixel and polarity, whole recordings), no robustness claimed:

{regressions}"""


def main(root: Path, runs: Path, seeds: int = 3) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    linear = regressions(root, seeds)
    rows: list[record.Row] = []
    order = [*NETWORKS, RELU]
    wanted = [(what, seed) for what in order[:2] for seed in range(seeds)]
    wanted += [(what, seed) for seed in range(seeds) for what in order[2:]]
    for what, seed in wanted:
        name, flags = NETWORKS.get(what, ("nmnist", ()))
        _, text = configured(name, flags, root, seed)
        make = relu if what == RELU else partial(spiking, what, runs=runs)
        rows += kept(runs / slug(what, seed), text, partial(make, root=root, seed=seed))
        rows.sort(key=lambda row: (order.index(row["network"]), row["seed"], row["budget"]))
        found = {"facts": described(root), "networks": rows, "regression": linear}
        record.write("nmnist", found, page(found))


if __name__ == "__main__":
    record.run(main)
