"""The simulated event camera, cached frames and event data in configs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused
from event_parts import CAMERA, IMAGES, INDEX, nmnist_folder, packed, set_bits

from certsnn.cli.app import main
from certsnn.configuration import parse_text
from certsnn.data import Frames, Saccades, load, loader
from certsnn.data.events.cache import Trains, cached
from certsnn.errors import ConfigError


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
    with pytest.raises(ValueError, match=next(iter(settings))):
        Saccades(**settings)  # type: ignore[arg-type]


def test_digits_in_saccades() -> None:
    data, images = load("digits-saccades", "test"), load("digits", "test")
    assert data.shape == (2, 10, 10) and torch.equal(data.labels, images.labels)
    assert 0.05 < float(next(iter(loader(data, 100)))[0].mean()) < 0.2


# --- the cache ---

WHAT = {"data": "d", "split": "train", "frames": "f"}


def test_frames_are_kept_whole_and_by_their_settings(cache: Path) -> None:
    made = Trains(torch.rand(3, 2, 1, 5, 7) < 0.5, torch.tensor([0, 1, 2]))
    other = Trains(~made.frames, made.labels)
    assert cached(WHAT, lambda: made) is made
    (file,) = (cache / "certsnn").iterdir()
    found = cached(WHAT, lambda: other)
    assert torch.equal(found.frames, made.frames) and torch.equal(found.labels, made.labels)
    assert cached({**WHAT, "frames": "g"}, lambda: other) is other
    whole = file.read_bytes()
    for damaged in (whole[:-3], b"", b"{}" * 30, whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert cached(WHAT, lambda: other) is other
        assert torch.equal(cached(WHAT, lambda: made).frames, other.frames)


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
