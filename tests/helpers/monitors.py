"""Monitors that end a training from within."""

from __future__ import annotations

from certsnn.train.monitor import Monitor, Row


class Stop(Exception):
    """Ends a run from within, as a kill would."""


class StopAfter(Monitor):
    """Ends the run in the middle of things, before batch number ``batches`` + 1 is counted."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def started(self, epochs: int, batches: int, epoch: int) -> None:
        self.begun_at = epoch

    def batch_done(self) -> None:
        if self.batches == 0:
            raise Stop
        self.batches -= 1

    def epoch_done(self, row: Row) -> None:
        return None

    def warn(self, message: str) -> None:
        return None
