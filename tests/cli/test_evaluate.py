"""`certsnn evaluate` and `certsnn attack`: figures, files, resuming, sweeps, and unsound bounds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from command_line import lines, process_of, refused, stopped, wait_for_lines
from safetensors.torch import load_file
from stand_in import StandIn
from torch import Tensor

from certsnn.bounds import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.cli.app import main
from certsnn.cli.commands import evaluate
from certsnn.evaluation import evaluation
from certsnn.evaluation.verification import SampleResult
from certsnn.models.pretrained import MODEL, pretrained

QUICK = ["--attacks", "FGSM,{class_path: RandomSearch, tries: 5}"]


def run(capsys: pytest.CaptureFixture[str], *words: str | Path, samples: int = 60) -> dict[str, Any]:
    """The JSON of a command on a pretrained model's first samples."""
    capsys.readouterr()
    command, *rest = map(str, words)
    own = [command, "digits-eps0.05", "--samples", str(samples), *QUICK, "--json", "-"]
    assert main([*own, *rest]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples without what differs from one run to the next."""
    kept = []
    for row in rows:
        attacks = {
            name: {key: value for key, value in outcome.items() if key != "seconds"}
            for name, outcome in row.get("attacks", {}).items()
        }
        rest = {key: value for key, value in row.items() if key not in ("seconds", "attacks")}
        kept.append(rest | ({"attacks": attacks} if attacks else {}))
    return kept


def test_three_errors_in_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(capsys, "evaluate")
    errors = report["errors"]
    assert 0 < errors["clean"]["percent"] < errors["attack"]["percent"] <= errors["verified"]["percent"] < 100
    assert errors["verified"]["count"] - errors["attack"]["count"] == errors["gap"]["count"]
    for error in errors.values():
        low, high = error["interval"]
        assert low <= error["percent"] <= high
    assert report["summary"]["attack_error"] == errors["attack"]["percent"]
    assert report["suite"] == [
        "FGSM(loss=CrossEntropy(), surrogate=None)",
        "RandomSearch(tries=5, seed=0)",
    ]
    assert (report["threat"], report["method"], report["rounding"]) == ("LinfBall(eps=0.05)", "s-ibp", True)
    assert report["subset"] is True
    assert report["sweep"] == []
    assert {"config", "versions", "machine", "training", "threads"} <= report.keys()
    assert [row["index"] for row in report["samples"]] == list(range(60))
    for row in report["samples"]:
        assert ("attacks" in row) == row["correct"]
        for outcome in row.get("attacks", {}).values():
            assert outcome["margin"] >= row["margin"]
            assert outcome["success"] == (outcome["margin"] <= 0)
    right = sum(row["correct"] for row in report["samples"])
    assert {attack["attacked"] for attack in report["attacks"].values()} == {right}
    assert main(["evaluate", "digits-eps0.05", "--samples", "60", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert f"{errors['attack']['percent']:.2f} % (95% interval" in shown
    assert "the first 60 of 450" in shown
    assert "neither broken nor certified" in shown
    assert "RandomSearch(tries=5)" in shown


def test_a_run_folder_gets_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(pretrained()["digits-eps0.05"], tmp_path / MODEL)
    assert main(["evaluate", str(tmp_path), "--samples", "20", *QUICK]) == 0
    assert "The report is in" in capsys.readouterr().out
    assert "digits" in (tmp_path / "report.html").read_text()


def test_attack_alone(capsys: pytest.CaptureFixture[str]) -> None:
    whole, alone = run(capsys, "evaluate"), run(capsys, "attack")
    assert alone["errors"]["attack"] == whole["errors"]["attack"]
    assert alone["errors"].keys() == {"clean", "attack"}
    assert "summary" not in alone
    for one, other in zip(timeless(alone["samples"]), timeless(whole["samples"]), strict=True):
        assert one.keys() <= {"index", "label", "correct", "attacks"}
        assert one.get("attacks") == other.get("attacks")
    assert main(["attack", "digits-flips2", "--samples", "20", "--attacks", "RSF"]) == 0
    shown = capsys.readouterr().out
    assert "verified" not in shown
    assert "RSF(iterations=25)" in shown


def test_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (run(capsys, "attack", "--seed", seed, samples=30) for seed in ("1", "1", "2"))
    assert timeless(first["samples"]) == timeless(again["samples"]) != timeless(other["samples"])
    assert first["suite"][1] == "RandomSearch(tries=5, seed=1)"


def test_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "r.jsonl"
    report = run(capsys, "evaluate", "--sweep", "0.1,0, 0.02,0.05", "--results", to)
    rows = report["sweep"]
    assert [row["size"] for row in rows] == [0, 0.02, 0.05, 0.1]
    assert [row["threat"] for row in rows][1:3] == ["LinfBall(eps=0.02)", "LinfBall(eps=0.05)"]
    for error in ("attack", "verified"):
        found = [row["errors"][error]["percent"] for row in rows]
        assert found == sorted(found)
        assert found[0] == rows[0]["errors"]["clean"]["percent"]
    assert rows[2]["errors"] == report["errors"]
    names = {"r.jsonl", "r-eps0.1.jsonl", "r-eps0.jsonl", "r-eps0.02.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names
    single = run(capsys, "evaluate", "--threat.eps", "0.02", "--results", tmp_path / "r-eps0.02.jsonl")
    assert single["errors"] == rows[1]["errors"]
    shown = run_table(capsys, "--sweep", "0.1")
    assert "│ 0.1 " in shown
    assert "│ 0.05 " in shown


def run_table(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["evaluate", "digits-eps0.05", "--samples", "20", *QUICK, *words]) == 0
    return capsys.readouterr().out


def test_a_sweep_over_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["digits-flips2", "--samples", "30", "--attacks", "{class_path: RandomSearch, tries: 5}"]
    assert main(["evaluate", *words, "--sweep", "0,4", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["threat"] for row in report["sweep"]] == [
        f"SpikeFlips(budget={budget}, kind=any)" for budget in (0, 2, 4)
    ]
    said = refused(capsys, "evaluate", *words, "--sweep", "1.5")
    assert "threat.budget must be" in said


def interrupted(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ctrl-C after so many batches, until the monkeypatch is undone."""
    whole = evaluation.evaluated

    def part(*args: Any, **keywords: Any) -> Iterator[list[SampleResult]]:
        yield from islice(whole(*args, **keywords), batches)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluated", part)


@pytest.mark.parametrize("command", ["evaluate", "attack"])
@pytest.mark.parametrize("batches", [0, 2])
def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(
    command: str,
    batches: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    words = [command, "--batch-size", "20"]
    undisturbed = run(capsys, *words, "--results", whole)
    with monkeypatch.context() as patched:
        interrupted(patched, batches)
        own = [command, "digits-eps0.05", "--samples", "60", *QUICK, "--batch-size", "20"]
        assert main([*own, "--results", str(part)]) == 130
        assert capsys.readouterr().err == (
            f"certsnn: stopped; {20 * batches} of 60 samples are done, the same command goes on from there\n"
        )
        assert main(own) == 130
        assert "with --results FILE.jsonl, the same command goes on" in capsys.readouterr().err
    resumed = run(capsys, *words, "--results", part)
    assert timeless(resumed["samples"]) == timeless(undisturbed["samples"])
    assert resumed["errors"] == undisturbed["errors"]
    assert lines(part)[0] == lines(whole)[0]
    assert timeless(lines(part)[1:]) == timeless(lines(whole)[1:])


def test_ctrl_c_in_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "r.jsonl"
    slow = ["--attacks", "{class_path: RandomSearch, tries: 300}", "--batch-size", "5", "--threads", "1"]
    process = process_of("evaluate", "digits-eps0.05", *slow, "--results", to)
    wait_for_lines(process, to, 6)
    said = stopped(process)
    done = len(lines(to)) - 1
    assert 5 <= done < 450
    assert said.endswith(f"stopped; {done} of 450 samples are done, the same command goes on from there\n")


def unsound(problem: Problem, options: BoundOptions) -> Tensor:
    return METHODS["s-ibp"](problem, options) + 2


def test_an_unsound_bound_ends_with_status_3_and_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Also known to the cascade: certsnn.bounds.METHODS is the one dictionary of them all.
    monkeypatch.setitem(METHODS, "unsound", StandIn("unsound", unsound))
    evidence, to, json_to = tmp_path / "evidence", tmp_path / "r.jsonl", tmp_path / "r.json"
    words = ["evaluate", "digits-eps0.05", "--method", "unsound", "--threat.eps", "0.1", "--samples", "60"]
    words += [*QUICK, "--evidence", str(evidence), "--results", str(to), "--json", str(json_to)]
    for number in (1, 2):
        assert main(words) == 3
        shown = capsys.readouterr()
        assert shown.out == "", "no table of impossible figures"
        assert "the bounds are unsound" in shown.err
        (folder,) = sorted(evidence.iterdir())[number - 1 :]
        assert str(folder) in " ".join(shown.err.split())
    assert not json_to.exists()
    tensors = load_file(folder / "sample.safetensors")
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["sample"]["index"] == tensors["index"].item()
    assert facts["results"]["method"] == "unsound"
    assert facts["results"]["attacks"][0].startswith("FGSM")
    assert facts["config"]["threat"]["init_args"]["eps"] == 0.1
    assert {"versions", "machine", "network"} <= facts.keys()


def test_results_of_other_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "r.jsonl"
    run(capsys, "evaluate", "--results", to, samples=5)
    before = to.read_bytes()
    words = ["digits-eps0.05", "--results", str(to), "--samples", "5"]
    assert "attacks is" in refused(capsys, "evaluate", *words, "--attacks", "FGSM")
    assert "method is" in refused(capsys, "evaluate", *words, *QUICK, "--method", "s-crown-ibp")
    assert "attacks is" in refused(capsys, "verify", *words)
    assert "method is" in refused(capsys, "attack", *words, *QUICK)
    assert to.read_bytes() == before


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str | Path, model: str = "digits-eps0.05") -> str:
        return refused(capsys, "evaluate", model, *words)

    assert "there is no class 'PDG' here; did you mean PGD?" in said("--attacks", "PDG")
    assert "--attacks[0]" in said("--attacks", "{class_path: PGD, iteration: 3}")
    assert "did you mean --attacks[0].iterations?" in said("--attacks", "{class_path: PGD, iteration: 3}")
    assert "not valid YAML" in said("--attacks", "{PGD")
    assert "names no attack" in said("--attacks", "")
    assert "GreedyFlips(candidates=64) does not work on LinfBall(eps=0.05)" in said(
        "--attacks", "GreedyFlips"
    )
    assert "PGD(iterations=25) does not work on SpikeFlips" in said("--attacks", "PGD", model="digits-flips2")
    assert "2 attacks are called FGSM" in said("--attacks", "FGSM,FGSM")
    assert "threat.eps must be" in said("--sweep", "0.1,big")
    assert "threat.eps must be finite and at least 0" in said("--sweep=-0.1")
    assert "no bound method is called 'ibp'" in said("--method", "ibp")
    same = tmp_path / "same"
    assert "name the same file" in said("--json", same, "--results", same)
    assert "--json and --report name the same file" in said("--json", same, "--report", same)
    assert "evaluate does not take --training.epochs" in said("--training.epochs", "3")
    assert main(["evaluate", "digits-eps0.05", "--sweep", "0.1,,0.2"]) == 2
    assert "must be sizes such as" in capsys.readouterr().err
    assert main(["attack", "digits-eps0.05", "--seed", "-1"]) == 2
    assert "--seed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["attack", "evaluate"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"certsnn {command} runs/digits" in shown
    assert "--threat.eps" in shown
    assert "--training.epochs" not in shown
