"""A class with its arguments: a config names one where each use needs an object of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True)
class Factory:
    """Makes a new object of a class at every call; equal if class and arguments, defaults included, are."""

    made: type
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        whole = inspect.signature(self.made).bind(**self.arguments)
        whole.apply_defaults()
        object.__setattr__(self, "arguments", whole.arguments)

    def __call__(self) -> Any:
        return self.made(**self.arguments)
