"""Monitors of a training: they are told of its progress."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

Row = dict[str, float]


class Monitor(ABC):
    """Is told of a training's progress, to show it or not."""

    @abstractmethod
    def started(self, epochs: int, batches: int, epoch: int) -> None:
        """Training begins at this epoch (0, or later where it resumes)."""

    @abstractmethod
    def batch_done(self) -> None:
        """One more batch is done."""

    @abstractmethod
    def epoch_done(self, row: Row) -> None:
        """An epoch is done and saved; the row is its line of metrics.jsonl."""

    @abstractmethod
    def warn(self, message: str) -> None:
        """Something that the person should know."""


@final
class Silent(Monitor):
    """Shows nothing."""

    def started(self, epochs: int, batches: int, epoch: int) -> None:
        return None

    def batch_done(self) -> None:
        return None

    def epoch_done(self, row: Row) -> None:
        return None

    def warn(self, message: str) -> None:
        return None
