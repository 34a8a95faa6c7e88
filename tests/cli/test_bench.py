"""`certsnn bench`: rows and table, resuming, rows that can't be computed, refusals, and unsound bounds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import process_of, refused, stopped, wait_for_lines
from stand_in import StandIn
from torch import Tensor

from certsnn.attacks import G2S, PGD, RSF
from certsnn.bounds import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.bounds.supports import support_of
from certsnn.cli.app import main
from certsnn.cli.commands import bench as command
from certsnn.cli.commands import evaluate
from certsnn.data import load
from certsnn.errors import DataNotFound
from certsnn.evaluation import evaluation, verification
from certsnn.evaluation.verification import Attempt, SampleResult
from certsnn.inputsets import LinfBall
from certsnn.models.pretrained import MODEL
from certsnn.report.bench import BenchRow, NotRun, heading, lines, markdown
from certsnn.results.summary import Report

QUICK = ["--attacks", "{class_path: RandomSearch, tries: 5},{class_path: G2S, iterations: 3}"]
CONFIG = """
data: {{name: digits}}
network: {{steps: 2}}
threat: {{class_path: LinfBall, init_args: {{eps: 0.02}}}}
training:
  objective: {objective}
  epochs: 3
  batch_size: 128
"""
ATTACKED = 70


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "natural.yaml").write_text(CONFIG.format(objective="Natural"))
    (folder / "certified.yaml").write_text(CONFIG.format(objective="{class_path: Certified, size: 0.5}"))
    (folder / "README.md").write_text("no config")
    return folder


def bench(*words: str | Path, status: int = 0) -> None:
    own = ["bench", *map(str, words), "--attacked", str(ATTACKED), *QUICK]
    assert main(own) == status


@pytest.fixture(scope="module")
def finished(configs: Path) -> Path:
    """A folder of run folders, with table.md and rows.json, that nothing disturbed."""
    runs = configs.parent / "finished"
    files: list[str | Path] = ["--table", runs / "table.md", "--json", runs / "rows.json"]
    bench(configs, "--seeds", "0,3", "--runs", runs, *files)
    return runs


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return found


def timeless(row: Any) -> Any:
    """A row without what differs from one run to the next."""
    if isinstance(row, dict):
        skipped = ("command", "seconds", "training_seconds")
        return {name: timeless(value) for name, value in row.items() if name not in skipped}
    return row


def test_each_config_and_seed_is_a_row_in_its_run_folder(finished: Path) -> None:
    found = rows(finished / "rows.json")
    names = ["certified-s0", "certified-s3", "natural-s0", "natural-s3"]
    assert [f"{row['config_name']}-s{row['seed']}" for row in found] == names
    assert [row["config"]["seed"] for row in found] == [0, 3, 0, 3]
    for name, row in zip(names, found, strict=True):
        assert json.loads((finished / name / "bench.json").read_text()) == row
        assert (row["samples"], row["extent"], row["subset"]) == (450, "450", False)
        assert (row["attacked"]["samples"], row["attacked"]["subset"]) == (ATTACKED, True)
        assert row["training"]["epochs"] == 3
        assert row["training"]["training_seconds"] > 0
        assert {"versions", "machine", "threads", "device", "threat"} <= row.keys()
        left = {path.name for path in (finished / name).iterdir()}
        assert MODEL in left
        assert not any(path.startswith("bench-") for path in left), "only the row stays"


def test_errors_of_a_row_are_those_of_verify_and_evaluate(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rows(finished / "rows.json")[0]
    run, to = str(finished / "certified-s0"), str(tmp_path / "r.json")
    assert main(["verify", run, "--json", to]) == 0
    summary = json.loads(Path(to).read_text())["summary"]
    assert row["errors"]["clean"]["percent"] == summary["clean_error"]
    assert row["errors"]["verified"]["percent"] == summary["verified_error"] < 100
    report = str(tmp_path / "r.html")
    words = ["--samples", str(ATTACKED), *QUICK, "--json", to, "--report", report]
    assert main(["evaluate", run, *words]) == 0
    whole = json.loads(Path(to).read_text())
    assert row["attacked"]["errors"] == whole["errors"]
    assert row["attacked"]["suite"] == whole["suite"]
    wrong = row["attacked"]["errors"]["clean"]["count"]
    for name, attack in row["attacked"]["attacks"].items():
        assert attack["error"]["count"] == wrong + whole["attacks"][name]["success"]["count"]
    assert row["attacked"]["papers"] == row["attacked"]["attacks"]["G2S(iterations=3)"]["error"]


def test_the_papers_error_is_the_worst_of_their_attacks() -> None:
    """Of five samples one is misclassified, and each attack breaks another one; the fifth stands."""
    suite = (RSF(), G2S(), PGD())
    names = [attack.describe() for attack in suite]
    results = [SampleResult(0, 0, False, "unknown", -1.0, "s-ibp")]
    for index, breaks in enumerate([*names, ""], 1):
        tried = {name: Attempt(name == breaks, -1.0, 0.0, 0.0, 1, 1, False, 0.0) for name in names}
        results.append(SampleResult(index, 0, True, "unknown", -2.0, "s-ibp", attacks=tried))
    found = command.attacked(Report("x", "s-ibp", True, tuple(names), tuple(results)), suite)
    assert (found["errors"]["attack"]["count"], found["papers"]["count"]) == (4, 3)
    assert [found["attacks"][name]["error"]["count"] for name in names] == [2, 2, 2]
    alone = Report("x", "s-ibp", True, (names[2],), tuple(results))
    assert command.attacked(alone, suite[2:])["papers"] is None


def test_a_table_has_a_line_for_each_config(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (finished / "table.md").read_text()
    found = rows(finished / "rows.json")
    clean = [row["errors"]["clean"]["percent"] for row in found]
    certified, natural = text.splitlines()[-2:]
    assert certified.startswith("| certified | 2 | 450 (first 70) | ")
    assert f"| {sum(clean[2:]) / 2:.2f} ({clean[2]:.2f}, {clean[3]:.2f}) |" in natural
    assert "a subset" in text
    assert "s-ibp, rounding covered" in text


def test_finished_rows_are_not_computed_again(
    finished: Path, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "computed", None)
    to = tmp_path / "rows.json"
    bench(configs, "--seeds", "0,3", "--runs", finished, "--json", to)
    assert rows(to) == rows(finished / "rows.json")


def test_the_command_of_a_row_computes_it_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rows(finished / "rows.json")[1]
    program, *words = shlex.split(row["command"])
    assert program == "certsnn"
    assert main([*words, "--runs", str(tmp_path), "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert timeless(json.loads(shown.out)["rows"][0]) == timeless(row)
    assert "certified" in shown.err


@pytest.mark.parametrize(
    ("module", "whole", "done"),
    [
        (verification, verification.verify, "256 of 450"),
        (evaluate, evaluation.evaluated, "64 of 70"),
    ],
    ids=["verify", "evaluate"],
)
def test_a_stopped_bench_goes_on_and_ends_as_if_it_had_not_been(
    module: ModuleType,
    whole: Callable[..., Iterator[list[SampleResult]]],
    done: str,
    finished: Path,
    configs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*args: Any, **keywords: Any) -> Iterator[list[SampleResult]]:
        yield from islice(whole(*args, **keywords), 1)
        raise KeyboardInterrupt

    words: list[str | Path] = [configs / "natural.yaml", configs / "certified.yaml", "--runs", tmp_path]
    with monkeypatch.context() as patched:
        patched.setattr(module, whole.__name__, interrupted)
        bench(*words, status=130)
    said = capsys.readouterr().err.splitlines()[-1]
    going = "the same command goes on from there"
    assert said == f"certsnn: stopped at natural-s0; 0 of 2 rows are done, {going}"
    assert not (tmp_path / "natural-s0" / "bench.json").exists()
    bench(*words, "--json", tmp_path / "rows.json")
    shown = capsys.readouterr().err
    told = "".join(shown.split())  # a long path is broken anywhere
    assert "natural-s0holdsafinishedrunofthisconfig" in told
    assert f"{done} samples are done already; going on from there" in shown
    one, other = rows(tmp_path / "rows.json"), rows(finished / "rows.json")
    assert [timeless(row) for row in one] == [timeless(other[2]), timeless(other[0])]


def test_ctrl_c_during_training(configs: Path, tmp_path: Path) -> None:
    words = ["--runs", str(tmp_path), "--training.epochs", "500", "--threads", "1"]
    process = process_of("bench", configs, *words)
    wait_for_lines(process, tmp_path / "certified-s0" / "metrics.jsonl", 2)
    said = stopped(process)
    assert said.endswith(
        "stopped at certified-s0; 0 of 2 rows are done, the same command goes on from there\n"
    )


def test_a_row_without_its_data_is_named_and_the_others_go_on(
    finished: Path, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent.yaml"
    absent.write_text("data: {name: mnist}\nnetwork: {architecture: fc}")
    table, to, root = tmp_path / "t.md", tmp_path / "rows.json", ["--data.root", str(tmp_path)]
    words = ["--runs", str(tmp_path), "--table", str(table), "--json", str(to)]
    bench(absent, configs / "natural.yaml", *words, *root, status=2)
    missing, row = rows(to)
    assert missing.keys() == {"config_name", "seed", "not_run"}
    assert "MNIST (test) can't be read from" in missing["not_run"]
    assert timeless(row)["errors"] == rows(finished / "rows.json")[2]["errors"]
    shown, text = capsys.readouterr().out, table.read_text()
    for told in (shown, text):
        assert f"absent-s0 not run: {missing['not_run']}" in told
    assert "| absent | 0 of 1 | not run | - |" in text
    assert "| natural | 1 |" in text
    assert not (tmp_path / "absent-s0").exists()


def test_a_row_that_the_attacks_do_not_fit_is_not_trained(configs: Path, tmp_path: Path) -> None:
    flips = tmp_path / "flips.yaml"
    flips.write_text(
        "data: {encoding: {class_path: Bernoulli, steps: 2}}\nthreat: {class_path: SpikeFlips, budget: 1}\n"
    )
    to, words = tmp_path / "rows.json", ["--attacks", "FGSM", "--runs", str(tmp_path)]
    certified = str(configs / "certified.yaml")
    assert main(["bench", str(flips), certified, *words, "--json", str(to), "--training.epochs", "1"]) == 2
    missing, row = rows(to)
    assert "FGSM(loss=CrossEntropy()) does not work on SpikeFlips" in missing["not_run"]
    assert not (tmp_path / "flips-s0").exists()
    assert row["attacked"]["papers"] is None
    assert row["attacked"]["samples"] == 450
    assert row["attacked"]["subset"] is False


def unsound(problem: Problem, options: BoundOptions) -> Tensor:
    """The margins of x0 itself, claimed for the whole set."""
    return METHODS["s-ibp"](replace(problem, support=support_of(LinfBall(0.0))), options)


def test_an_unsound_bound_stops_everything(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "unsound", StandIn("unsound", unsound))
    evidence, table = tmp_path / "evidence", tmp_path / "table.md"
    words = [str(configs / "natural.yaml"), "--runs", str(tmp_path), "--method", "unsound"]
    for _ in range(2):
        bench(*words, "--evidence", evidence, "--threat.eps", "0.1", "--table", table, status=3)
        shown = capsys.readouterr()
        assert shown.out == "", "no table of impossible figures"
        assert "finds an input with the margin" in shown.err
        assert "the bounds are unsound" in shown.err
    assert len(list(evidence.iterdir())) == 2
    assert not table.exists()
    assert not (tmp_path / "natural-s0" / "bench.json").exists()


def test_refused(finished: Path, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    natural = configs / "natural.yaml"

    def said(*words: str | Path) -> str:
        return refused(capsys, "bench", *words, "--runs", tmp_path)

    other = tmp_path / "other"
    other.mkdir()
    assert "holds no config: no file in it ends with .yaml" in said(other)
    (other / "natural.yaml").write_text("seed: 0")
    assert "would both be trained in" in said(natural, other)
    assert "none.yaml can't be read" in said(natural, tmp_path / "none.yaml")
    assert "did you mean training.epochs?" in said(natural, "--training.epoch", "1")
    assert "there is no class 'PDG' here; did you mean PGD?" in said(natural, "--attacks", "PDG")
    assert "names no attack" in said(natural, "--attacks", "")
    assert "no bound method is called 'ibp'" in said(natural, "--method", "ibp")
    assert "--seed and --seeds both name seeds" in said(natural, "--seed=1", "--seeds", "0,1")
    same = tmp_path / "same"
    assert "--table and --json name the same file" in said(natural, "--table", same, "--json", same)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert main(["bench", str(natural), "--seeds", "0,one"]) == 2
    assert "must be an integer of at least 0, not 'one'" in capsys.readouterr().err

    def kept(*words: str | Path) -> str:
        return refused(capsys, "bench", natural, "--runs", finished, *words)

    attacked = ["--attacked", str(ATTACKED)]
    assert "holds a run with another config; name another folder with --runs" in kept("--threat.eps", "0.5")
    assert 'method is "s-ibp" there and "auto" here. Remove it' in kept("--method", "auto", *QUICK, *attacked)
    assert "attacked is 70 there and 1000 here" in kept(*QUICK)
    assert "attacks is " in kept(*attacked)
    row = tmp_path / "natural-s0" / "bench.json"
    other_row = finished / "certified-s0" / "bench.json"
    row.parent.mkdir()
    row.write_bytes(other_row.read_bytes())
    assert "is a row of another config. Remove it" in said(natural)
    for content in ("", "[]", "{}", '{"config_name": 3}', '{"config_name": "a", "seed": 0, "not_run": ""}'):
        row.write_text(content)
        assert "is not a row of `certsnn bench`. Remove it" in said(natural)


def test_a_row_of_other_data_or_another_device_is_refused(
    finished: Path, configs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[str | Path] = [
        configs / "natural.yaml",
        "--runs",
        finished,
        "--attacked",
        str(ATTACKED),
        *QUICK,
    ]
    digest = load("digits", "test").digest
    assert rows(finished / "rows.json")[0]["examination"]["data"] == digest
    with monkeypatch.context() as patched:
        patched.setattr("certsnn.cli.commands.bench.device_name", lambda device: "NVIDIA H100")
        assert 'device is "cpu" there and "NVIDIA H100" here. Remove it' in refused(capsys, "bench", *words)
    part = load("digits", "test").head(449)
    with monkeypatch.context() as patched:
        patched.setattr("certsnn.cli.commands.common.load", lambda *arguments: part)
        assert f'data is "{digest}" there and "{part.digest}" here' in refused(capsys, "bench", *words)

    def absent(*arguments: object) -> None:
        raise DataNotFound("no data")

    monkeypatch.setattr("certsnn.cli.commands.common.load", absent)
    bench(*words[:3])  # what is finished is shown without them


def test_several_processes_are_refused(
    configs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("certsnn.cli.launch.ended", lambda status: status)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "bench works in one process, but a launcher started 2" in refused(capsys, "bench", configs)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "certsnn bench configs/paper --seeds 0,1,2" in shown
    assert "--training.epochs" in shown


def test_lines_are_means_over_the_seeds_that_were_run() -> None:
    def row(seed: int, error: float, papers: float | None = None) -> BenchRow:
        return BenchRow("a", seed, 50, "50 (of 100 published)", 50, error, papers, error + 1, error + 2, 30.0)

    three: list[BenchRow | NotRun] = [row(0, 1.0), NotRun("a", 1, "no data"), row(2, 2.0)]
    (line,) = lines(three)
    parts = ["1.50 (1.00, 2.00)", "-", "2.50 (2.00, 3.00)", "3.50 (3.00, 4.00)", "0.5"]
    assert line == ["a", "2 of 3", "50 (of 100 published)", *parts]
    assert lines([NotRun("b", 0, "x"), row(0, 1.0, 1.5)]) == [
        ["b", "0 of 1", "not run", "-", "-", "-", "-", "-"],
        ["a", "1", "50 (of 100 published)", "1.00", "1.50", "2.00", "3.00", "0.5"],
    ]
    told = heading(three, "s-ibp, rounding covered")
    assert "on the test set, or a subset where its size is given (s-ibp, rounding covered)" in told
    assert "on all of these" in told
    whole = heading([replace(row(0, 1.0), extent="50", attacked=10)], "s-ibp")
    assert "on the whole test set" in whole
    assert "on a subset, the first samples" in whole
    assert markdown(["x"], [["1|2"]]) == "| x |\n| --- |\n| 1\\|2 |\n"
