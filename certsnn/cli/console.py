"""The command line's output for people: tables, and progress bars with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from certsnn.evaluation.verification import SampleResult, certified_by_stage
from certsnn.results.rates import percent
from certsnn.train.monitor import Monitor, Row


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """A table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table with a head, whose first column (names to be typed) is never cut."""
    table = Table()
    for position, column in enumerate(columns):
        table.add_column(column, no_wrap=position == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03``, ``2:03`` or ``4.5 s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{seconds:.1f} s"


LINES = 20
"""The largest number of lines of progress in a log."""


@final
class TrainingProgress(Monitor):
    """A bar over all epochs; where there is no terminal, some `LINES` lines on the way."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=None, note="")
        self._epochs = 0
        self.epoch = 0

    def started(self, epochs: int, batches: int, epoch: int) -> None:
        self._epochs, self.epoch = epochs, epoch
        self._progress.update(self._task, total=epochs * batches, completed=epoch * batches)
        if epoch == epochs:
            self._progress.console.print("This run is finished: nothing is left to train.")
        elif epoch > 0:
            self._progress.console.print(f"Going on from epoch {epoch} of {epochs}.")

    def batch_done(self) -> None:
        self._progress.advance(self._task)

    def epoch_done(self, row: Row) -> None:
        self.epoch = int(row["epoch"])
        note = (
            f"epoch {self.epoch}/{self._epochs}, validation error: "
            f"clean {percent(row['clean_error'])}, verified {percent(row['verified_error'])}"
        )
        self._progress.update(self._task, note=note)
        shown = self.epoch % -(-self._epochs // LINES) == 0 or self.epoch == self._epochs
        if shown and not self._progress.console.is_terminal:
            self._progress.console.print(note)

    def warn(self, message: str) -> None:
        self._progress.console.print(f"certsnn: warning: {message}", style="yellow", markup=False)


@contextmanager
def training_progress(console: Console) -> Iterator[TrainingProgress]:
    """Shows training while the block runs."""
    with _bar(console) as progress:
        yield TrainingProgress(progress)


QUIET = 30.0
"""Seconds between two lines of progress of a verification or an evaluation in a log."""


@contextmanager
def samples_progress(
    console: Console, doing: str, samples: int, cascade: Sequence[str], together: int = 1
) -> Iterator[Callable[[Sequence[SampleResult]], None]]:
    """Shows the number of samples done; the block calls the function it gets with each batch's results.

    A bar, or a line now and then where there is no terminal, with the time left.

    Args:
        console: where to.
        doing: the word for it, "verifying".
        samples: their number.
        cascade: the bound methods that are tried; none where nothing is certified.
        together: the number of processes that share the rest; this one's share is shown.
    """
    with _bar(console) as progress:
        task = progress.add_task(doing, total=samples, note="")
        done: list[SampleResult] = []
        begun = said = time.monotonic()
        fresh = -1  # samples of the calls after the first, which hands over what was done before

        def batch_done(results: Sequence[SampleResult]) -> None:
            """Show that these samples are done, too."""
            nonlocal said, fresh, samples
            done.extend(results)
            if fresh < 0:
                samples = len(done) - (len(done) - samples) // together
            fresh = 0 if fresh < 0 else fresh + len(results)
            now = time.monotonic()
            if console.is_terminal:
                note = samples_note(done, samples, cascade)
                progress.update(task, total=samples, completed=len(done), note=note)
            elif fresh and now - said >= QUIET:
                said = now
                note = samples_note(done, samples, cascade)
                left = duration((now - begun) / fresh * (samples - len(done)))
                console.print(f"{note}; about {left} left", highlight=False, soft_wrap=True)

        yield batch_done


def samples_note(done: Sequence[SampleResult], samples: int, cascade: Sequence[str]) -> str:
    """The samples done so far, those that each stage of a cascade has certified, and those broken."""
    note = f"{len(done)}/{samples} samples"
    if cascade:
        note += f", {sum(result.status == 'certified' for result in done)} certified"
    by_stage = certified_by_stage(done)
    shares = [f"{name} {by_stage[name]}" for name in cascade if by_stage.get(name)]
    if len(cascade) > 1 and shares:
        note += f" ({', '.join(shares)})"
    broken = sum(bool(result.broken_by) for result in done)
    if broken or any(result.attacks for result in done):
        note += f", {broken} broken"
    return note


def _bar(console: Console) -> Progress:
    """A bar with a note and the time left, on terminals only."""
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    ]
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
