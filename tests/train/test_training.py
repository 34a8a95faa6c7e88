"""Schedules, objectives, regularisers, initialisation, checkpoints and the loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from modules import weight_of
from monitors import Stop, StopAfter
from torch import nn

from certsnn.bounds import bind, margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.configuration import override
from certsnn.data.digits import digits
from certsnn.encoding import Bernoulli, Encoding
from certsnn.errors import CheckpointError, ConfigError
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.train import checkpoint as checkpoints
from certsnn.train.config import RunConfig, TrainingConfig
from certsnn.train.initialisation import ConstantWidth
from certsnn.train.loop import Task, train
from certsnn.train.monitor import Monitor, Silent
from certsnn.train.objectives import bounds as margins
from certsnn.train.objectives.adversarial import Adversarial, ascend
from certsnn.train.objectives.base import Objective, Samples
from certsnn.train.objectives.bounds import CrownMargins, IntervalMargins, MarginBound
from certsnn.train.objectives.certified import Certified, robust_cross_entropy
from certsnn.train.objectives.natural import Natural
from certsnn.train.regularisers import L1, FiringRate, Tightness
from certsnn.train.schedules import LearningRate, Moment, Ramp

Kind = Literal["image", "spikes"]
Relaxation = Literal["joint", "separate"]
BALL = LinfBall(0.02)


def network_of(kind: Kind = "image", seed: int = 0) -> SpikingNetwork:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, 20), IF(initial=0.5), nn.Dropout(0.2), nn.Linear(20, 10)]
    return SpikingNetwork(layers, 3, "membrane", kind)


def task_of(threat: Threat = BALL, encoding: Encoding | None = None) -> Task:
    data = digits("train", Path(), False).head(300)
    return Task(*data.split(0.2, 0), threat, encoding)


SETTINGS = TrainingConfig(Certified(Ramp(0, 1)), epochs=4, batch_size=60, learning_rate=LearningRate(5e-3))


def weights(network: SpikingNetwork) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


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


def lif_network(
    kind: Kind = "image",
    steps: int = 3,
    readout: Literal["rate", "membrane"] = "membrane",
) -> SpikingNetwork:
    """The papers' neuron: here S-CROWN beats S-IBP."""
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((64, 20), (20, 16), (16, 10)):
        layers += [nn.Linear(inputs, outputs), LIF(0.25, 0.25)]
    return SpikingNetwork(layers[: 7 if readout == "rate" else 6], steps, readout, kind)


def gradients(network: SpikingNetwork) -> list[torch.Tensor]:
    found = [p.grad for p in network.parameters() if p.requires_grad]
    return [gradient for gradient in found if gradient is not None]


