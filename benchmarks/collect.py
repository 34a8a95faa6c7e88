"""Put finished runs on record: logs under benchmarks/results, the table docs/results.md, pretrained models.

    python benchmarks/collect.py runs/mnist-fc-s0 runs/mnist-fc-s1 ...      # log the runs, renew the table
    python benchmarks/collect.py --ship mnist-fc-eps0.1 runs/mnist-fc-s0     # and ship this one's model

A run is a folder of `certsnn train`, with its results.json. Of runs whose configs differ in nothing but the
seed, the table shows the mean and every single value.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from certsnn.configuration import override
from certsnn.files import write_text
from certsnn.models import MODEL, load_model, save_model

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "benchmarks" / "results" / "runs"
LARGEST = 8 * 2**20


def log(run: Path) -> None:
    """Copy a run's small files."""
    target = LOGS / run.name
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "metrics.jsonl", "results.json", "curves.png"):
        shutil.copyfile(run / name, target / name)


def ship(name: str, run: Path) -> None:
    """Copy a run's model into the package: its errors join its facts, local paths leave its config."""
    model = load_model(run)
    results = json.loads((run / "results.json").read_text())
    summary = results["summary"]
    model.facts.update(
        clean_error=summary["clean_error"],
        verified_error=summary["verified_error"],
        samples=summary["samples"],
        method=results["method"],
        threat=results["threat"],
    )
    config, text = override(model.text, ["--data.root=null", "--data.download=false"])
    path = ROOT / "certsnn" / "pretrained" / f"{name}.safetensors"
    save_model(path, type(model)(model.network, config, text, model.shape, model.classes, model.facts))
    if path.stat().st_size >= LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a shipped model must be below 8 MiB")


def table() -> str:
    """Markdown: a row for all logged runs of a config."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(LOGS.glob("*/results.json")):
        results = json.loads(path.read_text())
        key = json.dumps({**results["config"], "seed": None})
        groups[key].append({"name": path.parent.name, **results})
    lines = [
        "# Results",
        "",
        "Whole test sets; S-IBP with the rounding of the executed network covered; ties count as errors.",
        "The best checkpoint is chosen on a validation split of the training set. Errors in percent: the",
        "mean, then the single seeds. The machine (2 cores) did other work at the same time, so the minutes",
        "are no benchmark. Logs, configs, versions, threads: `benchmarks/results/runs`; this page is written",
        "by `benchmarks/collect.py`.",
        "",
        "The command of a row: `certsnn train configs/CONFIG.yaml --seed SEED` (for MNIST with",
        "`--data.root DIR --data.download true`), with `--threads` as in its results.json. The MNIST rows",
        "were trained with the state of commit a944c31. The bounds have since come to add up in another",
        "order, so a rerun may differ by what rounding makes of a training; mnist-cnn-s0 was run again and",
        "gave the same errors.",
        "",
        "| runs | network | threat | neuron, T | seeds | clean error | verified error | training (min) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rows in groups.values():
        config = rows[0]["config"]
        neuron = config["network"]["neuron"]
        encoding = config["data"]["encoding"]
        steps = config["network"]["steps"] if encoding is None else encoding["init_args"]["steps"]
        steps = config["threat"]["init_args"].get("steps", steps)
        arguments = {"threshold", "decay"} & set(neuron["init_args"])
        shown = ", ".join(f"{a} {neuron['init_args'][a]:g}" for a in sorted(arguments))
        cells = [
            ", ".join(row["name"] for row in rows),
            config["network"]["architecture"],
            rows[0]["threat"],
            f"{neuron['class_path']} ({shown}), T = {steps}",
            str(len(rows)),
            _spread([row["summary"]["clean_error"] for row in rows]),
            _spread([row["summary"]["verified_error"] for row in rows]),
            f"{mean(row['training']['training_seconds'] for row in rows) / 60:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    single = "" if len(values) == 1 else f" ({', '.join(f'{value:.2f}' for value in values)})"
    return f"{mean(values):.2f}{single}"


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--ship"]:
        name, run = words[1], Path(words[2])
        assert (run / MODEL).exists(), f"{run} has no {MODEL}: its training has not ended"
        ship(name, run)
        words = [str(run)]
    for word in words:
        log(Path(word))
    write_text(ROOT / "docs" / "results.md", table())


if __name__ == "__main__":
    main()
