"""The cards of models, on the command line and as docs/models.md."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import benchmark

from certsnn import __version__
from certsnn.cli.app import main
from certsnn.configuration import override
from certsnn.data import load
from certsnn.inputsets import (
    CoupledBernoulli,
    EventChanges,
    FreeSpikes,
    LinfBall,
    LinfFrames,
    SpikeFlips,
    SpikeShift,
    Threat,
)
from certsnn.models.cards import TRAINING, UNKNOWN, brief, card, data_text, layers_text, threat_text
from certsnn.models.pretrained import Model, build_network, load_model, pretrained, save_model
from certsnn.train.config import DataConfig
from certsnn.train.objectives.certified import Certified
from certsnn.train.schedules import Ramp

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models_page() -> ModuleType:
    return benchmark("papers.models_page")


def example(config: str = "network: {architecture: small-cnn, norm: none}") -> Model:
    torch.manual_seed(0)
    parsed, text = override(config, ())
    network = build_network(parsed, (1, 8, 8), 10)
    return Model(network.eval(), parsed, text, (1, 8, 8), 10, {"epochs": 3})


def test_the_page_is_that_of_the_shipped_models(models_page: ModuleType) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page == models_page.record.inserted(page, "cards", models_page.cards()), (
        "run `python benchmarks/papers/models_page.py errors`"
    )
    assert all(f"\n## {name}\n" in page for name in pretrained())


def test_the_shipped_models_carry_what_is_on_record(models_page: ModuleType) -> None:
    proved = {row["model"]: row for row in models_page.record.read("auto")}
    attacked = models_page.record.read("tightness")
    for name in pretrained():
        model = load_model(name)  # where one of these fails: `python benchmarks/papers/models_page.py errors`
        assert model.facts["origin"] == models_page.logged_origin(model)
        assert model.facts["origin"]["config"], f"no config in configs/ trains {name}"
        assert model.facts.get("auto_error") == proved.get(name, {}).get("auto_error")
        if name in attacked:
            assert model.facts["attack"] == models_page.attack(model.facts, attacked[name])


def test_an_attack_of_another_model_is_refused(models_page: ModuleType) -> None:
    row = models_page.record.read("tightness")["digits-eps0.05"]
    facts = load_model("digits-eps0.05").facts
    for other in ({"clean_error": 9.0}, {"threat": "LinfBall(eps=0.1)"}):
        with pytest.raises(ValueError, match="does not fit"):
            models_page.attack(facts | other, row)


def test_what_is_not_known_is_said_to_be_so() -> None:
    shown = card("runs/mine", example(), 2048)
    for error in ("clean error", "verified error", "verified by `auto`", "attack error"):
        assert shown.facts[error] == UNKNOWN
    assert shown.facts["trained with"] == "not recorded"
    assert shown.facts["file"].startswith("2 KiB")
    assert all("train" not in command for command in shown.commands.values())
    assert any("Not attacked" in limit for limit in shown.limits)


def test_the_card_of_a_run_says_where_it_was_trained(finished: Path) -> None:
    shown = card(str(finished), load_model(finished), 1)
    assert shown.facts["trained with"].startswith(
        f"certsnn {__version__}, torch {torch.__version__}, Python 3"
    )
    assert shown.facts["trained with"].endswith("thread(s)")


def test_an_attack_on_a_subset_is_shown_as_one() -> None:
    shown = card("mnist-cnn-eps0.1", load_model("mnist-cnn-eps0.1"), 1)
    assert shown.facts["attack error"].startswith("5.00 % on the first 1000 of 10000 (clean 2.10 %")
    assert any("subset" in limit for limit in shown.limits)
    assert not any("subset" in limit for limit in card("d", load_model("digits-eps0.05"), 1).limits)


def test_layers_and_weights() -> None:
    expected = (
        "`small-cnn`: 1x8x8, 16 of 3x3 conv stride 2, IF, 32 of 3x3 conv stride 2, IF, linear 128-100, IF, "
        "linear 100-10"
    )
    weights = 16 * 10 + 32 * (16 * 9 + 1) + 100 * 129 + 10 * 101
    assert layers_text("small-cnn", example()) == f"{expected} ({weights:,} weights)"
    assert "batch norm, IF" in layers_text("fc", example("network: {architecture: fc}"))


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        (LinfBall(0.1), "up to 0.1"),
        (SpikeFlips(3, "add"), "may add up to 3 spikes"),
        (LinfFrames(0.1), "every entry of every frame may change by up to 0.1"),
        (EventChanges(3), "may add or remove up to 3 events"),
        (SpikeShift(2, 5), "up to 5 spikes may be delayed or advanced by at most 2 steps"),
        (CoupledBernoulli(0.05, 8), "up to 0.05 before the image becomes 8 steps"),
        (FreeSpikes(0.1), "certsnn.inputsets"),
    ],
)
def test_threats_in_words(threat: Threat, words: str) -> None:
    assert words in threat_text(threat)


def test_brief_leaves_defaults_out() -> None:
    assert brief(Certified()) == "Certified()"
    shown = brief(Certified(ramp=Ramp(start=2.0, length=60.0), steps=3))
    assert shown == "Certified(ramp=Ramp(start=2, length=60), steps=3)"


def test_sizes_of_the_splits() -> None:
    assert len(load("digits", "train")) == TRAINING["digits"]
    train, validation = load("digits", "train").split(DataConfig().validation, 0)
    sizes = f"trained on {len(train):,}, validated on {len(validation)}, tested on 450 samples"
    assert data_text(DataConfig(), 450) == f"digits: {sizes}"


def test_the_command_prints_a_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["models", "digits-eps0.05"]) == 0
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.removeprefix("# ") in page
    path = tmp_path / "mine.safetensors"
    save_model(path, example())
    assert main(["models", str(path)]) == 0
    assert f"certsnn verify {path}" in capsys.readouterr().out


def test_an_unknown_name_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "digits-eps0.5"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "did you mean 'digits-eps0.05'?" in said


def test_a_card_says_that_layers_are_wired_up_as_a_graph() -> None:
    graph = example("network: {architecture: sew-resnet-small, norm: none}")
    assert layers_text("sew", graph).endswith(" weights; a graph, its layers listed in order)")
    assert layers_text("cnn", example()).endswith(" weights)")
