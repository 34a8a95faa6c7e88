"""The compiled scans against torch's, bit for bit but for the sign of a zero."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest
from hypothesis import given, settings
from kernel_cases import Case, cases, check_same
from torch import Tensor

pytest.importorskip("numba")

from certsnn.kernels.base import Kernels
from certsnn.kernels.fused import Fused
from certsnn.kernels.reference import Reference


def check(compute: Callable[[Kernels], list[Tensor]]) -> None:
    check_same(compute(Fused()), compute(Reference()))


@settings(max_examples=12)
@given(cases())
def test_scan(case: Case) -> None:
    for kind in case.kinds():
        check_scan(kind)


def check_scan(case: Case) -> None:
    held, (steps, *_) = case.held, case.shape
    currents = case.currents(case.generator())[: 1 if held else steps]
    check(lambda kernels: [*kernels.scan(currents, steps, case.dynamics)])


@settings(max_examples=12)
@given(cases())
def test_step_scan(case: Case) -> None:
    for kind in case.kinds():
        check_step_scan(kind)


def check_step_scan(case: Case) -> None:
    ends = case.ends()
    check(lambda kernels: [*chain(*kernels.step_scan(ends, case.dynamics))])
    within = case.currents(generator := case.generator()) - 1, case.currents(generator) + 1
    check(lambda kernels: [*chain(*kernels.step_scan_within(ends, within, case.dynamics))])


@settings(max_examples=12)
@given(cases())
def test_count_scan(case: Case) -> None:
    for kind in case.kinds():
        check_count_scan(kind)


def check_count_scan(case: Case) -> None:
    steps, *_ = case.shape
    sums = case.currents(case.generator())[: 1 if case.held else steps]
    held = steps if case.held else None
    check(lambda kernels: [*kernels.count_scan(sums, held, case.dynamics)])


@settings(max_examples=12)
@given(cases())
def test_widened(case: Case) -> None:
    for kind in case.kinds():
        check_widened(kind)


def check_widened(case: Case) -> None:
    def widen(kernels: Kernels) -> list[Tensor]:
        ends, error = kernels.widened(case.ends(), case.dynamics, 2.0**-5, 2.0**-9)
        return [*ends, error]

    check(widen)
