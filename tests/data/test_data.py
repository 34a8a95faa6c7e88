"""Data sets: what is read, what is refused, and that samples keep their position."""

from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from certsnn.data import DATASETS, ImageDataset, SpikeDataset, load, loader
from certsnn.errors import DataNotFound


def tiny(samples: int = 20, classes: int = 4) -> ImageDataset:
    images = torch.linspace(0, 1, samples).reshape(samples, 1, 1, 1).expand(-1, 1, 2, 2)
    return ImageDataset("tiny", images, torch.arange(samples) % classes, classes)


def write_idx(folder: Path, prefix: str, images: Tensor, labels: Tensor) -> None:
    """MNIST's file format: a magic number, the sizes (big endian), then the bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        header = struct.pack(f">{1 + data.dim()}i", 0x0800 + data.dim(), *data.shape)
        body = data.to(torch.uint8).numpy().tobytes()
        (folder / f"{prefix}-{name}").write_bytes(header + body)


# --- ImageDataset ---


def test_a_batch_is_what_stands_at_the_positions() -> None:
    data = tiny()
    x, y, index = data[[3, 0, 3]]
    assert torch.equal(x, data.images[torch.tensor([3, 0, 3])])
    assert y.tolist() == [3, 0, 3]
    assert index.tolist() == [3, 0, 3]


def test_parts_of_parts_keep_the_original_index() -> None:
    data = tiny()
    part = data.subset([7, 2, 11, 5]).subset(torch.tensor([3, 1])).head(5)
    assert part.index.tolist() == [5, 2]
    x, y, index = part[[1]]
    assert torch.equal(x, data.images[[2]])
    assert (y.tolist(), index.tolist()) == ([2], [2])


def test_the_digest_is_of_samples_labels_and_order() -> None:
    data = tiny()
    images, labels = data.images.clone(), data.labels.clone()
    images[3, 0, 1, 1], labels[4] = 0.5, 3
    spikes = (data.images > 0.5)[:, None]
    others = [
        ImageDataset("tiny", images, data.labels, 4),
        ImageDataset("tiny", data.images, labels, 4),
        ImageDataset("tiny", data.images.reshape(20, 1, 1, 4), data.labels, 4),
        data.subset(torch.arange(19, -1, -1)),
        data.head(19),
        SpikeDataset("tiny", spikes, data.labels, 4),
        SpikeDataset("tiny", ~spikes, data.labels, 4),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 8
    assert data.digest == ImageDataset("another name", data.images.clone(), data.labels, 4).digest


def test_head() -> None:
    assert tiny().head(3).index.tolist() == [0, 1, 2]
    assert len(tiny(20).head(100)) == 20
    with pytest.raises(ValueError, match="at least 1"):
        tiny().head(0)


def test_split_is_stratified_disjoint_and_repeatable() -> None:
    data = tiny(200).subset(torch.arange(199, -1, -1))
    train, validation = data.split(0.25, seed=1)
    assert sorted(train.index.tolist() + validation.index.tolist()) == list(range(200))
    assert sorted(validation.labels.bincount().tolist()) == [12, 12, 13, 13]
    assert torch.equal(validation.images, data.images[199 - validation.index])
    assert torch.equal(validation.index, data.split(0.25, seed=1)[1].index)
    assert not torch.equal(validation.index, data.split(0.25, seed=2)[1].index)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_split_refuses_shares_outside_the_unit_interval(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        tiny().split(share, seed=0)


IMAGES, LABELS = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (IMAGES.double(), LABELS, TypeError, "float32"),
        (IMAGES, LABELS.int(), TypeError, "int64"),
        (IMAGES[0], LABELS, ValueError, r"\[N, C, H, W\]"),
        (IMAGES[:0], LABELS[:0], ValueError, "non-empty"),
        (IMAGES * float("nan"), LABELS, ValueError, "NaN"),
        (IMAGES + 1, LABELS, ValueError, r"\[0, 1\]"),
        (IMAGES - 1, LABELS, ValueError, r"\[0, 1\]"),
        (IMAGES, LABELS[:2], ValueError, "3 samples"),
        (IMAGES, LABELS + 1, ValueError, r"0\.\.1"),
        (IMAGES, LABELS - 1, ValueError, r"0\.\.1"),
    ],
)
def test_bad_tensors_are_refused(
    images: Tensor, labels: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ImageDataset("bad", images, labels, classes=2)


@pytest.mark.parametrize(
    ("positions", "error"),
    [
        ([20], ValueError),
        ([-1], ValueError),
        ([], ValueError),
        (torch.tensor([[0]]), ValueError),
        ([0.5], TypeError),
        ([True, False], TypeError),
    ],
)
def test_bad_positions_are_refused(positions: list[int], error: type[Exception]) -> None:
    with pytest.raises(error, match="positions"):
        tiny(20)[positions]


# --- loader ---


def orders(seed: int | None, passes: int = 2) -> list[list[int]]:
    batches = loader(tiny(10), 4, seed)
    return [torch.cat([index for _, _, index in batches]).tolist() for _ in range(passes)]


def test_loader_keeps_order_without_a_seed() -> None:
    assert orders(None) == [list(range(10))] * 2
    assert [len(y) for _, y, _ in loader(tiny(10), 4)] == [4, 4, 2]


def test_loader_shuffles_anew_each_pass_and_repeatably() -> None:
    first, second = orders(3)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(10))
    assert orders(3) == [first, second]
    assert orders(4)[0] != first


def test_loader_yields_matching_tuples() -> None:
    data = tiny(10).subset([9, 4, 7])
    for batch in loader(data, 2, shuffle_seed=0):
        assert isinstance(batch, tuple)
        x, y, index = batch
        assert torch.equal(x, tiny(10).images[index])
        assert torch.equal(y, tiny(10).labels[index])


@pytest.mark.parametrize("seed", [None, 0])
def test_loader_leaves_the_global_random_state_alone(seed: int | None) -> None:
    before = torch.get_rng_state()
    list(loader(tiny(10), 4, seed))
    assert torch.equal(before, torch.get_rng_state())


def test_loader_refuses_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        loader(tiny(), 0)


# --- digits ---


def pictures(name: str, split: Literal["train", "test"], root: str | Path | None = None) -> ImageDataset:
    """A data set of images in memory, by its name."""
    found = load(name, split, root=root)
    assert isinstance(found, ImageDataset)
    return found


def test_digits_split_is_the_documented_one() -> None:
    train, test = pictures("digits", "train"), pictures("digits", "test")
    assert (len(train), len(test)) == (1347, 450)
    assert train.images.shape[1:] == (1, 8, 8)
    assert (train.images * 16 == (train.images * 16).round()).all()
    share = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert share.sub(450 / 1797).abs().amax() < 0.004  # within one sample of each class
    # Recorded figures are about these very samples.
    digest = sha256(test.images.numpy().tobytes() + test.labels.numpy().tobytes()).hexdigest()
    assert digest[:16] == "a6151c150d43a0dc"


def test_digits_parts_are_disjoint_and_cover_the_source() -> None:
    from sklearn.datasets import load_digits

    parts = torch.cat([pictures("digits", "train").images, pictures("digits", "test").images])
    source = torch.from_numpy(load_digits().images).float() / 16
    together = sorted(parts.flatten(1).tolist())
    assert together == sorted(source.flatten(1).tolist())


# --- torchvision's data sets ---


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files_are_read(name: str, folder: str, tmp_path: Path) -> None:
    images = torch.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
    raw = tmp_path / folder / "raw"
    write_idx(raw, "train", images, torch.tensor([7, 0, 9]))
    write_idx(raw, "t10k", images[:2], torch.tensor([1, 2]))
    train, test = pictures(name, "train", root=tmp_path), pictures(name, "test", root=str(tmp_path))
    assert torch.equal(train.images, images.unsqueeze(1).float() / 255)
    assert train.labels.tolist() == [7, 0, 9]
    assert test.labels.tolist() == [1, 2]
    assert train.classes == 10


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_files_name_the_folder_and_the_ways_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound) as caught:
        load(name, "test", root=tmp_path)
    for part in (str(tmp_path), "--data.root PATH", "--data.download true"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "fewer labels"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, "train", torch.zeros(3, 28, 28), torch.tensor([1, 2, 3]))
    write_idx(raw, "t10k", torch.zeros(3, 28, 28), torch.tensor([1, 2, 3]))
    file = raw / "t10k-images-idx3-ubyte"
    if damage == "fewer labels":
        write_idx(raw, "t10k", torch.zeros(3, 28, 28), torch.tensor([1, 2]))
    else:
        whole = file.read_bytes()
        file.write_bytes({"empty": b"", "truncated": whole[:-5], "garbage": b"\x07" * 99}[damage])
    with pytest.raises(DataNotFound, match="damaged"):
        load("mnist", "test", root=tmp_path)


def test_a_failed_download_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    def offline(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", offline)
    with pytest.raises(DataNotFound, match="no route to host"):
        load("cifar10", "train", root=tmp_path, download=True)


def test_cifar10_puts_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from torchvision.datasets import CIFAR10

    pixels = np.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3).astype(np.uint8)

    def stored(self: CIFAR10, root: Path, train: bool, download: bool) -> None:
        self.data, self.targets = pixels, [3, 8]

    monkeypatch.setattr(CIFAR10, "__init__", stored)
    data = pictures("cifar10", "train", root=tmp_path)
    assert data.images.shape == (2, 3, 32, 32)
    assert data.images[1, 2, 5, 6] == torch.tensor(float(pixels[1, 5, 6, 2])) / 255
    assert data.labels.tolist() == [3, 8]


def test_mnist_is_read_from_the_shared_folder(shared_data: Path) -> None:
    test = pictures("mnist", "test", root=shared_data)
    assert test.images.shape == (10000, 1, 28, 28)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert (float(test.images.amin()), float(test.images.amax())) == (0, 1)


# --- names ---


def test_unknown_names_get_the_nearest_and_all_known() -> None:
    with pytest.raises(DataNotFound) as caught:
        load("FashionMNIST", "test")
    assert "did you mean 'fashion-mnist'?" in str(caught.value)
    assert all(name in str(caught.value) for name in DATASETS)


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="validation"):
        load("digits", "validation")  # type: ignore[arg-type]
