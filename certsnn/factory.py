"""A class with its arguments, as a config names what is to be made anew for each use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True)
class Factory:
    """Makes a new object of a class at every call; equal if class and arguments are."""

    made: type
    arguments: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.made(**self.arguments)
