"""The ReLU twin of a run: the same layers with ReLU in place of every neuron, trained by IBP alike.

    python benchmarks/papers/relu_twin.py ROOT CONFIG NAME [--KEY VALUE ...]    # a line of results/relu.jsonl

ROOT is the folder of torchvision's data sets. The config is one of `certsnn train`, its keys as flags too.
The twin has the same architecture, norm, data, split, batches, schedule of eps, kappa and learning rate,
gradient norm, averaging and regularised weights (L1); what only spikes have (neuron, steps, surrogates,
initialisation to firing rates) has no part. Errors are those of the whole test set, by IBP in float32
without rounding terms; the best epoch is chosen on the validation split as `certsnn train` does.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from certsnn.affine import fold
from certsnn.architectures import ARCHITECTURES, NORMS
from certsnn.batches import WHOLE
from certsnn.bounds.interval.arithmetic import PLAIN, Arithmetic, Interval
from certsnn.bounds.interval.joints import Part, bounded
from certsnn.bounds.interval.layers import Held, Source
from certsnn.bounds.interval.propagate import margins
from certsnn.configuration import override, read_config
from certsnn.data import LabelledDataset, load, loader
from certsnn.errors import ConfigError
from certsnn.files import write_text
from certsnn.graph import Composite, Plan, Wire
from certsnn.inputsets import LinfBall, Threat
from certsnn.layers import as_affine
from certsnn.machine import versions
from certsnn.networks import train_chain
from certsnn.program import Link, Node, strictly_correct
from certsnn.train.averaging import Average, copied
from certsnn.train.config import RunConfig
from certsnn.train.loop import epoch_seed
from certsnn.train.objectives.base import mixed
from certsnn.train.objectives.certified import Certified, robust_cross_entropy
from certsnn.train.regularisers import L1
from certsnn.train.schedules import Moment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

RESULTS = record.RESULTS / "relu.jsonl"


@final
class Rectified(Composite):
    """ReLU where a network has neurons."""

    def lay(self, plan: Plan, name: str, wire: Wire) -> Wire:
        return plan.add([wire], lambda links: Relu((links[0],), name))


@final
@dataclass(frozen=True)
class Relu(Node):
    """The positive parts of a link's outputs."""

    links: tuple[Link]
    name: str

    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        return parts[0].relu()

    def held(self, parts: Sequence[bool]) -> bool:
        return parts[0]

    def reach(self, parts: Sequence[float], steps: int) -> float:
        return parts[0]


