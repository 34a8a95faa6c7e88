"""Sequences of image rows: read, named in a config, trained on, certified and attacked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks import FGSM, GreedyEvents
from certsnn.batches import WHOLE
from certsnn.configuration import parse_text, read_config
from certsnn.data import FrameDataset, load, loader
from certsnn.data.digits import digits
from certsnn.errors import ConfigError, UserError
from certsnn.evaluation import evaluate
from certsnn.inputsets import EventChanges, LinfFrames, Threat
from certsnn.models.pretrained import build_network
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.train.augmentation import Translations
from certsnn.train.config import TrainingConfig
from certsnn.train.loop import Task, train
from certsnn.train.objectives import Certified, Objective
from certsnn.train.objectives.adversarial import Adversarial, ascend
from certsnn.train.objectives.small_boxes import SmallBoxes
from certsnn.train.schedules import LearningRate, Ramp

CONFIG = Path(__file__).parents[2] / "configs" / "digits-rows.yaml"


def test_rows_are_those_of_the_images() -> None:
    images, rows = digits("test", Path(), False), load("digits-rows", "test")
    assert isinstance(rows, FrameDataset) and rows.domain == "frames"
    assert rows.shape == (8,) and rows.steps == 8
    x, y, index = rows[[3, 5]]
    assert x.shape == (8, 2, 8) and x.dtype == torch.float32
    for step in range(8):
        assert torch.equal(x[step, 1], images.images[5, 0, step])
    assert torch.equal(y, images.labels[[3, 5]]) and index.tolist() == [3, 5]
    part = rows.subset([7, 3])
    assert torch.equal(part[[1]][0], x[:, :1]) and part.index.tolist() == [7, 3]


def test_the_config_of_rows_fits() -> None:
    config, _ = read_config(CONFIG)
    assert config.threat == LinfFrames(0.05) and config.steps == 8
    network = build_network(config, (8,), 10)
    assert network.input.kind == "frames"
    data = load(config.data.name, "test").head(2)
    assert network.eval()(data[[0, 1]][0]).shape == (2, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data: {name: digits-rows}",
            "LinfBall moves the pixels of images, but digits-rows has frames; name a ",
        ),
        (
            "data: {name: digits-rows}\nthreat: {class_path: SpikeFlips, budget: 1}",
            "SpikeFlips changes spikes",
        ),
        (
            "threat: {class_path: LinfFrames, eps: 0.1}",
            "changes frames, but digits has images; .* digits-rows",
        ),
        ("data: {name: nmnist}\nthreat: {class_path: EventChanges, budget: 1}", "such as SpikeFlips"),
        (
            "data: {name: digits-rows, encoding: {class_path: Latency, steps: 3}}",
            "turns images into spikes, but digits-rows has frames",
        ),
    ],
)
def test_what_does_not_fit_frames_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_text(text)


def test_rows_have_no_pixels_to_move_or_convolve() -> None:
    with pytest.raises(UserError, match=r"shape \[8\] at each step: leave training\.augmentation out"):
        Translations(1)(torch.zeros(8, 2, 8), torch.arange(2), 0)
    config, _ = read_config(CONFIG, ["--network.architecture", "small-cnn"])
    with pytest.raises(ConfigError, match="name a fully connected architecture"):
        build_network(config, (8,), 10)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (torch.zeros(2, 3, 4, dtype=torch.int64), TypeError, "float32, or uint8 counts"),
        (torch.zeros(2, 3), ValueError, r"non-empty \[N, T, \.\.\.\]"),
        (torch.full((2, 3, 4), torch.inf), ValueError, "infinite"),
    ],
)
def test_frames_that_are_none_are_refused(frames: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FrameDataset("mine", frames, torch.zeros(2, dtype=torch.int64), 2)


def stripes(counts: bool) -> FrameDataset:
    """Two classes: signals that rise, and signals that fall."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    ramp = torch.linspace(0.1, 0.9, 4).expand(60, 4)
    frames = torch.where(labels[:, None] == 0, ramp, ramp.flip(1))[..., None]
    frames = (frames + 0.1 * torch.rand(60, 4, 5, generator=generator)).clamp(0, 1)
    return FrameDataset("stripes", (5 * frames).round().byte() if counts else frames, labels, 2)


@pytest.mark.parametrize(
    ("threat", "objective"),
    [
        (LinfFrames(0.1), Certified(Ramp(1, 4))),
        (LinfFrames(0.1), Adversarial(Ramp(1, 4), 2)),
        (LinfFrames(0.1), Certified(Ramp(1, 4), region=SmallBoxes())),
        (EventChanges(1), Certified(Ramp(1, 4))),
        (EventChanges(1), Adversarial(Ramp(1, 4), 2)),
    ],
    ids=["certified", "adversarial", "small boxes", "events certified", "events adversarial"],
)
def test_training_on_frames_ends_in_certificates(
    threat: Threat, objective: Objective, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 12), LIF(0.5), nn.Linear(12, 12), IF(0.5, initial=0.25), nn.Linear(12, 2)]
    network = SpikingNetwork(layers, 4, "membrane", "frames")
    data = stripes(threat.size == "budget")
    settings = TrainingConfig(objective, epochs=12, batch_size=6, learning_rate=LearningRate(0.02))
    train(network, Task(*data.split(0.2, 0), threat), settings, tmp_path, seed=0)
    attacks = [FGSM(), GreedyEvents()] if threat.size == "budget" else [FGSM()]
    report = evaluate(network, loader(data, 30), threat, "s-crown-ibp", attacks)
    assert report.clean_error <= report.attack_error <= report.verified_error
    assert report.clean_error < 15
    assert report.verified_error < 60


def test_one_event_is_a_step_of_the_ascent() -> None:
    # A quarter of the widest interval, 0.5, would be no event.
    x0, y = torch.zeros(1, 1, 2), torch.tensor([0])

    def logits(x: Tensor) -> Tensor:
        return torch.stack([-x[0, :, 1], x[0, :, 0]], 1)

    member = ascend(logits, x0, y, EventChanges(1, "add"), 1, 0.25, WHOLE)
    assert float(member.sum()) == 1
