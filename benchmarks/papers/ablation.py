"""What each aid of certified training gives, on a validation split.

    python benchmarks/papers/ablation.py measure BASE ROOT [SEED] [ROW ...]  # of configs/ablation/BASE.yaml
    python benchmarks/papers/ablation.py commands                            # the command of each row
    python benchmarks/papers/ablation.py tables                              # those of docs/training.md

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
from pathlib import Path
from statistics import mean

import torch

from certsnn.configuration import read_config
from certsnn.files import write_text
from certsnn.train.run import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

RECORDS = record.RESULTS / "ablation"
RUNS = record.ROOT / "runs" / "ablation"
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


def journal(base: str, row: str, seed: int) -> Path:
    return RECORDS / f"{base}-{row}-s{seed}.jsonl"


def train(base: str, row: str, seed: int, root: Path) -> None:
    """One row: its command less the test set."""
    flags = [*ROWS[row], f"--seed={seed}", f"--data.root={root}"]
    config, text = read_config(record.CONFIGS / "ablation" / f"{base}.yaml", flags)
    rows = run(config, text, RUNS / f"{base}-{row}-s{seed}", torch.device("cpu")).progress.rows
    header: record.Row = {
        "command": command(base, row, seed),
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    write_text(journal(base, row, seed), "".join(json.dumps(line) + "\n" for line in (header, *rows)))


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=record.ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


COLUMNS = record.columns(
    "row | seeds | verified error | against plain | clean error | epoch (s)",
    "{row} | {seeds} | {verified_error:.2f} | {change:+.2f} | {clean_error:.2f} | {seconds:.0f}",
)


def table(base: str) -> str:
    """Markdown: the rows of a base, in their order; means over seeds."""
    lines: list[record.Row] = []
    for row in ROWS:
        paths = sorted(RECORDS.glob(f"{base}-{row}-s[0-9].jsonl"))
        ends = [json.loads(path.read_text().splitlines()[-1]) for path in paths]
        if ends:
            means = {name: mean(end[name] for end in ends) for name in ("verified_error", "clean_error")}
            seconds = mean(end["seconds"] / end["epoch"] for end in ends)
            lines.append({"row": row, "seeds": len(ends), "seconds": seconds, **means})
    plain = next((line["verified_error"] for line in lines if line["row"] == "plain"), None)
    for line in lines:
        line["change"] = None if plain is None else line["verified_error"] - plain
    return record.table(COLUMNS, lines)


def measure(base: str, root: Path, seed: int = 0, *rows: str) -> None:
    """Train the rows that are not on record."""
    for row in rows or ROWS:
        if not journal(base, row, seed).exists():
            train(base, row, seed, root)
            end = journal(base, row, seed).read_text().splitlines()[-1]
            print(command(base, row, seed), end, flush=True)


def commands() -> None:
    """Print the command of each row."""
    print("\n".join(command(base, row, 0) for base in BASES for row in ROWS))


def tables() -> None:
    """Print the tables."""
    print("\n".join(f"{base}\n\n{table(base)}" for base in BASES))


if __name__ == "__main__":
    record.run(measure, commands, tables)
