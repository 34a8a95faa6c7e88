"""A residual network from its initialisation to certificates and attacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from together import residual, task_of
from torch import Tensor

from certsnn.attacks import FGSM, PGD
from certsnn.batches import BatchStatistics
from certsnn.data import loader
from certsnn.evaluation import evaluate
from certsnn.inputsets import LinfBall
from certsnn.train.config import TrainingConfig
from certsnn.train.initialisation import Calibrated, ConstantWidth, Initialisation
from certsnn.train.loop import train
from certsnn.train.objectives import Certified
from certsnn.train.regularisers import L1, FiringRate, Tightness
from certsnn.train.schedules import LearningRate, Ramp


@pytest.mark.parametrize(
    ("precision", "initialisation"), [("float32", ConstantWidth()), ("bfloat16", Calibrated())]
)
def test_certified_training_of_a_residual_network(
    precision: str, initialisation: Initialisation, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network, task = residual(), task_of(LinfBall(0.01))
    objective = Certified(Ramp(1, 4), regularisers=[Tightness(), FiringRate(), L1()])
    settings = TrainingConfig(
        objective,
        initialisation,
        epochs=10,
        batch_size=32,
        learning_rate=LearningRate(0.01),
        precision=precision,  # type: ignore[arg-type]
    )
    train(network, task, settings, tmp_path, seed=0)
    means = [value for name, value in network.state_dict().items() if name.endswith("running_mean")]
    assert len(means) == 4 and all(bool((mean != 0).all()) for mean in means)
    attacks = [FGSM(), PGD(iterations=5)]
    data = loader(task.validation.head(60), 30)
    report = evaluate(network, data, LinfBall(0.001), "s-crown-ibp", attacks)
    assert report.clean_error <= report.attack_error <= report.verified_error < 70


class Recording(BatchStatistics):
    """A whole batch, and a note of what was asked for."""

    def __init__(self) -> None:
        self.means: list[Tensor] = []

    def mean(self, mean: Tensor) -> Tensor:
        self.means.append(mean)
        return mean

    def greatest(self, greatest: Tensor) -> Tensor:
        raise AssertionError

    def values(self, count: int) -> int:
        return count


class Share(BatchStatistics):
    """A half of a batch whose quantities are known."""

    def __init__(self, whole: Recording) -> None:
        self.means = iter(whole.means)

    def mean(self, mean: Tensor) -> Tensor:
        return next(self.means)

    def greatest(self, greatest: Tensor) -> Tensor:
        raise AssertionError

    def values(self, count: int) -> int:
        return 2 * count


def test_a_share_of_a_batch_acts_as_in_the_whole() -> None:
    """Batch norm in bodies and projections asks for the whole batch's statistics, in one order."""
    torch.manual_seed(0)
    whole, part = residual(), residual()
    part.load_state_dict(whole.state_dict())
    x = torch.rand(8, 1, 8, 8)
    whole.batch = asked = Recording()
    logits, _ = whole.forward_and_freeze(x)
    part.batch = share = Share(asked)
    torch.testing.assert_close(part.forward_and_freeze(x[:4])[0], logits[:4])
    assert len(asked.means) == 8 and next(share.means, None) is None
    for name, value in part.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])
