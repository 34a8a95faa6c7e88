"""Monitors: told how a training goes, they show it or do not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

Row = dict[str, float]


class Monitor(ABC):
    """Is told how training goes; shows it or does not."""

    @abstractmethod
    def started(self, epochs: int, batches: int, epoch: int) -> None:
        """Training begins at this epoch (0, or later where it resumes)."""

    @abstractmethod
    def batch_done(self) -> None:
        """One more batch is done."""

    @abstractmethod
    def epoch_done(self, row: Row) -> None:
        """An epoch is done and saved; the row is what metrics.jsonl gets."""

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