class TestMargins:
    def batch(self, kind: str = "image", steps: int = 3) -> Samples:
        data = digits("train", Path(), False).head(8)
        index = torch.arange(8)
        x = data.images if kind == "image" else Bernoulli(steps)(data.images, index)
        return Samples(x, data.labels, index)

    def test_beta_goes_from_start_to_end(self) -> None:
        found = [CrownMargins().beta(share) for share in (0, 0.25, 1)]
        assert found == [1, 0.75, 0]
        bound = CrownMargins(beta_start=0.2, beta_end=0.8)
        assert [bound.beta(share) for share in (0, 0.5, 1)] == pytest.approx([0.2, 0.5, 0.8])

    @pytest.mark.parametrize("relaxation", ["joint", "separate"])
    def test_margins_are_the_mix(self, relaxation: Relaxation) -> None:
        network, samples, threat = lif_network().train(), self.batch(), LinfBall(0.02)
        low = margin_bounds(network, samples.x, samples.y, threat)
        high = margin_bounds(network, samples.x, samples.y, threat, "s-crown-ibp", relaxation=relaxation)
        assert (high > low + 1e-3).any()
        for epoch, beta in ((5, 0.7), (10, 0.4)):
            share = Ramp(0, 10)(Moment(epoch, 10))
            objective = Certified(Ramp(0, 10), 0.2, bound=CrownMargins(relaxation, 1.0, 0.4))
            terms = objective.terms(network, samples, LinfBall(0.02 / share), Moment(epoch, 10))
            clean = F.cross_entropy(network(samples.x), samples.y)
            robust = robust_cross_entropy(beta * high + (1 - beta) * low)
            kappa = 1 - 0.8 * share
            torch.testing.assert_close(terms.loss, kappa * clean + (1 - kappa) * robust)

    def test_without_beta_it_is_s_ibp_and_nothing_is_carried_backwards(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*arguments: object) -> None:
            raise AssertionError("a backward pass was run")

        monkeypatch.setattr(margins, "backward_margins", never)
        losses, found = [], []
        for bound in (IntervalMargins(), CrownMargins(beta_start=0.7)):
            network = lif_network().train()
            terms = Certified(Ramp(0, 0), bound=bound).terms(
                network, self.batch(), LinfBall(0.05), Moment(1, 10)
            )
            terms.loss.backward()
            losses.append(terms.loss)
            found.append(torch.cat([gradient.flatten() for gradient in gradients(network)]))
        assert torch.equal(*losses) and torch.equal(*found)
        with pytest.raises(AssertionError, match="backward pass"):
            Certified(Ramp(0, 0), bound=CrownMargins(beta_end=0.1)).terms(
                lif_network(), self.batch(), LinfBall(0.05), Moment(1, 10)
            )

    @pytest.mark.parametrize("readout", ["membrane", "rate"])
    @pytest.mark.parametrize("relaxation", ["joint", "separate"])
    @pytest.mark.parametrize(
        "threat", [LinfBall(0.05), SpikeFlips(2), FreeSpikes(0.1), CoupledBernoulli(0.1, 3)]
    )
    def test_gradients_reach_all_weights(
        self, threat: Threat, relaxation: Relaxation, readout: Literal["rate", "membrane"]
    ) -> None:
        network = lif_network(threat.network_input, readout=readout).train()
        objective = Certified(Ramp(0, 0), kappa_end=0.0, bound=CrownMargins(relaxation, 1.0, 1.0))
        objective.terms(network, self.batch(threat.domain), threat, Moment(1, 10)).loss.backward()
        found = gradients(network)
        assert len(found) == 6
        assert all(g.isfinite().all() and g.any() for g in found)

    @pytest.mark.parametrize("relaxation", ["joint", "separate"])
    @pytest.mark.parametrize("threat", [LinfBall(0.0), SpikeFlips(0), CoupledBernoulli(0.0, 3)])
    def test_gradients_are_finite_where_bounds_have_no_width(
        self, threat: Threat, relaxation: Relaxation
    ) -> None:
        network = lif_network(threat.network_input).train()
        objective = Certified(Ramp(0, 0), kappa_end=0.0, bound=CrownMargins(relaxation, 1.0, 1.0))
        objective.terms(network, self.batch(threat.domain), threat, Moment(1, 10)).loss.backward()
        assert all(gradient.isfinite().all() for gradient in gradients(network))

    def test_the_gradient_is_that_of_the_bound(self) -> None:
        # One step and one layer: no surrogate has a part in S-CROWN's margins, so differences show
        # their gradient, also the part through the relaxation's end points l and h.
        torch.manual_seed(0)
        network = SpikingNetwork([nn.Flatten(), nn.Linear(64, 12), LIF(), nn.Linear(12, 10)], 1, "membrane")
        network = network.double()
        samples = self.batch()
        x, weight = samples.x.double(), weight_of(network.layers[1])

        def difference() -> torch.Tensor:
            _, program = network.forward_and_freeze(x)
            problem = pose(program, x, samples.y, LinfBall(0.2), PLAIN)
            crown, intervals = CrownMargins(beta_end=1.0)(problem, 1)[0], IntervalMargins()(problem, 1)[0]
            return crown.masked_fill(crown <= intervals, 0).sum()

        (gradient,) = torch.autograd.grad(difference(), weight)
        direction, step = torch.randn_like(weight), 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * direction
                values.append(float(difference()))
                weight -= sign * step * direction
        measured = (values[0] - values[1]) / (2 * step)
        assert abs(measured) > 0.1
        assert measured == pytest.approx(float((gradient * direction).sum()), rel=1e-3)

    @pytest.mark.parametrize("neuron", [LIF(0.25, 0.25), IF(initial=0.5)])
    def test_the_loss_falls(self, neuron: Neuron) -> None:
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 32), neuron, nn.Linear(32, 10)]
        network, samples = SpikingNetwork(layers, 4, "membrane").train(), self.batch()
        objective = Certified(Ramp(0, 0), kappa_end=0.0, bound=CrownMargins(beta_end=1.0))
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        losses = []
        for _ in range(30):
            terms = objective.terms(network, samples, LinfBall(0.03), Moment(1, 10))
            optimizer.zero_grad()
            terms.loss.backward()
            optimizer.step()
            losses.append(float(terms.loss.detach()))
        assert losses[-1] < 0.8 * losses[0]

    @pytest.mark.parametrize("start", [-0.1, 1.1, float("nan")])
    def test_beta_is_a_share(self, start: float) -> None:
        with pytest.raises(ValueError, match="beta_start"):
            CrownMargins(beta_start=start)


