"""Put finished runs on record: logs under benchmarks/results, the table docs/results.md, pretrained models.

    python benchmarks/collect.py runs/mnist-fc-s0 runs/mnist-fc-s1 ...      # log the runs, renew the table
    python benchmarks/collect.py --ship mnist-fc-eps0.1 runs/mnist-fc-s0     # and ship this one's model
    python benchmarks/collect.py --errors       # put those of results/{auto,tightness}.json into the models

A run is a folder of `certsnn train`, with its results.json. Of runs whose configs differ in nothing but the
seed, the table shows the mean and every single value; beside them stand the ReLU twins of the same runs, from
results/relu.jsonl (see benchmarks/relu.py). docs/training-curves.png shows the errors over the epochs.
docs/models.md, the cards of the shipped models, is written each time.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from cycler import cycler
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from certsnn.configuration import override, parse_text, read_config
from certsnn.files import replacing, write_text
from certsnn.models.cards import card
from certsnn.models.pretrained import MODEL, Model, load_model, pretrained, save_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LOGS = RESULTS / "runs"
CONFIGS = ROOT / "configs"
PAGE = ROOT / "docs" / "models.md"
LARGEST = 8 * 2**20

Row = dict[str, Any]

LOCAL = ("--data.root=null", "--data.download=false")
"""What a config says of the machine that it ran on, taken back."""


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


def ship(name: str, run: Path) -> None:
    """Copy a run's model into the package: its errors join its facts, local paths leave its config."""
    model = load_model(run)
    results = json.loads((run / "results.json").read_text())
    summary = results["summary"]
    model.facts.update(
        clean_error=summary["clean_error"],
        verified_error=summary["verified_error"],
        samples=summary["samples"],
        tested=results["data"],
        method=results["method"],
        threat=results["threat"],
        origin=origin(model.text, run.name, results),
    )
    config, text = override(model.text, LOCAL)
    path = ROOT / "certsnn" / "pretrained" / f"{name}.safetensors"
    save_model(path, type(model)(model.network, config, text, model.shape, model.classes, model.facts))
    if path.stat().st_size >= LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a shipped model must be below 8 MiB")


def errors() -> None:
    """Put into the shipped models' facts what benchmarks/auto.py and tightness.py found, and their origin."""
    proved = {row["model"]: row for row in json.loads((RESULTS / "auto.json").read_text())}
    attacked = json.loads((RESULTS / "tightness.json").read_text())
    for name, path in pretrained().items():
        model = load_model(path)
        facts = model.facts | {"origin": logged_origin(model)}
        if name in proved:
            if facts["verified_error"] != proved[name]["verified_error"]:
                raise ValueError(
                    f"{path.name} has another S-IBP error than auto.json: run benchmarks/auto.py again"
                )
            facts["auto_error"] = proved[name]["auto_error"]
        if name in attacked:
            facts["attack"] = attack(facts, attacked[name])
        if facts != model.facts:
            model.facts.update(facts)
            save_model(path, model)


def attack(facts: Row, row: Row) -> Row:
    """Of a model's row in tightness.json what its card says.

    Raises:
        ValueError: if the row is of another model, as far as it shows.
    """
    summary = row["summary"]
    subset = summary["samples"] != facts["samples"]
    if row["threat"] != facts["threat"] or not (subset or summary["clean_error"] == facts["clean_error"]):
        raise ValueError("tightness.json does not fit the shipped models: run benchmarks/tightness.py again")
    return {
        "samples": row["samples"],
        "subset": subset,
        "clean_error": summary["clean_error"],
        "attack_error": summary["attack_error"],
        "verified_error": summary["verified_error"],
        "method": row["method"],
        "attacks": list(row["attacks"]),
    }


def logged_origin(model: Model) -> Row | None:
    """The origin of a shipped model by its logged run, the one with its errors; None if there is none."""
    facts = model.facts
    for path in sorted(LOGS.glob("*/results.json")):
        results = json.loads(path.read_text())
        found = {**results["summary"], **results["training"], "threat": results["threat"]}
        if all(facts[key] == found[key] for key in (*IDENTIFYING, "threat")):
            return origin(model.text, path.parent.name, results)
    return None


IDENTIFYING = ("clean_error", "verified_error", "samples", "epochs", "training_seconds")


def origin(text: str, run: str, results: Row) -> Row:
    """Where a model with this config comes from: its log, versions, threads, and the config file, if any."""
    training = results | results["training"]  # old logs say only where the model was verified
    kept = {key: training[key] for key in ("versions", "threads", "machine")}
    return {"config": config_file(text), "log": (LOGS / run).relative_to(ROOT).as_posix(), **kept}


def config_file(text: str) -> str | None:
    """The file in configs/ that says the same as this config, whatever the seed; None if there is none."""
    wanted = essence(text)
    return next((name for name, known in committed().items() if known == wanted), None)


@cache
def committed() -> dict[str, Row]:
    """The essence of every file in configs/, those at its top first."""
    paths = [*sorted(CONFIGS.glob("*.yaml")), *sorted(CONFIGS.glob("*/*.yaml"))]
    return {path.relative_to(ROOT).as_posix(): essence(read_config(path)[1]) for path in paths}


def essence(text: str) -> Row:
    """A config less its seed, local paths, and steps that something else decides."""
    config, text = override(text, LOCAL)
    tree: Row = yaml.safe_load(text)
    tree["network"]["steps"] = config.steps
    return {**tree, "seed": None}


