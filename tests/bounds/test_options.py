"""The options of bounds: what is refused, what files of results keep, and that each reaches its method."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from stand_in import StandIn
from torch import Tensor, nn

from certsnn.bounds import METHODS, certify, margin_bounds
from certsnn.bounds.options import STANDARD, BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.cli.app import main
from certsnn.cli.arguments import BOUNDS
from certsnn.evaluation import evaluate
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

GIVEN = BoundOptions("asked", False, "separate", 2**20, 7.5, 3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[BoundOptions]:
    """The options that each call of a method "asked" was given."""
    found: list[BoundOptions] = []

    def answer(problem: Problem, options: BoundOptions) -> Tensor:
        found.append(options)
        return METHODS["s-ibp"](problem, options)

    method = StandIn("asked", answer, limited=True)
    monkeypatch.setitem(METHODS, "asked", method)
    return found


def same(found: list[BoundOptions]) -> bool:
    assert found, "no method was asked"
    return all(replace(options, deadline=STANDARD.deadline) == GIVEN for options in found)


def example() -> tuple[SpikingNetwork, Tensor, Tensor]:
    torch.manual_seed(1)
    network = SpikingNetwork([nn.Linear(3, 4), LIF(0.3), nn.Linear(4, 2)], 3, "membrane").eval()
    x = torch.rand(2, 3)
    return network, x, network(x).argmax(1)


def test_every_option_reaches_the_method_from_python(asked: list[BoundOptions]) -> None:
    network, x, y = example()
    certify(network, x, y, LinfBall(0.1), **GIVEN.facts)
    evaluate(network, [(x, y, torch.arange(2))], LinfBall(0.1), attacks=[], **GIVEN.facts)
    assert len(asked) == 2 and same(asked)
    margin_bounds(network, x, y, LinfBall(0.1), "asked", relaxation="separate", memory=2**20, iterations=3)
    assert asked[-1] == replace(GIVEN, seconds=None)


def test_every_option_reaches_the_method_from_the_command_line(
    asked: list[BoundOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for name, value in GIVEN.facts.items() for word in (f"--{name}", str(value).lower())]
    assert main(["verify", "digits-eps0.05", "--samples", "1", *words]) == 0
    assert same(asked)
    assert "rounding not covered" in capsys.readouterr().out


def test_tables_say_what_differs_from_the_defaults() -> None:
    assert STANDARD.describe() == "s-ibp, rounding covered"
    said = "asked, separate relaxation, rounding not covered, at most 7.5 s a sample, 3 iterations"
    assert GIVEN.describe() == said


def test_every_option_has_a_flag() -> None:
    flags = {word.removeprefix("--") for word in BOUNDS.split()} - {"batch-size"}
    assert flags == set(STANDARD.facts) == {field.name for field in fields(BoundOptions)} - {"deadline"}


def test_files_of_results_from_before_an_option_stay_readable() -> None:
    old = {"method": "s-ibp", "rounding": True, "relaxation": "joint", "seconds": None}
    assert STANDARD.identity == old
    assert replace(STANDARD, memory=5, deadline=1.0).identity == old
    assert replace(STANDARD, iterations=3).identity == old | {"iterations": 3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"relaxation": "apart"}, "relaxation must be one of joint, separate, got 'apart'"),
        ({"memory": 0}, "memory budget must be at least 1 byte, got 0"),
        ({"seconds": 0.0}, "time limit must be > 0 seconds, got 0.0"),
        ({"seconds": float("nan")}, "time limit must be > 0 seconds, got nan"),
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
    ],
)
def test_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoundOptions(**wrong)


def test_an_evaluation_refuses_other_keywords() -> None:
    network, x, y = example()
    with pytest.raises(TypeError, match="rounds"):
        evaluate(network, [(x, y, torch.arange(2))], LinfBall(0.1), attacks=[], rounds=True)
