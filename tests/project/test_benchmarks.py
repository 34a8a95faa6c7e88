"""The scripts of benchmarks: each can be run, and each page of results is that of its JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import BENCHMARKS, benchmark

from certsnn.errors import ConfigError

SCRIPTS = sorted(f"{path.parent.name}.{path.stem}" for path in BENCHMARKS.glob("*/*.py"))
PAGES = {
    "tightness.auto": ["auto"],
    "tightness.tightness": ["tightness"],
    "tightness.relaxations": ["relaxations"],
    "speed.bounds": ["bounds"],
    "speed.training_step": ["training-step", "training-step-before"],
    "speed.processes": ["processes"],
    "papers.sweeps": ["sweeps"],
    "papers.nmnist": ["nmnist"],
    "papers.reproducibility": ["reproducibility"],
    "data.saccades": ["saccades"],
    "interop.coverage": ["imports"],
}
record = benchmark("record")


def on_record(name: str) -> str:
    return str((record.RESULTS / f"{name}.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_says_how_it_is_run(script: str) -> None:
    module = benchmark(script)
    assert module.__doc__ is not None
    assert f"    python benchmarks/{script.replace('.', '/')}.py" in module.__doc__


@pytest.mark.parametrize(("script", "name"), [(s, name) for s, names in PAGES.items() for name in names])
def test_a_page_of_results_is_that_of_its_json(script: str, name: str) -> None:
    assert benchmark(script).page(record.read(name)) == on_record(name)


@pytest.mark.parametrize("name", sorted(path.stem for path in record.RESULTS.glob("attacks-*.json")))
def test_a_page_of_rows_is_that_of_its_json(name: str) -> None:
    assert record.rows_page(record.read(name)) == on_record(name)


def test_other_pages_are_those_of_what_is_on_record() -> None:
    assert benchmark("papers.foolbox_check").twins_page(record.read("twin")) == on_record("twin")
    training = (record.DOCS / "training.md").read_text(encoding="utf-8")
    ablation = benchmark("papers.ablation")
    for base in ablation.BASES:
        assert ablation.table(base).partition("\n")[2].partition("\n")[2] in training


@pytest.mark.slow
def test_the_table_of_runs_is_that_of_the_logs() -> None:
    page = (record.DOCS / "results.md").read_text(encoding="utf-8")
    assert page == record.inserted(page, "runs", benchmark("papers.results_page").table())


def test_cells_are_filled_from_rows() -> None:
    rows = [{"a": 1.0, "b": {"c": [3.0, 4.0]}, "d": None}]
    columns = record.columns(
        "one | two | three | four", "{a:.2f} | {b[c][1]:.0f}% | {b[c][0]/a:.1f} | {d/a:.1f}"
    )
    assert record.table(columns, rows).splitlines()[2] == "| 1.00 | 4% | 3.0 | - |"
    with pytest.raises(KeyError):
        record.table({"one": "{misspelt}"}, rows)
    assert record.mean_and_range([1.0, 2.0], 1) == "1.5 (1.0-2.0)"
    assert record.mean_and_range([2.0, 2.0], unit="%") == "2.0%"
    assert record.mean_and_range([]) == "-"


def test_results_are_written_as_json_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert record.read("new", []) == []
    record.write_rows("new", "Title", "Facts.", [{"x": 1.23456, "y": None}])
    found = json.loads((tmp_path / "new.json").read_text())
    assert found["rows"] == [{"x": 1.23456, "y": None}] == record.read("new")["rows"]
    page = (tmp_path / "new.md").read_text()
    assert page == record.rows_page(found)
    assert page.startswith("# Title\n\nFacts.\n\ncertsnn ")
    assert page.endswith("| x | y |\n| --- | --- |\n| 1.235 | - |\n")


def test_a_page_without_a_place_is_left_as_it_is() -> None:
    assert record.inserted("a\n<!-- t -->\nold\n<!-- end of t -->\nb\n", "t", "new\n") == (
        "a\n<!-- t -->\nnew\n<!-- end of t -->\nb\n"
    )
    with pytest.raises(ValueError, match="no place for other"):
        record.inserted("a\n<!-- t -->\nold\n<!-- end of t -->\n", "other", "new\n")


def called(monkeypatch: pytest.MonkeyPatch, words: list[str], *commands: Callable[..., object]) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    record.run(*commands)


def test_words_and_flags_are_the_parameters_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[object] = []

    def first(root: Path, size: int = 3, *names: str, eps: float = 0.5, odd: bool = False) -> None:
        got.append((root, size, names, eps, odd))

    def second(*flags: str) -> None:
        got.append(flags)

    called(monkeypatch, ["d"], first)
    called(monkeypatch, ["first", "d", "7", "a", "b", "--eps", "0.25", "--odd"], first, second)
    called(monkeypatch, ["second", "--seed", "3"], first, second)
    assert got == [
        (Path("d"), 3, (), 0.5, False),
        (Path("d"), 7, ("a", "b"), 0.25, True),
        ("--seed", "3"),
    ]
    for wrong in ([], ["d", "seven"], ["d", "--misspelt"]):
        with pytest.raises(SystemExit, match="2"):
            called(monkeypatch, wrong, first)


def test_an_error_in_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigError("the curve needs a LinfBall")

    with pytest.raises(SystemExit, match=r"^script\.py: the curve needs a LinfBall$"):
        called(monkeypatch, [], refuse)
