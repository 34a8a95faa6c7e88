"""What each aid of certified training gives, on a validation split.

    python benchmarks/ablation.py run BASE ROOT [SEED] [ROW ...]   # train rows of configs/ablation/BASE.yaml
    python benchmarks/ablation.py commands                         # the command of each row
    python benchmarks/ablation.py table                            # the tables of docs/training.md

Each row is the base config with a few keys changed, one `certsnn train` of its own, in runs/ablation; its
epochs go to benchmarks/results/ablation/BASE-ROW-sSEED.jsonl. Errors are those of the validation split (6,000
of the 60,000 training images) at the end of training, S-IBP without rounding terms: the test set plays no
part. ROOT is the folder of torchvision's data sets. Rows that are on record are not run again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from certsnn.configuration import read_config
from certsnn.files import write_text
from certsnn.train.run import run

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "ablation"
RUNS = ROOT / "runs" / "ablation"
BASES = ("fc", "cnn")

OBJECTIVE = "--training.objective"
NORM = "--network.norm=batch"
SHI = "[{class_path: Tightness}, {class_path: FiringRate}]"
EMA = "--training.averaging={class_path: EMA, decay: 0.998}"

ROWS: dict[str, list[str]] = {
    "plain": [],
    "batch-norm": [NORM],
    "calibrated": ["--training.initialisation=Calibrated"],
    "constant-width": ["--training.initialisation=ConstantWidth"],
    "tightness": [f"{OBJECTIVE}.regularisers=[{{class_path: Tightness}}]"],
    "firing-rate": [f"{OBJECTIVE}.regularisers=[{{class_path: FiringRate}}]"],
    "constant-width-both": [
        "--training.initialisation=ConstantWidth",
        f"{OBJECTIVE}.regularisers={SHI}",
    ],
    "l1": [f"{OBJECTIVE}.regularisers=[{{class_path: L1, weight: 1.0e-5}}]"],
    "warmup": ["--training.learning_rate.warmup=0.5"],
    "rate-2e-3": ["--training.learning_rate.peak=2.0e-3"],
    "no-ramp": [f"{OBJECTIVE}.ramp={{start: 0.5, length: 0}}"],
    "short-ramp": [f"{OBJECTIVE}.ramp={{start: 0.5, length: 1.5}}"],
    "size-1.2": [f"{OBJECTIVE}.size=1.2"],
    "size-1.5": [f"{OBJECTIVE}.size=1.5"],
    "kappa-0.2": [f"{OBJECTIVE}.kappa_end=0.2"],
    "kappa-0": [f"{OBJECTIVE}.kappa_end=0"],
    "wide-surrogate": [f"{OBJECTIVE}.surrogate={{class_path: Widths, start: 0.5, end: 1.0}}"],
    "narrow-surrogate": [f"{OBJECTIVE}.surrogate={{class_path: Widths, start: 0.5, end: 0.25}}"],
    "ema": [EMA],
    "swa": ["--training.averaging={class_path: SWA, start: 0.75}"],
    "small-boxes": [f"{OBJECTIVE}.region={{class_path: SmallBoxes, share: 0.7}}"],
    "attack-loss": [f"{OBJECTIVE}.companion=AttackLoss"],
    "s-crown": [f"{OBJECTIVE}.bound=CrownMargins"],
    "norm-steps-4": [NORM, "--network.steps=4"],
    "norm-ema": [NORM, EMA],
    "norm-ema-size-1.2": [NORM, EMA, f"{OBJECTIVE}.size=1.2"],
    "norm-ema-rate-2e-3": [NORM, EMA, "--training.learning_rate.peak=2.0e-3"],
}
"""The keys that each row changes."""


def command(base: str, row: str, seed: int) -> str:
    flags = [*ROWS[row], f"--seed={seed}", f"--run=runs/ablation/{base}-{row}-s{seed}"]
    return f"certsnn train configs/ablation/{base}.yaml {shlex.join(flags)}"


def record(base: str, row: str, seed: int) -> Path:
    return RECORDS / f"{base}-{row}-s{seed}.jsonl"


def train(base: str, row: str, seed: int, data: str) -> None:
    """One row: its command less the test set."""
    flags = [*ROWS[row], f"--seed={seed}"]
    config, text = read_config(
        ROOT / "configs" / "ablation" / f"{base}.yaml", [*flags, f"--data.root={data}"]
    )
    folder = RUNS / f"{base}-{row}-s{seed}"
    rows = run(config, text, folder, torch.device("cpu")).progress.rows
    header: dict[str, str | int] = {
        "command": command(base, row, seed),
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    write_text(record(base, row, seed), "".join(json.dumps(line) + "\n" for line in (header, *rows)))


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def table(base: str) -> str:
    """Markdown: the rows of a base, in their order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in ROWS:
        for path in sorted(RECORDS.glob(f"{base}-{row}-s[0-9].jsonl")):
            found[row].append(json.loads(path.read_text().splitlines()[-1]))
    if not found:
        return ""
    plain = found.get("plain", [])
    lines = [
        "| row | seeds | verified error | against plain | clean error | epoch (s) |",
        "|---|---|---|---|---|---|",
    ]
    for row, ends in found.items():
        verified, clean = (mean(end[name] for end in ends) for name in ("verified_error", "clean_error"))
        change = verified - mean(end["verified_error"] for end in plain) if plain else 0
        seconds = mean(end["seconds"] / end["epoch"] for end in ends)
        lines.append(
            f"| {row} | {len(ends)} | {verified:.2f} | {change:+.2f} | {clean:.2f} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(what: str, *arguments: str) -> None:
    if what == "run":
        base, data, *rest = arguments
        seed, rows = int(rest[0]) if rest else 0, rest[1:] or list(ROWS)
        for row in rows:
            if not record(base, row, seed).exists():
                train(base, row, seed, data)
                print(
                    command(base, row, seed), record(base, row, seed).read_text().splitlines()[-1], flush=True
                )
    elif what == "commands":
        print("\n".join(command(base, row, 0) for base in BASES for row in ROWS))
    else:
        print("\n".join(f"{base}\n\n{table(base)}" for base in BASES))


if __name__ == "__main__":
    main(*sys.argv[1:])
