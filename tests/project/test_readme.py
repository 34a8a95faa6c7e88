"""The Python examples of the README and of docs/evaluation.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def examples(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(("document", "count"), [("README.md", 2), ("docs/evaluation.md", 1)])
def test_examples(document: str, count: int) -> None:
    found = examples(document)
    assert len(found) >= count
    for number, example in enumerate(found, 1):
        exec(compile(example, f"{document}, Python example {number}", "exec"), {})
