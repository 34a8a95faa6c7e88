"""`certsnn train`: what a run leaves, how it goes on, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import EPOCHS, process_of, refused, stopped, wait_for_lines
from safetensors.torch import load_file

from certsnn import __version__
from certsnn.cli.app import main


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def started(config: Path, folder: Path) -> subprocess.Popen[str]:
    """A training in another process that has done two epochs or more."""
    process = process_of("train", config, "--run", folder, "--threads", "1")
    wait_for_lines(process, folder / "metrics.jsonl", 2)
    return process


def epochs_done(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_figures_and_files(
    finished: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((finished / "results.json").read_text())
    assert report["summary"]["samples"] == 450
    assert 0 < report["summary"]["clean_error"] <= report["summary"]["verified_error"] < 100
    assert report["threat"] == "LinfBall(eps=0.02)"
    assert (report["method"], report["rounding"]) == ("s-ibp", True)
    assert report["training"]["epochs"] == EPOCHS
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["certsnn"] == __version__
    assert report["config"]["training"]["gradient_norm"] == 8.0
    assert {"versions", "threads", "device", "machine", "cpu", "instructions"} <= report.keys()
    assert epochs_done(finished) == list(range(1, EPOCHS + 1))
    assert (finished / "curves.png").exists()
    before = (finished / "model.safetensors").stat().st_mtime_ns
    assert main(["train", str(config), "--run", str(finished)]) == 0
    shown = capsys.readouterr()
    assert "holds a finished run of this config" in " ".join(shown.err.split())
    assert "verified error" in shown.out
    assert (finished / "model.safetensors").stat().st_mtime_ns == before


def test_the_run_folder_is_named_after_the_config(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(config), "--training.epochs", "2", "--seed=3"]) == 0
    report = json.loads((tmp_path / "runs" / "small" / "results.json").read_text())
    assert (report["config"]["training"]["epochs"], report["config"]["seed"]) == (2, 3)
    assert epochs_done(tmp_path / "runs" / "small") == [1, 2]


def test_another_config_is_kept_out_of_a_finished_folder(
    finished: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights(finished)
    said = refused(capsys, "train", config, "--run", finished, "--threat.eps", "0.5")
    assert "holds a run with another config; name another folder with --run" in said
    assert all(torch.equal(before[name], value) for name, value in weights(finished).items())


def test_ctrl_c_leaves_a_run_that_resumes(finished: Path, config: Path, tmp_path: Path) -> None:
    last = stopped(started(config, tmp_path)).splitlines()[-1]
    assert last.startswith("certsnn: stopped")
    assert "the same command goes on from there" in last
    assert not (tmp_path / "model.safetensors").exists()
    assert main(["train", str(config), "--run", str(tmp_path)]) == 0
    assert epochs_done(tmp_path) == list(range(1, EPOCHS + 1))
    assert same_weights(tmp_path, finished)


def test_a_killed_run_and_a_damaged_checkpoint_end_with_the_same_weights(
    finished: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = started(config, tmp_path)
    process.kill()
    process.communicate()
    assert not (tmp_path / "model.safetensors").exists()
    assert len(epochs_done(tmp_path)) < EPOCHS
    last = tmp_path / "checkpoint.safetensors"
    if not last.exists():  # killed between two renames
        last = tmp_path / "checkpoint.previous.safetensors"
    os.truncate(last, last.stat().st_size // 2)
    assert main(["train", str(config), "--run", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "certsnn: warning:" in said
    assert "going on from the checkpoint before it" in said
    assert same_weights(tmp_path, finished)


def test_refused_by_train(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"

    def said(*words: str | Path) -> str:
        return refused(capsys, "train", *words, "--run", folder)

    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text("training: {objectve: Natural}")
    inside = tmp_path / "inside.yaml"
    inside.write_text("threat: {class_path: LinfBall, init_args: {epz: 0.1}}")
    assert "training.objectve is not a key; did you mean training.objective?" in said(misspelt)
    assert "threat.epz is not a key of LinfBall; did you mean threat.eps?" in said(inside)
    assert "did you mean training.epochs?" in said(config, "--training.epoch", "3")
    assert "did you mean --training.epochs?" in said(config, "--epochs", "3")
    assert "threat.eps must be finite and at least 0" in said(config, "--threat.eps", "-1")
    assert "none.yaml can't be read: No such file" in said(tmp_path / "none.yaml")
    assert "no data set is called 'digit'; did you mean 'digits'?" in said(config, "--data.name", "digit")
    mnist = ["--data.name", "mnist", "--data.root", str(tmp_path)]
    assert "--data.download true" in said(config, *mnist)
    assert "no architecture is called 'digits-cf'" in said(config, "--network.architecture", "digits-cf")
    assert not (folder / "model.safetensors").exists()
