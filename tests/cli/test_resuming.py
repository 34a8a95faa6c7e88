"""Verifications that stop, and go on from their file of results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from command_line import lines, process_of, refused, stopped, verified, wait_for_lines

from certsnn.bounds import METHODS
from certsnn.bounds.methods import Auto
from certsnn.cli.app import main
from certsnn.evaluation import verification
from certsnn.evaluation.verification import SampleResult


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
