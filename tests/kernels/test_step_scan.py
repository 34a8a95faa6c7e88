"""The compiled step scan against torch's, bit for bit but for the sign of a zero."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from kernel_cases import Case, cases, check_same

pytest.importorskip("numba")

from certsnn.kernels.fused import Fused
from certsnn.kernels.reference import Reference


@given(cases())
def test_both_formulations_return_the_same_numbers(case: Case) -> None:
    low, high = case.ends()
    found, expected = (kind().step_scan((low, high), case.dynamics) for kind in (Fused, Reference))
    check_same(chain(*found), chain(*expected))
