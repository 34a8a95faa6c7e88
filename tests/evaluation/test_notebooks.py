"""Results at a prompt and in a notebook."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from certsnn.attacks import FGSM
from certsnn.bounds import certify
from certsnn.data import ImageDataset, loader
from certsnn.errors import UserError
from certsnn.evaluation import evaluate
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF
from certsnn.notebooks import Shown


@pytest.fixture
def network() -> SpikingNetwork:
    torch.manual_seed(4)
    return SpikingNetwork([nn.Flatten(), nn.Linear(4, 5), IF(0.4), nn.Linear(5, 3)], 3, "membrane").eval()


@pytest.fixture
def data() -> ImageDataset:
    images = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return ImageDataset("squares", images, torch.arange(6) % 3, classes=3)


def test_results_are_a_line(network: SpikingNetwork, data: ImageDataset) -> None:
    x, _, _ = data[range(6)]
    y = network(x).argmax(1)
    verdict, result = certify(network, x, y, LinfBall(0.05)), FGSM()(network, x, y, LinfBall(0.05))
    certified, broken = int(verdict.certified.sum()), int(result.success.sum())
    assert 0 < certified < 6
    assert repr(verdict) == f"Verdict(samples: 6, certified: {certified}, unknown: {6 - certified})"
    assert "<th>unknown</th>" in verdict._repr_html_()
    assert repr(result).startswith(f"AttackResult(samples: 6, broken: {broken}, queries a sample: ")
    report = evaluate(network, loader(data, 4), LinfBall(0.05), attacks=[FGSM()])
    assert repr(report) == (
        f"Report(threat: LinfBall(eps=0.05), samples: 6, clean error: {report.clean_error:.2f} %, attack "
        f"error: {report.attack_error:.2f} %, verified error: {report.verified_error:.2f} %, method: s-ibp)"
    )
    assert repr(data) == "ImageDataset(name: squares, samples: 6, classes: 3, image: [1, 2, 2])"


def test_a_notebook_shows_a_table_whose_text_is_escaped() -> None:
    class Odd(Shown):
        @property
        def shown(self) -> dict[str, str]:
            return {"a<b": "x & y"}

    assert Odd()._repr_html_() == (
        "<table><caption>Odd</caption><tr><th>a&lt;b</th><td>x &amp; y</td></tr></table>"
    )


def test_rows_of_a_data_frame(
    network: SpikingNetwork, data: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    report = evaluate(network, loader(data, 4), LinfBall(0.05), attacks=[FGSM()])
    (first, *_), right = report.to_dataframe(), next(r for r in report.results if r.correct)
    assert first["index"] == 0 and first["margin"] == report.results[0].margin
    assert report.to_dataframe()[right.index][FGSM().describe()] in (True, False)
    x, y, _ = data[range(6)]
    verdict = certify(network, x, y, LinfBall(0.05))
    rows = verdict.to_dataframe()
    assert [row["status"] for row in rows] == verdict.status
    assert [row["margin"] for row in rows] == verdict.margins.amin(1).tolist()


def test_without_pandas_it_says_what_to_install(
    network: SpikingNetwork, data: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    x, y, _ = data[range(6)]
    with pytest.raises(UserError, match="pip install pandas"):
        certify(network, x, y, LinfBall(0.05)).to_dataframe()
