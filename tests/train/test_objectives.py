"""Schedules, objectives, regularisers, initialisation, and their config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from digit_networks import network_of
from torch import nn

from certsnn.bounds import bind, margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.configuration import override
from certsnn.encoding import Bernoulli
from certsnn.errors import ConfigError
from certsnn.inputsets import CoupledBernoulli, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.train.config import RunConfig
from certsnn.train.initialisation import ConstantWidth
from certsnn.train.objectives.adversarial import Adversarial, ascend
from certsnn.train.objectives.base import Objective, Samples
from certsnn.train.objectives.bounds import CrownMargins, IntervalMargins
from certsnn.train.objectives.certified import Certified, robust_cross_entropy
from certsnn.train.objectives.natural import Natural
from certsnn.train.regularisers import L1, FiringRate, Tightness
from certsnn.train.schedules import LearningRate, Moment, Ramp


class TestSchedules:
    def test_ramp_by_hand(self) -> None:
        ramp, epochs = Ramp(2, 4), (0, 2, 3, 4, 5, 6, 9)
        shares = [0, 0, 0.15625, 0.5, 0.84375, 1, 1]
        assert [ramp(Moment(epoch, 10)) for epoch in epochs] == shares

    def test_ramp_of_length_zero_is_a_step(self) -> None:
        assert [Ramp(2, 0)(Moment(epoch, 10)) for epoch in (1.99, 2)] == [0, 1]

    def test_learning_rate_holds_then_falls(self) -> None:
        rate = LearningRate(1.0, hold=2, floor=0.1)
        found = [rate(Moment(epoch, 10)) for epoch in (0, 2, 6, 10)]
        assert found == pytest.approx([1, 1, 0.55, 0.1])

    @pytest.mark.parametrize("epochs", [5, 50])
    def test_by_default_both_follow_the_length_of_training(self, epochs: int) -> None:
        ramp, rate = Ramp(1), LearningRate(1.0)
        early, middle, late = (Moment(share * epochs, epochs) for share in (0.59, 0.6, 0.61))
        assert ramp(early) < ramp(middle) == ramp(late) == 1
        assert rate(early) == rate(middle) == 1 > rate(late)
        assert Ramp(4).end(5) == 4

    @pytest.mark.parametrize("make", [lambda: Ramp(-1, 2), lambda: LearningRate(0.0)])
    def test_nonsense_is_refused(self, make: Callable[[], object]) -> None:
        with pytest.raises(ValueError, match=">"):
            make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"kappa_end": 1.5}, r"kappa_end must lie in \[0, 1\]"),
    ],
)
def test_adversarial_refuses_nonsense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adversarial(**arguments)


class TestObjectives:
    def batch(self, x: torch.Tensor | None = None) -> Samples:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(6, 1, 8, 8, generator=generator) if x is None else x
        return Samples(x, torch.arange(6), torch.arange(6))

    def test_robust_cross_entropy_is_that_of_the_worst_logits(self) -> None:
        logits = torch.tensor([[3.0, 1.0, 2.0]])
        margins = logits[:, :1] - logits[:, 1:]
        expected = F.cross_entropy(logits, torch.tensor([0]))
        torch.testing.assert_close(robust_cross_entropy(margins), expected)

    def test_certified_mixes_clean_and_robust(self) -> None:
        network, threat = network_of().eval(), LinfBall(0.02)
        for layer in network.layers:
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        samples = self.batch()
        clean = F.cross_entropy(network(samples.x), samples.y)
        robust = robust_cross_entropy(margin_bounds(network, samples.x, samples.y, threat))
        network.train()
        objective = Certified(Ramp(0, 10), kappa_end=0.2)
        for epoch, kappa, eps in ((0, 1.0, 0.0), (10, 0.2, 0.02)):
            terms = objective.terms(network, samples, threat, Moment(epoch, 10))
            expected = kappa * clean + (1 - kappa) * (robust if eps else 0)
            torch.testing.assert_close(terms.loss, expected)

    def test_training_size_enlarges_the_threat(self) -> None:
        network, samples = network_of(), self.batch()
        small, large = (
            Certified(Ramp(0, 0), kappa_end=0.0, size=size).terms(
                network.train(), samples, LinfBall(0.05), Moment(1, 10)
            )
            for size in (1.0, 2.0)
        )
        assert large.loss > small.loss

    @pytest.mark.parametrize("threat", [SpikeFlips(2), CoupledBernoulli(0.1, 3)])
    @pytest.mark.parametrize("objective", [Natural(), Certified(Ramp(0, 0)), Adversarial(Ramp(0, 0))])
    def test_spike_threats_train(self, threat: Threat, objective: Objective) -> None:
        network, samples = network_of("spikes"), self.batch()
        if isinstance(threat, SpikeFlips):
            samples = self.batch(Bernoulli(3)(samples.x, samples.positions))
        terms = objective.terms(network, samples, threat, Moment(1.0, 10))
        terms.loss.backward()
        gradients = [p.grad for p in network.parameters() if p.requires_grad]
        assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)

    @pytest.mark.parametrize("threat", [LinfBall(0.1), SpikeFlips(3)])
    def test_adversary_stays_in_the_set_and_does_harm(self, threat: Threat) -> None:
        network = network_of("image" if isinstance(threat, LinfBall) else "spikes").eval()
        samples = self.batch()
        x = samples.x if isinstance(threat, LinfBall) else Bernoulli(3)(samples.x, samples.positions)
        x0, input_set = bind(network, x, threat, None)
        found = ascend(network, x0, samples.y, input_set, 10, 0.25, network.batch)
        assert input_set.contains(x0, found).all()
        assert F.cross_entropy(network(found), samples.y) > F.cross_entropy(network(x0), samples.y)

    def test_regularisers_by_hand(self) -> None:
        network, samples = network_of(), self.batch()
        plain, with_l1 = (
            Certified(Ramp(0, 0), regularisers=aids).terms(
                network.eval(), samples, LinfBall(0.1), Moment(1, 10)
            )
            for aids in ((), (L1(0.01),))
        )
        total = sum(
            float(layer.weight.detach().abs().sum())
            for layer in network.layers
            if isinstance(layer, nn.Linear)
        )
        assert float((with_l1.loss - plain.loss).detach()) == pytest.approx(0.01 * total, rel=1e-4)

    def test_fading_regularisers(self) -> None:
        from certsnn.bounds.interval.propagate import interval_margins, layers_of
        from certsnn.bounds.interval.topk import any_weights

        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 20), IF(), nn.Linear(20, 20), IF(), nn.Linear(20, 10)]
        network = SpikingNetwork(layers, 3, "membrane")
        samples = self.batch()
        problem = pose(network.freeze(), samples.x, samples.y, LinfBall(0.1), PLAIN)
        bounds = layers_of(interval_margins(problem, any_weights)[1])
        widths = [float((b.totals.upper - b.totals.lower).mean().detach()) + 1e-6 for b in bounds]
        expected = sum(max(0.0, 0.9 - widths[0] / w) for w in widths) / 2
        found = Tightness(1.0, 0.9).penalty(network, bounds, 0.25)
        assert float(found.detach()) == pytest.approx(0.75 * expected, rel=1e-5)
        rates = [float((b.totals.upper + b.totals.lower).mean().detach()) / 6 for b in bounds]
        expected = sum(max(0.0, 0.9 - r) for r in rates) / 2
        found = FiringRate(1.0, 0.9, 1.0).penalty(network, bounds, 0.0)
        assert float(found.detach()) == pytest.approx(expected)

    def test_initialisation_makes_every_layer_fire(self) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in (64, 64, 64):
            layers += [nn.Linear(inputs, 64), LIF(1.0, 0.5)]
        network = SpikingNetwork(layers, 4, "rate")
        x = torch.rand(32, 1, 8, 8)
        ConstantWidth(rate=0.15)(network, x)
        rates = [float(trace.spikes.detach().mean()) for trace in network.freeze().traces(x)]
        assert all(0.15 <= rate < 0.4 for rate in rates)


class TestConfig:
    def read(self, *flags: str) -> tuple[RunConfig, str]:
        return override("network: {steps: 4}", ["--training.objective", "Certified", *flags])

    def test_bound_and_steps_are_keys(self) -> None:
        flags = ["--training.objective.bound", "CrownMargins", "--training.objective.bound.beta_end", "0.5"]
        config, text = self.read(*flags, "--training.objective.steps", "3")
        assert config.training.objective == Certified(bound=CrownMargins(beta_end=0.5), steps=3)
        assert override(text, []) == (config, text)
        assert self.read()[0].training.objective == Certified(bound=IntervalMargins(), steps=None)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--training.objective.bound.beta_end=2"], r"bound.beta_end must lie in \[0, 1\], got 2"),
            (["--training.objective.bound.relaxation=both"], "relaxation must be joint or separate"),
            (["--training.objective.steps=0"], "objective.steps must be at least 1, got 0"),
            (
                ["--training.objective.steps=5"],
                "objective.steps must be at most the network's 4 steps, got 5",
            ),
            (["--threat={class_path: CoupledBernoulli, eps: 0.1, steps: 3}"], "the network's 3 steps, got 4"),
            (
                [
                    "--threat={class_path: SpikeFlips, budget: 1}",
                    "--data.encoding={class_path: Latency, steps: 2}",
                ],
                "the network's 2 steps, got 4",
            ),
        ],
    )
    def test_nonsense_is_refused(self, flags: list[str], message: str) -> None:
        base = ["--training.objective.bound", "CrownMargins", "--training.objective.steps", "4"]
        with pytest.raises(ConfigError, match=message):
            self.read(*base, *flags)
