"""Finished runs on record: logs under benchmarks/results/runs, and the table docs/results.md.

    python benchmarks/papers/results_page.py [RUN ...]      # log these run folders, renew the table

A run is a folder of `certsnn train`, with its results.json. Of runs whose configs differ in nothing but the
seed, the table shows the mean and every single value; beside them stand the ReLU twins of the same runs, from
results/relu.jsonl (see `relu_twin.py`). docs/training-curves.png shows the errors over the epochs.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import yaml
from cycler import cycler
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from certsnn.configuration import override, parse_text
from certsnn.files import write_text
from certsnn.models.pretrained import load_model, pretrained
from certsnn.report.bench import spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record
from papers.models_page import LOCAL, LOGS, config_file


def log(run: Path) -> None:
    """Copy a run's small files, less local paths."""
    target = LOGS / run.name
    target.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.jsonl", "curves.png"):
        shutil.copyfile(run / name, target / name)
    _, text = override((run / "config.yaml").read_text(), LOCAL)
    write_text(target / "config.yaml", text)
    results = json.loads((run / "results.json").read_text())
    results["config"] = yaml.safe_load(text)
    write_text(target / "results.json", json.dumps(results, indent=2) + "\n")


def twins() -> dict[str, list[record.Row]]:
    """The ReLU twins by what a run shares with them (`shared`); of one seed, the last."""
    path = record.RESULTS / "relu.jsonl"
    found: dict[str, dict[int, record.Row]] = defaultdict(dict)
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        found[shared(row["settings"])][row["seed"]] = row
    return {key: list(by_seed.values()) for key, by_seed in found.items()}


def shared(config: record.Row) -> str:
    """Of a config, what a network shares with its ReLU twin: all but the seed and what only spikes have."""
    config = yaml.safe_load(override(renewed(config), LOCAL)[1])
    network = {name: config["network"][name] for name in ("architecture", "norm")}
    data = {name: config["data"][name] for name in ("name", "validation", "encoding")}
    training = {name: value for name, value in config["training"].items() if name != "initialisation"}
    objective = training["objective"]
    arguments = {n: v for n, v in objective.get("init_args", {}).items() if n not in ("surrogate", "steps")}
    training["objective"] = {**objective, "init_args": arguments}
    parts = {"data": data, "network": network, "threat": config["threat"], "training": training}
    return json.dumps(parts, sort_keys=True)


def renewed(config: record.Row) -> str:
    """A logged config as it would be written today: norm was not always a key."""
    return yaml.safe_dump({**config, "network": {"norm": "none", **config["network"]}})


def curves() -> Figure:
    """Validation errors of all logged MNIST runs of seed 0 over the epochs, as a picture."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    folders = sorted(LOGS.glob("mnist-*-s0"))
    for axis in axes:  # twenty colours, and as many again dashed
        axis.set_prop_cycle(cycler(linestyle=["-", "--"]) * cycler(color=colormaps["tab20"](range(20))))
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        epochs = [row["epoch"] for row in rows]
        for axis, error in zip(axes, ("verified_error", "clean_error"), strict=True):
            axis.plot(epochs, [row[error] for row in rows])
    axes[0].set(xlabel="epoch", ylabel="verified error on validation (%)", yscale="log")
    axes[1].set(xlabel="epoch", ylabel="clean error on validation (%)", ylim=(0, 8))
    axes[0].yaxis.set_major_locator(FixedLocator([4, 6, 10, 20, 40, 100]))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    labels = [folder.name.removesuffix("-s0") for folder in folders]
    figure.legend(axes[0].get_lines(), labels, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def row(runs: Sequence[record.Row]) -> record.Row:
    """The table's line of runs that differ in their seed, but for the columns of other files."""
    config = runs[0]["config"]
    neuron = config["network"]["neuron"]
    arguments = {"threshold", "decay"} & set(neuron["init_args"])
    shown = ", ".join(f"{a} {neuron['init_args'][a]:g}" for a in sorted(arguments))
    steps = parse_text(yaml.safe_dump(config)).steps
    return {
        "runs": ", ".join(run["name"] for run in runs),
        "config": (config_file(renewed(config)) or "log").removeprefix("configs/"),
        "network": config["network"]["architecture"] + NORMS[config["network"].get("norm", "none")],
        "threat": runs[0]["threat"],
        "neuron, T": f"{neuron['class_path']} ({shown}), T = {steps}",
        "seeds": len(runs),
        "clean error": spread([run["summary"]["clean_error"] for run in runs]),
        "verified error": spread([run["summary"]["verified_error"] for run in runs]),
        "training (min)": f"{mean(run['training']['training_seconds'] for run in runs) / 60:.1f}",
    }


NORMS = {"none": "", "batch": ", batch norm"}


def beside(twins: Sequence[record.Row]) -> str:
    """Clean and verified error of ReLU twins."""
    if not twins:
        return "-"
    return " / ".join(f"{mean(twin[e] for twin in twins):.2f}" for e in ("clean_error", "verified_error"))


def table() -> str:
    """Markdown: a row for all logged runs of a config."""
    groups: dict[str, list[record.Row]] = defaultdict(list)
    for path in sorted(LOGS.glob("*/results.json")):
        results = json.loads(path.read_text())
        key = json.dumps({**results["config"], "seed": None})
        groups[key].append({"name": path.parent.name, **results})
    origins = {name: load_model(name).facts.get("origin") for name in pretrained()}
    shipped = {Path(found["log"]).name: name for name, found in origins.items() if found is not None}
    known, rows = twins(), []
    for runs in groups.values():
        models = ", ".join(shipped[run["name"]] for run in runs if run["name"] in shipped)
        relu = beside(known.get(shared(runs[0]["config"]), []))
        rows.append({**row(runs), "ReLU": relu, "model": models or "-"})
    return record.table({name: f"{{{name}}}" for name in rows[0]}, rows)


def main(*runs: Path) -> None:
    for run in runs:
        log(run)
    record.insert("results", runs=table())
    record.draw("training-curves", curves())


if __name__ == "__main__":
    record.run(main)
