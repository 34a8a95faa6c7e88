"""The cascade: who is asked, in what order and for how long; how failures are kept apart; real networks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import pytest
import torch
from stand_in import NO, YES, Calls, StandIn, problem_of
from torch import Tensor, nn

from certsnn.bounds import METHODS, Method, bind, certify, margin_bounds
from certsnn.bounds.cascade import decide
from certsnn.bounds.memory import OverBudget
from certsnn.bounds.methods import LIST, Auto, method_named
from certsnn.bounds.options import BoundOptions, OutOfTime
from certsnn.bounds.problem import Problem
from certsnn.inputsets import CoupledBernoulli, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

OPTIONS = BoundOptions()
AUTO = "auto"


def test_each_stage_is_asked_for_what_is_undecided_and_can_be_decided() -> None:
    calls = Calls()
    cascade = [
        calls.stage("a", {0: YES, 2: (0.0, 1.0)}),
        calls.stage("b", {1: YES}),
        calls.stage("c", {2: YES}, alone=True),
        calls.stage("d", {3: YES}, alone=True),
    ]
    # The network gets sample 5 wrong: no stage after the first is for it.
    verdict = decide(problem_of([0, 0, 0, 0, 0, 1]), cascade, OPTIONS)
    assert calls.asked == [
        ("a", [0, 1, 2, 3, 4, 5]),
        ("b", [1, 2, 3, 4]),
        ("c", [2]),
        ("c", [3]),
        ("d", [3]),
        ("c", [4]),
        ("d", [4]),
    ]
    assert verdict.status == ["certified"] * 4 + ["unknown"] * 2
    assert verdict.stage == ["a", "b", "c", "d", "d", "a"]
    assert verdict.reason == [""] * 6
    assert verdict.certified.tolist() == [True] * 4 + [False] * 2


def test_a_sample_that_ties_stops_after_the_first_stage() -> None:
    problem = problem_of([0, 0])
    problem.x0[1, 1] = problem.x0[1, 0]
    calls = Calls()
    decide(problem, [calls.stage("a", {}), calls.stage("b", {}, alone=True)], OPTIONS)
    assert calls.asked == [("a", [0, 1]), ("b", [0])]


def test_the_best_margins_of_all_stages_are_kept() -> None:
    calls = Calls()
    cascade = [calls.stage("a", {0: (1.0, -1.0), 1: (-1.0, -1.0)}), calls.stage("b", {0: (-1.0, 0.5)})]
    verdict = decide(problem_of([0, 0]), cascade, OPTIONS)
    assert verdict.margins.tolist() == [[1.0, 0.5], [-1.0, -1.0]]
    assert verdict.margins.dtype == torch.float64
    assert verdict.status == ["certified", "unknown"]
    assert verdict.stage == ["b", "b"]


def test_a_margin_of_zero_is_not_certified() -> None:
    verdict = decide(problem_of([0]), [Calls().stage("a", {0: (0.0, 1.0)})], OPTIONS)
    assert verdict.status == ["unknown"]


def test_an_only_stage_is_asked_for_all_samples() -> None:
    """So that an unsound method is found out by what it certifies of the samples that are wrong."""
    calls = Calls()
    verdict = decide(problem_of([0, 1]), [calls.stage("a", {1: YES}, alone=True)], OPTIONS)
    assert calls.asked == [("a", [0]), ("a", [1])]
    assert verdict.status == ["unknown", "certified"]


def test_methods_that_do_not_suit_or_gain_nothing_are_left_out_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Calls()
    monkeypatch.setattr(StandIn, "suits", lambda self, problem: self.name != "b")
    monkeypatch.setattr(StandIn, "gains", lambda self, problem: self.name != "c")
    decide(problem_of([0]), [calls.stage(name, {}) for name in "abcd"], OPTIONS)
    assert calls.asked == [("a", [0]), ("d", [0])]
    decide(problem_of([0]), [calls.stage("b", {})], OPTIONS)
    assert calls.asked[2:] == [("b", [0])]


def test_out_of_time() -> None:
    calls = Calls()
    cascade = [
        calls.stage("a", {}),
        calls.stage("b", {0: OutOfTime()}, alone=True),
        calls.stage("c", {1: YES}, alone=True),
    ]
    verdict = decide(problem_of([0, 0, 0]), cascade, OPTIONS)
    assert calls.asked[:3] == [("a", [0, 1, 2]), ("b", [0]), ("c", [0])], "a method has its share alone"
    assert calls.asked[3:] == [("b", [1]), ("c", [1]), ("b", [2]), ("c", [2])]
    assert verdict.status == ["timeout", "certified", "unknown"]
    assert verdict.stage == ["c", "c", "c"]
    assert verdict.margins[0].tolist() == list(NO)


def test_the_limit_is_each_samples_own_over_all_its_stages() -> None:
    calls = Calls()
    cascade = [
        calls.stage("a", {}),
        calls.stage("b", {}, alone=True),
        calls.stage("c", {}, alone=True),
    ]
    begun = time.monotonic()
    decide(problem_of([0, 0]), cascade, BoundOptions(seconds=1000.0))
    cheap, first, also_first, second, also_second = (deadline for *_, deadline in calls)
    assert cheap == math.inf
    assert (first, second) == pytest.approx((begun + 500, begun + 500), rel=0, abs=1), "half for each"
    assert (also_first, also_second) == pytest.approx((begun + 1000, begun + 1000), rel=0, abs=1)
    calls.clear()
    decide(problem_of([0, 0]), cascade, OPTIONS)
    assert all(deadline == math.inf for *_, deadline in calls)


@pytest.mark.parametrize(("answer", "status"), [(NO, "timeout"), (YES, "certified")])
def test_a_method_that_ends_at_the_limit_with_what_it_has(answer: Sequence[float], status: str) -> None:
    calls = Calls()

    def slow(problem: Problem, options: BoundOptions) -> Tensor:
        time.sleep(0.02)
        return torch.tensor([answer], dtype=torch.float64)

    cascade = [StandIn("slow", slow, True, True), calls.stage("next", {}, alone=True)]
    verdict = decide(problem_of([0]), cascade, BoundOptions(seconds=0.01))
    assert not calls, "no stage begins after the limit"
    assert (verdict.status, verdict.stage) == ([status], ["slow"])
    assert verdict.margins.tolist() == [list(answer)]


def test_no_stage_begins_after_the_limit() -> None:
    calls = Calls()
    verdict = decide(problem_of([0]), [calls.stage("a", {0: YES}, alone=True)], BoundOptions(seconds=1e-9))
    assert not calls
    assert (verdict.status, verdict.stage) == (["timeout"], ["a"])


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        OverBudget("a backward pass of one row takes 9 MiB, and the memory budget is 1 MiB"),
    ],
    ids=["python", "cuda", "cpu", "budget"],
)
def test_out_of_memory(failure: Exception) -> None:
    calls = Calls()
    cascade = [
        calls.stage("a", {}),
        calls.stage("b", {0: failure, 1: YES, 2: failure}, alone=True),
        calls.stage("c", {2: YES}, alone=True),
    ]
    verdict = decide(problem_of([0, 0, 0]), cascade, OPTIONS)
    assert verdict.status == ["error", "certified", "certified"]
    assert verdict.stage == ["c", "b", "c"]
    assert verdict.reason == [f"b: {failure}" if str(failure) else "b: out of memory", "", ""]
    assert verdict.margins.tolist() == [list(NO), list(YES), list(YES)]


def test_a_batch_that_runs_out_of_memory_is_tried_sample_by_sample() -> None:
    calls = Calls()
    cascade = [calls.stage("a", {1: MemoryError(), 2: YES}), calls.stage("b", {})]
    verdict = decide(problem_of([0, 0, 0]), cascade, OPTIONS)
    assert calls.asked == [("a", [0, 1, 2]), ("a", [0]), ("a", [1]), ("a", [2]), ("b", [0, 1])]
    assert verdict.status == ["unknown", "error", "certified"]
    assert verdict.reason == ["", "a: out of memory", ""]


def test_samples_that_run_together_share_the_sum_of_their_limits() -> None:
    limits = []

    def method(problem: Problem, options: BoundOptions) -> Tensor:
        limits.append(options.deadline - time.monotonic())
        time.sleep(0.2)
        return torch.tensor([NO] * len(problem.y))

    both = StandIn("both", method, alone=False, limited=True)
    each = StandIn("each", method, alone=True, limited=True)
    free = StandIn("free", method, alone=False, limited=False)
    decide(problem_of([0, 0]), [free, both, each], BoundOptions(seconds=10))
    assert limits[0] == math.inf
    assert limits[1:] == pytest.approx([9.9, 9.8, 9.8], abs=0.09), "all that was spent counts"


def test_other_errors_are_not_taken_for_a_want_of_memory() -> None:
    for failure in (RuntimeError("shapes do not fit"), ValueError("no bounds for it"), KeyError("x")):
        with pytest.raises(type(failure)):
            decide(problem_of([0]), [Calls().stage("a", {0: failure})], OPTIONS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bounds_that_are_not_finite(value: float) -> None:
    calls = Calls()
    cascade = [calls.stage("a", {0: (value, 1.0)}), calls.stage("b", {1: (value, 1.0), 2: YES}, alone=True)]
    verdict = decide(problem_of([0, 0, 0]), cascade, OPTIONS)
    assert verdict.status == ["error", "error", "certified"]
    assert verdict.reason == ["a: the bounds are not finite", "b: the bounds are not finite", ""]
    assert verdict.margins.tolist() == [list(NO), list(NO), list(YES)]
    alone = decide(problem_of([0, 0]), cascade[:1], OPTIONS)
    assert alone.status == ["error", "unknown"]
    assert alone.margins[0].tolist() == [-math.inf, -math.inf]


def test_time_is_shared_out() -> None:
    def method(seconds: float) -> Callable[[Problem, BoundOptions], Tensor]:
        def run(problem: Problem, options: BoundOptions) -> Tensor:
            time.sleep(seconds)
            return torch.tensor([NO] * len(problem.y), dtype=torch.float64)

        return run

    cheap, dear = StandIn("cheap", method(0.06)), StandIn("dear", method(0.1), True, True)
    one, other, wrong = decide(problem_of([0, 0, 1]), [cheap, dear], OPTIONS).seconds
    assert 0.02 <= wrong < 0.1
    assert one >= 0.12
    assert other >= 0.12


def test_no_samples_and_a_single_class() -> None:
    calls = Calls()
    empty = decide(problem_of([]), [calls.stage("a", {}), calls.stage("b", {}, alone=True)], OPTIONS)
    assert (empty.margins.shape, empty.status, calls.asked) == ((0, 2), [], [])
    network = SpikingNetwork([nn.Linear(2, 1), LIF()], 2)
    verdict = certify(network, torch.rand(2, 2), torch.tensor([0, 0]), LinfBall(0.1), AUTO)
    assert verdict.margins.shape == (2, 0)
    assert verdict.status == ["certified", "certified"]
    assert verdict.stage == ["s-ibp"] * 2


# Real networks and methods.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A cascade without its slowest method."""
    names = ("s-ibp", "s-crown-ibp", "s-crown")
    monkeypatch.setitem(METHODS, AUTO, Auto([METHODS[name] for name in names]))
    return names


