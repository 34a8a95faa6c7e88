"""The three errors on networks small enough to work out by hand, and what happens to unsound bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from stand_in import StandIn
from strategies import Example, examples
from thresholds import LABELS, Idle, pixels, threshold_network
from torch import Tensor, nn

from certsnn.attacks import FGSM, PGD, Attack, ExhaustiveFlips, GreedyFlips, Oracle, RandomSearch
from certsnn.attacks.base import EVERY
from certsnn.bounds import METHODS, certify
from certsnn.bounds.methods import SIBP
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.encoding import Bernoulli
from certsnn.errors import UnsoundBoundError
from certsnn.evaluation.evaluation import clean_only, evaluate, evaluated, least_margins, refuted_by
from certsnn.evaluation.suites import default_suite
from certsnn.evaluation.verification import Attempt, SampleResult
from certsnn.inputsets import (
    CoupledBernoulli,
    EventChanges,
    FreeSpikes,
    LinfBall,
    LinfFrames,
    SpikeFlips,
    SpikeShift,
    Threat,
)
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF
from certsnn.program import Program
from certsnn.results.rates import Rate
from certsnn.results.summary import Report, nested

Batches = list[tuple[Tensor, Tensor, Tensor]]


@final
@dataclass(frozen=True)
class Corner(Attack):
    """The lower and the upper end of the box: exact for networks that are monotone in one pixel."""

    rounds: int = 1

    domains = EVERY

    def view(self, program: Program) -> Program:
        return program

    def search(self, oracle: Oracle) -> None:
        for end in oracle.input_set.box(oracle.x0):
            oracle.attempt(end)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_three_errors_by_hand(size: int, tmp_path: Path) -> None:
    report = evaluate(threshold_network(), pixels(size), LinfBall(0.1), attacks=[Corner()], evidence=tmp_path)
    assert [result.index for result in report.results] == [10, 11, 12, 13, 14]
    assert [result.label for result in report.results] == LABELS
    assert [result.correct for result in report.results] == [True, True, False, True, True]
    assert [result.broken_by for result in report.results] == [(), ("Corner(rounds=1)",)] + [()] * 2 + [
        ("Corner(rounds=1)",)
    ]
    assert [result.status == "certified" for result in report.results] == [True, False, False, True, False]
    assert (report.clean_error, report.attack_error, report.verified_error) == (20, 60, 60)
    assert report.gap == Rate(0, 5)
    broken = report.results[1].attacks["Corner(rounds=1)"]
    assert (broken.success, broken.margin) == (True, -1.0)
    assert broken.entry_change == pytest.approx(0.1, abs=1e-6)
    assert report.results[2].attacks == {}, "a misclassified sample is not attacked"
    held = report.results[0].attacks["Corner(rounds=1)"]
    assert (held.success, held.margin, held.pixel_change) == (False, 1.0, 0.0)
    assert not list(tmp_path.iterdir()), "no evidence without an unsound bound"


def test_what_no_attack_breaks_and_no_bound_proves_is_the_gap() -> None:
    report = evaluate(threshold_network(), pixels(), LinfBall(0.1), attacks=[Idle()])
    assert (report.clean_error, report.attack_error, report.verified_error) == (20, 20, 60)
    assert report.gap == Rate(2, 5)


def test_the_worst_case_over_attacks_counts_and_each_is_told_apart() -> None:
    report = evaluate(threshold_network(), pixels(), LinfBall(0.1), attacks=[Idle(), Corner()])
    assert report.attack_error == 60
    idle, corner = report.by_attack()
    assert (idle.name, corner.name) == ("Idle(rounds=0)", "Corner(rounds=1)")
    assert (idle.success, corner.success) == (Rate(0, 4), Rate(2, 4))
    assert idle.means.pixel_change is None
    assert corner.means.pixel_change == pytest.approx(0.1, abs=1e-6)
    assert report.as_dict()["attacks"]["Idle(rounds=0)"]["entry_change"] is None
    assert [
        (row.label, row.clean.count, row.attack.count, row.verified.total) for row in report.by_class()
    ] == [
        (0, 1, 2, 3),
        (1, 0, 1, 2),
    ]


def test_the_network_is_left_as_it_was() -> None:
    network = threshold_network().train()
    evaluate(network, pixels(), LinfBall(0.1), attacks=[Corner()])
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_attack_only_has_no_bounds() -> None:
    network = threshold_network()
    results = [
        result
        for batch in evaluated(network, pixels(2), LinfBall(0.1), clean_only, [Corner()])
        for result in batch
    ]
    assert [result.fell for result in results] == [False, True, True, False, True]
    assert {result.status for result in results} == {"unknown"}
    report = Report("LinfBall", "", True, ("Corner(rounds=1)",), tuple(results))
    assert "verified" not in report.as_dict()["errors"]


def spike_network(inputs: int, seed: int) -> SpikingNetwork:
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, 6), IF(0.5), nn.Linear(6, 3)]
    return SpikingNetwork(layers, steps=3, readout="membrane", input="spikes").eval()


def test_coupled_noise_is_the_same_in_all_passes() -> None:
    """The same x0, keyed by index, in every batch size and pass: with eps 0 all three errors agree."""
    network = spike_network(4, 0)
    x, index = torch.rand(12, 4), torch.arange(12) * 3
    threat = CoupledBernoulli(0.0, steps=3, seed=5)
    x0, _ = threat.bind(x, index)
    y = network(x0).argmax(1)
    y[:2] = (y[:2] + 1) % 3
    for size in (1, 5, 12):
        batches = list(zip(x.split(size), y.split(size), index.split(size), strict=True))
        report = evaluate(network, batches, threat, "s-crown-ibp", [RandomSearch(tries=5)])
        assert report.clean.count == report.attack.count >= 2
        assert [result.correct for result in report.results[:2]] == [False, False]


def test_encoded_images_under_flips() -> None:
    network = spike_network(2, 1)
    x, index = torch.rand(6, 2), torch.arange(6)
    encoding = Bernoulli(3, seed=2)
    y = network(encoding(x, index)).argmax(1)
    report = evaluate(network, [(x, y, index)], SpikeFlips(2), attacks=[ExhaustiveFlips()], encoding=encoding)
    assert report.clean_error == 0 < report.attack_error <= report.verified_error
    for result in report.results:
        (exact,) = result.attacks.values()
        assert exact.success or exact.entry_change == 0
        assert not exact.success or exact.entry_change * 6 == pytest.approx(round(exact.entry_change * 6))


def unsound(problem: Problem, options: BoundOptions) -> Tensor:
    return SIBP()(problem, options) + 3


def test_the_impossible_stops_and_leaves_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "unsound", StandIn("unsound", unsound))
    network = threshold_network()
    batches = pixels(1)[1:2]  # its proved margin of -1 becomes 2
    with pytest.raises(UnsoundBoundError) as raised:
        evaluate(network, batches, LinfBall(0.1), "unsound", [Corner()], evidence=tmp_path)
    said = str(raised.value)
    assert "the margin of sample 11 is at least 2" in said
    assert "Corner(rounds=1) finds an input with the margin -1" in said
    folder = tmp_path / "sample-11"
    assert str(folder) in said
    tensors = load_file(folder / "sample.safetensors")
    assert (tensors["index"].item(), tensors["label"].item()) == (11, 0)
    threat = LinfBall(0.1)
    assert threat.contains(tensors["x0"], tensors["adversarial"]).all()
    restored = threshold_network()
    restored.load_state_dict(load_file(folder / "network.safetensors"))
    assert torch.equal(restored(tensors["adversarial"]), tensors["adversarial_logits"])
    assert tensors["adversarial_logits"].argmax() != tensors["label"]
    x0, input_set = threat.bind(tensors["x"], tensors["index"])
    verdict = certify(restored, x0, tensors["label"], input_set, "unsound")
    assert verdict.status == ["certified"]
    facts = json.loads((folder / "facts.json").read_text())
    assert (facts["threat"], facts["method"], facts["rounding"]) == ("LinfBall(eps=0.1)", "unsound", True)
    assert facts["attacks"] == ["Corner(rounds=1)"]
    assert facts["sample"]["margin"] == pytest.approx(2, abs=1e-5)
    assert facts["versions"]["torch"] == torch.__version__
    with pytest.raises(UnsoundBoundError, match="sample-11-2"):
        evaluate(network, batches, LinfBall(0.1), "unsound", [Corner()], evidence=tmp_path)


def test_the_evidence_is_of_the_sample_that_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_about_the_last(problem: Problem, options: BoundOptions) -> Tensor:
        found = SIBP()(problem, options)
        found[-1] += 3
        return found

    monkeypatch.setitem(METHODS, "unsound", StandIn("unsound", wrong_about_the_last))
    with pytest.raises(UnsoundBoundError, match="sample 14 is at least 2"):
        evaluate(threshold_network(), pixels(), LinfBall(0.1), "unsound", [Corner()], evidence=tmp_path)
    tensors = load_file(tmp_path / "sample-14" / "sample.safetensors")
    assert tensors["x0"].tolist() == [[pytest.approx(0.55)]]
    assert tensors["adversarial"].item() == pytest.approx(0.45)
    assert tensors["adversarial_logits"].tolist() == [[1.0, 0.0]]


def test_a_margin_that_an_attack_undercuts_stops_even_if_nothing_is_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = StandIn("near", lambda problem, options: SIBP()(problem, options) + 0.5)
    monkeypatch.setitem(METHODS, "near", near)
    network, batch = threshold_network(), pixels(1)[1]
    with pytest.raises(UnsoundBoundError, match=r"margin of sample 11 is at least -0\.5\d* by near"):
        evaluate(network, [batch], LinfBall(0.1), "near", [Corner()], evidence=tmp_path)
    report = evaluate(network, [batch], LinfBall(0.1), "near", [Corner()], rounding=False)
    assert report.attack_error == 100, "without rounding covered only signs are compared"


def test_a_certified_and_misclassified_sample_stops_with_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "unsound", StandIn("unsound", unsound))
    with pytest.raises(UnsoundBoundError, match="the network misclassifies it"):
        evaluate(threshold_network(), pixels(1)[2:3], LinfBall(0.1), "unsound", [Idle()], evidence=tmp_path)
    tensors = load_file(tmp_path / "sample-12" / "sample.safetensors")
    assert torch.equal(tensors["adversarial"], tensors["x0"])


def outcome(success: bool, margin: float) -> Attempt:
    return Attempt(success, margin, 0.1, 0.1, 3, 2, False, 0.01)


def result(index: int, **changes: Any) -> SampleResult:
    return replace(SampleResult(index, 0, True, "unknown", -1.0, "s-ibp"), **changes)


@pytest.mark.parametrize(
    ("changes", "rounding", "by"),
    [
        ({}, True, None),
        ({"attacks": {"a": outcome(False, 0.1)}}, True, None),
        ({"attacks": {"a": outcome(True, -1.0)}}, True, None),
        ({"attacks": {"a": outcome(True, -1.1)}}, True, "a"),
        ({"attacks": {"a": outcome(True, -1.1)}}, False, None),
        ({"status": "certified", "margin": 0.1, "attacks": {"a": outcome(False, 0.1)}}, True, None),
        ({"status": "certified", "margin": 0.1, "attacks": {"a": outcome(False, 0.09)}}, True, "a"),
        ({"status": "certified", "margin": 0.1, "attacks": {"a": outcome(False, 0.09)}}, False, None),
        ({"status": "certified", "margin": 0.1, "attacks": {"a": outcome(True, 0.0)}}, False, "a"),
        ({"status": "certified", "margin": 0.1, "correct": False}, False, "x0"),
    ],
)
def test_what_refutes_a_bound(changes: dict[str, Any], rounding: bool, by: str | None) -> None:
    assert refuted_by(result(1, **changes), rounding) == by


def test_a_report_refuses_the_impossible() -> None:
    wrong = result(4, status="certified", margin=1.0, attacks={"a": outcome(True, -1)})
    with pytest.raises(UnsoundBoundError, match="sample 4 is broken by a and yet certified"):
        Report("t", "s-ibp", True, ("a",), (result(3), wrong))
    with pytest.raises(ValueError, match="no samples"):
        Report("t", "s-ibp", True, ("a",), ())


def test_a_larger_threat_cannot_do_less() -> None:
    broken = Report("small", "s-ibp", True, ("a",), (result(4, attacks={"a": outcome(True, -1)}),))
    held = Report("large", "s-ibp", True, ("a",), (result(4, status="certified", margin=0.1),))
    nested([held, broken])
    with pytest.raises(UnsoundBoundError, match="certified under large, but broken by a under small"):
        nested([broken, held])
    by_cascade = Report("small", "auto", True, (), (result(4, status="broken", stage="attack"),))
    with pytest.raises(UnsoundBoundError, match="broken by attack under small"):
        nested([by_cascade, held])


def test_errors_grow_with_the_threat() -> None:
    found = [
        evaluate(threshold_network(), pixels(), LinfBall(eps), attacks=[Corner()])
        for eps in (0.0, 0.06, 0.1, 0.2, 0.6)
    ]
    nested(found)
    for errors in ([r.attack_error for r in found], [r.verified_error for r in found]):
        assert errors == sorted(errors)
        assert errors[0] < errors[1] < errors[-1] == 100


def test_least_margins() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])
    assert least_margins(logits, torch.tensor([1, 0])).tolist() == [1.0, 0.0]


def endless() -> Iterator[Any]:
    yield pixels()[0]
    raise AssertionError("no work before the check")


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ([GreedyFlips()], r"GreedyFlips\(.*\) does not work on LinfBall\(eps=0\.1\)"),
        ([PGD(), PGD()], r"2 attacks are called PGD"),
    ],
)
def test_attacks_that_do_not_fit_are_refused_before_any_work(attacks: list[Attack], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(threshold_network(), endless(), LinfBall(0.1), attacks=attacks)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples to evaluate"):
        evaluate(threshold_network(), [], LinfBall(0.1))


def test_a_network_that_gets_nothing_right() -> None:
    report = evaluate(threshold_network(), pixels(1)[2:3], LinfBall(0.1), attacks=[Corner()])
    assert (report.clean_error, report.verified_error) == (100, 100)
    assert report.by_attack() == []


@pytest.mark.parametrize(
    ("threat", "names"),
    [
        (LinfBall(0.1), ["FGSM", "RandomSearch", "G2S", "PGD"]),
        (SpikeShift(1, 1), ["RandomSearch", "RSF", "G2S", "GreedyShifts"]),
        (SpikeFlips(1), ["RandomSearch", "RSF", "G2S", "GreedyFlips"]),
        (FreeSpikes(0.1), ["RandomSearch", "RSF", "G2S", "GreedyFlips"]),
        (LinfFrames(0.1), ["FGSM", "RandomSearch", "PGD"]),
        (EventChanges(1), ["FGSM", "RandomSearch", "PGD", "GreedyEvents"]),
    ],
)
def test_the_default_suite_fits(threat: Threat, names: list[str]) -> None:
    image = threat.domain == "image"
    x, index = torch.zeros(2, 1, 3), torch.arange(2 if image else 1)
    _, input_set = threat.bind(x, index)
    suite = default_suite(input_set, seed=4)
    assert [type(attack).__name__ for attack in suite] == names
    assert all(attack.seed == 4 for attack in suite if not isinstance(attack, FGSM))  # type: ignore[attr-defined]


@settings(max_examples=40)
@given(example=examples(), seed=st.integers(0, 2**16))
def test_no_sound_bound_is_refuted(example: Example, seed: int) -> None:
    """Margins of x0, of corners and of random members against every bound, ties and rounding included."""
    axis = 0 if example.threat.domain == "image" else 1
    index = torch.arange(example.x.shape[axis])
    x0, _ = example.threat.bind(example.x, index)
    y = example.network(x0).argmax(1)
    attacks = [RandomSearch(tries=10, seed=seed), Corner()]  # a corner is projected onto the set
    for method in ("s-ibp", "s-crown-ibp"):
        report = evaluate(example.network, [(example.x, y, index)], example.threat, method, attacks)
        assert report.clean_error <= report.attack_error <= report.verified_error
