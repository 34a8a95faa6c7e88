"""Outputs: whole or not at all, streams written to, links followed, and what can't be written refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from certsnn.errors import UserError
from certsnn.files import (
    check_file,
    check_writable,
    digest,
    read_whole_tensors,
    replacing,
    write_tensors,
    write_text,
)

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True), "c": torch.zeros(0)}


def full(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestFullDisk:
    def test_at_the_sync(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a"
        path.write_text("old")
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"a can't be written: No space left on device"):
            write_text(path, "new")
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]

    def test_in_the_middle(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="can't be written"), replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            full()
        assert not list(tmp_path.iterdir())

    def test_of_tensors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full")
        with pytest.raises(OSError, match="full can't be written: No space left"):
            write_tensors(Path("/dev/full"), TENSORS, {})
        assert Path("/dev/full").is_char_device()

    def test_is_noticed_before(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match="can't be written: No space left"):
            check_writable(tmp_path / "new" / "a")
        assert not list(tmp_path.iterdir())


class TestStreams:
    def test_a_pipe_gets_the_text_and_stays(self, tmp_path: Path) -> None:
        pipe, got = tmp_path / "pipe", []
        os.mkfifo(pipe)
        check_writable(pipe)
        reader = Thread(target=lambda: got.append(pipe.read_text()))
        reader.start()
        write_text(pipe, "text\n")
        reader.join(10)
        assert got == ["text\n"] and pipe.is_fifo()

    def test_a_device_stays(self, tmp_path: Path) -> None:
        link = tmp_path / "null"
        link.symlink_to("/dev/null")
        for path in (link, Path("/dev/null")):
            check_writable(path)
            write_text(path, "text")
        assert Path("/dev/null").is_char_device() and link.is_symlink()

    @pytest.mark.parametrize(
        ("place", "to"),
        [("-", "pipe"), ("/dev/stdout", "pipe"), ("/dev/stdout", "file"), ("/dev/fd/1", "file")],
    )
    def test_standard_output_is_written_to_in_order(self, place: str, to: str, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from certsnn.files import *; print('one')\n"
            "p = Path(sys.argv[1]); check_writable(p); assert is_standard_output(p)\n"
            "write_text(p, 'two\\n'); print('three')"
        )
        words = [sys.executable, "-c", code, place]
        if to == "pipe":
            said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
        else:
            with (tmp_path / "out").open("w") as file:
                subprocess.run(words, stdout=file, check=True)
            said = (tmp_path / "out").read_text()
        assert said == "one\ntwo\nthree\n"

    def test_is_no_file_to_read_again(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (Path("-"), Path("/dev/null"), tmp_path / "pipe"):
            with pytest.raises(UserError, match="is no regular file"):
                check_file(path)
        check_file(tmp_path / "a")


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "a", tmp_path / "link"
    link.symlink_to(target)
    for text in ("new", "newer"):  # at first it leads nowhere
        check_writable(link)
        write_text(link, text)
        assert link.is_symlink() and target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["a"]


class TestRefused:
    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="can't be written: it is a folder"):
            check_writable(tmp_path)

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")
        with pytest.raises(UserError, match="can't be written: Not a directory"):
            check_writable(tmp_path / "a" / "b" / "c")

    def test_what_may_not_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_text("")
        monkeypatch.setattr("os.access", lambda *arguments: False)  # root may write everything
        with pytest.raises(UserError, match="can't be written: permission denied"):
            check_writable(tmp_path / "a")

    def test_a_folder_that_takes_no_files(self) -> None:
        if not Path("/proc/self").exists():
            pytest.skip("no /proc")
        with pytest.raises(UserError, match="/proc/new/a can't be written"):
            check_writable(Path("/proc/new/a"))

    def test_nothing_is_left_of_a_check(self, tmp_path: Path) -> None:
        check_writable(tmp_path / "new" / "folder" / "a")
        assert not list(tmp_path.iterdir())


class TestTensors:
    def test_come_back(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "a", TENSORS, {"fact": "x"})
        found, facts = read_whole_tensors(tmp_path / "a")
        assert facts == {"fact": "x"}
        assert all(torch.equal(found[name], value) for name, value in TENSORS.items())

    def test_no_flipped_bit_goes_unnoticed(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        write_tensors(path, TENSORS, {"fact": "x"})
        content, original = path.read_bytes(), digest(TENSORS, {"fact": "x"})
        for position in range(len(content)):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            try:
                found = read_whole_tensors(path)
            except (
                SafetensorError,
                ValueError,
                UserWarning,
            ):  # the warning: the digest's own name is damaged
                continue
            assert digest(*found) == original, "the same in other words"
        path.write_bytes(content)
        assert digest(*read_whole_tensors(path)) == original

    def test_without_a_digest_are_read_with_a_warning(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "a", {"fact": "x"})
        with pytest.warns(UserWarning, match=r"a has no digest, so damage to it would not show"):
            assert digest(*read_whole_tensors(tmp_path / "a")) == digest(TENSORS, {"fact": "x"})

    def test_the_digest_is_of_all(self) -> None:
        other = {
            "another name": {"b": TENSORS["a"]},
            "another shape": {"a": TENSORS["a"].view(3, 2)},
            "another type": {"a": TENSORS["a"].view(torch.int32)},
            "another value": {"a": TENSORS["a"] + 1},
        }
        found = {digest(part) for part in [{"a": TENSORS["a"]}, *other.values()]}
        assert len(found) == 5
        assert digest(TENSORS) != digest(TENSORS, {"fact": "x"}) != digest(TENSORS, {"fact": "y"})
        transposed = {"a": TENSORS["a"].t().contiguous().t()}
        assert digest(transposed) == digest({"a": TENSORS["a"]})