@bounded.register
def _(node: Relu, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    (part,) = parts
    low, high = part.source.currents(part.operators, arithmetic)
    return Held(Interval(low[0].relu(), high[0].relu()), 1)


class Twin(ABC):
    """A ReLU network with the layers of a config's, its weights from the config's seed."""

    def __init__(self, config: RunConfig, shape: Sequence[int], classes: int) -> None:
        torch.manual_seed(config.seed)
        layers, features = ARCHITECTURES[config.network.architecture](shape, Rectified)  # type: ignore[arg-type]
        layers = NORMS[config.network.norm](layers)
        if not isinstance(config.training.objective, Certified):
            raise ConfigError("the twin needs the objective Certified")
        self.config, self.objective = config, config.training.objective
        self.network = nn.Sequential(*layers, nn.Linear(features, classes)).train()

    @abstractmethod
    def view(self, x: Tensor) -> Tensor:
        """Samples as the network takes them."""

    @abstractmethod
    def source(self, x: Tensor, threat: Threat) -> Source:
        """Bounds of all that the threat allows, at a single step."""

    def bounds(self, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        """Logits ``[B, K]`` and lower bounds ``[B, K-1]`` of the margins; batch norm as the mode says."""
        plan = Plan()
        last = plan.chain("layers", list(self.network), Wire(0))
        values, sources = [self.view(x)[None]], [self.source(x, threat)]
        for planned in plan.nodes:
            found = [self.run(wire, values[wire.source]) for wire in planned.wires]
            outputs, links = zip(*found, strict=True)
            node = planned.make(links)
            values.append(node.run(outputs, 1))
            parts = [Part(sources[link.source], link.operators) for link in links]
            sources.append(bounded(node, parts, PLAIN, x.dtype))
        logits, link = self.run(last, values[last.source])
        low, high = sources[last.source].box()
        return logits[0], margins(link.operators, Interval(low[0], high[0]), y, PLAIN)

    def run(self, wire: Wire, values: Tensor) -> tuple[Tensor, Link]:
        """What layers make of ``values [1, B, ...]``; batch norm in training by their own statistics."""
        if self.network.training:
            outputs, operators = train_chain(wire.layers, values, None, WHOLE)
            return outputs, Link(wire.source, operators)
        link = Link(0, fold([as_affine(layer) for layer in wire.layers]))
        return link.run([values]), Link(wire.source, link.operators)

    @torch.no_grad()
    def errors(self, data: LabelledDataset, threat: Threat) -> tuple[float, float]:
        """Verified and clean error in percent."""
        self.network.eval()
        wrong = unproved = 0
        for x, y, _ in loader(data, 256):
            logits, margin = self.bounds(x, y, threat)
            wrong += int((~strictly_correct(logits, y)).sum())
            unproved += int((margin <= 0).any(1).sum())
        self.network.train()
        return 100 * unproved / len(data), 100 * wrong / len(data)

    def train(self, data: LabelledDataset) -> float:
        """Train as the config says, and leave the epoch that is best on the validation split; seconds."""
        training, network = self.config.training, self.network
        objective = self.objective
        train_set, validation = data.split(self.config.data.validation, self.config.seed)
        optimizer = torch.optim.Adam(network.parameters(), training.learning_rate.peak)
        average = Average(network.state_dict())
        best: tuple[float, float] | None = None
        begun = time.perf_counter()
        for epoch in range(training.epochs):
            self.train_epoch(epoch, train_set, optimizer, average)
            own = copied(network.state_dict())
            network.load_state_dict(average.tensors)
            score = self.errors(validation, self.config.threat)
            network.load_state_dict(own)
            settled = epoch + 1 >= min(objective.settled(training.epochs), training.epochs)
            if settled and (best is None or score <= best):
                best, kept = score, copied(average.tensors)
            done = f"epoch {epoch + 1}/{training.epochs}"
            print(f"{done}: verified {score[0]:.2f} %, clean {score[1]:.2f} %", flush=True)
        network.load_state_dict(kept)
        return time.perf_counter() - begun

    def train_epoch(
        self, epoch: int, data: LabelledDataset, optimizer: torch.optim.Optimizer, average: Average
    ) -> None:
        """Steps on all batches of an epoch."""
        training = self.config.training
        key = epoch_seed(self.config.seed, epoch)
        order = loader(data, training.batch_size, shuffle_seed=key)
        batches = -(-len(data) // training.batch_size)
        for position, (x, y, index) in enumerate(order):
            x = x if training.augmentation is None else training.augmentation(x, index, key)
            now = Moment(epoch + position / batches, training.epochs)
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate(now)
            optimizer.zero_grad()
            self.loss(x, y, now).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), training.gradient_norm)
            optimizer.step()
            average.update(self.network.state_dict(), training.averaging, now)

    def loss(self, x: Tensor, y: Tensor, now: Moment) -> Tensor:
        """Clean and robust cross-entropy, mixed, and the L1 norm of the weights."""
        objective = self.objective
        share = objective.ramp(now)
        logits, margin = self.bounds(x, y, self.config.threat.scaled(objective.size * share))
        robust = robust_cross_entropy(margin)
        loss = mixed(F.cross_entropy(logits, y), robust, objective.kappa_end, share)
        l1 = sum(r.weight for r in objective.regularisers if isinstance(r, L1))
        if l1:
            loss = loss + l1 * sum(p.abs().sum() for p in self.network.parameters() if p.dim() > 1)
        return loss


@final
class BoxTwin(Twin):
    """For images in a box."""

    def view(self, x: Tensor) -> Tensor:
        return x

    def source(self, x: Tensor, threat: Threat) -> Source:
        if not isinstance(threat, LinfBall):
            raise ConfigError("the twin needs the threat LinfBall")
        return Held(Interval(*threat.box(x)), 1)


def main(root: Path, config_file: Path, name: str, *flags: str) -> None:
    config, text = read_config(config_file, [*flags, f"--data.root={root}"])
    train_set, test_set = (load(config.data.name, part, config.data.root) for part in ("train", "test"))
    twin = BoxTwin(config, train_set.shape, train_set.classes)
    seconds = twin.train(train_set)
    verified, clean = twin.errors(test_set, config.threat)
    row = {
        "name": name,
        "config": config_file.name,
        "flags": flags,
        "threat": config.threat.describe(),
        "seed": config.seed,
        "epochs": config.training.epochs,
        "clean_error": clean,
        "verified_error": verified,
        "seconds": round(seconds, 1),
        **versions(),
        "threads": torch.get_num_threads(),
        "settings": yaml.safe_load(override(text, ["--data.root=null"])[1]),
    }
    before = RESULTS.read_text() if RESULTS.exists() else ""
    write_text(RESULTS, before + json.dumps(row) + "\n")
    print(row)


if __name__ == "__main__":
    record.run(main)
