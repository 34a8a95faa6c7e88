"""The Python blocks of docs/extending.md run as one program, from outside of certsnn's own code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from certsnn.bounds import margin_bounds
from certsnn.inputsets import LinfBall

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names of the program, after it ran."""
    text = DOCUMENT.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "extending"}
    done = 0
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines = text[: block.start(1)].count("\n")  # so that a traceback names the line of the page
        exec(compile("\n" * lines + block[1], str(DOCUMENT), "exec", dont_inherit=True), namespace)
        done += 1
    assert done == len(re.findall(r"^## A.*\n(?:(?!^## )(?:.*\n))*?```python", text, re.MULTILINE)) == 6
    return namespace


def test_the_examples_run(names: dict[str, Any]) -> None:
    assert {"soft", "ChannelScale", "Product", "Nudge", "mine", "EdgeFailure"} <= names.keys()


@pytest.mark.parametrize("method", ["s-ibp", "s-crown-ibp", "s-crown", "alpha-s-crown"])
@pytest.mark.parametrize("eps", [0.0, 0.02, 0.3])
@torch.no_grad()
def test_the_example_of_a_node_has_sound_bounds(names: dict[str, Any], method: str, eps: float) -> None:
    network, generator = names["gated"], torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 4, 4, generator=generator)
    y, ball = network(x).argmax(1), LinfBall(eps)
    noise = 2 * torch.rand((200, *x.shape), generator=generator) - 1
    members = (x + eps * torch.cat([noise, noise.sign()])).clamp(0, 1)
    logits = network(members.flatten(0, 1)).unflatten(0, (-1, 3))
    margins = logits.gather(2, y.expand(400, -1)[..., None]) - logits
    least = torch.stack(
        [one[:, torch.arange(3) != c].amin(0) for one, c in zip(margins.unbind(1), y, strict=True)]
    )
    found = margin_bounds(network, x, y, ball, method, rounding=True)
    assert (found <= least + 1e-6).all()
    assert eps or (found >= least - 1e-2).any()
