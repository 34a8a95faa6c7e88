"""Outputs of commands: refused before any work, streams left as they are, and a disk that is full."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import lines, refused
from safetensors import SafetensorError

from certsnn.cli.app import main
from certsnn.models.pretrained import pretrained

MODEL = "digits-eps0.05"
CONFIG = "network: {steps: 2}\ntraining: {epochs: 2, batch_size: 200, objective: Natural}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No command gets to load anything."""
    for name in ("cli.sources.load_model", "cli.commands.common.load", "results.shards.read"):
        monkeypatch.setattr(f"certsnn.{name}", None)


@pytest.mark.usefixtures("idle")
def test_what_can_not_be_written_is_refused_before_any_work(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, below = tmp_path / "folder", config / "below"
    folder.mkdir()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (folder, below):
        for option in ("--json", "--results"):
            for command in ("verify", "evaluate", "attack"):
                assert f"{place} can't be written: " in refused(capsys, command, MODEL, option, place)
        assert f"{place} can't be written: " in refused(capsys, "evaluate", MODEL, "--report", place)
        assert f"{place} can't be written: " in refused(capsys, "bench", config, "--table", place)
        assert f"{place} can't be written: " in refused(capsys, "bench", config, "--json", place)
        assert f"{place} can't be written: " in refused(capsys, "merge", pipe, "--results", place)
    assert "can't be written: Not a dir" in refused(capsys, "train", config, "--run", below)
    assert "can't be written: Not a dir" in refused(capsys, "bench", config, "--runs", below)
    assert "can't be written: Not a dir" in refused(capsys, "evaluate", MODEL, "--evidence", below)
    assert "can't be written: Not a dir" in refused(capsys, "bench", config, "--evidence", below)
    assert "is no regular file" in refused(capsys, "verify", MODEL, "--results", pipe)
    assert "is no regular file" in refused(capsys, "merge", config, "--results", "-")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "pipe", "small.yaml"}


@pytest.mark.usefixtures("idle")
def test_two_names_of_one_file_are_one_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    words: list[str | Path] = ["--json", tmp_path / "a", "--report", tmp_path / "link"]
    assert "--json and --report name the same file" in refused(capsys, "evaluate", MODEL, *words)
    words = ["--json", "-", "--report", "-"]
    assert "--json and --report name the same file" in refused(capsys, "evaluate", MODEL, *words)


