"""Networks of snnTorch's tutorials, written again from their descriptions, narrower."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import snntorch
import torch
import torch.nn.functional as F
from example import Example, events, images, loud
from snntorch import surrogate
from snntorch.functional import quant
from torch import Tensor, nn

GRAD = surrogate.fast_sigmoid(slope=25)
Made = tuple[Any, Tensor, dict[str, Any]]


class Loop(nn.Module):
    """Affine layers and neurons in turn, in a loop over time, states in variables."""

    def __init__(self, sizes: list[int], neuron: Callable[[int], nn.Module], held: bool = True) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        self.affine = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.neurons = nn.ModuleList(neuron(size) for _, size in pairs)
        self.held = held

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and last states of all steps."""
        states: list[Any] = [neuron.reset_mem() for neuron in self.neurons]  # type: ignore[operator, union-attr]
        spikes, membranes = [], []
        for step in range(25 if self.held else len(x)):
            out = x.view(x.size(0), -1) if self.held else x[step].flatten(1)
            for place, (affine, neuron) in enumerate(zip(self.affine, self.neurons, strict=True)):
                given = states[place] if isinstance(states[place], (tuple, list)) else [states[place]]
                found = neuron(affine(out), *given)
                out, states[place] = found[0], found if hasattr(neuron, "spk") else found[1:]
            spikes.append(out)
            membranes.append(states[-1][-1])
        return torch.stack(spikes), torch.stack(membranes)


class Convolutional(nn.Module):
    """Tutorial 6: convolution, functional max pooling, Leaky, twice; then an affine layer and Leaky."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 8, 5), nn.Linear(8 * 4 * 4, 10)
        self.lif1, self.lif2, self.lif3 = (snntorch.Leaky(beta=0.5, spike_grad=GRAD) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membranes of one step after another."""
        one, two, three = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spikes, membranes = [], []
        for _ in range(25):
            out, one = self.lif1(F.max_pool2d(self.conv1(x), 2), one)
            out, two = self.lif2(F.max_pool2d(self.conv2(out), 2), two)
            out, three = self.lif3(self.fc(out.view(x.size(0), -1)), three)
            spikes.append(out)
            membranes.append(three)
        return torch.stack(spikes), torch.stack(membranes)


def leaky(size: int, **arguments: Any) -> nn.Module:
    made: nn.Module = snntorch.Leaky(**{"beta": 0.9, **arguments})
    return made


def loop(neuron: Callable[[int], nn.Module], readout: str = "rate", **more: Any) -> Callable[[], Made]:
    """A fully connected network on images of 8x8, or other sizes."""

    def make() -> Made:
        sizes = more.get("sizes", [64, 32, 10])
        held, output = more.get("held", True), more.get("output", 0)
        x = images(1, 8, 8) if held else events(sizes[0])
        kind = "image" if held else "spikes"
        return loud(Loop(sizes, neuron, held)), x, {"readout": readout, "output": output, "input": kind}

    return make


def stepwise(*layers: Callable[[], nn.Module], events_of: int = 0, **more: Any) -> Callable[[], Made]:
    """Layers in a row with hidden states, called once a step."""

    def make() -> Made:
        module = loud(nn.Sequential(*(layer() for layer in layers)))
        x = events(events_of, 28, 28) if events_of else images(1, 28, 28)
        given = {"input": "frames"} if events_of else {"steps": 25}
        return module, x, {"readout": "rate", "output": 0, **given, **more}

    return make


def hidden(**arguments: Any) -> Callable[[], nn.Module]:
    return lambda: leaky(0, **{"beta": 0.5, "spike_grad": GRAD, "init_hidden": True, **arguments})


def alone(neuron: Callable[[], nn.Module], *layers: Callable[[], nn.Module]) -> Callable[[], Made]:
    """A hidden-state neuron between two affine layers."""
    first, last = (lambda: nn.Flatten()), (lambda: nn.Linear(16, 10))
    affine: Callable[[], nn.Module] = lambda: nn.Linear(28 * 28, 16)  # noqa: E731
    return stepwise(first, affine, *layers, neuron, last, hidden(output=True))


