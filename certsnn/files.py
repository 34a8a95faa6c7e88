"""Files: written so that nothing half-written is ever found under their name; tensors without pickle.

Outputs may be streams, too: ``-`` is standard output, and pipes and devices are written to, never replaced. A
symbolic link is followed: the file that it leads to is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import BinaryIO, TextIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from certsnn.errors import UserError

STDOUT = Path("-")
DIGEST = "digest"
"""The key of a file's own digest in its metadata."""
PROBE = 4096
"""Bytes that are written to see whether a disk takes any."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; when the block ends well, the file takes the name ``path``.

    The data are on disk before the rename, so a kill or a power cut leaves the old file or the new one, and
    at most one temporary file, which the next writing replaces. A stream gets the file's bytes instead.

    Raises:
        OSError: naming the path, where it can't be written; the old file is left.
    """
    try:
        with _poured(path) if is_stream(path) else _renamed(Path(os.path.realpath(path))) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} can't be written: {_reason(error)}") from error


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary path that takes the name ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial.{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _poured(path: Path) -> Iterator[Path]:
    """A temporary path whose bytes go to the stream ``path`` when the block ends well."""
    with TemporaryDirectory() as folder:
        temporary = Path(folder) / "output"
        yield temporary
        content, own = temporary.read_bytes(), _own_stream(path)
        if own is None:
            with path.open("wb", buffering=0) as stream:
                write_whole(stream, content)
            return
        own.flush()
        own.buffer.write(content)
        own.flush()


def write_whole(file: BinaryIO, content: bytes) -> None:
    """Write all of it to an unbuffered file, which may take less at a time; raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def is_standard_output(path: Path) -> bool:
    """Whether the path is this process's standard output: ``-``, ``/dev/stdout``, or the file it goes to."""
    return _own_stream(path) is sys.stdout


def is_stream(path: Path) -> bool:
    """Whether the path is no file to replace: a pipe, a device, or this process's own output."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return path == STDOUT
    regular = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return not regular or _own_stream(path) is not None


def _own_stream(path: Path) -> TextIO | None:
    """The stream of this process, standard output or error, that the path is; raises OSError if closed."""
    if path == STDOUT:
        if sys.stdout is None:  # as Python has it where a shell closed it
            raise OSError("standard output is closed")
        return sys.stdout
    for stream, now in ((sys.__stdout__, sys.stdout), (sys.__stderr__, sys.stderr)):
        try:
            if stream is not None and os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                return now
        except (OSError, ValueError):  # there is no such path, or the stream is closed
            continue
    return None


def check_writable(path: Path) -> None:
    """Raise UserError where this output can't be written. Nothing is left of the check.

    For a file, some bytes go to a nameless file in its folder, or in the nearest one that there is. A stream
    is not opened, as that may wait for who reads it.
    """
    try:
        if _own_stream(path) is None:
            _try(path if is_stream(path) else Path(os.path.realpath(path)))
    except OSError as error:
        raise UserError(f"{path} can't be written: {_reason(error)}; name another place") from error


def check_file(path: Path) -> None:
    """Raise UserError where this can't be a file that is read and written again."""
    if is_stream(path):
        raise UserError(f"{path} is no regular file, and this one is read again; name a file")
    check_writable(path)


def _try(path: Path) -> None:
    """Raise OSError where the path can't be written; nothing is left of the try."""
    mode = path.stat().st_mode if path.exists() else 0
    if stat.S_ISDIR(mode):
        raise OSError("it is a folder")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise OSError("it is neither a file, nor a pipe, nor a terminal")
    if mode and not os.access(path, os.W_OK):
        raise PermissionError("permission denied")
    if is_stream(path):
        return
    folder = next(parent for parent in path.parents if parent.exists())
    with TemporaryFile(dir=folder, buffering=0) as probe:
        write_whole(probe, bytes(PROBE))
        os.fsync(probe.fileno())


def _reason(error: Exception) -> str:
    """The system's words for an error, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: on the CPU, contiguous, sharing no memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def digest(tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> str:
    """The SHA-256 of the tensors' names, types, shapes and bytes, by name, and of the facts."""
    found = hashlib.sha256(json.dumps(sorted((facts or {}).items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """A safetensors file with facts as its metadata, and a digest of all of it."""
    ready = portable(tensors)
    with replacing(path) as temporary:
        save_file(ready, temporary, {**facts, DIGEST: digest(ready, facts)})


def read_whole_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and facts of `write_tensors`. A file without a digest is read with a warning.

    Raises:
        OSError, SafetensorError: as `read_tensors`.
        ValueError: if the contents are not those that were written.
    """
    tensors, facts = read_tensors(path)
    written = facts.pop(DIGEST, None)
    if written is None:
        warnings.warn(
            f"{path} has no digest, so damage to it would not show: an older certsnn wrote it", stacklevel=3
        )
    elif written != digest(tensors, facts):
        raise ValueError("it is damaged: its digest does not match its contents")
    return tensors, facts


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; raises OSError or SafetensorError."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
