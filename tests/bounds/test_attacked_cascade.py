"""An attack in a cascade: whom it attacks, when and for how long, and what becomes of the broken."""

from __future__ import annotations

import time

import pytest
import torch
from stand_in import YES, Calls, problem_of

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
