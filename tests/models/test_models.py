"""Model files and the models that come with certsnn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from certsnn.configuration import override
from certsnn.data import load, loader
from certsnn.errors import CheckpointError
from certsnn.evaluation.verification import summarise, verify
from certsnn.models.pretrained import MODEL, Model, build_network, load_model, pretrained, save_model

CONFIG = "network: {architecture: digits-fc, neuron: {class_path: LIF, init_args: {threshold: 0.5}}}"


def example() -> Model:
    torch.manual_seed(0)
    config, text = override(CONFIG, ())
    network = build_network(config, (1, 8, 8), 10)
    return Model(network.eval(), config, text, (1, 8, 8), 10, {"epochs": 3})


def test_round_trip(tmp_path: Path) -> None:
    model, path = example(), tmp_path / MODEL
    save_model(path, model)
    for place in (path, tmp_path):
        found = load_model(place)
        assert (found.config, found.text, found.shape) == (model.config, model.text, model.shape)
        assert (found.classes, found.facts) == (model.classes, model.facts)
        x = torch.rand(5, 1, 8, 8)
        assert torch.equal(found.network(x), model.network(x))
    assert path.stat().st_mode & 0o044, "others may read a model that its owner shares"


@pytest.mark.parametrize("size", [0, 10, 2000])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / MODEL
    save_model(path, example())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="not a whole model"):
        load_model(path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model, path = example(), tmp_path / MODEL
    _, text = override(CONFIG, ["--network.architecture", "fc"])
    save_model(path, Model(model.network, model.config, text, model.shape, model.classes, {}))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(path)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(CheckpointError, match=r"did you mean 'mnist-fc-eps0\.1'"):
        load_model("mnist-fc-eps0.2")


@pytest.mark.parametrize("name", pretrained())
def test_pretrained_models_are_small_and_whole(name: str) -> None:
    assert pretrained()[name].stat().st_size < 8 * 2**20
    model = load_model(name)
    assert {"clean_error", "verified_error", "samples", "threat", "method"} <= set(model.facts)
    assert model.facts["threat"] == model.config.threat.describe()
    assert model.config.data.root is None, "a local path does not belong in a shipped model"


@pytest.mark.parametrize("name", [name for name in pretrained() if name.startswith("digits")])
def test_pretrained_models_keep_their_word(name: str) -> None:
    model = load_model(name)
    test = load("digits", "test")
    batches = verify(
        model.network, loader(test, 256), model.config.threat, encoding=model.config.data.encoding
    )
    found = summarise(result for batch in batches for result in batch)
    # One sample of 450 may differ where another machine rounds a tie the other way.
    assert found.clean_error == pytest.approx(model.facts["clean_error"], abs=0.25)
    assert found.verified_error == pytest.approx(model.facts["verified_error"], abs=0.25)


@pytest.mark.parametrize("name", [name for name in pretrained() if name.startswith("mnist")])
def test_pretrained_mnist_models_on_a_subset(name: str, shared_data: Path) -> None:
    model = load_model(name)
    test = load("mnist", "test", shared_data).head(300)
    batches = verify(model.network, loader(test, 100), model.config.threat)
    found = summarise(result for batch in batches for result in batch)
    assert found.verified_error == pytest.approx(model.facts["verified_error"], abs=6)
