"""The study of steps and neurons: its variants are valid configs, and its page is that of its figures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from scripts import benchmark

from certsnn.configuration import read_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return benchmark("papers.neuron_study")


def test_each_variant_is_a_config_of_its_own(study: ModuleType) -> None:
    texts = {name: read_config(ROOT / study.CONFIG, keys)[1] for name, keys in study.variants().items()}
    assert len(set(texts.values())) == len(texts)
    for factor, (key, usual, _) in study.FACTORS.items():
        if factor == "T'":  # the base says null for all steps
            assert usual == str(study.STEPS)
            continue
        base = read_config(ROOT / study.CONFIG, [*study.BASE, key, usual])[1]
        assert base == texts["base"], f"{usual} is not what the base has as its {factor}"


def test_the_page_is_that_of_the_figures(study: ModuleType) -> None:
    rows = study.record.read("study")
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (name, seed) for name in study.variants() for seed in study.SEEDS
    ]
    for row in rows:
        errors = row["errors"]
        assert errors["clean"] <= errors["attack"] <= errors["verified"]
    page = (study.record.DOCS / "studies.md").read_text(encoding="utf-8")
    assert page == study.record.inserted(page, "figures", study.figures(rows)), (
        "run `python benchmarks/papers/neuron_study.py draw`"
    )
    assert all((study.record.DOCS / f"studies-{name}.png").exists() for name in study.PICTURES)