def example(seed: int, readout: str = "membrane", image: bool = True) -> tuple[SpikingNetwork, Tensor]:
    torch.manual_seed(seed)
    last = [] if readout == "membrane" else [LIF(0.2)]
    layers = [nn.Linear(8, 6), LIF(0.3, 0.5), nn.Linear(6, 6), LIF(0.3, 0.5), nn.Linear(6, 3), *last]
    kind = "image" if image else "spikes"
    return SpikingNetwork(layers, 4, readout, kind).eval(), torch.rand(8, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("readout", ["membrane", "rate"])
@pytest.mark.parametrize("threat", [LinfBall(0.03), CoupledBernoulli(0.03, 4), SpikeFlips(1)], ids=str)
def test_auto_certifies_what_any_of_its_methods_does(
    threat: Threat, readout: str, quick: tuple[str, ...]
) -> None:
    network, x = example(9, readout, threat.network_input == "image")
    if threat.domain == "spikes":
        x = (torch.rand(4, 8, 8) < x).float()
    with torch.no_grad():
        y = network(bind(network, x, threat, None)[0]).argmax(1)
    y[0] = (y[0] + 1) % 3
    whole = certify(network, x, y, threat, AUTO)
    apart = {name: certify(network, x, y, threat, name) for name in quick}
    assert set(whole.status) in ({"certified", "unknown"}, {"certified", "broken", "unknown"})
    for verdict in apart.values():
        assert (whole.certified >= verdict.certified).all()
    best = torch.stack([verdict.margins for verdict in apart.values()]).amax(0)
    right = torch.ones(8, dtype=torch.bool)
    right[0] = False
    with torch.no_grad():
        logits = network(bind(network, x, threat, None)[0])
    tied = (logits >= logits.gather(1, y[:, None])).sum(1) > 1
    undecided = ~whole.certified & ~whole.broken & right & ~tied
    torch.testing.assert_close(whole.margins[undecided], best[undecided])
    assert {whole.stage[i] for i in undecided.nonzero()} <= {quick[-1]}
    assert {whole.stage[i] for i in whole.broken.nonzero()} <= {"attack"}
    assert (whole.status[0], whole.stage[0]) == ("unknown", quick[0])


@torch.no_grad()
@pytest.mark.parametrize("rounding", [True, False])
def test_margins_of_auto_are_the_best_of_its_methods(rounding: bool, quick: tuple[str, ...]) -> None:
    network, x = example(7)
    y = network(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    apart = [margin_bounds(network, x, y, LinfBall(0.05), name, rounding=rounding) for name in quick]
    found = margin_bounds(network, x, y, LinfBall(0.05), AUTO, rounding=rounding)
    assert found.dtype == apart[0].dtype
    undecided = ~(found > 0).all(1)
    assert 0 < undecided.sum() < 8, "the example shows nothing"
    torch.testing.assert_close(found[undecided], torch.stack(apart).amax(0)[undecided])
    assert (found >= apart[0]).all()


@pytest.mark.parametrize("name", ["s-crown-ibp", "s-crown", "alpha-s-crown"])
def test_a_verdict_bounds_samples_that_s_ibp_proves_by_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = example(7)
    y, threat = network(x).argmax(1), LinfBall(0.05)
    cheap = margin_bounds(network, x, y, threat, rounding=True)
    best = margin_bounds(network, x, y, threat, name, rounding=True, iterations=1)
    proved = (cheap > 0).all(1)
    assert 0 < proved.sum() < 8, "the example shows nothing"
    seen: list[int] = []
    method = type(METHODS[name])
    asked = method.__call__

    def counted(self: Method, problem: Problem, options: BoundOptions) -> Tensor:
        seen.append(len(problem.y))
        return asked(self, problem, options)

    monkeypatch.setattr(method, "__call__", counted)
    verdict = certify(network, x, y, threat, name, iterations=1)
    assert sum(seen) == 8 - proved.sum()
    assert torch.equal(verdict.certified, (best > 0).all(1))
    torch.testing.assert_close(verdict.margins[~proved], best[~proved])
    torch.testing.assert_close(verdict.margins[proved], cheap[proved])


def test_the_list_of_methods() -> None:
    assert len({method.name for method in LIST}) == len(LIST) == len(METHODS)
    assert all(method.help and method.stages for method in LIST)
    names = [stage.name for stage in METHODS[AUTO].stages]
    assert names == ["s-ibp", "s-crown-ibp", "s-crown", "branch-and-bound", "alpha-s-crown"]
    assert {method.name for method in LIST if method.alone} == {"branch-and-bound", "alpha-s-crown"}
    limited = {method.name for method in LIST if method.limited}
    assert limited == {"s-crown", "branch-and-bound", "alpha-s-crown"}
    assert method_named("s-crown").stages == (METHODS["s-crown"],)


def test_a_memory_budget_that_holds_nothing_is_an_error_of_its_own() -> None:
    network, x = example(2)
    y = network(x).argmax(1)
    with pytest.raises(ValueError, match="memory budget"):
        margin_bounds(network, x, y, LinfBall(0.05), "s-crown", memory=1)
    alone = certify(network, x, y, LinfBall(0.05), "s-crown", memory=1)
    assert "error" in alone.status
    assert any("raise it (--memory)" in reason for reason in alone.reason)
    assert certify(network, x, y, LinfBall(0.05), AUTO, memory=1).status == ["error"] * len(y)


def test_a_time_limit_leaves_the_cheap_methods_alone() -> None:
    network, x = example(5)
    y = network(x).argmax(1)
    cheap = margin_bounds(network, x, y, LinfBall(0.05), "s-crown-ibp", rounding=True)
    verdict = certify(network, x, y, LinfBall(0.05), AUTO, seconds=1e-9)
    assert set(verdict.status) == {"certified", "timeout"}, "the example shows nothing"
    torch.testing.assert_close(verdict.margins[~verdict.certified], cheap[~verdict.certified])


def test_refused() -> None:
    network, x = example(4)
    y = network(x).argmax(1)
    for seconds in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="time limit must be > 0 seconds"):
            certify(network, x, y, LinfBall(0.05), AUTO, seconds=seconds)
    for call in (margin_bounds, certify):
        with pytest.raises(ValueError, match=r"known: s-ibp, .*auto"):
            call(network, x, y, LinfBall(0.05), "automatic")
        with pytest.raises(ValueError, match="memory budget must be at least 1 byte"):
            call(network, x, y, LinfBall(0.05), AUTO, memory=0)
        with pytest.raises(ValueError, match="relaxation must be one of joint, separate"):
            call(network, x, y, LinfBall(0.05), AUTO, relaxation="apart")  # type: ignore[arg-type]
