"""Check the soundness property of the tests on as many random margins as one likes.

    python benchmarks/tightness/soundness.py [--margins N] [--seed N] [--odd] [--graphs] [--keep] [METHOD ...]

Draws random networks with an input set around a batch of inputs and bounds them by each METHOD (s-ibp if none
is named), until so many margins are bounded. Every margin is compared with those that the network has on
sampled members, on corners found by gradients and, where the set is small, on all members. --odd draws
extreme numbers, other layouts and dtypes and changed modules; these may be refused, and the table says how
many were and why. --graphs draws shortcuts, branches, max pooling, filters, feedback and more readouts.
Slopes are optimised by one step alone. Runs in one thread. --keep writes the table to results/soundness.md.
Exits with status 1 after a violation, or an error that is not certsnn's own.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from certsnn.files import write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

import record
from odd_property import check_odd
from oddities import Odd, odd_examples
from strategies import examples

CHUNK = 200
"""Examples that are drawn from one seed; the next ones come from the seed after it."""
BATCH = 128


@dataclass
class Tally:
    """What a method came to: margins, samples, networks and refusals."""

    margins: int = 0
    samples: int = 0
    certified: int = 0
    networks: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """For the table."""
        return {
            "networks": self.networks,
            "refused": self.refused.total(),
            "margins": self.margins,
            "samples": self.samples,
            "certified": self.certified,
            "violations": len(self.violations),
        }


def kind(message: str) -> str:
    """A refusal without the numbers and names of the case."""
    return re.sub(r"layers[.\d]*\w*|-?\d[\d.e+-]*", "#", message.partition(";")[0])[:90]


def search(method: str, margins: int, start: int, drawn: SearchStrategy[Odd], console: Console) -> Tally:
    """Bound by one method until so many margins are checked."""
    tally = Tally()

    def check(example: Odd) -> None:
        try:
            found = check_odd(example, (method,))
        except Exception as error:  # a crash of a bound is a finding, too
            tally.violations.append(
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]}\n  {example!r}"
            )
            console.print(f"[red]{tally.violations[-1]}[/red]")
            return
        if found.refusal:
            tally.refused[kind(found.refusal)] += 1
            return
        certified = found.verdicts[method].certified
        tally.networks += 1
        tally.margins += found.margins(method)
        tally.samples += len(certified)
        tally.certified += int(certified.sum())

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(method, total=margins)
        number = start
        while tally.margins < margins and len(tally.violations) < 10:
            run = settings(
                max_examples=CHUNK,
                database=None,
                deadline=None,
                derandomize=False,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(given(drawn)(check))
            hypothesis.seed(number)(run)()
            progress.update(task, completed=min(tally.margins, margins))
            number += 1
    return tally


def page(found: dict[str, Tally], start: int) -> str:
    """Markdown: a line for each method, then why examples were refused."""
    rows = [{"method": method, "seed": start, **tally.counts} for method, tally in found.items()]
    counts = {name: f"{{{name}:,}}" for name in Tally().counts}
    text = record.table({"method": "{method}", "seed": "{seed}", **counts}, rows)
    refused = sum((tally.refused for tally in found.values()), Counter[str]())
    why = [{"why": why, "networks": number} for why, number in refused.most_common()]
    reasons = record.table({"refused because": "{why}", "networks": "{networks:,}"}, why)
    return f"{text}\n{reasons}" if refused else text


def main(
    *methods: str,
    margins: int = 100_000,
    seed: int = 0,
    odd: bool = False,
    graphs: bool = False,
    keep: bool = False,
) -> None:
    """Check each method, print the table and exit."""
    torch.set_num_threads(1)
    console = Console()
    plain = examples(most=BATCH, graphs=graphs).map(lambda example: Odd(example, ""))
    drawn = odd_examples(BATCH) if odd else plain
    found = {method: search(method, margins, seed, drawn, console) for method in methods or ("s-ibp",)}
    text = page(found, seed)
    console.print(text, markup=False)
    if keep:
        command = shlex.join(["python", "benchmarks/tightness/soundness.py", *sys.argv[1:]])
        head = f"# Soundness: random margins\n\n`{command}`, torch {torch.__version__}\n\n"
        write_text(record.RESULTS / "soundness.md", head + text)
    sys.exit(int(any(tally.violations for tally in found.values())))


if __name__ == "__main__":
    record.run(main)
