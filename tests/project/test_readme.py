"""The Python examples of the README and of some pages run as they stand."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def examples(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def runs_here(example: str) -> bool:
    """Whether the other libraries that an example imports are installed."""
    others = "snntorch|spikingjelly|norse|nir|lightning|accelerate"
    return all(map(find_spec, re.findall(rf"^(?:import|from) ({others})", example, re.MULTILINE)))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("document", "count"),
    [
        ("README.md", 3),
        ("docs/evaluation.md", 1),
        ("docs/guide/import.md", 6),
        ("docs/guide/own-loop.md", 3),
        ("docs/guide/own-data.md", 2),
    ],
)
def test_examples(document: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    found = examples(document)
    assert len(found) >= count
    for number, example in enumerate(found, 1):
        if not runs_here(example):
            continue
        exec(compile(example, f"{document}, Python example {number}", "exec"), {})
