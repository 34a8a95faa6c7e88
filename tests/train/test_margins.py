"""Margins that training minimises: the mix of two bounds, and fewer steps."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from modules import weight_of
from torch import nn

from certsnn.bounds import margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.data.digits import digits
from certsnn.encoding import Bernoulli
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, SpikeFlips, Threat
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.train.objectives import bounds as margins
from certsnn.train.objectives.base import Samples
from certsnn.train.objectives.bounds import CrownMargins, IntervalMargins, MarginBound
from certsnn.train.objectives.certified import Certified, robust_cross_entropy
from certsnn.train.schedules import Moment, Ramp

Relaxation = Literal["joint", "separate"]


def lif_network(
    kind: Domain = "image",
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
    def test_more_steps_than_there_are(self, kind: Domain) -> None:
        threat = LinfBall(0.1) if kind == "image" else SpikeFlips(1)
        with pytest.raises(ValueError, match="first 4 steps, but there are only 3"):
            Certified(steps=4).terms(lif_network(kind), TestMargins().batch(kind), threat, Moment(0, 10))
        with pytest.raises(ValueError, match="steps must be at least 1"):
            Certified(steps=0)
