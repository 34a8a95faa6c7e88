"""Loaders of one's own in an evaluation, and positions that were not named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from certsnn.attacks import FGSM
from certsnn.bounds import certify
from certsnn.encoding import Bernoulli, Latency
from certsnn.evaluation import evaluate
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF


def network_of(kind: str) -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5), IF(), nn.Linear(5, 3)]
    return SpikingNetwork(layers, 3, "membrane", kind).eval()  # type: ignore[arg-type]


def samples() -> tuple[Tensor, Tensor]:
    return torch.rand(7, 6, generator=torch.Generator().manual_seed(1)), torch.arange(7) % 3


def loaded(shuffle: bool, *more: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*samples(), *more), batch_size=3, shuffle=shuffle)


def test_pairs_are_numbered_in_order() -> None:
    threat = CoupledBernoulli(0.05, 3)
    pairs = evaluate(network_of("spikes"), loaded(False), threat, attacks=())
    named = evaluate(network_of("spikes"), loaded(False, torch.arange(7)), threat, attacks=())
    assert [(r.index, r.margin) for r in pairs.results] == [(r.index, r.margin) for r in named.results]
    assert [r.index for r in pairs.results] == list(range(7))


def test_shuffled_pairs_do_where_nothing_is_drawn() -> None:
    report = evaluate(network_of("image"), loaded(True), LinfBall(0.05), attacks=[FGSM()])
    assert len(report.results) == 7
    spikes = evaluate(network_of("spikes"), loaded(True), SpikeFlips(1), attacks=(), encoding=Latency(3))
    assert len(spikes.results) == 7


@pytest.mark.parametrize(
    ("threat", "encoding", "name"),
    [
        (CoupledBernoulli(0.05, 3), None, "CoupledBernoulli"),
        (SpikeFlips(1), Bernoulli(3), "Bernoulli"),
        (FreeSpikes(0.1), Latency(3), "FreeSpikes"),
    ],
)
def test_shuffled_pairs_are_refused_where_positions_key_noise(
    threat: Threat, encoding: Bernoulli | Latency | None, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} draws each sample's noise .* use shuffle=False"):
        evaluate(network_of("spikes"), loaded(True), threat, attacks=(), encoding=encoding)


def test_batches_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(x, y\) or \(x, y, index\), and this one has 4 parts"):
        evaluate(network_of("image"), [(*samples(), 1, 2)], LinfBall(0.1), attacks=())


def test_a_certificate_whose_noise_nobody_keyed_says_so() -> None:
    x, y = samples()
    with pytest.warns(UserWarning, match="without index= this batch is taken to be the first one"):
        first = certify(network_of("spikes"), x, y, CoupledBernoulli(0.05, 3))
    named = certify(network_of("spikes"), x, y, CoupledBernoulli(0.05, 3), index=torch.arange(7))
    assert torch.equal(first.margins, named.margins)


def test_a_wrapped_network_is_named() -> None:
    with pytest.raises(TypeError, match=r"not DataParallel: pass its \.module"):
        certify(nn.DataParallel(network_of("image")), *samples(), LinfBall(0.1))  # type: ignore[arg-type]


def test_a_hair_below_the_range_is_rounding() -> None:
    x, y = samples()
    with pytest.raises(ValueError, match=r"that is rounding, so x\.clamp\(0, 1\) mends it"):
        certify(network_of("image"), x - x.min() - 1e-6, y, LinfBall(0.1))
