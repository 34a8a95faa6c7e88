"""Lines of results: what is written comes back, and what no evaluation can have found is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from certsnn.evaluation.verification import Attempt, SampleResult
from certsnn.results.schema import header_from, header_line, read_lines, row, sample_from, written

HEADER = {"weights": "1f", "data": {"name": "digits", "samples": 9}}
ATTEMPT = Attempt(False, 0.5, 0.01, 0.02, 7, 3, True, 0.25)
SAMPLE = SampleResult(7, 1, True, "certified", 0.1 + 0.2, "s-ibp", 0.001)
SAMPLES = [
    SAMPLE,
    replace(SAMPLE, status="unknown", margin=-math.inf, stage="", reason="none"),
    replace(SAMPLE, attacks={"FGSM": ATTEMPT, "PGD": replace(ATTEMPT, margin=1)}),
    replace(SAMPLE, status="broken", margin=-0.5, stage="attack"),
]


def test_samples_come_back() -> None:
    assert read_lines(written(SAMPLES)) == SAMPLES


def test_a_header_comes_back() -> None:
    assert header_from(header_line(HEADER)) == HEADER


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"margin": 0}, "certified with a margin of 0"),
        ({"margin": -0.5}, "certified with a margin of -0.5"),
        ({"margin": None}, "certified with a margin of -inf"),
        ({"margin": math.nan}, "holds NaN"),
        ({"margin": math.inf}, "holds Infinity"),
        ({"margin": "0.5"}, 'margin is "0.5", not a number'),
        ({"margin": True}, "margin is true, not a number"),
        ({"margin": 10**400}, "margin is 1"),
        ({"status": "proved"}, "status is 'proved', which is none of certified, broken"),
        ({"status": None}, "status is null, not text"),
        ({"correct": "false"}, 'correct is "false", not true or false'),
        ({"correct": 1}, "correct is 1, not true or false"),
        ({"index": -1}, "index is -1"),
        ({"index": 1.0}, "index is 1.0, not a whole number"),
        ({"index": False}, "index is false, not a whole number"),
        ({"index": 9}, "index is 9, but the data have 9 samples"),
        ({"label": -1}, "label is -1"),
        ({"seconds": None}, "seconds is null, not a number"),
        ({"attacks": []}, "attacks is"),
        ({"attacks": {"FGSM": 3}}, "3 is no object"),
        ({"extra": 1}, "extra is no key"),
        ({"attacks": {"FGSM": {}}}, "success is absent"),
    ],
)
def test_what_can_not_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sample_from(json.dumps(row(SAMPLE) | changes), HEADER)


@pytest.mark.parametrize("name", ["success", "margin", "queries", "random", "seconds"])
def test_an_attempt_has_types_too(name: str) -> None:
    line = row(SAMPLES[2])
    line["attacks"]["FGSM"][name] = "no"
    with pytest.raises(ValueError, match=f'{name} is "no", not'):
        sample_from(json.dumps(line))


def test_a_sample_has_all_attacks_of_its_file() -> None:
    two: dict[str, Any] = HEADER | {"attacks": ["FGSM()", "PGD()"]}
    wrong = replace(SAMPLE, correct=False, status="unknown", margin=-1.0)
    for sample, header in ((SAMPLES[2], two), (wrong, two), (SAMPLE, HEADER)):
        assert sample_from(written([sample]), header) == sample
    for sample, header in ((SAMPLE, two), (SAMPLES[2], HEADER), (replace(wrong, index=7), HEADER)):
        if sample.correct:
            with pytest.raises(ValueError, match="attacks, but"):
                sample_from(written([sample]), header)


@pytest.mark.parametrize("line", ["", "[]", "{", "[" * 100_000, "\x00"])
def test_what_is_no_object_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="it is no"):
        sample_from(line)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"weights": "1f"}, "format is version 1"),
        ({"schema": 2, "weights": "1f"}, "format is version 2"),
        ({"schema": 99, "weights": "1f"}, "format is version 99"),
        ({"schema": 3, "weights": "1f"}, "does not say how many samples"),
        ({"schema": 3, "weights": "1f", "data": {"samples": True}}, "does not say how many samples"),
        ({"schema": 3, "weights": "1f", "data": {"samples": 0}}, "does not say how many samples"),
        ({"data": {"samples": 3}}, "no header"),
    ],
)
def test_other_headers_are_refused(header: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        header_from(json.dumps(header))


def test_an_impossible_result_is_not_written_either() -> None:
    with pytest.raises(ValueError, match="only > 0 certifies"):
        SampleResult(0, 0, True, "certified", -1.0, "s-ibp")
    with pytest.raises(ValueError, match="no lower bound"):
        SampleResult(0, 0, True, "unknown", math.nan, "s-ibp")
    with pytest.raises(ValueError, match="not JSON compliant"):
        written([replace(SAMPLE, attacks={"FGSM": replace(ATTEMPT, margin=math.nan)})])
