"""The command line: interrupted training, verification, and one line for each error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import lines, module_of, process_of, refused, stopped, wait_for_lines
from rich.console import Console
from safetensors.torch import load_file

from certsnn import __version__
from certsnn.bounds import METHODS
from certsnn.bounds.methods import Auto
from certsnn.cli.app import main
from certsnn.cli.arguments import COMMANDS
from certsnn.cli.console import samples_note, samples_progress
from certsnn.evaluation import verification
from certsnn.evaluation.verification import SampleResult, Summary, summarise

EPOCHS = 12
CONFIG = f"""
data: {{name: digits}}
network: {{steps: 2, neuron: {{class_path: IF, init_args: {{initial: 0.5}}}}}}
threat: {{class_path: LinfBall, init_args: {{eps: 0.02}}}}
training:
  objective: {{class_path: Certified, init_args: {{ramp: {{start: 1, length: 3}}}}}}
  epochs: {EPOCHS}
  batch_size: 128
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = config.parent / "finished"
    assert main(["train", str(config), "--run", str(folder)]) == 0
    return folder


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


def test_verify_writes_json(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((finished / "results.json").read_text())
    to = tmp_path / "verified.json"
    capsys.readouterr()
    assert main(["verify", str(finished), "--json", str(to), "--batch-size", "100"]) == 0
    shown = capsys.readouterr()
    assert "digits: test set" in shown.out
    assert f"{report['summary']['verified_error']:.2f} %" in shown.out
    written = json.loads(to.read_text())
    assert written["summary"] == report["summary"]
    assert written["subset"] is False
    assert [row["index"] for row in written["samples"]] == list(range(450))
    for row in written["samples"]:
        assert (row["status"] == "certified") == (row["margin"] > 0)
        assert row["correct"] or row["status"] != "certified"


def test_verify_on_standard_output_is_json_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = finished / "model.safetensors"
    words = ["--samples", "20", "--threat.eps", "0", "--rounding", "false", "--json", "-"]
    capsys.readouterr()
    assert main(["verify", str(model), *words]) == 0
    shown = capsys.readouterr()
    written = json.loads(shown.out)
    assert "a subset of the test set" in shown.err
    assert "the first 20 of 450" in shown.err
    assert written["subset"] is True
    assert written["threat"] == "LinfBall(eps=0)"
    assert written["rounding"] is False
    assert written["config"]["threat"]["init_args"]["eps"] == 0
    assert written["summary"]["clean_error"] == written["summary"]["verified_error"]


def test_verify_with_a_larger_threat_proves_less(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verified_error(eps: str) -> float:
        capsys.readouterr()
        assert main(["verify", str(finished), "--threat.eps", eps, "--json", "-"]) == 0
        error: float = json.loads(capsys.readouterr().out)["summary"]["verified_error"]
        return error

    assert verified_error("0.001") < verified_error("0.05")


def verified(
    capsys: pytest.CaptureFixture[str], *words: str | Path, samples: int = 60, method: str = "auto"
) -> dict[str, Any]:
    """The report of a verification of a pretrained model's first samples."""
    capsys.readouterr()
    own = ["verify", "digits-eps0.05", "--samples", str(samples), "--method", method, "--json", "-"]
    assert main([*own, *map(str, words)]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cascade without its slowest method."""
    names = ("s-ibp", "s-crown-ibp", "s-crown")
    monkeypatch.setitem(METHODS, "auto", Auto([METHODS[name] for name in names]))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples without what differs from one verification to the next."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def interrupted(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ctrl-C after so many batches, until the monkeypatch is undone."""
    whole = verification.verify

    def part(*args: Any, **keywords: Any) -> Iterator[list[SampleResult]]:
        yield from islice(whole(*args, **keywords), batches)
        raise KeyboardInterrupt

    monkeypatch.setattr("certsnn.evaluation.verification.verify", part)


def test_auto_shows_what_each_stage_has_certified(capsys: pytest.CaptureFixture[str]) -> None:
    cheap, report = verified(capsys, method="s-ibp"), verified(capsys)
    assert report["method"] == "auto"
    stages = [method.name for method in METHODS["auto"].stages]
    assert (report["relaxation"], report["memory"], report["seconds"]) == ("joint", 2**31, None)
    summary = report["summary"]
    assert summary["certified"] >= cheap["summary"]["certified"]
    assert sum(summary["by_stage"].values()) == summary["certified"]
    assert summary["by_stage"]["s-ibp"] == cheap["summary"]["certified"]
    for row in report["samples"]:
        assert row["stage"] == "attack" if row["status"] == "broken" else row["stage"] in stages
        assert (row["status"] == "certified") == (row["margin"] > 0)
        assert row["correct"] or (row["status"], row["stage"]) == ("unknown", "s-ibp")
    assert main(["verify", "digits-eps0.05", "--samples", "5", "--method", "auto"]) == 0
    shown = capsys.readouterr().out
    assert all(f"certified by {name} " in shown for name in stages)
    assert main(["verify", "digits-eps0.05", "--samples", "10"]) == 0
    assert "certified by" not in capsys.readouterr().out


def test_what_breaks_samples_is_counted_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verified(capsys, "--adversarial", tmp_path / "broken", "--threat.eps", "0.1")
    broken = {row["index"] for row in report["samples"] if row["status"] == "broken"}
    assert 0 < report["summary"]["broken"] == len(broken)
    kept = {path.name for path in (tmp_path / "broken").iterdir()}
    assert kept == {f"sample-{index}.safetensors" for index in broken}
    (tmp_path / "file").touch()
    words = ["verify", "digits-eps0.05", "--adversarial", str(tmp_path / "file" / "broken")]
    assert "can't be written" in refused(capsys, *words)


@pytest.mark.parametrize("command", ["verify", "evaluate", "attack"])
def test_freed_memory_is_kept_for_the_next_batch(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(module_of("common"), "keep_freed_memory", lambda: kept.append(True))
    words = [] if command == "verify" else ["--attacks", "FGSM"]
    assert main([command, "digits-eps0.05", "--samples", "2", *words]) == 0
    assert kept


def test_a_time_limit_ends_in_timeouts_not_in_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seconds", "0.000001", "--threat.eps", "0.1"]
    report = verified(capsys, *words)
    assert report["seconds"] == 1e-6
    assert report["summary"]["timeout"] > 0
    assert report["summary"]["error"] == 0
    assert {row["stage"] for row in report["samples"] if row["status"] == "timeout"} == {"s-crown"}
    assert all(row["margin"] < 0 for row in report["samples"] if row["status"] == "timeout")
    assert main(["verify", "digits-eps0.05", "--samples", "60", "--method", "auto", *words]) == 0
    shown = capsys.readouterr().out
    assert "status timeout" in shown
    assert "at most 1e-06 s a sample" in " ".join(shown.replace("│", "").split())


def test_a_want_of_memory_is_an_error_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--memory", "1", "--relaxation", "separate", "--method", "s-crown"]
    report = verified(capsys, *words, samples=20)
    errors = [row for row in report["samples"] if row["status"] == "error"]
    assert 0 < len(errors) == report["summary"]["error"]
    assert all("memory budget" in row["reason"] and row["margin"] is None for row in errors)
    assert main(["verify", "digits-eps0.05", "--samples", "20", *words]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert f"status error {len(errors)} samples (s-crown: " in " ".join(shown.split())
    assert "raise it (--memory)" in shown
    assert "s-crown, separate relaxation, rounding covered" in shown


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("batches", [0, 1, 4])
def test_an_interrupted_verification_goes_on_where_it_stopped(
    batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    undisturbed = verified(capsys, "--results", whole, "--batch-size", "10")
    words = ["verify", "digits-eps0.05", "--samples", "60", "--method", "auto", "--batch-size", "10"]
    with monkeypatch.context() as patched:
        interrupted(patched, batches)
        assert main([*words, "--results", str(part)]) == 130
        said = capsys.readouterr().err
        assert said == (
            f"certsnn: stopped; {10 * batches} of 60 samples are done, the same command goes on from there\n"
        )
        assert main(words) == 130
        assert "with --results FILE.jsonl, the same command goes on" in capsys.readouterr().err
    resumed = verified(capsys, "--results", part, "--batch-size", "10")
    assert timeless(resumed["samples"]) == timeless(undisturbed["samples"])
    assert resumed["summary"] == undisturbed["summary"]
    assert lines(part)[0] == lines(whole)[0]
    assert timeless(lines(part)) == timeless(lines(whole))


@pytest.mark.usefixtures("quick")
def test_samples_that_are_there_are_not_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "results.jsonl"
    first = verified(capsys, "--results", to, samples=30)
    second = verified(capsys, "--results", to, samples=60)
    assert second["samples"][:30] == first["samples"]
    assert [row["index"] for row in second["samples"]] == list(range(60))
    assert len(lines(to)) == 61
    monkeypatch.setattr("certsnn.cli.commands.common.loader", None)  # nothing is left to load
    assert verified(capsys, "--results", to, samples=60)["samples"] == second["samples"]
    assert verified(capsys, "--results", to, samples=30)["samples"] == first["samples"]
    words = ["verify", "digits-eps0.05", "--samples", "30", "--method", "auto", "--results", str(to)]
    assert main(words) == 0
    assert "30 of 30 samples are done already; nothing is left to do" in capsys.readouterr().err


def test_results_cut_short_by_a_kill_are_completed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "results.jsonl"
    whole = verified(capsys, "--results", to, samples=20, method="s-ibp")
    os.truncate(to, to.stat().st_size - 7)
    resumed = verified(capsys, "--results", to, samples=20, method="s-ibp")
    assert timeless(resumed["samples"]) == timeless(whole["samples"])
    assert [row["index"] for row in lines(to)[1:]] == list(range(20))


def test_a_kill_in_the_middle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "results.jsonl"
    slow = ["--threat.eps", "0.1", "--batch-size", "1"]
    words = ["digits-eps0.05", *slow, "--method", "s-crown", "--threads", "1"]
    process = process_of("verify", *words, "--results", to)
    wait_for_lines(process, to, 4)
    said = stopped(process)
    done = len(lines(to)) - 1
    assert 3 <= done < 450
    assert said.endswith(f"stopped; {done} of 450 samples are done, the same command goes on from there\n")
    undisturbed = verified(capsys, *slow, samples=done + 2, method="s-crown")
    resumed = verified(capsys, *slow, "--results", to, samples=done + 2, method="s-crown")
    assert timeless(resumed["samples"]) == timeless(undisturbed["samples"])


def test_results_of_another_verification_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "results.jsonl"
    verified(capsys, "--results", to, samples=5, method="s-ibp")
    before = to.read_bytes()

    def said(*words: str | Path) -> str:
        return refused(capsys, "verify", "digits-eps0.05", "--results", to, *words)

    assert 'method is "s-ibp" there and "auto" here. Name another file' in said("--method", "auto")
    assert "threat.init_args.eps is 0.05 there and 0.06 here" in said("--threat.eps", "0.06")
    assert "rounding is true there and false here" in said("--rounding", "false")
    assert "seconds is null there and 2.0 here" in said("--seconds", "2")
    assert "relaxation is" in said("--relaxation", "separate")
    assert "data.encoding is" not in said("--seconds", "3")
    assert "weights is" in refused(capsys, "verify", finished, "--results", to)
    assert "name the same file" in said("--json", to)
    assert to.read_bytes() == before
    verified(capsys, "--results", to, "--memory", "1GiB", "--batch-size", "2", samples=6, method="s-ibp")


def test_a_misclassified_sample_that_is_certified_is_written_down_and_stops_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsound(*args: Any, **keywords: Any) -> Iterator[list[SampleResult]]:
        yield [SampleResult(0, 1, correct=False, status="certified", margin=1.0, stage="s-ibp")]
        raise AssertionError("it should have stopped")

    to = tmp_path / "results.jsonl"
    words = ["verify", "digits-eps0.05", "--samples", "5", "--results", str(to)]
    with monkeypatch.context() as patched:
        patched.setattr("certsnn.evaluation.verification.verify", unsound)
        assert main(words) == 3
    assert "the bounds are unsound" in capsys.readouterr().err
    assert [row["index"] for row in lines(to)[1:]] == [0]
    assert main(words) == 3
    assert len(lines(to)) == 2


def test_progress_of_a_cascade_names_its_stages() -> None:
    def result(stage: str, certified: bool) -> SampleResult:
        return SampleResult(0, 0, True, "certified" if certified else "unknown", 1.0, stage)

    done = [result("s-ibp", True), result("s-ibp", True), result("s-crown", True), result("s-crown", False)]
    note = samples_note(done, 9, ["s-ibp", "s-crown-ibp", "s-crown"])
    assert note == "4/9 samples, 3 certified (s-ibp 2, s-crown 1)"
    assert samples_note([], 9, ["s-ibp", "s-crown"]) == "0/9 samples, 0 certified"
    assert samples_note(done[:1], 9, ["s-ibp"]) == "1/9 samples, 1 certified"
    written = StringIO()
    with samples_progress(
        Console(file=written, force_terminal=True, width=120), "verifying", 9, ["s-ibp"]
    ) as shown:
        shown(done[:2])
        shown(done[2:])
    assert "4/9 samples, 3 certified" in written.getvalue()


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certsnn.cli.console.QUIET", 0.0)
    written = StringIO()
    with samples_progress(Console(file=written), "verifying", 3, ["s-ibp"]) as shown:
        shown([])
        for _ in range(2):
            shown([SampleResult(0, 0, True, "unknown", 1.0, "s-ibp")])
    assert written.getvalue() == (
        "1/3 samples, 0 certified; about 0.0 s left\n2/3 samples, 0 certified; about 0.0 s left\n"
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [("1", 1), ("2147483648", 2**31), ("512MiB", 2**29), ("2 gib", 2**31), ("1.5KiB", 1536), ("7B", 7)],
)
def test_sizes(size: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(source: str, overrides: list[str], setting: Any, *rest: object) -> int:
        assert setting.bounds.memory == expected
        return 17

    monkeypatch.setattr("certsnn.cli.commands.verify", asked)
    assert main(["verify", "x", "--memory", size]) == 17


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        *(
            ("--memory", value, "must be a size such as 512MiB, 2GiB or 2147483648 (bytes)")
            for value in ("", "lots", "2GB", "-1", "0", "0.5", "1e9", "MiB", "2GiB more")
        ),
        *(
            ("--seconds", value, "must be a number of seconds > 0")
            for value in ("", "long", "0", "-1", "nan", "inf")
        ),
        ("--relaxation", "tight", "invalid choice"),
        ("--batch-size", "0", "must be an integer of at least 1"),
    ],
)
def test_values_that_make_no_sense(
    flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "x", f"{flag}={value}"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert flag in said


def test_refused_by_verify(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str | Path) -> str:
        return refused(capsys, "verify", *words)

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((finished / "model.safetensors").read_bytes()[:5000])
    empty = tmp_path / "empty"
    empty.mkdir()
    flips = ["--threat", "SpikeFlips", "--threat.budget", "100000"]
    encoding = ["--data.encoding", "{class_path: Bernoulli, steps: 2}"]
    assert "is neither a run folder, nor a weights file" in said("nothing-here")
    assert "is not a whole model of certsnn" in said(cut)
    assert "its training has not ended" in said(empty)
    assert "threat.eps must be finite and at least 0, not -1" in said(finished, "--threat.eps=-1")
    assert "did you mean threat.eps?" in said(finished, "--threat.ep", "1")
    assert "verify does not take --training.epochs" in said(finished, "--training.epochs", "1")
    assert "threat and data.encoding do not fit" in said(finished, *flips)
    assert "the network takes image, but SpikeFlips" in said(finished, *flips, *encoding)
    assert "no bound method is called 'ibp'" in said(finished, "--method", "ibp")
    assert "did you mean --method?" in said(finished, "--methd", "ibp")
    assert "--json" in said(finished, "--samples", "5", "--jsn", "x")
    assert "MNIST (test) can't be read from" in said(
        finished, "--data.name", "mnist", "--data.root", tmp_path
    )
    assert "the device 'gpu' can't be used" in said(finished, "--device", "gpu")
    assert "the device 'meta' can't be used" in said(finished, "--device", "meta")


def test_a_budget_larger_than_the_input_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spikes.yaml"
    path.write_text(
        "data: {encoding: {class_path: Bernoulli, steps: 2}}\n"
        "threat: {class_path: SpikeFlips, budget: 5}\n"
        "training: {epochs: 1, objective: Natural}\n"
    )
    folder = tmp_path / "run"
    assert main(["train", str(path), "--run", str(folder)]) == 0
    said = refused(capsys, "verify", folder, "--threat.budget", "129")
    assert "the budget of 129 flips exceeds the 128 bits of a sample" in said


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


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'trian' is not a command; did you mean train?" in refused(capsys, "trian")
    assert main(["--verbose"]) == 2
    assert "unrecognized arguments: --verbose" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"certsnn {__version__}\n"
    assert main([]) == 0
    assert "certsnn train configs/digits.yaml" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "--training.objective.ramp.length" in capsys.readouterr().out
    assert main(["train"]) == 2
    assert "CONFIG" in capsys.readouterr().err
    assert main(["verify", "x", "--threads", "0"]) == 2
    assert "must be an integer of at least 1" in capsys.readouterr().err
    assert main(["models"]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert COMMANDS[name].summary in shown and COMMANDS[name].details in shown
    assert all(option in shown for option in COMMANDS[name].options.split() if option.startswith("--"))
    assert all(f"  --{part}." in shown or f"  --{part} " in shown for part in COMMANDS[name].keys)
    assert "{" not in shown.replace("{true,false}", "").replace("{joint,separate}", "").replace("{class_", "")


def test_help_shows_the_defaults_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    reset = "  --network.neuron.reset  (zero or subtract or a number or (a number, a number); {})  of {}\n"
    assert reset.format("zero", "LIF") in shown and reset.format("subtract", "IF") in shown
    assert "  --training.objective.regularisers.weight  (a number; 1e-06)  of L1\n" in shown
    assert "  --training.objective.regularisers.weight  (a number; 0.5)  of FiringRate, Tightness\n" in shown
    assert "  --threat.seed  (an integer; 0)  of CoupledBernoulli, FreeSpikes\n" in shown


def test_help_needs_no_torch() -> None:
    code = "import sys; from certsnn.cli.app import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "verify", "nothing-here"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "certsnn: error: " in said


def test_unsound_bounds_have_an_exit_status_of_their_own(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def misled(results: list[SampleResult]) -> Summary:
        wrong: Any = SampleResult(0, 0, correct=False, status="certified", margin=1.0, stage="s-ibp")
        return summarise([*results, wrong])

    monkeypatch.setattr(module_of("verify"), "summarise", misled)
    assert main(["verify", str(finished), "--samples", "5"]) == 3
    assert "the bounds are unsound" in capsys.readouterr().err
