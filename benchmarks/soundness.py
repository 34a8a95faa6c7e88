"""Check the soundness property of the tests on as many random examples as one likes.

    python benchmarks/soundness.py [EXAMPLES] [SEED] [METHOD...]

S-IBP's bounds of every layer, and the margins of the further methods named. Runs in one thread, prints every
violation and exits with status 1 if there was any.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from strategies import Example, examples
from test_soundness import bound, check


def main(count: int, start: int, methods: Sequence[str]) -> int:
    """Check ``count`` examples drawn from the seed ``start``; returns how many were violated."""
    torch.set_num_threads(1)
    console = Console()
    seen: Counter[str] = Counter()
    violations = 0
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("examples", total=count)

        @seed(start)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(examples())
        def search(example: Example) -> None:
            nonlocal violations
            try:
                check(example, methods)
            except Exception as error:  # a crash of a bound is a finding, too
                violations += 1
                message = str(error).partition("\n")[0]
                console.print(f"[red]{type(error).__name__}: {message}[/red]\n  {example!r}")
            else:
                certified = bound(example).verdict.certified
                seen[type(example.threat).__name__] += 1
                seen["samples"] += len(certified)
                seen["certified"] += int(certified.sum())
            progress.advance(task)

        search()
    console.print(f"{violations} violations; sound: {dict(seen)}")
    return violations


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    count, start = numbers + [1000, 0][len(numbers) :]
    sys.exit(main(count, start, sys.argv[3:]) > 0)
