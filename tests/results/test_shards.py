"""Shards: parts of a verification that are put together, and what does not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import lines, refused

from certsnn.cli.app import main
from certsnn.errors import UserError
from certsnn.evaluation.verification import SampleResult
from certsnn.processes import Alone
from certsnn.results.journal import journal, read, write
from certsnn.results.shards import Shard, kept, merged, ranges

HEADER: dict[str, Any] = {"weights": "1f", "method": "s-ibp", "data": {"name": "digits", "samples": 5}}
SAMPLES = [SampleResult(index, 1, True, "certified", 0.25, "s-ibp", 0.5) for index in range(5)]
ERROR = replace(SAMPLES[2], status="error", margin=-1.0, reason="out of memory")
UNKNOWN = replace(SAMPLES[2], status="unknown", margin=-1.0)


def file(folder: Path, name: str, samples: list[SampleResult], header: dict[str, Any] = HEADER) -> Path:
    write(folder / name, header, samples)
    return folder / name


@pytest.mark.parametrize(("of", "samples"), [(1, 1), (2, 5), (3, 7), (4, 4)])
def test_shards_cover_all_samples_once(of: int, samples: int) -> None:
    found = [i for number in range(1, of + 1) for i in Shard(number, of).positions(samples)]
    assert sorted(found) == list(range(samples))


def test_an_empty_or_senseless_shard_is_refused() -> None:
    with pytest.raises(UserError, match="shard 3/3 of 2 samples is empty; use at most 2"):
        Shard(3, 3).positions(2)
    for number, of in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match="1 <= K <= N"):
            Shard(number, of)


class TestKept:
    def test_parts_left_behind_are_taken_up(self, tmp_path: Path) -> None:
        path = file(tmp_path, "a.jsonl", SAMPLES[:1])
        parts = [
            file(tmp_path, "a.jsonl.part0", [ERROR]),
            file(tmp_path, "a.jsonl.part12", [SAMPLES[3]]),
        ]
        parts[1].write_bytes(parts[1].read_bytes() + b'{"index": 4, "lab')  # a kill
        other = file(tmp_path, "b.jsonl.part0", [SAMPLES[4]])
        with kept(path, HEADER, Alone()) as book:
            assert book.done == {0: SAMPLES[0], 3: SAMPLES[3]}
            assert not any(part.exists() for part in parts)
            assert read(path, HEADER) == {0: SAMPLES[0], 2: ERROR, 3: SAMPLES[3]}  # before anything is added
            book.add([SAMPLES[2]])
        assert read(path, HEADER)[2] == SAMPLES[2]
        assert other.exists()

    def test_a_foreign_part_is_refused_and_all_left_alone(self, tmp_path: Path) -> None:
        path = file(tmp_path, "a.jsonl", SAMPLES[:1])
        part = file(tmp_path, "a.jsonl.part1", [SAMPLES[1]], HEADER | {"method": "auto"})
        before = [path.read_bytes(), part.read_bytes()]
        with (
            pytest.raises(UserError, match=r'part1 holds other results: method is "auto" there'),
            kept(path, HEADER, Alone()),
        ):
            pass
        assert [path.read_bytes(), part.read_bytes()] == before

    def test_one_process_writes_as_the_journal_does(self, tmp_path: Path) -> None:
        for name, opened in (
            ("a", journal(tmp_path / "a", HEADER)),
            ("b", kept(tmp_path / "b", HEADER, Alone())),
        ):
            with opened as book:
                book.add([SAMPLES[3], ERROR])
                book.add([SAMPLES[0]])
            assert (tmp_path / name).exists()
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class TestMerged:
    def test_all_samples(self, tmp_path: Path) -> None:
        files = [file(tmp_path, "a", SAMPLES[::2]), file(tmp_path, "b", SAMPLES[1::2])]
        found = merged(files)
        assert [found.found[index] for index in range(5)] == SAMPLES
        assert (found.missing, found.shared) == ([], 0)
        assert merged(files, 3).missing == []

    def test_missing_samples_and_errors_are_named(self, tmp_path: Path) -> None:
        files = [file(tmp_path, "a", SAMPLES[:1]), file(tmp_path, "b", [ERROR])]
        assert merged(files).missing == [1, 2, 3, 4]
        assert merged(files, 2).missing == [1]
        assert merged([*files, file(tmp_path, "c", SAMPLES[1:])]).missing == []

    def test_samples_in_several_files_are_counted_if_they_agree(self, tmp_path: Path) -> None:
        files = [file(tmp_path, "a", SAMPLES), file(tmp_path, "b", [replace(SAMPLES[1], seconds=7.0)])]
        assert merged(files).shared == 1
        files.append(file(tmp_path, "c", [UNKNOWN]))
        with pytest.raises(UserError, match=r'sample 2 .* status is "certified" in .*a and "unknown" in .*c'):
            merged(files)

    def test_other_headers_and_other_files_are_refused(self, tmp_path: Path) -> None:
        one = file(tmp_path, "a", SAMPLES)
        other = file(tmp_path, "b", SAMPLES, HEADER | {"weights": "2f"})
        with pytest.raises(UserError, match='b holds other results: weights is "2f" there and "1f" here'):
            merged([one, other])
        for content in (b"", b"notes\n", b"{}\n", b'{"weights": 1}'):
            (tmp_path / "c").write_bytes(content)
            with pytest.raises(UserError, match=r"line 1 of .*c is not what"):
                merged([tmp_path / "c", one])
        with pytest.raises(OSError, match="nothing"):
            merged([tmp_path / "nothing", one])


def test_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([0, 2, 4], most=2) == "0, 2, ..."


def test_shards_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "digits-eps0.05", "--samples", "41"]
    one, two, whole, out = (tmp_path / name for name in ("one", "two", "whole", "out"))
    assert main([*words, "--results", str(whole)]) == 0
    assert main([*words, "--shard", "1/2", "--results", str(one), "--json", str(tmp_path / "j")]) == 0
    assert "21: shard 1/2 of the first 41 of 450" in capsys.readouterr().out
    assert json.loads((tmp_path / "j").read_text())["subset"] is True
    assert [row["index"] for row in lines(one)[1:]] == list(range(0, 41, 2))
    said = refused(capsys, "merge", one, "--results", out, "--samples", "41")
    assert "holds 21 samples, but 20 are missing or ended with an error: 1, 3, 5, 7, 9, 11, ..." in said
    assert main([*words, "--shard=2/2", "--results", str(two)]) == 0
    capsys.readouterr()
    assert main(["merge", str(two), "--results", str(out), "--samples", "41"]) == 0  # out is one of them
    shown = capsys.readouterr().out
    assert "41" in shown and "verified error" in shown
    found, expected = ([row | {"seconds": 0} for row in lines(path)] for path in (out, whole))
    assert found == expected
    assert "409 are missing or ended with an error: 41-449" in refused(
        capsys, "merge", one, two, "--results", tmp_path / "all"
    )
    for shard in ("3/2", "0/1", "x", "1/"):
        assert main([*words, "--shard", shard]) == 2
        assert "must be K/N" in capsys.readouterr().err
    assert "is empty" in refused(capsys, *words[:3], "1", "--shard", "2/2")


def test_an_evaluation_in_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "digits-eps0.05", "--samples", "6", "--attacks", "FGSM"]
    files = [tmp_path / f"{k}.jsonl" for k in (1, 2)]
    for number, path in enumerate(files, 1):
        page = str(tmp_path / f"{number}.html")
        assert main([*words, "--shard", f"{number}/2", "--results", str(path), "--report", page]) == 0
    out = str(tmp_path / "out.jsonl")
    assert main(["merge", *map(str, files), "--results", out, "--samples", "6"]) == 0
    capsys.readouterr()
    assert main([*words, "--results", out]) == 0
    assert "6 of 6 samples are done already" in capsys.readouterr().err
