"""`certsnn verify`: its figures, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import refused, verified

from certsnn.bounds import METHODS
from certsnn.cli.app import main
from certsnn.cli.commands import verify
from certsnn.evaluation.verification import SampleResult, Summary, summarise


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
    monkeypatch.setattr("certsnn.cli.commands.common.keep_freed_memory", lambda: kept.append(True))
    words = [] if command == "verify" else ["--attacks", "FGSM"]
    assert main([command, "digits-eps0.05", "--samples", "2", *words]) == 0
    assert kept


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


def test_unsound_bounds_have_an_exit_status_of_their_own(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def misled(results: list[SampleResult]) -> Summary:
        wrong: Any = SampleResult(0, 0, correct=False, status="certified", margin=1.0, stage="s-ibp")
        return summarise([*results, wrong])

    monkeypatch.setattr(verify, "summarise", misled)
    assert main(["verify", str(finished), "--samples", "5"]) == 3
    assert "the bounds are unsound" in capsys.readouterr().err
