"""Event data: binning, N-MNIST's files, the simulated camera, the cache, and what configs make of them."""

from __future__ import annotations

import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from event_parts import events, nmnist_folder, packed, set_bits
from hypothesis import given
from hypothesis import strategies as st

from certsnn.configuration import parse_text
from certsnn.data import FrameDataset, Frames, SpikeDataset, load
from certsnn.data.events.frames import Events
from certsnn.data.events.nmnist import read
from certsnn.errors import ConfigError, DataNotFound

ROWS = [(1, 0, 1, 100), (1, 0, 1, 130), (2, 3, 0, 199), (0, 3, 1, 200), (3, 2, 0, 299)]


# --- frames ---


def test_a_recording_is_divided_into_equal_parts() -> None:
    # 100 .. 299 us, two steps of 100 us each: (step, polarity, row, column).
    found = Frames(steps=2).of(events(ROWS), 4, 4)
    assert found.dtype == torch.bool and found.shape == (2, 2, 4, 4)
    assert set_bits(found) == {(0, 1, 0, 1), (0, 0, 3, 2), (1, 1, 3, 0), (1, 0, 2, 3)}


def test_frames_of_a_window_begin_with_the_first_event_and_drop_what_is_late() -> None:
    found = Frames(steps=3, window=0.05).of(events(ROWS), 4, 4)
    assert set_bits(found) == {(0, 1, 0, 1), (1, 0, 3, 2), (2, 1, 3, 0)}


def test_merged_polarities_and_pooled_pixels() -> None:
    found = Frames(steps=1, polarity="merged", downsampling=3).of(events(ROWS), 4, 4)
    assert found.shape == (1, 1, 2, 2)
    assert set_bits(found) == {(0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)}


