"""The file of results: what is in it, what a kill leaves of it, and what is refused."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from certsnn.errors import UserError
from certsnn.evaluation.verification import SampleResult
from certsnn.results.journal import Gathered, Journal, journal
from certsnn.results.schema import VERSION, header_line

HEADER: dict[str, Any] = {
    "weights": "1f",
    "data": {"name": "digits", "samples": 9},
    "threat": {"class_path": "LinfBall", "init_args": {"eps": 0.05}},
    "method": "auto",
    "seconds": None,
}
SAMPLES = [
    SampleResult(7, 1, True, "certified", 0.1 + 0.2, "s-ibp", 0.001),
    SampleResult(3, 2, True, "timeout", -math.inf, "s-crown", 10.25),
    SampleResult(4, 0, False, "unknown", -1.5, "s-ibp", 1e-9),
]


def written(path: Path, batches: list[list[SampleResult]]) -> bytes:
    with journal(path, HEADER) as book:
        for batch in batches:
            book.add(batch)
    return path.read_bytes()


def test_a_header_and_a_line_for_each_sample(tmp_path: Path) -> None:
    content = written(tmp_path / "new" / "a.jsonl", [SAMPLES[:2], SAMPLES[2:]])
    header, *lines = [json.loads(line) for line in content.splitlines()]
    assert header == {"schema": VERSION, **HEADER}
    assert [line["index"] for line in lines] == [7, 3, 4]
    assert [line["margin"] for line in lines] == [0.1 + 0.2, None, -1.5]
    with journal(tmp_path / "new" / "a.jsonl", HEADER) as book:
        assert book.done == {sample.index: sample for sample in SAMPLES}


def test_lines_are_in_the_file_as_soon_as_they_are_added(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with journal(path, HEADER) as book:
        assert path.read_bytes() == b""
        for count in (1, 2, 3):
            book.add(SAMPLES[count - 1 : count])
            assert path.read_bytes().count(b"\n") == 1 + count
            assert len(book.done) == count


def test_ctrl_c_while_lines_are_written_loses_none_of_them() -> None:
    class Interrupted(BytesIO):
        def write(self, content: Any) -> int:
            super().write(content)
            raise KeyboardInterrupt

    file = Interrupted()
    book = Journal({}, file, "header\n")
    with pytest.raises(KeyboardInterrupt):
        book.add(SAMPLES[:1])
    assert len(book.done) == 1 == file.getvalue().count(b"\n") - 1


def test_wherever_the_file_is_cut_it_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = written(path, [SAMPLES])
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        with journal(path, HEADER) as book:
            whole = max(content[:cut].count(b"\n") - 1, 0)
            assert list(book.done.values()) == SAMPLES[:whole]
            book.add(SAMPLES[whole:])
        assert path.read_bytes() == content


def test_samples_that_ended_with_an_error_are_not_done(tmp_path: Path) -> None:
    failed = SampleResult(3, 2, True, "error", -math.inf, "s-crown", 0.1, "s-crown: out of memory")
    written(tmp_path / "a.jsonl", [[failed]])
    with journal(tmp_path / "a.jsonl", HEADER) as book:
        assert book.done == {}
        book.add([SAMPLES[1]])
    with journal(tmp_path / "a.jsonl", HEADER) as book:
        assert book.done == {3: SAMPLES[1]}


def test_another_verification_is_refused_and_its_file_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = written(path, [SAMPLES])[:-5]
    path.write_bytes(content)
    threat = {"class_path": "LinfBall", "init_args": {"eps": 0.1}}
    with (
        pytest.raises(UserError) as refused,
        journal(path, HEADER | {"threat": threat, "seconds": 5.0, "batch": 3}),
    ):
        pass
    said = str(refused.value)
    assert said.startswith(f"{path} holds other results: ")
    assert "threat.init_args.eps is 0.05 there and 0.1 here, seconds is null there and 5.0 here" in said
    assert "batch is absent there and 3 here. Name another file" in said
    assert path.read_bytes() == content


HEAD = header_line(HEADER).encode()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"notes", 1),
        (b"notes\n", 1),
        (b"[1, 2]\n", 1),
        (b'{"summary": 3}\n', 1),
        (b"\n", 1),
        (b"\x89PNG\r\n", 1),
        (HEAD + b'{"index": 3}\n', 2),
        (HEAD + b"\n\n", 2),
        (HEAD + b'{"index": 3, "mar\n', 2),
        (HEAD + b"3\n", 2),
        (HEAD + b'{"margin": 3, "extra": 4}\n', 2),
    ],
)
def test_other_files_are_refused_and_left_alone(content: bytes, line: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"line {line} of .*a\.jsonl is not what"), journal(path, HEADER):
        pass
    assert path.read_bytes() == content


def test_a_file_of_an_older_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(HEADER) + "\n")
    told = rf"its format is version 1, but this certsnn reads and writes {VERSION}"
    with pytest.raises(UserError, match=told), journal(path, HEADER):
        pass


def test_lines_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    other = replace(SAMPLES[2], status="certified", margin=0.5)
    written(path, [SAMPLES, [other]])
    with (
        pytest.raises(UserError, match=r'sample 4 .*"unknown" in line 4 .* and "certified" in line 5'),
        journal(path, HEADER),
    ):
        pass


class TestGathered:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"status": "unknown", "margin": -1.0}, 'status is "certified" in a and "unknown" in b'),
            ({"correct": False}, "correct is true in a and false in b"),
            ({"label": 2}, "label is 1 in a and 2 in b"),
            ({"margin": 0.31}, "margin is 0.3 in a and 0.31 in b"),
        ],
    )
    def test_places_must_agree(self, changes: dict[str, Any], told: str) -> None:
        samples = Gathered()
        samples.add(SAMPLES[0], "in a")
        samples.add(replace(SAMPLES[0], margin=SAMPLES[0].margin * (1 + 1e-9), seconds=3.0), "in c")
        assert samples.shared == 1
        with pytest.raises(UserError, match=f"sample 7 contradicts itself: {told}"):
            samples.add(replace(SAMPLES[0], **changes), "in b")
        assert samples.found == {7: SAMPLES[0]}

    def test_an_error_gives_way_wherever_it_stands(self) -> None:
        failed = replace(SAMPLES[1], status="error", margin=-math.inf, reason="memory")
        for order in ([failed, SAMPLES[1]], [SAMPLES[1], failed]):
            samples = Gathered()
            for sample in order:
                samples.add(sample, "here")
            assert samples.found == {3: SAMPLES[1]}


def test_a_pipe_is_no_file_of_results(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("-"), Path("/dev/null")):
        with pytest.raises(UserError, match="is no regular file"), journal(path, HEADER):
            pass


def test_a_full_disk_is_told_and_the_samples_before_stay(tmp_path: Path) -> None:
    class Full(BytesIO):
        name = "a.jsonl"

        def write(self, content: Any) -> int:
            if self.tell() > 400:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content[:100])  # as much as there is room for

    file = Full()
    book = Journal({}, file, header_line(HEADER))
    with pytest.raises(OSError, match=r"a\.jsonl can't be written: No space left on device"):
        for _ in range(9):
            book.add(SAMPLES)
    path = tmp_path / "a.jsonl"
    path.write_bytes(file.getvalue())
    with journal(path, HEADER) as again:
        assert 0 < len(again.done) <= 3
