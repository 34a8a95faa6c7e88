"""Event data: binning, N-MNIST's files, the simulated camera, the cache, and what configs make of them."""

from __future__ import annotations

import sys
import types
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused
from hypothesis import given
from hypothesis import strategies as st

from certsnn.cli.app import main
from certsnn.configuration import parse_text
from certsnn.data import Frames, Saccades, SpikeDataset, load, loader
from certsnn.data.events.cache import Trains, cached
from certsnn.data.events.frames import Events
from certsnn.data.events.nmnist import read
from certsnn.errors import ConfigError, DataNotFound


def events(rows: list[tuple[int, int, int, int]]) -> Events:
    """Of rows (x, y, polarity, microseconds)."""
    return Events(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)


def packed(rows: list[tuple[int, int, int, int]]) -> bytes:
    """The same as N-MNIST's 40-bit events."""
    return b"".join(bytes([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255]) for x, y, p, t in rows)


def set_bits(frames: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(place) for place in frames.nonzero().tolist()}


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
    found = Frames(steps, window, downsampling=side).of(events(rows), 6, 5)
    assert set_bits(found) == {place for place in wanted if place[0] < steps}


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


# --- N-MNIST's files ---


def nmnist_folder(root: Path) -> None:
    for split, digit, number in (("Train", 0, 3), ("Train", 0, 1), ("Train", 7, 2), ("Test", 4, 9)):
        folder = root / "NMNIST" / split / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05}.bin").write_bytes(packed([(number, digit, 1, 5), (33, 33, 0, 90000)]))


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


# --- the simulated camera ---

CAMERA = Saccades(moments=20)
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([4, 0, 9])


def test_each_events_threshold_has_been_crossed() -> None:
    """The pixel's law, one pixel at a time in float64, against the vectorised simulation."""
    camera = Saccades(moments=7, jitter=0.0, seed=3)
    height, width = camera.sensor(8, 8)
    assert (height, width) == (10, 10)
    moments = list(camera.moving(IMAGES, INDEX))
    assert [moment.time for moment in moments] == [camera.duration * n // 21 for n in range(21)]
    for n, row, column in product((0, 2), (2, 4, 6), (3, 5)):

        def seen(place: torch.Tensor, n: int = n, row: int = row, column: int = column) -> float:
            y, x = row - 1 - 8 * float(place[0]), column - 1 - 8 * float(place[1])
            total = 0.0
            for i, j in product(range(8), range(8)):
                total += float(IMAGES[n, 0, i, j]) * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
            return float(np.log(camera.floor + (1 - camera.floor) * total))

        path = camera.path()
        reference = seen(path[0])
        # The last moment sees what the first one saw: thresholds are met exactly, up to rounding.
        for (_, counts), place in zip(moments[:-1], path[1:-1], strict=True):
            crossed = int((seen(place) - reference) / camera.threshold)
            reference += crossed * camera.threshold
            assert counts[n, :, row, column].tolist() == [max(0, -crossed), max(0, crossed)]


def test_the_path_is_the_triangle() -> None:
    path = Saccades(moments=5, reach=0.5).path()
    corners = path[[0, 5, 10, 15]]
    assert torch.allclose(
        corners, torch.tensor([[-0.25, -0.25], [0.25, 0], [-0.25, 0.25], [-0.25, -0.25]]).double()
    )


def test_frames_and_events_are_of_the_same_moments() -> None:
    settings = Frames(steps=6, downsampling=3, polarity="merged")
    found = CAMERA.frames(IMAGES, INDEX, settings)
    assert found.shape == (3, 6, 1, 4, 4)
    for frames, one in zip(found, CAMERA.events(IMAGES, INDEX), strict=True):
        places = zip(one.time * 6 // CAMERA.duration, one.y // 3, one.x // 3, strict=True)
        assert set_bits(frames) == {(int(t), 0, int(y), int(x)) for t, y, x in places}


def test_a_recording_depends_on_its_image_seed_and_position_only() -> None:
    whole = CAMERA.frames(IMAGES, INDEX, Frames())
    assert torch.equal(whole[1:2], CAMERA.frames(IMAGES[1:2], INDEX[1:2], Frames()))
    assert not torch.equal(whole, CAMERA.frames(IMAGES, INDEX + 1, Frames()))
    assert not torch.equal(whole, Saccades(moments=20, seed=1).frames(IMAGES, INDEX, Frames()))


def test_a_still_image_has_no_events_and_a_moving_one_both_polarities() -> None:
    assert not Saccades(reach=0.0).frames(IMAGES, INDEX, Frames()).any()
    assert CAMERA.frames(IMAGES, INDEX, Frames()).any(dim=1).flatten(2).any(dim=2).all()
    dark = torch.zeros(1, 3, 4, 4)  # colours
    assert not CAMERA.frames(dark, torch.tensor([0]), Frames()).any()


@pytest.mark.parametrize(
    "settings", [{"threshold": 0.0}, {"floor": 1.0}, {"reach": 1.0}, {"jitter": -0.1}, {"moments": 0}]
)
def test_cameras_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings)) if "moments" not in settings else "steps"):
        Saccades(**settings)  # type: ignore[arg-type]