class TestFewerSteps:
    @pytest.mark.parametrize("bound", [IntervalMargins(), CrownMargins(beta_end=1.0)])
    @pytest.mark.parametrize(
        ("threat", "cut"),
        [
            (LinfBall(0.02), LinfBall(0.02)),
            (SpikeFlips(2), SpikeFlips(2)),
            (SpikeFlips(5 * 64), SpikeFlips(2 * 64)),
            (CoupledBernoulli(0.02, 5), CoupledBernoulli(0.02, 2)),
        ],
    )
    def test_is_training_on_fewer_steps(self, threat: Threat, cut: Threat, bound: MarginBound) -> None:
        whole = TestMargins().batch(threat.domain, 5)
        short = whole if threat.domain == "image" else whole._replace(x=whole.x[:2])
        networks = [lif_network(threat.network_input, steps).train() for steps in (5, 2)]
        found = []
        for network, samples, limit, steps in zip(
            networks, (whole, short), (threat, cut), (2, None), strict=True
        ):
            objective = Certified(Ramp(0, 0), bound=bound, steps=steps)
            terms = objective.terms(network, samples, limit, Moment(1, 10))
            terms.loss.backward()
            found.append((terms.loss, *gradients(network)))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        all_steps = Certified(Ramp(0, 0), bound=bound).terms(networks[0], whole, threat, Moment(1, 10))
        assert not torch.isclose(all_steps.loss, found[0][0])

    def test_batch_norm_sees_the_same_steps(self) -> None:
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), LIF(0.25, 0.25), nn.Linear(20, 10)]
        samples = TestMargins().batch("spikes", 5)
        network = SpikingNetwork(layers, 5, "membrane", "spikes").train()
        Certified(Ramp(0, 0), steps=2).terms(network, samples, SpikeFlips(1), Moment(1, 10))
        mean = (network.layers[1](samples.x[:2].flatten(2))).mean((0, 1)).detach()
        torch.testing.assert_close(layers[2].running_mean, 0.1 * mean)

    @pytest.mark.parametrize("kind", ["image", "spikes"])
    def test_more_steps_than_there_are(self, kind: Kind) -> None:
        threat = LinfBall(0.1) if kind == "image" else SpikeFlips(1)
        with pytest.raises(ValueError, match="first 4 steps, but there are only 3"):
            Certified(steps=4).terms(lif_network(kind), TestMargins().batch(kind), threat, Moment(0, 10))
        with pytest.raises(ValueError, match="steps must be at least 1"):
            Certified(steps=0)


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


