"""Check the soundness property of the tests on as many random margins as one likes.

    python benchmarks/soundness.py [--margins 100000] [--seed 0] [--odd] [--record FILE] [METHOD...]

Draws random networks with an input set around a batch of inputs and bounds them by each METHOD (s-ibp if none
is named), until so many margins are bounded. Every margin is compared with those that the network has on
sampled members, on corners found by gradients and, where the set is small, on all members. --odd draws
extreme numbers, other layouts and dtypes and changed modules; these may be refused, and the table says how
many were and why. Slopes are optimised by one step alone. Runs in one thread. Exits with status 1 after a
violation, or an error that is not certsnn's own.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from certsnn.files import write_text
from certsnn.report.bench import markdown

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

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

    def row(self, method: str, start: int) -> list[str]:
        """A line of the table."""
        counts = (self.networks, sum(self.refused.values()), self.margins, self.samples, self.certified)
        return [method, str(start), *(f"{count:,}" for count in counts), str(len(self.violations))]


def kind(message: str) -> str:
    """A refusal without the numbers and names of the case."""
    return re.sub(r"layers[.\d]*\w*|-?\d[\d.e+-]*", "#", message.partition(";")[0])[:90]


def search(method: str, margins: int, start: int, odd: bool, console: Console) -> Tally:
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

    drawn = odd_examples(BATCH) if odd else examples(most=BATCH).map(lambda example: Odd(example, ""))
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
            seed(number)(run)()
            progress.update(task, completed=min(tally.margins, margins))
            number += 1
    return tally


def main(words: Sequence[str]) -> int:
    """Check each method and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", default=["s-ibp"], metavar="METHOD")
    parser.add_argument("--margins", type=int, default=100_000, help="margins to bound by each method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--odd", action="store_true", help="draw odd networks and inputs")
    parser.add_argument("--record", type=Path, help="write the table to this Markdown file")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    console = Console()
    found = {
        method: search(method, asked.margins, asked.seed, asked.odd, console) for method in asked.methods
    }
    head = ["method", "seed", "networks", "refused", "margins", "samples", "certified", "violations"]
    table = markdown(head, [tally.row(method, asked.seed) for method, tally in found.items()])
    refused = sum((tally.refused for tally in found.values()), Counter[str]())
    why = markdown(["refused because", "networks"], [[why, f"{n:,}"] for why, n in refused.most_common()])
    text = f"{table}\n{why}" if refused else table
    console.print(text, markup=False)
    if asked.record is not None:
        command = f"python benchmarks/soundness.py {' '.join(words)}"
        write_text(
            asked.record, f"# Soundness: random margins\n\n`{command}`, torch {torch.__version__}\n\n{text}"
        )
    return int(any(tally.violations for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
