"""An attack in a cascade: whom it attacks, when and for how long, and what becomes of the broken."""

from __future__ import annotations

import time

import pytest
import torch
from stand_in import NO, YES, Calls, StandIn, problem_of
from torch import Tensor

from certsnn.bounds import cascade
from certsnn.bounds.cascade import _status, decide
from certsnn.bounds.method import Broken
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem

OPTIONS = BoundOptions()


class Attacked(list[tuple[list[int], float]]):
    """An attack that breaks some samples; the samples and the deadline of its calls."""

    def __init__(self, *broken: int) -> None:
        super().__init__()
        self.broken = broken

    def __call__(self, problem: Problem, options: BoundOptions) -> Broken:
        samples = [round(16 * float(pixel)) for pixel in problem.x0[:, 3]]
        self.append((samples, options.deadline))
        found = torch.tensor([sample in self.broken for sample in samples])
        return Broken(found, torch.where(found[:, None], problem.x0 + 0.01, problem.x0))


def test_an_attack_ends_samples_before_the_slow_methods() -> None:
    calls, attack = Calls(), Attacked(0, 2, 3)
    cascade = [
        calls.stage("slow", {0: YES, 2: YES, 4: YES}, alone=True),
        calls.stage("a", {0: YES}),
        calls.stage("b", {1: YES}),
    ]
    problem = problem_of([0, 0, 0, 0, 0, 1])
    verdict = decide(problem, cascade, OPTIONS, attack)
    assert [samples for samples, _ in attack] == [[2, 3, 4]], "open, and right"
    assert calls.asked[-1] == ("slow", [4])
    assert verdict.status == ["certified", "certified", "broken", "broken", "certified", "unknown"]
    assert verdict.stage == ["a", "b", "attack", "attack", "slow", "a"]
    assert verdict.broken.tolist() == [False, False, True, True, False, False]
    moved = (verdict.adversarial != problem.x0).any(1)
    assert torch.equal(moved, verdict.broken)
    assert torch.equal(problem.x0, problem_of([0] * 6).x0), "nothing is changed in place"


def test_no_attack_without_slow_methods() -> None:
    attack = Attacked(0)
    verdict = decide(problem_of([0]), [Calls().stage("a", {}), Calls().stage("b", {})], OPTIONS, attack)
    assert (attack, verdict.status) == ([], ["unknown"])


def test_an_attack_has_its_share_of_the_time() -> None:
    calls, attack = Calls(), Attacked()
    slow = [calls.stage(name, {}, limited=True) for name in ("a", "b")]
    begun = time.monotonic()
    decide(problem_of([0, 0]), slow, BoundOptions(seconds=300.0), attack)
    deadlines = [attack[0][1], *(deadline for *_, deadline in calls)]
    assert deadlines == pytest.approx([begun + 200, begun + 300, begun + 600], rel=0, abs=1)


def test_an_attack_that_runs_out_of_memory_is_no_error() -> None:
    def attack(problem: Problem, options: BoundOptions) -> Broken:
        raise MemoryError

    verdict = decide(problem_of([0]), [Calls().stage("a", {0: YES}, alone=True)], OPTIONS, attack)
    assert verdict.status == ["certified"]


def test_a_broken_sample_has_no_error() -> None:
    calls = Calls()
    cascade = [calls.stage("a", {0: MemoryError()}), calls.stage("b", {}, alone=True)]
    verdict = decide(problem_of([0]), cascade, OPTIONS, Attacked(0))
    assert (verdict.status, verdict.reason) == (["broken"], [""])


def test_what_is_broken_is_not_certified_whatever_was_proved() -> None:
    assert _status(True, True, "a: failed", True) == "broken"
    assert _status(False, True, "a: failed", True) == "certified"
    assert _status(False, False, "a: failed", True) == "error"


class Clock:
    """Stands still unless it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.begun = time.monotonic()
        monkeypatch.setattr(cascade, "time", self)

    def monotonic(self) -> float:
        return self.now


def test_an_attack_costs_each_sample_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), Calls()

    def attack(problem: Problem, options: BoundOptions) -> Broken:
        clock.now += 4
        return Broken.nothing(problem)

    stage = calls.stage("a", {}, limited=True)
    verdict = decide(problem_of([0, 0]), [stage, stage], BoundOptions(seconds=10), attack)
    assert verdict.seconds == pytest.approx([2, 2])
    assert [deadline - clock.begun for *_, deadline in calls] == pytest.approx([20, 20])


def test_a_sample_over_its_time_takes_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), Calls()

    def slow(problem: Problem, options: BoundOptions) -> Tensor:
        if len(problem.y) > 1:
            raise MemoryError
        clock.now += 30 if float(problem.x0[0, 3]) == 0 else 0
        return torch.tensor([NO])

    methods = [StandIn("slow", slow, False, True), calls.stage("b", {}, limited=True)]
    decide(problem_of([0, 0]), methods, BoundOptions(seconds=10))
    assert calls.asked == [("b", [0, 1])] and calls[0][2] == pytest.approx(clock.now + 10)


def test_s_ibp_is_asked_by_the_first_method_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Method.prove` looks for samples that S-IBP proves; a later stage has none of them."""
    calls, proved = Calls(), []

    def prove(self: StandIn, problem: Problem, options: BoundOptions) -> Tensor:
        proved.append(self.name)
        return self(problem, options)

    monkeypatch.setattr(StandIn, "prove", prove)
    decide(problem_of([0]), [calls.stage("a", {}), calls.stage("b", {})], OPTIONS)
    assert (proved, calls.asked) == (["a"], [("a", [0]), ("b", [0])])
