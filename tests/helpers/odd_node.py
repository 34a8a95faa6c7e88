"""A node that bounds know nothing of, unless a test registers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from certsnn.program import Link, Node


@final
@dataclass(frozen=True)
class Odd(Node):
    """A node of someone's own: what its link gives."""

    links: tuple[Link, ...]
    name: str

    def run(self, parts: Sequence[Tensor], steps: int) -> Tensor:
        return parts[0]

    def held(self, parts: Sequence[bool]) -> bool:
        return parts[0]

    def reach(self, parts: Sequence[float], steps: int) -> float:
        return parts[0]