@given(
    st.lists(st.tuples(*(st.integers(0, top) for top in (4, 5, 1, 999))), min_size=1, max_size=20),
    st.integers(1, 5),
    st.sampled_from([None, 0.01, 0.3]),
    st.integers(1, 3),
)
def test_every_event_in_time_sets_its_bit_and_nothing_else_does(
    rows: list[tuple[int, int, int, int]], steps: int, window: float | None, side: int
) -> None:
    first, last = min(row[3] for row in rows), max(row[3] for row in rows)
    length = 1000 * window if window else (last - first + 1) / steps
    wanted = {(int((t - first) // length), p, y // side, x // side) for x, y, p, t in rows}
    frames = Frames(steps, window, downsampling=side)
    assert set_bits(frames.of(events(rows), 6, 5)) == {place for place in wanted if place[0] < steps}
    counts = frames.counts(events(rows), 6, 5)
    placed = [(int((t - first) // length), p, y // side, x // side) for x, y, p, t in rows]
    in_time = Counter(place for place in placed if place[0] < steps)
    assert {place: int(counts[place]) for place in set_bits(counts)} == dict(in_time)


def test_events_are_counted_up_to_a_byte() -> None:
    rows = [(1, 0, 1, 100)] * 255 + [(1, 0, 1, 130), *ROWS[2:]]
    found = Frames(steps=2).counts(events(rows), 4, 4)
    assert found.dtype == torch.uint8 and found.shape == (2, 2, 4, 4)
    assert found.nonzero().tolist() == [[0, 0, 3, 2], [0, 1, 0, 1], [1, 0, 2, 3], [1, 1, 3, 0]]
    assert found[found > 0].tolist() == [1, 255, 1, 1]


def test_no_events_are_empty_frames() -> None:
    assert not Frames().of(events([]), 3, 3).any()


def test_events_outside_the_sensor_are_refused() -> None:
    with pytest.raises(ValueError, match="outside the sensor of 3x4"):
        Frames().of(events(ROWS), 4, 3)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f8", ">i2"])
@pytest.mark.parametrize("frames", [Frames(steps=7), Frames(steps=3, window=0.04, downsampling=3)])
def test_every_dtype_gives_the_frames_of_int64(dtype: str, frames: Frames) -> None:
    # Sums, differences and products of these leave one byte.
    rows = [(100, 90, 1, 3), (2, 120, 0, 120), (126, 0, 1, 90), (0, 1, 0, 127), (60, 60, 1, 0)]
    wanted = events(rows)
    found = Events(*(part.astype(dtype if dtype != "?" or name == "polarity" else "i8") for name, part in
                     zip(Events._fields, wanted, strict=True)))  # fmt: skip
    assert torch.equal(frames.of(found, 128, 127), frames.of(wanted, 128, 127))
    assert frames.of(wanted, 128, 127).any()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("polarity", [-1, 1, -1], r"0 \(darker\) or 1 \(brighter\), these go from -1 to 1: .* polarity > 0"),
        ("polarity", [0, 255, 0], "from 0 to 255"),
        ("x", [0, 4, 0], r"outside the sensor of 4x5 pixels: their columns lie in 0..4, their rows in 0..0"),
        ("y", [-1, 0, 0], "their rows in -1..0"),
        ("x", [0.5, 0, 0], "columns must be whole numbers"),
        ("time", [0.0, 0.1, 0.2], r"times must be whole numbers .*\(times in microseconds\)"),
        ("time", [0.0, np.nan, 1.0], "times must be whole numbers"),
        ("time", np.array([0, 2**64 - 1, 5], dtype="u8"), "times must be whole numbers below"),
        ("time", [0, 2**62, 5], "which no recording lasts"),
        ("time", [0, 1], r"have the shapes \[\(3,\), \(3,\), \(3,\), \(2,\)\]"),
    ],
)
def test_events_that_are_none(column: str, values: list[float], message: str) -> None:
    nothing = np.zeros(3, dtype=np.int64)
    broken = Events(nothing, nothing, nothing, nothing)._replace(**{column: np.asarray(values)})
    with pytest.raises(ValueError, match=message):
        Frames(steps=5).of(broken, 5, 4)


def test_signed_polarities_become_frames_where_they_are_asked_for() -> None:
    signed = np.array([-1, 1, -1, 1])
    place, time = np.arange(4), np.arange(4)
    found = Frames(steps=2).of(Events(place, place, signed > 0, time), 5, 6)
    assert found.sum((0, 2, 3)).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"window": 0.0}, "window"),
        ({"polarity": "on"}, "both, merged"),
        ({"downsampling": 0}, "downsampling"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frames(**settings)  # type: ignore[arg-type]


def test_a_file_is_read_with_its_clock_overflows(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(packed([(1, 2, 1, 70000), (0, 240, 0, 0), (33, 0, 0, 7)]))
    found = read(path)
    assert [column.tolist() for column in found] == [[1, 33], [2, 0], [1, 0], [70000, 7 + 2**13]]
    tonic_io = pytest.importorskip("tonic.io")
    dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    theirs = tonic_io.read_mnist_file(str(path), dtype=dtype)
    assert [theirs[name].tolist() for name in "xypt"] == [column.tolist() for column in found]


def test_nmnist_is_read_in_the_order_of_its_names_and_says_that_it_is_a_part(tmp_path: Path) -> None:
    nmnist_folder(tmp_path)
    data = load("nmnist", "train", tmp_path, frames=Frames(steps=3))
    assert isinstance(data, SpikeDataset)
    assert (data.shape, data.steps, data.classes, data.whole) == ((2, 34, 34), 3, 10, 60_000)
    assert "3 of 60,000 recordings" in data.name and "3 frames" in data.name
    assert data.extent == "3 (of 60000 published)"
    assert data.labels.tolist() == [0, 0, 7]
    x, y, index = data[[2, 0]]
    assert x.shape == (3, 2, 2, 34, 34) and x.dtype == torch.float32
    assert (y.tolist(), index.tolist()) == ([7, 0], [2, 0])
    assert set_bits(x[:, 0]) == {(0, 1, 7, 2), (2, 0, 33, 33)}
    assert set_bits(x[:, 1]) == {(0, 1, 0, 1), (2, 0, 33, 33)}


def test_recordings_as_counts_go_through_the_cache_beside_their_spikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nmnist_folder(tmp_path)
    path = tmp_path / "NMNIST" / "Test" / "4" / "00009.bin"
    path.write_bytes(packed([(9, 4, 1, 5), (9, 4, 1, 6), (9, 4, 1, 7), (33, 33, 0, 90000)]))
    spikes, data = (load(name, "test", tmp_path, frames=Frames(3)) for name in ("nmnist", "nmnist-counts"))
    monkeypatch.setattr(Frames, "counts", None)
    again = load("nmnist-counts", "test", tmp_path, frames=Frames(3))
    assert isinstance(data, FrameDataset) and data.frames.dtype == torch.uint8
    assert (data.shape, data.steps, data.whole) == ((2, 34, 34), 3, 10_000)
    assert "1 of 10,000 recordings), counts in 3 frames" in data.name and data.digest == again.digest
    x, y, _ = data[[0]]
    assert x.dtype == torch.float32 and y.tolist() == [4]
    assert (float(x[0, 0, 1, 4, 9]), float(x[2, 0, 0, 33, 33]), float(x.sum())) == (3, 1, 4)
    assert torch.equal(x > 0, spikes[[0]][0] > 0)


def test_the_config_of_counts_fits_a_budget_of_events() -> None:
    text = "data: {name: nmnist-counts, frames: {steps: 6}}\nthreat: {class_path: EventChanges, budget: 1}"
    config = parse_text(text)
    assert (config.data.domain, config.steps) == ("frames", 6)
    with pytest.raises(ConfigError, match="SpikeFlips changes spikes, but nmnist-counts has frames"):
        parse_text(text.replace("EventChanges", "SpikeFlips"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"", "is empty"),
        (packed(ROWS)[:-2], "23 bytes .* cut off"),
        (b"\xff" * 50, "34x34 pixels"),
        (packed([(0, 240, 0, 0)]), "34x34 pixels"),
    ],
)
def test_a_damaged_file_is_named(damage: bytes, message: str, tmp_path: Path) -> None:
    nmnist_folder(tmp_path)
    (tmp_path / "NMNIST" / "Train" / "0" / "00003.bin").write_bytes(damage)
    with pytest.raises(DataNotFound, match=rf"00003\.bin is damaged: .*{message}"):
        load("nmnist", "train", tmp_path)


@pytest.mark.parametrize("name", ["nmnist", "dvs-gesture", "cifar10-dvs"])
def test_missing_recordings_name_the_folder_and_the_ways_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound) as caught:
        load(name, "test", tmp_path)
    for part in (str(tmp_path), "--data.root PATH", "--data.download true"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_download_without_tonic_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(DataNotFound, match=r"pip install 'certsnn\[events\]'"):
        load("nmnist", "test", tmp_path, download=True)


def test_gestures_are_read_as_tonic_leaves_them(tmp_path: Path) -> None:
    folder = tmp_path / "DVSGesture" / "ibmGestureTest" / "user24_fluorescent"
    folder.mkdir(parents=True)
    for label in (10, 2):
        np.save(folder / f"{label}.npy", np.array([[5, 6, 1, 0], [127, 0, 0, 30 + label]], dtype=np.float64))
    data = load("dvs-gesture", "test", tmp_path, frames=Frames(steps=4, window=10.0, downsampling=4))
    assert data.labels.tolist() == [10, 2] and data.shape == (2, 32, 32) and data.whole == 264
    x, _, _ = data[[1]]
    assert set_bits(x[:, 0]) == {(0, 1, 1, 1), (3, 0, 0, 31)}
    np.save(folder / "10.npy", np.zeros((3, 5)))
    with pytest.raises(DataNotFound, match=r"10\.npy is damaged: .*\(3, 5\)"):
        load("dvs-gesture", "test", tmp_path)
    (folder / "10.npy").rename(folder / "11.npy")
    with pytest.raises(DataNotFound, match=r"11\.npy is not named after a gesture"):
        load("dvs-gesture", "test", tmp_path)


def test_cifar10_dvs_is_split_by_class_and_read_through_tonic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("cat", "truck"):
        (tmp_path / "CIFAR10DVS" / label).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "CIFAR10DVS" / label / f"{number:02}.aedat4").write_text(str(number))

    def read_aedat4(path: str) -> np.ndarray:
        fields = [("t", np.uint64), ("x", np.uint16), ("y", np.uint16), ("on", bool)]
        number = int(Path(path).read_text())
        if number == 99:
            raise Exception("there are no events in the AEDAT file")
        return np.array([(10, number, 3, True), (20, 127, 0, False)], dtype=fields)

    monkeypatch.setitem(sys.modules, "tonic", types.ModuleType("tonic"))
    monkeypatch.setitem(sys.modules, "tonic.io", types.SimpleNamespace(read_aedat4=read_aedat4))
    train, test = (load("cifar10-dvs", part, tmp_path, frames=Frames(2)) for part in ("train", "test"))
    assert (len(train), len(test), test.whole) == (36, 4, 1000)
    assert test.labels.tolist() == [3, 3, 9, 9]
    seen = [
        x[:, 0].nonzero()[0].tolist()
        for x in (data[[n]][0] for data in (train, test) for n in range(len(data)))
    ]
    assert sorted(place[3] for place in seen) == sorted(2 * list(range(20)))
    assert all(place[:3] == [0, 1, 3] for place in seen)
    (tmp_path / "CIFAR10DVS" / "cat" / "00.aedat4").write_text("99")
    with pytest.raises(DataNotFound, match=r"00\.aedat4 is damaged: there are no events"):
        for part in ("train", "test"):
            load("cifar10-dvs", part, tmp_path)
