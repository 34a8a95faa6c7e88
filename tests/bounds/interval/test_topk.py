"""The largest gains of single flips, in layers so wide that a short list of weights is ranked first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from certsnn.affine import Weighted
from certsnn.bounds.interval import topk as flips
from certsnn.bounds.interval.arithmetic import Arithmetic
from certsnn.bounds.interval.flips import FlippedSpikes
from certsnn.bounds.interval.topk import Gains, feasible_flips
from certsnn.inputsets import SpikeFlips
from certsnn.layers import as_affine

T, B = 2, 3


def bits(*shape: int, seed: int = 0, share: float = 0.3) -> Tensor:
    return (torch.rand(T, B, *shape, generator=torch.Generator().manual_seed(seed)) < share).double()


def dense(weight: Tensor) -> Weighted:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    layer.weight.data = weight
    operator = as_affine(layer)
    assert isinstance(operator, Weighted)
    return operator


def by_hand(weight: Tensor, added: Tensor, dropped: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Rises and falls ``[k, T, B, O]`` of a dense layer, each flip on its own and all of them sorted."""
    effect = torch.stack([added[:, :, None] * weight, -dropped[:, :, None] * weight])
    found = []
    for sign in (1, -1):
        best = (sign * effect).amax(0).clamp_min(0).sort(-1, descending=True).values[..., :budget]
        found.append(best.movedim(-1, 0))
    return found[0], found[1]


def random_weights(outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("budget", [1, 3])
@pytest.mark.parametrize("kind", ["any", "add", "drop", "counts"])
@pytest.mark.parametrize("heavy", ["mixed", "positive"])
@pytest.mark.parametrize("walked", [0, 10**6], ids=["sorted", "walked"])
def test_a_wide_layer_has_the_gains_of_all_flips(
    kind: str, heavy: str, budget: int, walked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flips, "WALKED", walked)
    weight = random_weights(5, 90)
    if heavy == "positive":  # the heaviest weights are of no use for falls by added spikes
        weight[:, :45] = weight[:, :45].abs() + 10
    x0 = bits(90)
    added, dropped = {
        "any": (1 - x0, x0),
        "add": (1 - x0, 0 * x0),
        "drop": (0 * x0, x0),
        "counts": (bits(90, seed=2, share=0.6), bits(90, seed=3, share=0.6)),
    }[kind]
    found = feasible_flips(dense(weight), added, dropped, "any", budget)
    for mine, other in zip(found, by_hand(weight, added, dropped, budget), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("walked", [0, 10**6], ids=["sorted", "walked"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_short_list_changes_nothing_of_a_convolution(
    groups: int, walked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(flips, "WALKED", walked)
    operator = as_affine(nn.Conv2d(6 * groups, 4, 3, padding=1, bias=False, groups=groups))
    assert isinstance(operator, Weighted)
    x0 = bits(6 * groups, 5, 5).float()
    listed = feasible_flips(operator, 1 - x0, x0, "any", 2)
    monkeypatch.setattr(flips, "SHORT_LIST", 10**6)
    monkeypatch.setattr(flips, "WALKED", 0)  # all is sorted
    for short, whole in zip(listed, feasible_flips(operator, 1 - x0, x0, "any", 2), strict=True):
        assert torch.equal(short, whole) and bool((short > 0).any())


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_the_best_of_all_steps_compete(budget: int) -> None:
    """Piece by piece the same as the best of the union, with steps that make nothing better."""
    generator = torch.Generator().manual_seed(0)
    gains = torch.rand(3, 6, 2, 4, generator=generator).sort(0, descending=True).values
    gains[:, 3] = 0
    other = gains.flip(1)
    first, sums = flips.best_so_far(([], []), Gains(gains[:, :2], other[:, :2]), 2, budget)
    _, more = flips.best_so_far(first, Gains(gains[:, 2:], other[:, 2:]), 4, budget)
    for side, all_gains in enumerate((gains, other)):
        for step, found in enumerate([*sums[side], *more[side]], 1):
            best = all_gains[:, :step].flatten(0, 1).sort(0, descending=True).values[:budget].sum(0)
            torch.testing.assert_close(found, best)


@torch.no_grad()
def test_rounding_behind_the_first_layer_covers_the_spikes_that_are_added() -> None:
    """A coarse arithmetic whose errors all point one way: twenty outputs of 1, or -1, added up."""
    unit, ones = 2.0**-6, torch.ones(20, 1, dtype=torch.float64)
    source = FlippedSpikes(torch.zeros(1, 1, 1), SpikeFlips(1, "add"), feasible_flips)
    # Each is rounded as an output, by its product, and by every addition from its own on.
    worst = sum((1 + unit) ** (2 + additions) for additions in range(20))
    for sign in (1, -1):
        operators = [dense(sign * ones), dense(ones.T)]
        low, high = source.currents(operators, Arithmetic(unit, torch.float64))
        assert float((high if sign == 1 else -low).max()) >= worst
