"""The Python blocks of docs/extending.md run as one program, from outside of certsnn's own code."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


def test_the_examples_run() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    namespace = {"__name__": "extending"}
    done = 0
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines = text[: block.start(1)].count("\n")  # so that a traceback names the line of the page
        exec(compile("\n" * lines + block[1], str(DOCUMENT), "exec", dont_inherit=True), namespace)
        done += 1
    assert done == len(re.findall(r"^## A.*\n(?:(?!^## )(?:.*\n))*?```python", text, re.MULTILINE)) == 5
