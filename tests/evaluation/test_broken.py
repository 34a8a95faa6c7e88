"""Samples that the attack of the cascade breaks: their status, what counts, and what is kept of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from thresholds import Idle, pixels, threshold_network

from certsnn.bounds.options import BoundOptions
from certsnn.evaluation.evaluation import evaluate
from certsnn.evaluation.verification import kept_in, summarise, verify
from certsnn.files import read_whole_tensors
from certsnn.inputsets import LinfBall
from certsnn.results.rates import Rate


def test_what_the_cascade_breaks_is_broken_and_kept(tmp_path: Path) -> None:
    network, keep = threshold_network(), kept_in(tmp_path, threshold_network())
    options = BoundOptions("auto")
    (results,) = verify(network, pixels(), LinfBall(0.1), options=options, keep=keep)
    assert [result.status for result in results] == ["certified", "broken", "unknown", "certified", "broken"]
    assert [result.broken_by for result in results] == [(), ("attack",), (), (), ("attack",)]
    assert [result.fell for result in results] == [False, True, True, False, True]
    summary = summarise(results)
    assert (summary.broken, summary.unknown, summary.verified_error) == (2, 1, 60)
    assert summary.by_stage == {"s-ibp": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"sample-{i}.safetensors" for i in (11, 14)]
    found, _ = read_whole_tensors(tmp_path / "sample-14.safetensors")
    assert (found["label"].tolist(), found["index"].tolist()) == ([1], [14])
    assert found["x0"].item() == pytest.approx(0.55)
    assert 0.45 <= found["adversarial"].item() < 0.5
    assert torch.equal(found["adversarial_logits"], network(found["adversarial"]))
    assert found["adversarial_logits"].argmax().item() == 0


def test_what_the_cascade_breaks_counts_as_attacked() -> None:
    report = evaluate(threshold_network(), pixels(), LinfBall(0.1), "auto", attacks=[Idle()])
    assert (report.clean_error, report.attack_error, report.verified_error) == (20, 60, 60)
    assert report.gap == Rate(0, 5)
    assert report.as_dict()["summary"]["broken"] == 2