class TestCheckpoints:
    def example(self) -> checkpoints.Checkpoint:
        return checkpoints.Checkpoint({"a": torch.arange(3.0)}, {"epoch": 2, "best": [1.5, 0.5]})

    def test_round_trip(self, tmp_path: Path) -> None:
        checkpoints.save(tmp_path, self.example())
        found, refused = checkpoints.load_latest(tmp_path)
        assert found is not None and not refused
        assert found.facts == self.example().facts
        assert torch.equal(found.tensors["a"], torch.arange(3.0))

    def test_no_checkpoint_is_a_fresh_start(self, tmp_path: Path) -> None:
        assert checkpoints.load_latest(tmp_path) == (None, [])

    @pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"x", lambda b: b""])
    def test_a_damaged_one_is_refused_and_the_previous_used(
        self, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        checkpoints.save(tmp_path, self.example())
        checkpoints.save(tmp_path, replace(self.example(), facts={"epoch": 3}))
        last = tmp_path / checkpoints.LAST
        last.write_bytes(damage(last.read_bytes()))
        found, refused = checkpoints.load_latest(tmp_path)
        assert found is not None and found.facts["epoch"] == 2
        assert len(refused) == 1 and str(last) in refused[0]
        (tmp_path / checkpoints.PREVIOUS).unlink()
        with pytest.raises(CheckpointError, match="no checkpoint"):
            checkpoints.load_latest(tmp_path)

    def test_a_failed_save_leaves_the_old_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoints.save(tmp_path, self.example())

        def full(*arguments: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr("certsnn.files.save_file", full)
        with pytest.raises(OSError, match="no space"):
            checkpoints.save(tmp_path, replace(self.example(), facts={"epoch": 3}))
        assert [path.name for path in tmp_path.iterdir()] == [checkpoints.LAST]
        assert checkpoints.load(tmp_path / checkpoints.LAST).facts["epoch"] == 2


class TestLoop:
    def test_training_certifies(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, epochs=15)
        progress = train(network_of(), task_of(), settings, tmp_path)
        first, last = progress.rows[0], progress.rows[-1]
        assert last["clean_error"] < 20 and last["verified_error"] < 40 < first["verified_error"]
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == progress.rows

    @pytest.mark.parametrize("stop", [1, 4, 10])  # batches; an epoch has 4
    @pytest.mark.parametrize("kind", ["image", "spikes"])
    @pytest.mark.parametrize(
        "objective", [Certified(Ramp(0, 1)), Certified(Ramp(0, 3), bound=CrownMargins(), steps=2)]
    )
    def test_resumed_equals_undisturbed(
        self, tmp_path: Path, stop: int, kind: Kind, objective: Objective
    ) -> None:
        task = task_of() if kind == "image" else task_of(CoupledBernoulli(0.05, 3))
        settings = replace(SETTINGS, objective=objective)

        def start(folder: str, monitor: Monitor) -> SpikingNetwork:
            network = network_of(kind)
            train(network, task, settings, tmp_path / folder, seed=5, monitor=monitor)
            return network

        undisturbed = start("whole", Silent())
        with pytest.raises(Stop):
            start("parts", StopAfter(stop))
        resuming = StopAfter(99)
        resumed = start("parts", resuming)
        assert resuming.begun_at == stop // 4
        assert torch.equal(weights(undisturbed), weights(resumed))

    def test_seeds_matter(self, tmp_path: Path) -> None:
        found = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            network = network_of()
            train(network, task_of(), SETTINGS, tmp_path / name, seed=seed)
            found.append(weights(network))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])

    def test_best_weights_win(self, tmp_path: Path) -> None:
        network = network_of()
        progress = train(network, task_of(), SETTINGS, tmp_path)
        settled = [(row["verified_error"], row["clean_error"]) for row in progress.rows]
        assert progress.best == min(settled)

    def test_natural_training_keeps_the_least_clean_error(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, objective=Natural(), epochs=8)
        progress = train(network_of(), task_of(), settings, tmp_path)
        rows = [(row["clean_error"], row["verified_error"]) for row in progress.rows]
        assert min(rows, key=lambda row: row[::-1]) != min(rows)  # the other order would choose another epoch
        assert progress.best == min(rows)

    def test_another_config_is_refused(self, tmp_path: Path) -> None:
        settings = replace(SETTINGS, epochs=1)
        train(network_of(), task_of(), settings, tmp_path, identity={"config": "a"})
        with pytest.raises(CheckpointError, match="another config"):
            train(network_of(), task_of(), settings, tmp_path, identity={"config": "b"})

    def test_a_diverged_loss_stops(self, tmp_path: Path) -> None:
        network = network_of()
        with torch.no_grad():
            next(network.parameters()).fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="learning_rate"):
            train(network, task_of(), SETTINGS, tmp_path)
