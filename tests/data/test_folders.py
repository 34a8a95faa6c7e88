"""Images of one's own in folders: what is read, how they are split, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certsnn.cli.app import main
from certsnn.data import ImageDataset, load
from certsnn.errors import DataNotFound


def drawn(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, lossless=True)


def filled(root: Path, per_class: int = 10) -> None:
    """Two classes of grey images of 4x6 pixels; the first pixel counts them."""
    for name in ("dark", "light"):
        for number in range(per_class):
            values = np.full((6, 4), 200 if name == "light" else 20, dtype=np.uint8)
            values[0, 0] = number
            drawn(root / name / f"{number:02}.png", values)


def read(root: Path, split: str = "train") -> ImageDataset:
    found = load("folder", split, root)  # type: ignore[arg-type]
    assert isinstance(found, ImageDataset)
    return found


def test_train_and_test_are_read_as_they_are(tmp_path: Path) -> None:
    filled(tmp_path / "train", 3)
    filled(tmp_path / "test", 2)
    train, test = read(tmp_path), read(tmp_path, "test")
    assert (len(train), len(test), train.classes, train.shape) == (6, 4, 2, (1, 6, 4))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images[3, 0, 1, 1] == 200 / 255
    assert train.images[:, 0, 0, 0].mul(255).round().tolist() == [0, 1, 2, 0, 1, 2]


def test_classes_alone_are_split_once(tmp_path: Path) -> None:
    filled(tmp_path)
    train, test = read(tmp_path), read(tmp_path, "test")
    assert (len(train), len(test)) == (16, 4)
    assert torch.bincount(test.labels).tolist() == [2, 2]
    seen = torch.cat([train.images, test.images]).flatten(1)
    assert len(seen.unique(dim=0)) == 20, "a sample is in both, or in none"
    assert torch.equal(read(tmp_path, "test").images, test.images)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp"])
def test_colour_is_kept_and_grey_joins_it(tmp_path: Path, suffix: str) -> None:
    colour = np.zeros((4, 4, 3), dtype=np.uint8)
    colour[..., 2] = 255
    for split in ("train", "test"):
        drawn(tmp_path / split / "a" / f"1.{suffix}", colour)
        drawn(tmp_path / split / "b" / "2.png", np.full((4, 4), 51, dtype=np.uint8))
    data = read(tmp_path)
    assert data.images[0, :, 0, 0].tolist() == [0, 0, 1]
    assert data.images[1].unique().tolist() == pytest.approx([0.2])
    assert data.shape == (3, 4, 4)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(DataNotFound, match=match):
            read(tmp_path / "images")

    refused("it is no folder")
    (tmp_path / "images").mkdir()
    refused("Couldn't find any class folder")
    filled(tmp_path / "images" / "train", 2)
    refused(r"it has train/ and no test/")
    filled(tmp_path / "images" / "test", 2)
    read(tmp_path / "images")
    drawn(tmp_path / "images" / "test" / "other" / "1.png", np.zeros((6, 4), dtype=np.uint8))
    refused("do not have the same classes: other")
    drawn(tmp_path / "images" / "train" / "other" / "1.png", np.zeros((5, 5), dtype=np.uint8))
    refused(r"1\.png has 5x5 pixels and the first one 4x6; resize them")
    drawn(tmp_path / "images" / "train" / "other" / "1.png", np.zeros((6, 4), dtype=np.uint16))
    refused(r"of the mode I;16; save it with 8 bits")
    (tmp_path / "images" / "train" / "other" / "1.png").write_bytes(b"nothing")
    refused("cannot identify image file")


def test_a_folder_is_trained_on_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "images")
    config = tmp_path / "own.yaml"
    config.write_text(
        f"data: {{name: folder, root: {tmp_path / 'images'}}}\n"
        "training: {epochs: 2, objective: {class_path: Natural}}\n"
    )
    run = str(tmp_path / "run")
    assert main(["train", str(config), "--run", run]) == 0
    assert "folder: test set" in capsys.readouterr().out
    assert main(["verify", run]) == 0
    assert "samples" in capsys.readouterr().out
