"""Success statistics against values by hand, and pictures by what they draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from certsnn.attacks.base import AttackResult
from certsnn.attacks.pictures import plot_images, plot_raster
from certsnn.attacks.statistics import Outcome, outcome, statistics
from certsnn.inputsets import LinfBall, SpikeFlips


def _result(adversarial: torch.Tensor, success: list[bool]) -> AttackResult:
    return AttackResult(
        adversarial,
        torch.tensor(success),
        queries=torch.tensor([2, 8, 11]),
        iterations=torch.tensor([0, 3, 5]),
        random=torch.tensor([False, False, True]),
    )


def _spikes() -> Outcome:
    """Of 4 steps and 5 features: a misclassified sample, one that breaks by 2 flips, one that holds."""
    x0 = torch.zeros(4, 3, 5)
    x0[3, 1, 0] = 1
    adversarial = x0.clone()
    adversarial[:, 1, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # moved in time: two bits, the same rate
    adversarial[0, 1, 4] = 1
    result = _result(adversarial, [True, True, False])
    return outcome(x0, torch.tensor([False, True, True]), SpikeFlips(3), result)


def test_statistics_of_spikes() -> None:
    found = statistics([_spikes()])
    assert (found.samples, found.correct) == (3, 2)
    assert found.success_rate == 50.0 and found.random_share == 50.0
    assert found.queries == 9.5 and found.iterations == 3.0
    assert found.entry_change == pytest.approx(3 / 20)
    assert found.pixel_change == pytest.approx(0.25 / 5)
    assert found.as_dict()["success_rate"] == 50.0


def test_statistics_of_images() -> None:
    x0 = torch.full((3, 1, 2, 2), 0.5)
    adversarial = x0.clone()
    adversarial[1, 0, 0, 0] -= 0.2
    part = outcome(
        x0, torch.tensor([False, True, True]), LinfBall(0.2), _result(adversarial, [True, True, False])
    )
    found = statistics([part])
    assert found.pixel_change == found.entry_change == pytest.approx(0.05)


def test_batches_add_up() -> None:
    part = _spikes()
    assert statistics([part, part]).correct == 4
    assert statistics([part, part]).entry_change == statistics([part]).entry_change


def test_nothing_to_take_the_mean_of() -> None:
    part = _spikes()
    none = Outcome(*(getattr(part, name)[:1] for name in part.__dataclass_fields__))
    assert statistics([none]).success_rate is None and statistics([none]).entry_change is None
    with pytest.raises(ValueError, match="no outcomes"):
        statistics([])


def test_rasters_show_each_kind_of_spike() -> None:
    before = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    after = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    (axes,) = plot_raster(before, after, "a title").axes
    points = {c.get_label(): np.asarray(c.get_offsets()).tolist() for c in axes.collections}
    assert points["kept (2)"] == [[0, 0], [1, 0]]
    assert points["added (3)"] == [[0, 1], [1, 1], [1, 2]]
    assert points["dropped (1)"] == [[0, 2]]
    assert axes.get_title() == "a title"


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_show_the_change(channels: int) -> None:
    before = torch.full((2, channels, 3, 4), 0.5)
    after = before.clone()
    after[1, :, 0, 0] = 1.0
    figure = plot_images(before, after, ["one", "two"])
    assert len(figure.axes) == 6
    change = np.asarray(figure.axes[5].images[0].get_array())
    assert change.shape == (3, 4) and change[0, 0] == 0.5 and change.sum() == 0.5
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]


def test_pictures_name_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"before has the shape \[2, 3\], after \[3, 2\]"):
        plot_raster(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="one sample"):
        plot_raster(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        plot_images(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="B >= 1"):
        plot_images(torch.zeros(0, 1, 2, 2), torch.zeros(0, 1, 2, 2))
