"""The aids of certified training, one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from modules import tensor_of, weight_of
from monitors import Stop, StopAfter
from torch import Tensor, nn

from certsnn.architectures import build
from certsnn.batches import WHOLE
from certsnn.bounds import margin_bounds
from certsnn.configuration import override
from certsnn.data.digits import digits
from certsnn.encoding import Bernoulli
from certsnn.errors import ConfigError
from certsnn.filters import Synapse
from certsnn.inputsets import CoupledBernoulli, LinfBall, SpikeFlips, Threat
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.surrogates import Rectangle
from certsnn.train.averaging import EMA, SWA, Average, Averaging, Latest
from certsnn.train.config import TrainingConfig
from certsnn.train.initialisation import Calibrated, ConstantWidth, Initialisation
from certsnn.train.loop import Task, train
from certsnn.train.objectives.adversarial import ascend
from certsnn.train.objectives.base import CleanPass, Samples
from certsnn.train.objectives.bound_surrogates import Own, Widths
from certsnn.train.objectives.certified import Certified, robust_cross_entropy
from certsnn.train.objectives.clean_term import AttackLoss
from certsnn.train.objectives.small_boxes import SmallBoxes, Whole
from certsnn.train.schedules import LearningRate, Moment, Ramp

FULL = Ramp(0, 0)
END = Moment(1, 1)


def half() -> IF:
    return IF(initial=0.5)


def network_of(
    neuron: Callable[[], Neuron] = half,
    norm: Literal["none", "batch"] = "none",
    kind: Domain = "image",
) -> SpikingNetwork:
    torch.manual_seed(0)
    return build("digits-fc", (1, 8, 8), 10, neuron, 3, "membrane", kind, norm)


def batch(kind: str = "image") -> Samples:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x if kind == "image" else Bernoulli(3)(x, torch.arange(6))
    return Samples(x, torch.arange(6), torch.arange(6))


class TestNorm:
    @pytest.mark.parametrize("architecture", ["digits-fc", "small-cnn"])
    def test_comes_after_every_hidden_layer(self, architecture: str) -> None:
        layers = build(architecture, (1, 8, 8), 10, IF, 2, norm="batch").layers
        for layer, after in pairwise(layers):
            weighted = isinstance(layer, (nn.Linear, nn.Conv2d))
            assert weighted == isinstance(after, (nn.BatchNorm1d, nn.BatchNorm2d))
        assert isinstance(layers[-1], nn.Linear)

    def test_bounds_use_the_statistics_of_the_clean_pass(self) -> None:
        network, samples = network_of(norm="batch").train(), batch()
        logits, program = network.forward_and_freeze(samples.x)
        torch.testing.assert_close(program.run(samples.x), logits)


class TestInitialisation:
    @torch.no_grad()
    @pytest.mark.parametrize("neuron", [half, lambda: LIF(0.25, 0.25)])
    def test_calibrated_layers_spread_and_fire(self, neuron: Callable[[], Neuron]) -> None:
        network, x = network_of(neuron), torch.rand(64, 1, 8, 8)
        Calibrated(spread=0.7, rate=0.3)(network, x)
        program = network.freeze()
        for trace, stage in zip(program.traces(x), program.stages, strict=True):
            assert float(trace.spikes.mean()) == pytest.approx(0.3, abs=0.02)
            first = trace.membranes[0] - stage.neuron.initial  # the current of the first step
            # The first layer's current is the same at all steps, the second's varies with them.
            assert 0.3 < float(first.std() / stage.neuron.threshold) < 1.2
        first = program.traces(x)[0].membranes[0]
        threshold = float(program.stages[0].neuron.threshold)
        assert float(first.std()) == pytest.approx(
            0.7 * threshold, rel=0.05
        )  # but for the spread of the biases

    @pytest.mark.parametrize("initialisation", [Calibrated(), ConstantWidth()])
    def test_layers_before_a_norm_keep_their_scale(self, initialisation: Initialisation) -> None:
        network, x = network_of(norm="batch"), torch.rand(64, 1, 8, 8)
        initialisation(network, x)
        first = network.layers[1]
        assert float(weight_of(first).detach().std()) < 0.5
        assert tensor_of(first, "bias").abs().max() < 0.5

    @torch.no_grad()
    def test_a_layer_without_bias_is_only_rescaled(self) -> None:
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 20, bias=False), IF(), nn.Linear(20, 10)]
        network = SpikingNetwork(layers, 3, "membrane")
        x = torch.rand(64, 1, 8, 8)
        Calibrated(spread=0.5)(network, x)
        assert float(layers[1](x.flatten(1)).std()) == pytest.approx(0.5, rel=1e-3)

    @torch.no_grad()
    @pytest.mark.parametrize(
        "between", [[Synapse(0.8)], [nn.MaxPool2d(2)], [nn.MaxPool2d(2), Synapse(0.5)]], ids=str
    )
    def test_weights_before_filters_and_maxima_are_rescaled(self, between: list[nn.Module]) -> None:
        torch.manual_seed(0)
        first, second, x = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), torch.rand(32, 1, 10, 10)
        layers = [first, *between, LIF(0.5, 0.5), second, *between, LIF(0.5, 0.5)]
        network = SpikingNetwork(layers, 3, "rate").eval()
        silent = float(network.freeze().traces(x)[1].spikes.mean())
        assert silent < 0.2, "the example shows nothing"
        for initialisation, most in ((Calibrated(rate=0.3), 0.4), (ConstantWidth(rate=0.3), 0.5)):
            initialisation(network, x)
            rates = [float(trace.spikes.mean()) for trace in network.freeze().traces(x)]
            assert 0.25 < min(rates) < max(rates) < most

    @pytest.mark.parametrize("arguments", [{"spread": 0.0}, {"rate": 1.0}])
    def test_nonsense_is_refused(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="spread > 0 and rate"):
            Calibrated(**arguments)


class TestWarmup:
    def test_rises_in_a_straight_line(self) -> None:
        rate = LearningRate(1.0, hold=4, warmup=2)
        assert [rate(Moment(epoch, 10)) for epoch in (0, 1, 2, 4)] == [0, 0.5, 1, 1]
        assert LearningRate(1.0, hold=4)(Moment(0, 10)) == 1


class TestBoundSurrogate:
    def test_widths_go_along_with_the_ramp(self) -> None:
        program = network_of().freeze()
        found = Widths(0.5, 1.5)(program, 0.25)
        assert {stage.neuron.surrogate for stage in found.stages} == {Rectangle(0.75)}
        assert Own()(program, 0.25) is program

    def test_changes_the_gradient_of_the_bound_and_nothing_else(self) -> None:
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for surrogate in (Own(), Widths(0.5, 0.5), Widths(2.0, 2.0)):
            network = network_of().train()
            terms = Certified(FULL, surrogate=surrogate).terms(network, batch(), LinfBall(0.05), END)
            terms.loss.backward()
            losses.append(terms.loss.detach())
            gradient = weight_of(network.layers[1]).grad
            assert gradient is not None
            gradients.append(gradient)
        assert losses[0] == losses[1] == losses[2]
        assert torch.equal(gradients[0], gradients[1]) and not torch.equal(gradients[0], gradients[2])

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="end must be > 0"):
            Widths(0.5, 0.0)


class TestSmallBoxes:
    @pytest.mark.parametrize("threat", [LinfBall(0.1), SpikeFlips(4)])
    def test_the_box_lies_inside_the_set(self, threat: Threat) -> None:
        network, samples = network_of(kind=threat.network_input), batch(threat.domain)
        logits, program = network.forward_and_freeze(samples.x)
        x0, input_set = threat.bind(samples.x, samples.positions)
        clean = CleanPass(program, logits, samples, threat, x0, input_set, WHOLE)
        centre, region = SmallBoxes(0.5)(clean)
        assert not torch.equal(centre, x0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            member = region.sample(centre, generator)
            assert (member - x0).abs().amax() <= 1
            assert input_set.contains(x0, input_set.project(x0, member)).all()
            torch.testing.assert_close(input_set.project(x0, member), member)

    def test_its_loss_lies_between_the_attack_and_the_bound(self) -> None:
        samples, threat, losses = batch(), LinfBall(0.1), []
        for region in (Whole(), SmallBoxes(0.5), SmallBoxes(0.01)):
            network = network_of().train()
            objective = Certified(FULL, kappa_end=0.0, region=region)
            losses.append(float(objective.terms(network, samples, threat, END).loss.detach()))
        assert losses[0] > losses[1] > losses[2]

    def test_the_whole_share_is_the_whole_set(self) -> None:
        samples, threat = batch(), LinfBall(0.1)
        losses = [
            Certified(FULL, region=region).terms(network_of().train(), samples, threat, END).loss
            for region in (Whole(), SmallBoxes(1.0))
        ]
        torch.testing.assert_close(*losses)

    def test_a_threat_that_encodes_is_refused(self) -> None:
        network, samples = network_of(kind="spikes"), batch()
        with pytest.raises(TypeError, match="region: Whole"):
            objective = Certified(FULL, region=SmallBoxes())
            objective.terms(network, samples, CoupledBernoulli(0.1, 3), END)

    @pytest.mark.parametrize("arguments", [{"share": 0.0}, {"share": 1.5}, {"iterations": 0}])
    def test_nonsense_is_refused(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            SmallBoxes(**arguments)


class TestAttackLoss:
    @pytest.mark.parametrize("kind", ["image", "spikes"])
    def test_is_the_loss_of_what_the_attack_finds(self, kind: Literal["image", "spikes"]) -> None:
        threat = LinfBall(0.1) if kind == "image" else SpikeFlips(3)
        network, samples = network_of(kind=kind).train(), batch(kind)
        objective = Certified(FULL, kappa_end=0.3, companion=AttackLoss(iterations=3))
        found = objective.terms(network, samples, threat, END).loss
        x0, input_set = threat.bind(samples.x, samples.positions)
        x = ascend(network, x0, samples.y, input_set, 3, 0.25, network.batch)
        margins = margin_bounds(network, samples.x, samples.y, threat)
        expected = 0.3 * F.cross_entropy(network(x), samples.y) + 0.7 * robust_cross_entropy(margins)
        if kind == "image":  # under a flip budget training bounds by the weights alone
            torch.testing.assert_close(found, expected)
        assert F.cross_entropy(network(x), samples.y) > F.cross_entropy(network(x0), samples.y)
        clean = Certified(FULL, kappa_end=0.3).terms(network, samples, threat, END).loss
        assert found > clean

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="iterations"):
            AttackLoss(iterations=0)


class TestAveraging:
    def averages(self, averaging: Averaging, epochs: list[float]) -> list[float]:
        """Averages of the weights 1, 2, 3, ... at these epochs."""
        average = Average({"w": torch.zeros(1), "n": torch.zeros(1, dtype=torch.long)})
        found = []
        for number, epoch in enumerate(epochs, 1):
            state = {"w": torch.full((1,), float(number)), "n": torch.tensor([number])}
            average.update(state, averaging, Moment(epoch, 8))
            assert int(average.tensors["n"]) == number
            found.append(float(average.tensors["w"]))
        return found

    def test_by_hand(self) -> None:
        assert self.averages(Latest(), [0, 1, 2]) == [1, 2, 3]
        assert self.averages(SWA(start=0.25), [0, 1, 2, 3, 4]) == pytest.approx([1, 2, 2.5, 3, 3.5])
        ema = 0.0
        for number, pace in enumerate((0.9, 9 / 11, 9 / 12, 9 / 13), 1):
            ema += pace * (number - ema)
        assert self.averages(EMA(0.5), [0, 1, 2, 3])[-1] == pytest.approx(ema)
        assert EMA(0.5).pace(Moment(9, 10), 1000) == 0.5

    def test_never_moves_the_weights_themselves(self) -> None:
        state = {"w": torch.zeros(1)}
        average = Average(state)
        average.update({"w": torch.ones(1)}, Latest(), END)
        assert state["w"] == 0 and average.tensors["w"] == 1

    @pytest.mark.parametrize("make", [lambda: EMA(1.0), lambda: SWA(-1.0)])
    def test_nonsense_is_refused(self, make: Callable[[], Averaging]) -> None:
        with pytest.raises(ValueError, match="must"):
            make()


class TestLoop:
    def settings(self, averaging: Averaging) -> TrainingConfig:
        return TrainingConfig(
            Certified(Ramp(0, 1)),
            epochs=4,
            batch_size=60,
            learning_rate=LearningRate(5e-3),
            averaging=averaging,
        )

    def task(self) -> Task:
        return Task(*digits("train", Path(), False).head(300).split(0.2, 0), LinfBall(0.02))

    def test_the_average_is_what_is_kept(self, tmp_path: Path) -> None:
        kept = []
        for number, averaging in enumerate((Latest(), EMA(0.9))):
            network = network_of(norm="batch")
            train(network, self.task(), self.settings(averaging), tmp_path / str(number))
            kept.append(network)
        one, other = (network.state_dict() for network in kept)
        assert not torch.equal(one["layers.1.weight"], other["layers.1.weight"])
        assert not torch.equal(one["layers.2.running_mean"], other["layers.2.running_mean"])

    @pytest.mark.parametrize("stop", [4, 10])
    @pytest.mark.parametrize("averaging", [EMA(0.9), SWA(0.25)])
    def test_resumed_equals_undisturbed(self, tmp_path: Path, stop: int, averaging: Averaging) -> None:
        states = []
        for folder in ("whole", "parts"):
            if folder == "parts":
                with pytest.raises(Stop):
                    train(
                        network_of(norm="batch"),
                        self.task(),
                        self.settings(averaging),
                        tmp_path / folder,
                        monitor=StopAfter(stop),
                    )
            network = network_of(norm="batch")
            train(network, self.task(), self.settings(averaging), tmp_path / folder)
            states.append(network.state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class TestConfig:
    def test_aids_are_keys(self) -> None:
        config, text = override(
            "network: {norm: batch}",
            [
                "--training.objective.region={class_path: SmallBoxes, share: 0.3}",
                "--training.objective.companion",
                "AttackLoss",
                "--training.objective.surrogate={class_path: Widths, end: 0.7}",
                "--training.averaging={class_path: EMA, decay: 0.99}",
                "--training.initialisation",
                "Calibrated",
                "--training.learning_rate.warmup=1",
            ],
        )
        training = config.training
        objective = Certified(region=SmallBoxes(0.3), companion=AttackLoss(), surrogate=Widths(end=0.7))
        assert training.objective == objective
        assert (training.averaging, training.initialisation) == (EMA(0.99), Calibrated())
        assert training.learning_rate == replace(LearningRate(), warmup=1.0)
        assert config.network.norm == "batch"
        assert override(text, []) == (config, text)

    def test_unknown_norm(self) -> None:
        with pytest.raises(ConfigError, match="norm must be none or batch"):
            override("network: {norm: layer}", [])
