"""bfloat16 in training passes: what it changes, and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from modules import tensor_of, weight_of
from together import normed, plain, task_of

from certsnn.affine import Dense, Weighted
from certsnn.bounds import margin_bounds
from certsnn.configuration import override
from certsnn.data.digits import digits
from certsnn.errors import ConfigError
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.train.config import TrainingConfig
from certsnn.train.loop import train
from certsnn.train.objectives.certified import Certified
from certsnn.train.schedules import LearningRate, Ramp


def both(network: SpikingNetwork) -> tuple[SpikingNetwork, SpikingNetwork]:
    """The network in training with float32, and a copy with bfloat16."""
    torch.manual_seed(0)
    other = type(network)(list(network.layers), network.steps, "membrane")
    other.training_products = torch.bfloat16
    return network.train(), other.train()


def test_products_are_bfloat16_and_currents_float32() -> None:
    torch.manual_seed(0)
    exact, narrow = both(plain())
    x, _, _ = digits("train", Path(), False)[range(50)]
    seen = []
    for network in (exact, narrow):
        logits, program = network.forward_and_freeze(x)
        assert logits.dtype == torch.float32
        assert all(
            operator.rows.dtype == torch.float32
            for stage in program.stages
            for operator in stage.link.operators
            if isinstance(operator, Weighted)
        )
        logits.square().sum().backward()
        seen.append(logits.detach())
    assert float((seen[0] - seen[1]).abs().max()) > 0
    weight, operator = weight_of(narrow.layers[1]), program.stages[0].link.operators[-1]
    assert isinstance(operator, Dense)
    assert torch.equal(operator.weight, weight) and weight.grad is not None
    assert seen[1].bfloat16().float().equal(seen[1])  # the last product is one, too


def test_bounds_are_identical_with_and_without() -> None:
    torch.manual_seed(0)
    exact, narrow = both(plain())
    x, y, _ = digits("train", Path(), False)[range(20)]
    for bound in (
        lambda network: margin_bounds(network, x, y, LinfBall(0.05)),
        lambda network: network.forward_and_freeze(x)[1].run(x),
        lambda network: network.eval()(x),
    ):
        assert torch.equal(bound(exact), bound(narrow))


def test_batch_norm_sees_float32_currents() -> None:
    torch.manual_seed(0)
    network = normed().train()
    network.training_products = torch.bfloat16
    x, _, _ = digits("train", Path(), False)[range(50)]
    network.forward_and_freeze(x)
    for layer in network.layers:
        for value in layer.buffers():
            assert value.dtype != torch.bfloat16
    means = tensor_of(network.layers[1], "running_mean")
    assert not torch.equal(means.bfloat16().float(), means)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_works(precision: Literal["float32", "bfloat16"], tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = TrainingConfig(
        Certified(Ramp(0, 3)), batch_size=32, epochs=12, learning_rate=LearningRate(5e-3)
    )
    network = plain()
    progress = train(network, task_of(LinfBall(0.01)), replace(settings, precision=precision), tmp_path)
    assert progress.rows[-1]["clean_error"] < 25
    assert network.training_products is None


def test_the_key() -> None:
    config, text = override("training: {precision: bfloat16}", [])
    assert config.training.products == torch.bfloat16 and "precision: bfloat16" in text
    assert override("{}", [])[0].training.products is None
    with pytest.raises(ConfigError, match="precision must be float32 or bfloat16"):
        override("training: {precision: float16}", [])