POOL: Callable[[], nn.Module] = lambda: nn.MaxPool2d(2)  # noqa: E731
SNNTORCH = [
    Example(
        "tutorial 2: Lapicque neurons, fully connected",
        loop(lambda n: snntorch.Lapicque(R=5.1, C=5e-3, time_step=1e-3, threshold=0.2)),
    ),
    Example("tutorial 3: Leaky, fully connected, spikes in", loop(leaky, held=False)),
    Example(
        "tutorial 4: Synaptic (second order), fully connected", loop(lambda n: snntorch.Synaptic(0.9, 0.8))
    ),
    Example("tutorial 4: Alpha, fully connected", loop(lambda n: snntorch.Alpha(0.9, 0.8))),
    Example("tutorial 5: Leaky, fully connected, rates", loop(lambda n: leaky(n, beta=0.95))),
    Example(
        "tutorial 5: the same, read by its membrane without reset",
        loop(lambda n: leaky(n, reset_mechanism="none" if n == 10 else "zero"), "membrane", output=1),
    ),
    Example(
        "tutorial 6: convolutional, loop",
        lambda: (loud(Convolutional()), images(1, 28, 28), {"readout": "rate", "output": 0}),
    ),
    Example(
        "tutorial 6: convolutional, hidden states",
        stepwise(
            lambda: nn.Conv2d(1, 4, 5),
            POOL,
            hidden(),
            lambda: nn.Conv2d(4, 8, 5),
            POOL,
            hidden(),
            nn.Flatten,
            lambda: nn.Linear(128, 10),
            hidden(output=True),
        ),
    ),
    Example(
        "tutorial 7: convolutional, N-MNIST frames",
        stepwise(
            lambda: nn.Conv2d(2, 4, 5),
            POOL,
            hidden(),
            lambda: nn.Conv2d(4, 8, 5),
            POOL,
            hidden(),
            nn.Flatten,
            lambda: nn.Linear(128, 10),
            hidden(output=True),
            events_of=2,
        ),
    ),
    Example("population coding: 500 outputs", loop(leaky, sizes=[64, 32, 500])),
    Example(
        "regression I: Leaky, the last membrane",
        loop(
            lambda n: leaky(n, reset_mechanism="none" if n == 1 else "subtract"),
            "last",
            sizes=[64, 16, 1],
            output=1,
        ),
    ),
    Example("regression II: RLeaky", loop(lambda n: snntorch.RLeaky(beta=0.9, linear_features=n))),
    Example("regression II: SLSTM", alone(lambda: snntorch.SLSTM(16, 16, init_hidden=True))),
    Example(
        "spoken digits (SHD): RLeaky, spikes in",
        loop(lambda n: snntorch.RLeaky(beta=0.9, linear_features=n), held=False, sizes=[70, 32, 20]),
    ),
    Example("exoplanets: three layers of Leaky", loop(leaky, sizes=[64, 32, 16, 2])),
    Example(
        "learned decays and thresholds, one for each neuron",
        loop(
            lambda n: leaky(
                n, beta=torch.rand(n), threshold=0.5 + torch.rand(n), learn_beta=True, learn_threshold=True
            )
        ),
    ),
    Example(
        "DVS gestures: average pooling, batch norm, dropout",
        stepwise(
            lambda: nn.Conv2d(2, 4, 5),
            lambda: nn.BatchNorm2d(4),
            lambda: nn.AvgPool2d(2),
            hidden(),
            nn.Flatten,
            nn.Dropout,
            lambda: nn.Linear(576, 10),
            hidden(output=True),
            events_of=2,
        ),
    ),
    Example("reset to zero", loop(lambda n: leaky(n, reset_mechanism="zero"))),
    Example(
        "reset in the step of the spike, to zero",
        loop(lambda n: leaky(n, reset_mechanism="zero", reset_delay=False)),
    ),
    Example("reset in the step of the spike, by subtraction", loop(lambda n: leaky(n, reset_delay=False))),
    Example("Leaky with lateral inhibition", loop(lambda n: leaky(n, inhibition=True))),
    Example("Leaky with graded spikes", loop(lambda n: leaky(n, graded_spikes_factor=2.0))),
    Example(
        "Leaky with quantised states", loop(lambda n: leaky(n, state_quant=quant.state_quant(num_bits=4)))
    ),
    Example("RSynaptic", loop(lambda n: snntorch.RSynaptic(0.9, 0.8, linear_features=n))),
    Example(
        "SConv2dLSTM",
        stepwise(
            lambda: snntorch.SConv2dLSTM(1, 4, 3, init_hidden=True),
            nn.Flatten,
            lambda: nn.Linear(4 * 28 * 28, 10),
            hidden(output=True),
        ),
    ),
    Example(
        "spiking autoencoder: transposed convolutions",
        stepwise(
            lambda: nn.Conv2d(1, 4, 3, 2, 1),
            hidden(),
            lambda: nn.ConvTranspose2d(4, 1, 3, 2, 1, 1),
            hidden(output=True),
        ),
    ),
    Example("LeakyParallel", alone(lambda: snntorch.LeakyParallel(16, 16))),
]
