"""Filters over time: traces by hand, gradients against plain torch, current-based neurons, errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from certsnn.filters import Filter, Synapse, filtered
from certsnn.graph import Residual
from certsnn.layers import Scale
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.program import Stage

STEPS = 5


def unrolled(x: Tensor, decay: Tensor) -> Tensor:
    """``i_t = decay * i_{t-1} + x_t`` in plain torch, step by step."""
    i, rows = torch.zeros_like(x[0]), []
    for current in x:
        i = decay * i + current
        rows.append(i)
    return torch.stack(rows)


def test_a_trace_by_hand() -> None:
    x = torch.tensor([1.0, 0.0, 2.0, -1.0]).view(4, 1, 1)
    assert filtered(x, torch.tensor(0.5), 4).flatten().tolist() == [1, 0.5, 2.25, 0.125]
    assert filtered(x[:1], torch.tensor(0.5), 4).flatten().tolist() == [1, 1.5, 1.75, 1.875]
    assert filtered(x, torch.tensor(0.0), 4).flatten().tolist() == [1, 0, 2, -1]
    assert filtered(x, torch.tensor(1.0), 4).flatten().tolist() == [1, 1, 3, 2]


def test_the_product_is_rounded_before_the_sum() -> None:
    """Bit for bit ``decay * i + x``: a fused product and sum would differ in some of these."""
    generator = torch.Generator().manual_seed(0)
    x, decay = torch.randn(16, 50, 40, generator=generator), torch.rand(40, generator=generator)
    assert torch.equal(filtered(x, decay, 16), unrolled(x, decay))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1, 1), (3, 2, 2)])
@pytest.mark.parametrize("frames", [1, STEPS])
def test_gradients_are_those_of_the_unrolled_filter(shape: tuple[int, ...], frames: int) -> None:
    generator = torch.Generator().manual_seed(1)
    sample = shape if len(shape) == 1 and shape[0] > 1 else (3, 2, 2)
    x = torch.randn(frames, 2, *sample, generator=generator, dtype=torch.float64)
    decay = torch.rand(shape, generator=generator, dtype=torch.float64)
    towards = torch.randn(STEPS, 2, *sample, generator=generator, dtype=torch.float64)
    found = []
    for run in (lambda x, d: filtered(x, d, STEPS), lambda x, d: unrolled(x.expand(STEPS, *x.shape[1:]), d)):
        ends = x.clone().requires_grad_(), decay.clone().requires_grad_()
        (run(*ends) * towards).sum().backward()
        found.append([end.grad for end in ends])
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other)


def test_a_network_of_current_based_neurons_is_what_it_says() -> None:
    """snnTorch's Synaptic with reset to zero: ``syn = alpha syn + I``, ``mem = beta mem + syn``."""
    torch.manual_seed(0)
    first, last = nn.Linear(6, 8), nn.Linear(8, 3)
    alpha = torch.rand(8)
    layers = [first, Synapse(alpha), LIF(0.4, 0.8), last]
    network = SpikingNetwork(layers, STEPS, "membrane", "spikes").eval()
    x = (torch.rand(STEPS, 7, 6) < 0.5).float()
    syn, v, spikes = torch.zeros(7, 8), torch.zeros(7, 8), []
    for frame in x:
        syn = alpha * syn + first(frame)
        u = v + syn
        spikes.append((u >= 0.4).float())
        v = 0.8 * u * (1 - spikes[-1])
    counts = torch.stack(spikes)
    assert 0.1 < float(counts.mean()) < 0.9
    torch.testing.assert_close(network(x), last(counts.mean(0)))
    program = network.freeze()
    assert [(type(node), node.name) for node in program.nodes] == [(Filter, "layers.1"), (Stage, "layers.2")]
    assert not program.is_chain
    assert program.held(True) == [True, False, False]


def test_two_filters_make_the_alpha_neuron() -> None:
    """snnTorch's Alpha: an excitatory less an inhibitory current, times a gain, is the membrane."""
    first, last = nn.Linear(3, 4), nn.Linear(4, 2)
    difference = Residual(Synapse(0.875), [Synapse(0.5), Scale(-1.0)])
    layers = [first, difference, Scale(2.0), LIF(0.5, 0.0), last]
    network = SpikingNetwork(layers, STEPS, "membrane", "spikes").eval()
    x = (torch.rand(STEPS, 20, 3, generator=torch.Generator().manual_seed(3)) < 0.5).float()
    excitatory = inhibitory = torch.zeros(20, 4)
    spikes = []
    for frame in x:
        excitatory = 0.875 * excitatory + first(frame)
        inhibitory = 0.5 * inhibitory - first(frame)
        spikes.append((2 * (excitatory + inhibitory) >= 0.5).float())
    counts = torch.stack(spikes)
    assert 0.1 < float(counts.mean()) < 0.9
    torch.testing.assert_close(network(x), last(counts.mean(0)))


def test_training_freezes_what_it_ran() -> None:
    torch.manual_seed(0)
    synapse = Synapse(0.7, learn_decay=True)
    layers = [
        nn.Linear(5, 8, bias=False),
        nn.BatchNorm1d(8),
        synapse,
        LIF(0.3),
        nn.Linear(8, 3),
        Synapse(0.9),
    ]
    network = SpikingNetwork(layers, STEPS, "last").train()
    logits, program = network.forward_and_freeze(
        torch.rand(12, 5, generator=torch.Generator().manual_seed(1))
    )
    x = torch.rand(12, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(program.run(x), logits)
    logits.sum().backward()
    assert synapse.decay.grad is not None and float(synapse.decay.grad.abs()) > 0


def test_a_trained_decay_is_clamped() -> None:
    synapse = Synapse(1.0, learn_decay=True)
    synapse.decay.data.fill_(1.25)
    x = torch.ones(3, 1, 1)
    assert synapse(x).flatten().tolist() == [1, 2, 3]
    synapse.decay.data.fill_(-0.25)
    assert synapse(x).flatten().tolist() == [1, 1, 1]


def test_what_does_not_fit_is_refused_by_name() -> None:
    for decay in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="decay must lie in"):
            Synapse(decay)
    network = SpikingNetwork([nn.Linear(3, 4), Synapse(torch.rand(3)), IF()], 2).eval()
    with pytest.raises(ValueError, match=r"the decay of layers\.1 has the shape \[3\].*currents are \[4\]"):
        network(torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"the decay of layers\.1 has the shape \[2, 4\]"):
        SpikingNetwork([nn.Linear(3, 4), Synapse(torch.rand(2, 4)), IF()], 2).eval()(torch.rand(2, 3))
    with pytest.raises(ValueError, match="rate readout ends with a neuron, but the last layer is a Synapse"):
        SpikingNetwork([nn.Linear(3, 4), IF(), Synapse(0.5)], 2, "rate")
    hooked = Synapse(0.5)
    hooked.register_forward_hook(lambda *arguments: None)
    with pytest.raises(TypeError, match="forward hooks"):
        SpikingNetwork([nn.Linear(3, 4), hooked, IF()], 2)
