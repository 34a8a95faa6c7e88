"""The margins on record are found again: bit for bit where they were recorded, to rounding elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import recorded
import torch

SLOW = ("alpha-s-crown", "auto")
METHODS = [
    pytest.param(method, marks=[pytest.mark.slow] if method in SLOW else []) for method in recorded.METHODS
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rounding", [True, False], ids=["rounding", "plain"])
@pytest.mark.parametrize("method", METHODS)
def test_margins_are_those_on_record(method: str, rounding: bool) -> None:
    record = recorded.load()
    expected, found = record["margins"][f"{method} {rounding}"], recorded.margins(method, rounding)
    assert found.keys() == expected.keys()
    exact = record["surroundings"] == recorded.surroundings()
    for name, rows in found.items():
        one, other = torch.tensor(rows).double(), torch.tensor(expected[name]).double()
        if exact:
            assert torch.equal(one, other), f"{name}: off by {float((one - other).abs().max()):.1e}"
        else:  # slopes that are optimised may take another way
            slack = 0.05 if method in ("alpha-s-crown", "auto") else 1e-4
            torch.testing.assert_close(one, other, rtol=slack, atol=slack)
    assert sum(len(row) for rows in found.values() for row in rows) >= 300