def test_digits_in_saccades() -> None:
    data, images = load("digits-saccades", "test"), load("digits", "test")
    assert data.shape == (2, 10, 10) and torch.equal(data.labels, images.labels)
    assert 0.05 < float(next(iter(loader(data, 100)))[0].mean()) < 0.2


# --- the cache ---

WHAT = {"data": "d", "split": "train", "frames": "f"}


def test_frames_are_kept_whole_and_by_their_settings(cache: Path) -> None:
    made = Trains(torch.rand(3, 2, 1, 5, 7) < 0.5, torch.tensor([0, 1, 2]))
    other = Trains(~made.spikes, made.labels)
    assert cached(WHAT, lambda: made) is made
    (file,) = (cache / "certsnn").iterdir()
    found = cached(WHAT, lambda: other)
    assert torch.equal(found.spikes, made.spikes) and torch.equal(found.labels, made.labels)
    assert cached({**WHAT, "frames": "g"}, lambda: other) is other
    whole = file.read_bytes()
    for damaged in (whole[:-3], b"", b"{}" * 30):
        file.write_bytes(damaged)
        assert cached(WHAT, lambda: other) is other
        assert torch.equal(cached(WHAT, lambda: made).spikes, other.spikes)


def test_changed_recordings_are_read_again(tmp_path: Path) -> None:
    nmnist_folder(tmp_path)
    before = load("nmnist", "test", tmp_path)
    (tmp_path / "NMNIST" / "Test" / "4" / "00009.bin").write_bytes(packed([(0, 0, 0, 0)]))
    assert not torch.equal(before[[0]][0], load("nmnist", "test", tmp_path)[[0]][0])


def test_a_cache_that_cannot_be_written_is_only_a_warning(cache: Path) -> None:
    (cache / "certsnn").write_text("in the way")
    with pytest.warns(UserWarning, match="XDG_CACHE_HOME"):
        cached(WHAT, lambda: Trains(torch.zeros(1, 1, 1, 1, 1).bool(), torch.tensor([0])))


# --- configs and the command line ---


def test_steps_are_those_of_the_frames() -> None:
    config = parse_text(
        "data: {name: nmnist, frames: {steps: 7}}\nthreat: {class_path: SpikeFlips, budget: 1}"
    )
    assert (config.steps, config.data.domain) == (7, "spikes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {name: nmnist}", "LinfBall moves the pixels of images, but nmnist has spikes"),
        (
            "data: {name: nmnist, encoding: {class_path: Latency, steps: 2}}\n"
            "threat: {class_path: SpikeFlips, budget: 1}",
            "nmnist has spikes: leave it out",
        ),
        ("data: {name: nmnist, frames: {stpes: 2}}", "did you mean data.frames.steps"),
        ("data: {name: nmnist, frames: {steps: 0}}", "data.frames: steps|data.frames.steps"),
    ],
)
def test_configs_that_do_not_fit_say_why(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_text(text)


def test_the_command_line_from_recordings_to_three_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nmnist_folder(tmp_path)
    for number in range(20, 40):
        for split in ("Train", "Test"):
            for digit in (0, 7):
                rows = [(digit + number % 2, 3, 1, 5), (9, digit, 0, 9)]
                folder = tmp_path / "NMNIST" / split / str(digit)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number}.bin").write_bytes(packed(rows))
    (tmp_path / "config.yaml").write_text(
        f"data: {{name: nmnist, root: {tmp_path}, validation: 0.3, frames: {{steps: 2, downsampling: 8}}}}\n"
        "network: {architecture: digits-fc}\n"
        "threat: {class_path: SpikeFlips, budget: 1}\n"
        "training: {epochs: 1, objective: Natural}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["train", "config.yaml", "--run", "run"]) == 0
    trained = capsys.readouterr().out
    assert "a subset of the test set" in trained and "41 (of 10000" in trained
    assert main(["evaluate", "run", "--threat.class_path", "FreeSpikes", "--threat.density", "0.1"]) == 0
    evaluated = capsys.readouterr()
    assert "a subset" in evaluated.out + evaluated.err
    assert "nowhere" in refused(capsys, "verify", "run", "--data.root", "nowhere")
    refused(capsys, "verify", "run", "--data.frames.downsampling", "4")