def test_a_null_device_stays_one(tmp_path: Path) -> None:
    assert main(["verify", MODEL, "--samples", "3", "--json", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()


def test_a_report_on_standard_output_is_alone_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", MODEL, "--samples", "3", "--attacks", "FGSM", "--report", "-"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("<!") and shown.out.rstrip().endswith("</html>")
    assert "verified error" in shown.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
class TestFullDisk:
    def test_of_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", MODEL, "--samples", "3", "--json", "/dev/full"]) == 2
        said = capsys.readouterr().err
        assert said == "certsnn: error: /dev/full can't be written: No space left on device\n"

    @pytest.mark.parametrize("words", [["verify", MODEL, "--samples", "3"], ["models"]])
    def test_of_standard_output(self, words: list[str]) -> None:
        command = [sys.executable, "-m", "certsnn", *words]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert done.stderr == "certsnn: error: [Errno 28] No space left on device\n"

    @pytest.mark.parametrize(("words", "status"), [(["models"], 0), (["verify", MODEL, "--json", "-"], 2)])
    def test_of_standard_output_that_is_closed(self, words: list[str], status: int, tmp_path: Path) -> None:
        command = f"{shlex.join([sys.executable, '-m', 'certsnn', *words])} >&-"
        done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert done.returncode == status
        assert done.stderr == ("certsnn: error: standard output is closed\n" if status else "")
        assert not list(tmp_path.iterdir())

    def test_in_training(
        self,
        config: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def full(tensors: Any, path: Path, facts: Any) -> None:
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        folder = tmp_path / "run"
        with monkeypatch.context() as patched:
            patched.setattr("certsnn.files.save_file", full)
            assert main(["train", str(config), "--run", str(folder)]) == 2
        said = capsys.readouterr().err
        assert "can't be written: Error while serializing: I/O error: No space left" in said
        assert "Traceback" not in said
        assert [path.name for path in folder.iterdir()] == ["config.yaml"]
        assert main(["train", str(config), "--run", str(folder)]) == 0

    def test_of_evidence_does_not_hide_the_news(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        from stand_in import StandIn

        from certsnn.bounds import METHODS

        unsound = StandIn("unsound", lambda *asked: METHODS["s-ibp"](*asked) + 2)
        monkeypatch.setitem(METHODS, "unsound", unsound)
        monkeypatch.setattr("certsnn.files.save_file", full)
        words = ["evaluate", MODEL, "--method", "unsound", "--threat.eps", "0.1", "--samples", "60"]
        assert main([*words, "--attacks", "FGSM", "--evidence", str(tmp_path)]) == 3
        said = capsys.readouterr().err
        assert "the bounds are unsound" in said and "The evidence could not be kept" in said


class TestResults:
    WORDS = ("verify", MODEL, "--samples", "5", "--results")

    @pytest.fixture
    def done(self, tmp_path: Path) -> Path:
        path = tmp_path / "r.jsonl"
        assert main([*self.WORDS, str(path)]) == 0
        return path

    def test_the_header_says_data_and_device(self, done: Path) -> None:
        header = lines(done)[0]
        assert (header["schema"], header["device"]) == (3, "cpu")
        assert len(header["data"]["digest"]) == 64

    @pytest.mark.parametrize("part", ["images", "labels"])
    def test_other_data_of_the_same_name_and_size_are_refused(
        self, part: str, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from certsnn.data import ImageDataset, load

        test = load("digits", "test")
        assert isinstance(test, ImageDataset)
        other = ImageDataset(test.name, test.images.clone(), test.labels.clone(), classes=10)
        {"images": other.images, "labels": other.labels}[part][449] = 0
        monkeypatch.setattr("certsnn.cli.commands.common.load", lambda *arguments: other)
        said = refused(capsys, *self.WORDS, done)
        assert f'data.digest is "{test.digest}" there and "{other.digest}" here' in said

    def test_another_device_is_refused(
        self, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("certsnn.cli.commands.common.device_name", lambda device: "NVIDIA H100")
        assert 'device is "cpu" there and "NVIDIA H100" here' in refused(capsys, *self.WORDS, done)

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("label", 11, "says that sample 0 is of the class 11"),
            ("margin", -1.0, "certified with a margin of -1.0"),
            ("status", "fine", "status is 'fine'"),
            ("index", 450, "index is 450, but the data have 450 samples"),
        ],
    )
    def test_a_line_that_was_changed_is_refused(
        self, name: str, value: Any, told: str, done: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        header, first, *rest = lines(done)
        assert first["status"] == "certified"
        done.write_text("".join(json.dumps(line) + "\n" for line in (header, first | {name: value}, *rest)))
        before = done.read_bytes()
        assert told in refused(capsys, *self.WORDS, done)
        assert done.read_bytes() == before

    def test_a_later_file_of_a_sweep_is_refused_before_the_first_is_begun(
        self, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "s-eps0.1.jsonl").write_bytes(done.read_bytes())
        words = ["--sweep", "0.1", "--results", str(tmp_path / "s.jsonl"), "--samples", "5"]
        assert "s-eps0.1.jsonl holds other results" in refused(capsys, "evaluate", MODEL, *words)
        assert not (tmp_path / "s.jsonl").exists()


class TestModels:
    def test_a_flipped_byte_is_noticed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = bytearray(pretrained()[MODEL].read_bytes())
        content[-1000] ^= 1
        (tmp_path / "m").write_bytes(content)
        said = refused(capsys, "verify", tmp_path / "m")
        assert "m is not a whole model of certsnn (it is damaged: its digest does not match" in said

    def test_a_config_that_contradicts_the_weights_is_refused(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "run"
        assert main(["train", str(config), "--run", str(folder)]) == 0
        written = folder / "config.yaml"
        written.write_text(written.read_text().replace("eps: 0.05", "eps: 0.2"))
        for run in (folder, folder / "model.safetensors"):
            said = refused(capsys, "verify", run)
            assert "threat.init_args.eps is 0.2 in config.yaml and 0.05 in model.safetensors" in said
        assert "is not the config that" in refused(capsys, "train", config, "--run", folder)
        written.write_text("[1")
        assert "config.yaml can't be read" in refused(capsys, "verify", folder)

    def test_other_steps_than_in_training_are_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", "digits-coupled0.05", "--samples", "3", "--threat.steps", "4"]) == 0
        assert "certsnn: note: trained with 8 steps, examined with 4\n" in capsys.readouterr().err
