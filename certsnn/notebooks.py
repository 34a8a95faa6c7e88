"""How objects show themselves at a prompt and in a notebook: a line, a small table, a data frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from typing import Any, final

from certsnn.errors import UserError


class Shown(ABC):
    """Shows a few facts in place of the tensors that it holds."""

    @property
    @abstractmethod
    def shown(self) -> Mapping[str, str]:
        """The facts, by name."""

    @final
    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}: {fact}' for name, fact in self.shown.items())})"

    @final
    def _repr_html_(self) -> str:
        """For Jupyter."""
        rows = (
            f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>" for name, fact in self.shown.items()
        )
        return f"<table><caption>{type(self).__name__}</caption>{''.join(rows)}</table>"


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame of rows; raises UserError where pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ImportError as error:
        raise UserError("to_dataframe needs pandas: pip install pandas") from error
    return pandas.DataFrame(rows)
