"""The compiled scans and their gradients against torch's, bit for bit but for the sign of a zero."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import Case, cases, check_same
from torch import Tensor

pytest.importorskip("numba")

from certsnn.kernels.base import Kernels
from certsnn.kernels.fused import Fused
from certsnn.kernels.reference import Reference


def check(compute: Callable[[Kernels], list[Tensor]]) -> None:
    check_same(compute(Fused()), compute(Reference()))


@settings(max_examples=12)
@given(cases(), st.booleans())
def test_scan(case: Case, wanted: bool) -> None:
    for kind in case.kinds():
        check_scan(kind, wanted)


def check_scan(case: Case, wanted: bool) -> None:
    held, (steps, *_) = case.held, case.shape
    currents = case.currents(case.generator())[: 1 if held else steps]
    trace = Reference().scan(currents, steps, case.dynamics)
    check(lambda kernels: [*kernels.scan(currents, steps, case.dynamics)])

    def pull(kernels: Kernels) -> list[Tensor]:
        to, sums = kernels.pull_scan(trace, case.dynamics, case.gradients(2), held or steps == 1, wanted)
        return [to, *sums.values()]

    check(pull)


@settings(max_examples=12)
@given(cases(), st.booleans())
def test_step_scan(case: Case, wanted: bool) -> None:
    for kind in case.kinds():
        check_step_scan(kind, wanted)


def check_step_scan(case: Case, wanted: bool) -> None:
    ends = case.ends()
    bounds = Reference().step_scan(ends, case.dynamics)
    check(lambda kernels: [*chain(*kernels.step_scan(ends, case.dynamics))])
    within = case.currents(generator := case.generator()) - 1, case.currents(generator) + 1
    check(lambda kernels: [*chain(*kernels.step_scan_within(ends, within, case.dynamics))])

    def pull(kernels: Kernels) -> list[Tensor]:
        gradients = case.gradients(4)
        to, parameters = kernels.pull_step_scan(bounds, case.dynamics, (gradients[:2], gradients[2:]), wanted)
        assert all((towards is not None) == wanted for towards in parameters)
        return [*to, *(towards for towards in parameters if towards is not None)]

    check(pull)


@settings(max_examples=12)
@given(cases(), st.booleans())
def test_count_scan(case: Case, wanted: bool) -> None:
    for kind in case.kinds():
        check_count_scan(kind, wanted)


def check_count_scan(case: Case, wanted: bool) -> None:
    steps, *_ = case.shape
    sums = case.currents(case.generator())[: 1 if case.held else steps]
    held = steps if case.held else None
    scanned = Reference().count_scan(sums, held, case.dynamics)
    check(lambda kernels: [*kernels.count_scan(sums, held, case.dynamics)])

    def pull(kernels: Kernels) -> list[Tensor]:
        towards = torch.stack([torch.zeros(case.shape) if x is None else x for x in case.gradients(2)])[1]
        to, parameters = kernels.pull_count_scan(scanned, case.held, case.dynamics, towards, wanted)
        assert all((towards is not None) == wanted for towards in parameters)
        return [to, *(towards for towards in parameters if towards is not None)]

    check(pull)


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
