"""Compare bounds by the compiled kernels with torch's, bit for bit, on as many random networks as one likes.

    python benchmarks/tightness/kernels.py [--networks N] [--seed N] [METHOD ...]  # results/kernels.{json,md}

Draws networks as benchmarks/tightness/soundness.py --graphs does (chains and graphs, all neurons, inputs and
sets), and bounds each by every METHOD (s-ibp, s-crown-ibp and s-crown if none is named), with rounding
covered and without. In one thread. Exits with status 1 where margins differ, or either raises alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from rich.progress import track
from torch import Tensor

from certsnn.bounds import margin_bounds
from certsnn.kernels import choice, setting

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

import record
from strategies import Example, examples

CHUNK, BATCH = 200, 8
METHODS = ("s-ibp", "s-crown-ibp", "s-crown")


def bounds(example: Example, method: str, rounding: bool, kernels: str) -> Tensor | str:
    """Margins by these kernels, or the error that bounding ended with."""
    os.environ[setting.VARIABLE] = kernels
    choice._choice.cache_clear()
    network, x, threat = example.network.eval(), example.x, example.threat
    batch = x.shape[0 if threat.domain == "image" else 1]
    y = torch.zeros(batch, dtype=torch.int64)
    try:
        with torch.no_grad():
            return margin_bounds(network, x, y, threat, method, rounding=rounding, index=torch.arange(batch))
    except (TypeError, ValueError) as error:
        return str(error)


def alike(one: Tensor | str, other: Tensor | str) -> bool:
    """Whether both are the same margins, NaN where the other is, or the same error."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one.nan_to_num(nan=1e300), other.nan_to_num(nan=1e300))
    return not isinstance(one, Tensor) and one == other


def main(*methods: str, networks: int = 10_000, seed: int = 0) -> None:
    """Compare, write the page and exit."""
    torch.set_num_threads(1)
    rows: list[record.Row] = [
        {"method": method, "rounding": rounding, "networks": 0, "margins": 0, "refused": 0, "different": 0}
        for method in methods or METHODS
        for rounding in (True, False)
    ]

    def check(example: Example) -> None:
        for row in rows:
            pair = [
                bounds(example, row["method"], row["rounding"], name)
                for name in (setting.TORCH, setting.NUMBA)
            ]
            refused = isinstance(pair[0], str)
            row["networks"] += 1
            row["margins"] += 0 if isinstance(pair[0], str) else pair[0].numel()
            row["refused"] += int(refused)
            if not alike(*pair):
                row["different"] += 1
                print(f"{row['method']}, rounding={row['rounding']}: {example!r}\n  {pair}")

    chunks = range(seed, seed + -(-networks // CHUNK))
    for number in track(chunks, "comparing"):
        run = settings(
            max_examples=CHUNK,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(examples(most=BATCH, graphs=True))(check))
        hypothesis.seed(number)(run)()
    facts = f"Seed {seed}, {setting.description()}, one thread. Margins are compared bit for bit."
    record.write_rows("kernels", "Bounds with compiled kernels and with torch's", facts, rows)
    sys.exit(int(any(row["different"] for row in rows)))


if __name__ == "__main__":
    record.run(main)
