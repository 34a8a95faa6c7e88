"""Training samples that are moved at random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monitors import Stop, StopAfter
from torch import Tensor, nn
from torch.nn.functional import pad

from certsnn.configuration import override
from certsnn.data import SpikeDataset
from certsnn.errors import ConfigError
from certsnn.inputsets import SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF
from certsnn.train.augmentation import Augmentation, Translations
from certsnn.train.config import TrainingConfig
from certsnn.train.loop import Task, train
from certsnn.train.monitor import Monitor
from certsnn.train.objectives.certified import Certified
from certsnn.train.schedules import Ramp

INDEX = torch.arange(40)


def spikes() -> Tensor:
    """Trains ``[T, B, C, H, W]`` that no move within two pixels leaves as they are."""
    return (torch.rand(3, 40, 2, 6, 7, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def moves(sample: Tensor, pixels: int) -> dict[tuple[int, int], Tensor]:
    """A sample ``[..., H, W]`` after every move (down, right), by padding and cutting."""
    height, width = sample.shape[-2:]
    padded = pad(sample, (pixels,) * 4)
    span = range(-pixels, pixels + 1)
    return {
        (down, right): padded[
            ..., pixels - down : pixels - down + height, pixels - right : pixels - right + width
        ]
        for down in span
        for right in span
    }


def found_moves(before: Tensor, after: Tensor, pixels: int) -> list[tuple[int, int]]:
    """How each sample ``[B, ...]`` was moved; fails where one was changed in another way."""
    found = []
    for one, other in zip(before, after, strict=True):
        (move,) = [move for move, moved in moves(one, pixels).items() if torch.equal(moved, other)]
        found.append(move)
    return found


class TestTranslations:
    @pytest.mark.parametrize("pixels", [1, 2])
    def test_each_train_moves_as_a_whole(self, pixels: int) -> None:
        x, found = spikes(), set()
        for seed in range(5):
            moved = Translations(pixels)(x, INDEX, seed)
            found |= set(found_moves(x.transpose(0, 1), moved.transpose(0, 1), pixels))
        assert len(found) == (2 * pixels + 1) ** 2

    def test_images_move_too(self) -> None:
        x = torch.rand(40, 1, 6, 7, generator=torch.Generator().manual_seed(0))
        assert len(set(found_moves(x, Translations(1)(x, INDEX, 0), 1))) > 4

    def test_a_sample_moves_alike_in_any_batch(self) -> None:
        x, moved = spikes(), Translations(2)(spikes(), INDEX, 3)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:11]
        assert torch.equal(Translations(2)(x[:, order], INDEX[order], 3), moved[:, order])
        assert not torch.equal(Translations(2)(x, INDEX, 4), moved)

    def test_no_pixels_no_move(self) -> None:
        assert torch.equal(Translations(0)(spikes(), INDEX, 0), spikes())

    def test_further_than_the_frame_leaves_nothing(self) -> None:
        x = torch.ones(40, 1, 2, 2)
        moved = Translations(9)(x, INDEX, 0)
        assert (moved.sum((1, 2, 3)) == 0).any() and moved.shape == x.shape

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="pixels must be at least 0"):
            Translations(-1)
        with pytest.raises(TypeError, match="pixels must be an integer"):
            Translations(1.5)  # type: ignore[arg-type]


def test_a_config_has_none_unless_it_says_so() -> None:
    config, text = override("{}", [])
    assert config.training.augmentation is None and "augmentation: null" in text
    config, _ = override("training: {augmentation: {class_path: Translations, pixels: 2}}", [])
    assert config.training.augmentation == Translations(2)
    with pytest.raises(ConfigError, match="no class 'Translation' here; did you mean Translations"):
        override("training: {augmentation: Translation}", [])


class TestTraining:
    SETTINGS = TrainingConfig(Certified(Ramp(0, 1)), epochs=3, batch_size=16)

    def weights(
        self, folder: Path, augmentation: Augmentation | None, monitor: Monitor | None = None
    ) -> Tensor:
        bits = spikes().bool().transpose(0, 1)
        data = SpikeDataset("random", bits, INDEX % 4, 4)
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(84, 20), IF(initial=0.5), nn.Linear(20, 4)]
        network = SpikingNetwork(layers, 3, "membrane", "spikes")
        settings = replace(self.SETTINGS, augmentation=augmentation)
        train(network, Task(*data.split(0.2, 0), SpikeFlips(1)), settings, folder, seed=2, monitor=monitor)
        return torch.cat([value.flatten() for value in network.state_dict().values()])

    def test_is_made_of_moved_samples(self, tmp_path: Path) -> None:
        kinds = {"none": None, "still": Translations(0), "moved": Translations(1)}
        found = {name: self.weights(tmp_path / name, kind) for name, kind in kinds.items()}
        assert torch.equal(found["none"], found["still"])
        assert not torch.equal(found["none"], found["moved"])

    def test_resumed_equals_undisturbed(self, tmp_path: Path) -> None:
        with pytest.raises(Stop):
            self.weights(tmp_path / "parts", Translations(1), StopAfter(2))
        resumed = self.weights(tmp_path / "parts", Translations(1))
        assert torch.equal(resumed, self.weights(tmp_path / "whole", Translations(1)))
