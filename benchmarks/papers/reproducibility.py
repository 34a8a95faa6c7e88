"""What one training comes to under other threads and instruction sets, and over seeds.

    python benchmarks/papers/reproducibility.py [RUNS]    # writes results/reproducibility.{json,md}

Every row is `certsnn train configs/digits.yaml` in a process and a run folder of its own, below RUNS or else
runs/reproducibility; a finished one is not trained again. An instruction set is the one that torch's own
kernels (ATEN_CPU_CAPABILITY), Intel MKL (MKL_CBWR) or oneDNN (ONEDNN_MAX_CPU_ISA) is told to use; without
these variables each takes the best that it knows for the processor. *weights*: the first digits of the
SHA-256 of the trained weights; where they are the same, so is the network. *margins*: those of all verdicts
and margins of `certsnn verify digits-eps0.05`, a shipped model, in the same setting.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import final

import torch

from certsnn.files import digest
from certsnn.models import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

CONFIG = record.CONFIGS / "digits.yaml"
SHIPPED = "digits-eps0.05"
SEEDS, DIGITS = 10, 12
ERRORS = ("clean_error", "verified_error")


@final
@dataclass(frozen=True)
class Setting:
    """How one training runs; ``again`` tells trainings apart that differ in nothing else."""

    threads: int
    seed: int = 0
    told: Mapping[str, str] = field(default_factory=dict)
    again: str = ""

    @property
    def name(self) -> str:
        """What sets it apart beside threads and seed."""
        return " ".join([*(f"{key}={value}" for key, value in self.told.items()), self.again]).strip()

    @property
    def folder(self) -> str:
        """Of the run."""
        return "-".join([f"s{self.seed}", f"t{self.threads}", *self.name.replace("=", " ").split()])

    def call(self, *words: object) -> None:
        """Run certsnn with this command line, in a process of its own."""
        line = [*map(str, words), "--threads", str(self.threads)]
        code = f"import sys; from certsnn.cli.app import main; sys.exit(main({line}))"
        kept = {name: value for name, value in os.environ.items() if name not in TOLD}
        subprocess.run([sys.executable, "-c", code], env={**kept, **self.told}, check=True)


SETTINGS = [
    *(Setting(threads, again=again) for threads in (1, 2) for again in ("", "once more")),
    Setting(4),
    *(Setting(1, told={"ATEN_CPU_CAPABILITY": value}) for value in ("avx2", "default")),
    *(Setting(1, told={"MKL_CBWR": value}) for value in ("AVX2", "COMPATIBLE")),
    Setting(1, told={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Setting(1, told={"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}),
]
TOLD = {name for setting in SETTINGS for name in setting.told}


def row(setting: Setting, runs: Path) -> record.Row:
    """The figures of a training, which a finished run folder has already."""
    run = runs / setting.folder
    report = written(setting, run / "results.json", "train", CONFIG, "--seed", setting.seed, "--run", run)
    return {
        "setting": setting.name,
        "seed": setting.seed,
        **{error: report["summary"][error] for error in ERRORS},
        "weights": digest(load_model(run).network.state_dict())[:DIGITS],
        **report["training"],
    }


def margins(setting: Setting, runs: Path) -> record.Row:
    """The verdicts and margins of a shipped model."""
    to = runs / setting.folder / "shipped.json"
    report = written(setting, to, "verify", SHIPPED, "--json", to)
    found = torch.tensor([sample["margin"] for sample in report["samples"]], dtype=torch.float64)
    proved = torch.tensor([sample["status"] == "certified" for sample in report["samples"]])
    return {"margins": digest({"margins": found, "proved": proved})[:DIGITS]}


def written(setting: Setting, path: Path, *words: object) -> record.Row:
    """The file that this command writes, unless it is there."""
    if not path.exists():
        setting.call(*words)
    report: record.Row = json.loads(path.read_text(encoding="utf-8"))
    return report


def page(found: record.Row) -> str:
    """Markdown: a line for each setting, then one for each seed, then their spread."""
    settings, seeds = found["settings"], found["seeds"]
    first = settings[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    where = f"{versions}; {first['cpu']} ({first['instructions']}), {first['machine']}"
    spread = [
        f"{name.replace('_', ' ')}: mean {mean(values):.2f}, from {min(values):.2f} to {max(values):.2f}"
        for name in ERRORS
        for values in [[row[name] for row in seeds]]
    ]
    parts = [
        "# One training under other threads, instruction sets and seeds\n",
        f"{record.explained(__doc__)}\n",
        f"{where}. Errors in percent on the whole test set (450 images), S-IBP with rounding covered.\n",
        f"Seed 0:\n\n{table(('setting', 'weights', 'margins'), settings)}",
        f"Seeds; {'; '.join(spread)}:\n\n{table(('seed', 'weights'), seeds)}",
    ]
    return "\n".join(parts)


def table(names: Sequence[str], rows: Sequence[record.Row]) -> str:
    """Markdown: threads, errors, and these columns."""
    errors = {name.replace("_", " "): f"{{{name}:.2f}}" for name in ERRORS}
    return record.table({"threads": "{threads}", **errors, **{name: f"{{{name}}}" for name in names}}, rows)


def main(runs: Path = record.ROOT / "runs" / "reproducibility") -> None:
    settings = [row(setting, runs) | margins(setting, runs) for setting in SETTINGS]
    seeds = [row(Setting(1, seed), runs) for seed in range(SEEDS)]
    found = {"settings": settings, "seeds": seeds}
    record.write("reproducibility", found, page(found))


if __name__ == "__main__":
    record.run(main)
