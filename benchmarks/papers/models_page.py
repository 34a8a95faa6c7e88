"""The shipped models: their files, what is on record about them, and their cards, docs/models.md.

    python benchmarks/papers/models_page.py ship mnist-fc-eps0.1 runs/mnist-fc-s0  # ship this run's model
    python benchmarks/papers/models_page.py errors     # put results/{auto,tightness}.json into the models

A run is a folder of `certsnn train`, with its results.json; `results_page.py` logs a shipped one and renews
its row.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import yaml

from certsnn.configuration import override, read_config
from certsnn.models.cards import card
from certsnn.models.pretrained import MODEL, Model, load_model, pretrained, save_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

LOGS = record.RESULTS / "runs"
LARGEST = 8 * 2**20

LOCAL = ("--data.root=null", "--data.download=false")
"""What a config says of the machine that it ran on, taken back."""


def ship(name: str, run: Path) -> None:
    """Copy a run's model into the package: its errors join its facts, local paths leave its config."""
    assert (run / MODEL).exists(), f"{run} has no {MODEL}: its training has not ended"
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
    path = record.ROOT / "certsnn" / "pretrained" / f"{name}.safetensors"
    save_model(path, type(model)(model.network, config, text, model.shape, model.classes, model.facts))
    if path.stat().st_size >= LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a shipped model must be below 8 MiB")
    record.insert("models", cards=cards())


def errors() -> None:
    """Put into the shipped models' facts what tightness/auto.py and tightness.py found, and their origin."""
    proved = {row["model"]: row for row in record.read("auto")}
    attacked = record.read("tightness")
    for name, path in pretrained().items():
        model = load_model(path)
        facts = model.facts | {"origin": logged_origin(model)}
        if name in proved:
            if facts["verified_error"] != proved[name]["verified_error"]:
                raise ValueError(
                    f"{path.name} has another S-IBP error than auto.json: run tightness/auto.py again"
                )
            facts["auto_error"] = proved[name]["auto_error"]
        if name in attacked:
            facts["attack"] = attack(facts, attacked[name])
        if facts != model.facts:
            model.facts.update(facts)
            save_model(path, model)
    record.insert("models", cards=cards())


def attack(facts: record.Row, row: record.Row) -> record.Row:
    """Of a model's row in tightness.json what its card says.

    Raises:
        ValueError: if the row is of another model, as far as it shows.
    """
    summary = row["summary"]
    subset = summary["samples"] != facts["samples"]
    if row["threat"] != facts["threat"] or not (subset or summary["clean_error"] == facts["clean_error"]):
        raise ValueError("tightness.json does not fit the shipped models: run tightness/tightness.py again")
    return {
        "samples": row["samples"],
        "subset": subset,
        "clean_error": summary["clean_error"],
        "attack_error": summary["attack_error"],
        "verified_error": summary["verified_error"],
        "method": row["method"],
        "attacks": list(row["attacks"]),
    }


def logged_origin(model: Model) -> record.Row | None:
    """The origin of a shipped model by its logged run, the one with its errors; None if there is none."""
    facts = model.facts
    for path in sorted(LOGS.glob("*/results.json")):
        results = json.loads(path.read_text())
        found = {**results["summary"], **results["training"], "threat": results["threat"]}
        if all(facts[key] == found[key] for key in (*IDENTIFYING, "threat")):
            return origin(model.text, path.parent.name, results)
    return None


IDENTIFYING = ("clean_error", "verified_error", "samples", "epochs", "training_seconds")


def origin(text: str, run: str, results: record.Row) -> record.Row:
    """Where a model with this config comes from: its log, versions, threads, and the config file, if any."""
    training = results | results["training"]  # old logs say only where the model was verified
    kept = {key: training[key] for key in ("versions", "threads", "machine")}
    return {"config": config_file(text), "log": (LOGS / run).relative_to(record.ROOT).as_posix(), **kept}


def config_file(text: str) -> str | None:
    """The file in configs/ that says the same as this config, whatever the seed; None if there is none."""
    wanted = essence(text)
    return next((name for name, known in committed().items() if known == wanted), None)


@cache
def committed() -> dict[str, record.Row]:
    """The essence of every file in configs/, those at its top first."""
    paths = [*sorted(record.CONFIGS.glob("*.yaml")), *sorted(record.CONFIGS.glob("*/*.yaml"))]
    return {path.relative_to(record.ROOT).as_posix(): essence(read_config(path)[1]) for path in paths}


def essence(text: str) -> record.Row:
    """A config less its seed, local paths, and steps that something else decides."""
    config, text = override(text, LOCAL)
    tree: record.Row = yaml.safe_load(text)
    tree["network"]["steps"] = config.steps
    return {**tree, "seed": None}


def cards() -> str:
    """Markdown: the card of every shipped model."""
    shipped = pretrained().items()
    return "\n".join(card(n, load_model(n), path.stat().st_size).markdown(level=2) for n, path in shipped)


if __name__ == "__main__":
    record.run(ship, errors)
