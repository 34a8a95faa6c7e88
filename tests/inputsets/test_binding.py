"""Binding, scaling and the limits of input sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from input_set_cases import few
from input_set_parts import nested
from torch import Tensor

from certsnn.encoding import Bernoulli, bernoulli, bernoulli_noise, keyed_uniform
from certsnn.inputsets import (
    CoupledBernoulli,
    FreeSpikes,
    LinfBall,
    NestedTrains,
    SpikeBox,
    SpikeFlips,
    SpikeShift,
    Threat,
)


@few
@given(st.integers(0, 2**32), st.floats(0, 1.5))
def test_coupled_spikes_are_those_of_the_image_ball(seed: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, index = torch.rand((3, 1, 4), generator=generator), torch.tensor([5, 0, 9])
    threat = CoupledBernoulli(eps, steps=4, seed=seed)
    x0, trains = threat.bind(x, index)
    trains.check(x0)
    assert torch.equal(x0, Bernoulli(4, seed)(x, index))
    noise = bernoulli_noise((1, 4), 4, seed, index)
    for _ in range(5):
        image = LinfBall(eps).sample(x, generator)
        assert trains.contains(x0, bernoulli(image, noise)).all()
    same, cover = threat.cover(x, index)
    assert torch.equal(same, x0)
    for ours, theirs in zip(trains.box(x0), cover.box(x0), strict=True):
        assert torch.equal(ours, theirs)
    A = torch.randn((2, *x0.shape), generator=generator)
    assert (cover.minimum(A, x0) <= trains.minimum(A, x0) + 1e-5).all()


def test_binding_does_not_depend_on_the_batch() -> None:
    x, index = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    for threat in (CoupledBernoulli(0.2, 5), FreeSpikes(0.5)):
        inputs = x if threat.domain == "image" else Bernoulli(5)(x, index)
        axis = 0 if threat.domain == "image" else 1
        x0, whole = threat.bind(inputs, index)
        part = torch.tensor([2, 0])
        x0_part, chosen = threat.bind(inputs.index_select(axis, part), index[part])
        assert torch.equal(x0_part, x0[:, part])
        for ours, theirs in zip(chosen.box(x0_part), whole.box(x0), strict=True):
            assert torch.equal(ours, theirs[:, part])


# SpikeBox and FreeSpikes


def test_free_spikes_free_their_share() -> None:
    x = torch.randint(0, 2, (10, 3, 200), generator=torch.Generator().manual_seed(0)).float()
    index = torch.arange(3)

    def free(density: float) -> Tensor:
        x0, box = FreeSpikes(density, seed=1).bind(x, index)
        assert torch.equal(x0, x)
        box.check(x0)
        lower, upper = box.box(x0)
        return lower != upper

    assert not free(0.0).any() and free(1.0).all()
    assert abs(float(free(0.3).float().mean()) - 0.3) < 0.03
    assert (free(0.6) | ~free(0.3)).all()
    # Freed bits are independent of the encoding noise under the same seed.
    noise = keyed_uniform((10, 200), 1, index)
    assert abs(float(noise[free(0.3)].mean()) - 0.5) < 0.03


# LinfBall


@given(
    st.floats(0, 1, width=32),
    st.floats(0, 1, width=32),
    st.floats(0, 2),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_linf_box_holds_all_that_is_within_eps(
    start: float, other: float, eps: float, dtype: torch.dtype
) -> None:
    x0, x = torch.tensor([[start]], dtype=dtype), torch.tensor([[other]], dtype=dtype)
    distance = abs(Fraction(x.item()) - Fraction(x0.item()))
    ball = LinfBall(eps)
    if distance <= Fraction(eps):
        assert ball.contains(x0, x).item()
    # The ball of just this radius in exact arithmetic, rounded to float64 upwards.
    assert LinfBall(math.nextafter(float(distance), math.inf)).contains(x0, x).item()
    # No looser than one rounding.
    lower, upper = ball.box(x0)
    assert max(0.0, x0.item() - eps) == pytest.approx(lower.item(), rel=1e-2, abs=1e-6)
    assert min(1.0, x0.item() + eps) == pytest.approx(upper.item(), rel=1e-2, abs=1e-6)
    assert ball.contains(x0, x0).item()


def test_linf_box_is_rounded_from_float64() -> None:
    x0 = torch.tensor([[0.5, 0.05, 0.95]])
    lower, upper = LinfBall(0.1).box(x0)
    wide = x0.double()
    assert torch.equal(lower, (wide - 0.1).clamp(min=0).float())
    assert torch.equal(upper, (wide + 0.1).clamp(max=1).float())
    assert lower[0, 1] == 0 and upper[0, 2] == 1
    unbounded = LinfBall(0.1, low=None, high=None).box(x0)
    assert unbounded[0][0, 1] < 0 and unbounded[1][0, 2] > 1


def test_linf_contains_is_sharp() -> None:
    ball, x0 = LinfBall(0.1), torch.tensor([[0.5, 0.3], [0.5, 0.3]])
    lower, upper = ball.box(x0)
    below = torch.nextafter(lower, torch.tensor(-1.0))
    above = torch.nextafter(upper, torch.tensor(2.0))
    assert ball.contains(x0, lower).all() and ball.contains(x0, upper).all()
    for outside in (below, above):
        x = x0.clone()
        x[0, 1] = outside[0, 1]
        assert ball.contains(x0, x).tolist() == [False, True]
    assert not ball.contains(x0, x0 * torch.nan).any()


@few
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_linf_against_its_corners(seed: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand((2, 1, 3), generator=generator)
    ball = LinfBall(eps)
    ends = torch.stack(ball.box(x0)).flatten(2)
    corners = [
        torch.stack([ends[pick, :, i] for i, pick in enumerate(picks)], dim=1).view(x0.shape)
        for picks in product((0, 1), repeat=3)
    ]
    A = torch.randn((4, *x0.shape), generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.stack([(A * corner).flatten(2).sum(dim=2) for corner in corners])
    minimum = ball.minimum(A, x0)
    torch.testing.assert_close(minimum, values.amin(dim=0), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(minimum.sum(), A)
    assert all(ball.contains(x0, row).all() for row in gradient)
    far = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    projected = ball.project(x0, far)
    assert projected.dtype == x0.dtype and ball.contains(x0, projected).all()
    for x in (projected, ball.sample(x0, generator), *corners):
        assert ball.contains(x0, x).all()
        assert torch.equal(ball.project(x0, x), x)


def test_linf_samples_inside_and_corners() -> None:
    x0, ball = torch.full((3000, 8), 0.5), LinfBall(0.25)
    moved = (ball.sample(x0, torch.Generator().manual_seed(0)) - x0).abs()
    corner = (moved == 0.25).all(dim=1)
    still = (moved == 0).any(dim=1)
    shares = [float(kind.float().mean()) for kind in (corner, still, ~corner & ~still)]
    assert min(shares) > 0.2 and sum(shares) == pytest.approx(1)


def test_linf_samples_of_low_precision_stay_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn((500, 40), generator=generator).bfloat16()
    for eps in (0.03, 0.1, 0.7):
        ball = LinfBall(eps, low=None, high=None)
        assert ball.contains(x0, ball.sample(x0, generator)).all()


def test_linf_of_no_radius_is_the_image() -> None:
    x0 = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    (only,) = LinfBall(0).enumerate(x0)
    assert torch.equal(only, x0)
    assert all(torch.equal(bound, x0) for bound in LinfBall(0).box(x0))


def test_limits_are_compared_in_the_images_precision() -> None:
    x = torch.full((1, 2), 0.1)  # float32(0.1) > 0.1
    ball = LinfBall(0.0, high=0.1)
    ball.check(x)
    assert ball.contains(x, x).all()
    ball.check(x.double().fill_(0.1))
    with pytest.raises(ValueError, match="within"):
        ball.check(x.double())


# All of them


def test_scaled() -> None:
    assert LinfBall(0.2, low=None).scaled(0.5) == LinfBall(0.1, low=None)
    assert CoupledBernoulli(0.2, 3, 4).scaled(0.5) == CoupledBernoulli(0.1, 3, 4)
    assert FreeSpikes(0.5, 4).scaled(0.5) == FreeSpikes(0.25, 4)
    assert FreeSpikes(0.5).scaled(3) == FreeSpikes(1.0)
    assert SpikeFlips(5, "add").scaled(0.5) == SpikeFlips(3, "add")
    assert SpikeFlips(100).scaled(0.07) == SpikeFlips(7)
    assert SpikeFlips(5).scaled(0) == SpikeFlips(0)
    assert SpikeShift(2, 5).scaled(0.5) == SpikeShift(2, 3)
    box = SpikeBox(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert box.scaled(1) is box
    trains = nested([0.5])
    assert trains.scaled(1) is trains


@pytest.mark.parametrize(
    "threat", [CoupledBernoulli(0.4, 4), FreeSpikes(0.4), SpikeFlips(3), SpikeShift(1, 3)]
)
def test_scaled_to_nothing_leaves_the_input_alone(threat: Threat) -> None:
    x = torch.randint(0, 2, (3, 2, 4), generator=torch.Generator().manual_seed(0)).float()
    x0, input_set = threat.scaled(0).bind(x, torch.arange(x.shape[threat.domain == "spikes"]))
    (only,) = input_set.enumerate(x0)
    assert torch.equal(only, x0)
    assert all(torch.equal(bound, x0) for bound in input_set.box(x0))


def test_domains_and_descriptions() -> None:
    box = SpikeBox(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 1.0]]]))
    table: list[tuple[Threat, str, str, str]] = [
        (LinfBall(0.1), "image", "image", "LinfBall(eps=0.1)"),
        (LinfBall(0.1, high=None), "image", "image", "LinfBall(eps=0.1, low=0, high=inf)"),
        (box, "spikes", "spikes", "SpikeBox(free=0.5)"),
        (FreeSpikes(0.2), "spikes", "spikes", "FreeSpikes(density=0.2, seed=0)"),
        (SpikeFlips(5), "spikes", "spikes", "SpikeFlips(budget=5, kind=any)"),
        (SpikeShift(2, 5), "spikes", "spikes", "SpikeShift(max_shift=2, moved=5)"),
        (CoupledBernoulli(0.1, 4), "image", "spikes", "CoupledBernoulli(eps=0.1, steps=4, seed=0)"),
        (nested([0.5, 0.1]), "spikes", "spikes", "NestedTrains(steps=2)"),
    ]
    for threat, domain, network_input, name in table:
        assert (threat.domain, threat.network_input, threat.describe()) == (
            domain,
            network_input,
            name,
        )
    assert LinfBall(0.1).batch_axis == 0 and SpikeFlips(1).batch_axis == 1


X, INDEX = torch.full((2, 3), 0.5), torch.tensor([0, 1])
SPIKES = torch.zeros(4, 2, 3)
WIDE = torch.zeros(7, 1, 3)  # 2**21 trains
BOX = SpikeBox(SPIKES, torch.ones_like(SPIKES))
TRAINS = CoupledBernoulli(0.1, 4).bind(X, INDEX)[1]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "eps must be finite", lambda: LinfBall(-0.1)),
        (ValueError, "eps must be finite", lambda: LinfBall(math.nan)),
        (ValueError, "eps must be finite", lambda: CoupledBernoulli(math.inf, 3)),
        (TypeError, "eps must be a number", lambda: LinfBall("0.1")),  # type: ignore[arg-type]
        (ValueError, "low must be less", lambda: LinfBall(0.1, low=1.0, high=0.0)),
        (TypeError, "low must be a number", lambda: LinfBall(0.1, low="a")),  # type: ignore[arg-type]
        (ValueError, "factor must be finite", lambda: LinfBall(0.1).scaled(-1)),
        (ValueError, "NaN", lambda: LinfBall(0.1).bind(X * torch.nan, INDEX)),
        (ValueError, "NaN or inf", lambda: LinfBall(1, None, None).bind(X * torch.inf, INDEX)),
        (ValueError, r"within \[0, 1\]", lambda: LinfBall(0.1).bind(X - 1, INDEX)),
        (TypeError, "floating-point", lambda: LinfBall(0.1).bind(X.long(), INDEX)),
        (ValueError, "batch axis", lambda: LinfBall(0.1).bind(X[0], INDEX)),
        (ValueError, "infinitely many", lambda: LinfBall(0.1).enumerate(X)),
        (ValueError, "coefficients have shape", lambda: LinfBall(0.1).minimum(X, X)),
        (TypeError, "coefficients must be", lambda: LinfBall(0.1).minimum(X.long()[None], X)),
        (ValueError, "x has shape", lambda: LinfBall(0.1).contains(X, X[:1])),
        (ValueError, "x holds NaN", lambda: LinfBall(0.1).project(X, X * torch.nan)),
        (ValueError, "x is on meta", lambda: LinfBall(0.1).contains(X, X.to("meta"))),
        (ValueError, "budget must be finite", lambda: SpikeFlips(-1)),
        (TypeError, "an integer", lambda: SpikeFlips(1.5)),  # type: ignore[arg-type]
        (ValueError, "any, add, drop", lambda: SpikeFlips(1, "move")),  # type: ignore[arg-type]
        (ValueError, "exceeds the 12 bits", lambda: SpikeFlips(13).bind(SPIKES, INDEX)),
        (ValueError, "max_shift must be finite", lambda: SpikeShift(-1, 1)),
        (TypeError, "moved is a number of spikes", lambda: SpikeShift(1, 1.5)),  # type: ignore[arg-type]
        (ValueError, "must be binary", lambda: SpikeShift(1, 1).bind(SPIKES + 0.5, INDEX)),
        (ValueError, "too many", lambda: SpikeShift(30, 30).enumerate(torch.eye(30)[:, None])),
        (ValueError, "first 5 steps .* have 4", lambda: SpikeShift(1, 1).first(SPIKES, 5)),
        (ValueError, "must be binary", lambda: SpikeFlips(1).bind(SPIKES + 0.5, INDEX)),
        (ValueError, "hold NaN", lambda: SpikeFlips(1).bind(SPIKES * torch.nan, INDEX)),
        (ValueError, "time or batch axis", lambda: SpikeFlips(1).bind(SPIKES[0], INDEX)),
        (TypeError, "floating-point", lambda: SpikeFlips(1).bind(SPIKES.bool(), INDEX)),
        (ValueError, "too many", lambda: SpikeFlips(21).enumerate(WIDE)),
        (ValueError, "score has shape", lambda: SpikeFlips(1).project(SPIKES, SPIKES, X)),
        (ValueError, "score holds NaN", lambda: SpikeFlips(1).project(SPIKES, SPIKES, SPIKES / 0)),
        (ValueError, "first 5 steps .* have 4", lambda: SpikeFlips(1).first(SPIKES, 5)),
        (ValueError, "first 0 steps .* have 4", lambda: BOX.first(SPIKES, 0)),
        (ValueError, "first 5 steps .* have 4", lambda: TRAINS.first(SPIKES, 5)),
        (ValueError, "lower exceeds", lambda: SpikeBox(SPIKES + 1, SPIKES)),
        (ValueError, "must be binary", lambda: SpikeBox(SPIKES, SPIKES + 2)),
        (ValueError, "upper has shape", lambda: SpikeBox(SPIKES, SPIKES[:1])),
        (ValueError, "outside the SpikeBox", lambda: SpikeBox(SPIKES, SPIKES).check(SPIKES + 1)),
        (ValueError, "this SpikeBox has shape", lambda: BOX.check(SPIKES[:, :1])),
        (ValueError, "too many", lambda: SpikeBox(WIDE, WIDE + 1).enumerate(WIDE)),
        (ValueError, "use FreeSpikes", lambda: BOX.scaled(0.5)),
        (ValueError, "boolean tensor", lambda: BOX.select(torch.tensor([True]))),
        (ValueError, "at most 1", lambda: FreeSpikes(1.5)),
        (ValueError, "one a sample", lambda: FreeSpikes(0.5).bind(SPIKES, INDEX[:1])),
        (ValueError, "at least 1", lambda: CoupledBernoulli(0.1, 0)),
        (ValueError, r"within \[0, 1\]", lambda: CoupledBernoulli(0.1, 3).bind(X + 1, INDEX)),
        (ValueError, "one a sample", lambda: CoupledBernoulli(0.1, 3).bind(X, INDEX[:1])),
        (ValueError, "noise holds NaN", lambda: NestedTrains(SPIKES / 0, X, X)),
        (ValueError, "noise must have", lambda: NestedTrains(X, X, X)),
        (ValueError, "lower has shape", lambda: NestedTrains(SPIKES, X[:1], X)),
        (ValueError, "lower exceeds", lambda: NestedTrains(SPIKES, X + 1, X)),
        (ValueError, "not the encoding", lambda: nested([0.1, 0.2], 0.5).check(WIDE[:2, :, :1])),
        (ValueError, "NestedTrains has shape", lambda: TRAINS.check(SPIKES[:, :1])),
        (ValueError, "scale CoupledBernoulli", lambda: TRAINS.scaled(0.5)),
        (ValueError, "boolean tensor", lambda: TRAINS.select(torch.tensor([1, 0]))),
        (ValueError, "at least 0", lambda: TRAINS.project(SPIKES, SPIKES, SPIKES - 1)),
    ],
)
def test_errors_name_the_problem(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_enumeration_limit_of_nested_trains() -> None:
    x = torch.zeros(1, 6)
    x0, trains = CoupledBernoulli(1.0, 40).bind(x, torch.tensor([0]))
    with pytest.raises(ValueError, match="too many"):
        trains.enumerate(x0)


def test_an_empty_batch_is_fine() -> None:
    x, index = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    for threat in (LinfBall(0.1), CoupledBernoulli(0.1, 4)):
        x0, input_set = threat.bind(x, index)
        assert input_set.contains(x0, x0).shape == (0,)
        assert input_set.minimum(torch.zeros(2, *x0.shape), x0).shape == (2, 0)
        assert input_set.project(x0, x0).shape == x0.shape
