"""Which kernels run where, and what a person can ask for."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.scans import scan_steps
from certsnn.cli.app import main
from certsnn.errors import UserError
from certsnn.kernels import choice, setting
from certsnn.kernels.choice import Choice, kernels
from certsnn.kernels.reference import Reference
from certsnn.neurons import LIF

NUMBA = importlib.util.find_spec("numba") is not None
NUMBER = torch.tensor(0.5)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The choice of a process that has made none."""
    monkeypatch.setattr(choice, "_choice", choice._choice.__wrapped__)
    return monkeypatch


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting, "find_spec", lambda name: None)


def kind(*arrays: Tensor, numbers: tuple[Tensor, ...] = (NUMBER,)) -> str:
    return type(Choice(True, 0).among(arrays, numbers)).__name__


@pytest.mark.skipif(not NUMBA, reason="numba is not installed")
def test_compiled_loops_take_contiguous_floats_on_the_cpu() -> None:
    x = torch.zeros(3, 2, 4)
    assert kind(x) == kind(x.double()) == "Fused"
    assert kind(x.double(), numbers=(NUMBER,)) == "Fused"  # the number is widened, as in torch
    assert kind(x[:1].expand(3, 2, 4)) == "Fused"  # the same current at every step
    assert kind(x, numbers=(NUMBER.double(),)) == "Reference"
    assert kind(x, x.double()) == kind(x.half()) == kind(x.mT) == kind(x, x.mT) == "Reference"
    assert kind(x.to("meta"), numbers=(NUMBER.to("meta"),)) == "Reference"
    recorded = x.clone().requires_grad_()
    assert kind(recorded) == "Reference"
    with torch.no_grad():
        assert kind(recorded) == "Fused"


@pytest.mark.skipif(not NUMBA, reason="numba is not installed")
def test_compiled_loops_take_over_once_they_pay_and_change_nothing() -> None:
    chosen, x = Choice(True, 30), torch.zeros(3, 2, 2)
    found = [type(chosen.among([x], [NUMBER])).__name__ for _ in range(4)]  # 12 elements each
    assert found == ["Reference", "Reference", "Fused", "Fused"]


@pytest.mark.parametrize("name", ["", "auto", "torch", *(["numba"] if NUMBA else [])])
def test_what_a_person_asks_for(name: str, fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv(setting.VARIABLE, name)
    found = type(kernels([torch.zeros(1, 1, 1)], [NUMBER])).__name__
    assert found == ("Fused" if name == "numba" else "Reference")
    assert setting.description().startswith("numba " if NUMBA and name != "torch" else "torch")


@pytest.mark.parametrize("words", [["--version"], ["verify", "digits-eps0.05"]])
def test_another_name_gets_one_message(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(setting.VARIABLE, "numbba")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "CERTSNN_KERNELS must be one of auto, torch, numba, not 'numbba'; did you mean numba?" in error


@pytest.mark.usefixtures("without_numba")
def test_without_numba_torch_computes(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv(setting.VARIABLE, "auto")
    fresh.setattr(choice, "LOADING", 0)
    assert type(kernels([torch.zeros(1, 1, 1)], [NUMBER])) is Reference
    assert setting.description() == "torch"
    fresh.setenv(setting.VARIABLE, "numba")
    with pytest.raises(UserError, match=r"pip install 'certsnn\[fast\]'"):
        setting.asked_for()


def test_a_broken_numba_is_told_of_once_and_torch_computes(
    fresh: pytest.MonkeyPatch,
) -> None:
    fresh.setitem(sys.modules, "certsnn.kernels.fused", None)  # its import fails
    chosen, low = Choice(True, 0), torch.rand(3, 2, 4)
    with pytest.warns(UserWarning, match="numba cannot be used, so torch computes alone"):
        assert type(chosen.among([low], [NUMBER])) is Reference
    fresh.setattr(choice, "_choice", lambda: chosen)
    scan_steps(Interval(low, low + 1), LIF(0.5, 0.5).dynamics())
