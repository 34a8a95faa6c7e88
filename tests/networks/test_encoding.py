from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certsnn.encoding import Bernoulli, Latency, bernoulli, bernoulli_noise, keyed_uniform


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    st.integers(0, 2**64 - 1),
    st.integers(1, 4),
)
def test_noise_depends_on_seed_and_index_only(index: list[int], seed: int, steps: int) -> None:
    noise = bernoulli_noise((2, 3), steps, seed, torch.tensor(index))
    assert noise.shape == (steps, len(index), 2, 3) and noise.dtype == torch.float32
    assert ((noise >= 0) & (noise < 1)).all()
    for row, position in enumerate(index):
        alone = bernoulli_noise((2, 3), steps, seed, torch.tensor([position]))
        assert torch.equal(noise[:, row], alone[:, 0])
    longer = bernoulli_noise((2, 3), steps + 1, seed, torch.tensor(index))
    assert torch.equal(longer[:steps], noise)


def test_noise_differs_between_keys_and_streams() -> None:
    index = torch.tensor([0, 1])
    noise = keyed_uniform((5, 4), 0, index)
    assert not torch.equal(noise[:, 0], noise[:, 1])
    assert not torch.equal(noise, keyed_uniform((5, 4), 1, index))
    assert not torch.equal(noise, keyed_uniform((5, 4), 0, index, stream=1))


def test_noise_is_pinned() -> None:
    """Published figures rest on these numbers: a change here changes every spiking certificate."""
    noise = bernoulli_noise((1,), 3, 7, torch.tensor([3])).flatten()
    assert (noise * 2**24).tolist() == [8793285, 8088775, 4931469]


def test_noise_is_uniform() -> None:
    noise = keyed_uniform((100, 100), 0, torch.arange(4))
    assert abs(float(noise.mean()) - 0.5) < 0.01
    assert abs(float(noise.var()) - 1 / 12) < 0.002


def test_bernoulli_fires_strictly_above_the_noise() -> None:
    x = torch.tensor([[0.0, 0.5, 1.0]])
    noise = torch.tensor([[[0.0, 0.5, 0.999]], [[0.2, 0.4, 0.0]]])
    assert bernoulli(x, noise).tolist() == [[[0, 0, 1]], [[0, 1, 1]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_encoding(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0.3, 1.0]], dtype=dtype)
    spikes = Bernoulli(steps=2000, seed=3)(x, torch.tensor([9]))
    assert spikes.dtype == dtype and spikes.shape == (2000, 1, 3)
    rate = spikes.mean(dim=0)[0]
    assert rate[0] == 0 and rate[2] == 1 and abs(float(rate[1]) - 0.3) < 0.04


def test_latency_encoding() -> None:
    x = torch.tensor([[0.0, 0.01, 0.5, 0.7, 1.0]])
    spikes = Latency(steps=5)(x, torch.tensor([0]))
    assert spikes.shape == (5, 1, 5)
    assert spikes.sum(dim=0).tolist() == [[0, 1, 1, 1, 1]]
    assert spikes.argmax(dim=0).tolist() == [[0, 4, 2, 1, 0]]
    assert Latency(steps=1)(x, torch.tensor([0])).tolist() == [[[0, 1, 1, 1, 1]]]


X, INDEX = torch.full((2, 3), 0.5), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "at least 1", lambda: Bernoulli(0)),
        (TypeError, "steps must be an integer", lambda: Latency(2.0)),  # type: ignore[arg-type]
        (ValueError, "seed must lie", lambda: Bernoulli(1, seed=-1)),
        (TypeError, "seed must be an integer", lambda: Bernoulli(1, seed=0.5)),  # type: ignore[arg-type]
        (ValueError, "NaN", lambda: Bernoulli(1)(X * torch.nan, INDEX)),
        (ValueError, r"within \[0, 1\]", lambda: Latency(1)(X * 3, INDEX)),
        (TypeError, "floating-point", lambda: Latency(1)(X.long(), INDEX)),
        (ValueError, "batch axis", lambda: Latency(1)(X[0], INDEX)),
        (ValueError, "one a sample", lambda: Bernoulli(1)(X, INDEX[:1])),
        (ValueError, "negative", lambda: Bernoulli(1)(X, -1 - INDEX)),
        (TypeError, "integer tensor", lambda: Bernoulli(1)(X, INDEX.float())),
    ],
)
def test_errors_name_the_problem(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()