def cards() -> str:
    """Markdown: the card of every shipped model."""
    parts = [MODELS]
    for name, path in pretrained().items():
        parts.append(card(name, load_model(path), path.stat().st_size).markdown(level=2))
    return "\n".join(parts)


MODELS = """\
# The pretrained models

What `certsnn models NAME` prints of each, from the facts and the config in its file. Errors in percent on the
whole test set, unless a subset is named; the best checkpoint was chosen on a validation split of the training
set. Attack errors are those of [tightness.md](../benchmarks/results/tightness.md), the errors of `auto` those
of [auto.md](../benchmarks/results/auto.md). This page is written by `benchmarks/collect.py`.
"""


def twins() -> dict[str, list[dict[str, Any]]]:
    """The ReLU twins by what a run shares with them (`shared`); of one seed, the last."""
    path = RESULTS / "relu.jsonl"
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        found[shared(row["settings"])][row["seed"]] = row
    return {key: list(by_seed.values()) for key, by_seed in found.items()}


def shared(config: dict[str, Any]) -> str:
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


def renewed(config: Row) -> str:
    """A logged config as it would be written today: norm was not always a key."""
    return yaml.safe_dump({**config, "network": {"norm": "none", **config["network"]}})


def curves() -> None:
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
    with replacing(ROOT / "docs" / "training-curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def table() -> str:
    """Markdown: a row for all logged runs of a config."""
    twin = twins()
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(LOGS.glob("*/results.json")):
        results = json.loads(path.read_text())
        key = json.dumps({**results["config"], "seed": None})
        groups[key].append({"name": path.parent.name, **results})
    lines = [
        "# Results",
        "",
        "Whole test sets (of N-MNIST a subset, 100 recordings); S-IBP with the rounding of the executed",
        "network covered; ties count as errors.",
        "The best checkpoint is chosen on a validation split of the training set. Errors in percent: the",
        "mean, then the single seeds. The machine (2 cores) did other work at the same time, so the minutes",
        "are no benchmark. Logs, configs, versions, threads: `benchmarks/results/runs`; this page is written",
        "by `benchmarks/collect.py`.",
        "",
        "The command of a row: `certsnn train configs/CONFIG.yaml --seed SEED` (for MNIST with",
        "`--data.root DIR --data.download true`), with `--threads` as in its results.json. Where the config",
        'is "log", it is the config.yaml of the log; if that has no `network.norm`, add `--network.norm',
        "none`. Another machine, or number of threads, gives another network of the same kind from the same",
        "seed ([what is reproducible where](training.md#what-is-reproducible-where)). *Model*: what",
        "`certsnn models` calls the run of seed 0 ([cards](models.md)).",
        "",
        "ReLU: the same layers with ReLU in place of every neuron, trained by IBP on the same batches and",
        "schedules (`python benchmarks/relu.py ROOT configs/CONFIG.yaml NAME --seed SEED`); clean / verified",
        "error.",
        "",
        "| runs | config | network | threat | neuron, T | seeds | clean error | verified error | "
        "training (min) | ReLU | model |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    origins = {name: load_model(name).facts.get("origin") for name in pretrained()}
    shipped = {Path(found["log"]).name: name for name, found in origins.items() if found is not None}
    for rows in groups.values():
        config = rows[0]["config"]
        neuron = config["network"]["neuron"]
        steps = parse_text(yaml.safe_dump(config)).steps
        arguments = {"threshold", "decay"} & set(neuron["init_args"])
        shown = ", ".join(f"{a} {neuron['init_args'][a]:g}" for a in sorted(arguments))
        cells = [
            ", ".join(row["name"] for row in rows),
            (config_file(renewed(config)) or "log").removeprefix("configs/"),
            config["network"]["architecture"] + _NORMS[config["network"].get("norm", "none")],
            rows[0]["threat"],
            f"{neuron['class_path']} ({shown}), T = {steps}",
            str(len(rows)),
            _spread([row["summary"]["clean_error"] for row in rows]),
            _spread([row["summary"]["verified_error"] for row in rows]),
            f"{mean(row['training']['training_seconds'] for row in rows) / 60:.1f}",
            _beside(twin.get(shared(config), [])),
            ", ".join(shipped[row["name"]] for row in rows if row["name"] in shipped) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## The papers' experiments",
        "",
        "Four trainings (natural, adversarial, S-IBP, S-CROWN) of each of the papers' settings, with attack",
        "errors, beside the published figures: [paper.md](paper.md) (`benchmarks/paper.py`).",
    ]
    return "\n".join(lines) + "\n"


_NORMS = {"none": "", "batch": ", batch norm"}


def _beside(found: list[dict[str, Any]]) -> str:
    if not found:
        return "-"
    return " / ".join(
        f"{mean(row[error] for row in found):.2f}" for error in ("clean_error", "verified_error")
    )


def _spread(values: list[float]) -> str:
    single = "" if len(values) == 1 else f" ({', '.join(f'{value:.2f}' for value in values)})"
    return f"{mean(values):.2f}{single}"


def main() -> None:
    words = sys.argv[1:]
    if words == ["--errors"]:
        errors()
        return write_text(PAGE, cards())
    if words[:1] == ["--ship"]:
        name, run = words[1], Path(words[2])
        assert (run / MODEL).exists(), f"{run} has no {MODEL}: its training has not ended"
        ship(name, run)
        words = [str(run)]
    for word in words:
        log(Path(word))
    write_text(ROOT / "docs" / "results.md", table())
    write_text(PAGE, cards())
    curves()


if __name__ == "__main__":
    main()
