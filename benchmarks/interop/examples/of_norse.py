"""Networks of Norse: its models, and those of its tasks and notebooks, narrower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import norse.torch as norse
import torch
import torch.nn.functional as F
from example import Example, events, images, loud
from norse.torch.models.conv import ConvNet, ConvNet4
from torch import Tensor, nn

Made = tuple[Any, Tensor, dict[str, Any]]
SPIKES = {"input": "spikes", "readout": "maximum"}


def lif(threshold: float = 0.3) -> Any:
    return norse.LIFParameters(v_th=torch.as_tensor(threshold))


class Encoded(nn.Module):
    """The network of the task MNIST: an encoder, a convolutional network, the maximum over time."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.size, self.rsnn = size, ConvNet(feature_size=size)
        self.encoder = norse.ConstantCurrentLIFEncoder(12)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities."""
        x = self.encoder(x.view(-1, self.size**2) * 4.0).reshape(12, x.shape[0], 1, self.size, self.size)
        return F.log_softmax(torch.max(self.rsnn(x), 0)[0], dim=1)


class Stepping(nn.Module):
    """A `SequentialState` of cells, called once a step and handed its states, as in the task CIFAR-10."""

    def __init__(self, *layers: nn.Module, end: Callable[[Tensor], Tensor] = lambda out: out) -> None:
        super().__init__()
        self.body, self.end = norse.SequentialState(*layers), end

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all steps."""
        state, found = None, []
        for step in range(len(x)):
            out, state = self.body(x[step], state)
            found.append(out)
        return self.end(torch.stack(found))


class Policy(nn.Module):
    """The form of the task cartpole: recurrent cells on encoded inputs, a leaky integrator."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.lif, self.readout = recurrent, norse.LILinearCell(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all steps."""
        one, two, found = None, None, []
        for step in range(len(x)):
            z, one = self.lif(x[step], one)
            out, two = self.readout(z, two)
            found.append(out)
        return torch.stack(found)


def cifar(*, group: bool = False) -> nn.Module:
    return Stepping(
        *(nn.Conv2d(2, 8, 3, padding=1), norse.LIFCell(lif()), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), norse.LIFCell(lif()), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 10), norse.LICell()),
    )


def over_time(*layers: nn.Module, **more: Any) -> Callable[[], Made]:
    """A `SequentialState` of layers over all steps."""
    arguments = {"input": "spikes", "readout": "maximum", "output": 0, **more}
    return lambda: (loud(norse.SequentialState(*layers)), events(1, 8, 8), arguments)


def policy(recurrent: Callable[[], nn.Module]) -> Callable[[], Made]:
    return lambda: (Policy(recurrent()), events(4), SPIKES)


FLAT = (nn.Flatten(2),)
NORSE = [
    Example(
        "models.conv.ConvNet", lambda: (loud(ConvNet(feature_size=16), 6), events(1, 16, 16), SPIKES), True
    ),
    Example(
        "models.conv.ConvNet4",
        lambda: (loud(ConvNet4(feature_size=28), 6), events(1, 28, 28, steps=8), SPIKES),
        True,
    ),
    Example("task MNIST: encoder and ConvNet", lambda: (loud(Encoded(), 6), images(1, 16, 16), {})),
    Example("task CIFAR-10: cells in SequentialState", lambda: (loud(cifar()), events(2, 16, 16), SPIKES)),
    Example("task cartpole: LIFRecurrentCell", policy(lambda: norse.LIFRecurrentCell(4, 8))),
    Example("task cartpole: LSNNRecurrentCell", policy(lambda: norse.LSNNRecurrentCell(4, 8))),
    Example("task memory: LSNN and LIF cells", policy(lambda: norse.LSNNCell())),
    Example("task correlation: LIFCorrelation", policy(lambda: norse.LIFCorrelation(4, 8))),
    Example(
        "notebook: LIF and LI, fully connected",
        over_time(*FLAT, nn.Linear(64, 32), norse.LIF(lif()), nn.Linear(32, 10), norse.LI()),
    ),
    Example(
        "notebook: LIF output, rates", over_time(*FLAT, nn.Linear(64, 10), norse.LIF(lif()), readout="rate")
    ),
    Example(
        "notebook: Lift, convolution, pooling",
        over_time(
            norse.Lift(nn.Conv2d(1, 4, 3)),
            norse.LIF(lif()),
            norse.Lift(nn.MaxPool2d(2)),
            nn.Flatten(2),
            nn.Linear(36, 10),
            norse.LI(),
        ),
    ),
    Example(
        "notebook: LIFBox cells",
        lambda: (
            loud(
                Stepping(
                    nn.Flatten(), nn.Linear(64, 32), norse.LIFBoxCell(), nn.Linear(32, 10), norse.LIBoxCell()
                )
            ),
            events(1, 8, 8),
            SPIKES,
        ),
    ),
    Example(
        "notebook: IAF cells",
        lambda: (
            loud(Stepping(nn.Flatten(), nn.Linear(64, 10), norse.IAFCell())),
            events(1, 8, 8),
            {"input": "spikes", "readout": "rate"},
        ),
    ),
    Example("notebook: RNN of LIFRecurrent", over_time(*FLAT, norse.LIFRecurrent(64, 10), readout="rate")),
    Example(
        "notebook: LIFRefrac cells",
        lambda: (Stepping(nn.Flatten(), norse.LIFRefracCell()), events(1, 8, 8), SPIKES),
    ),
    Example(
        "notebook: LIFAdEx cells",
        lambda: (Stepping(nn.Flatten(), norse.LIFAdExCell()), events(1, 8, 8), SPIKES),
    ),
    Example(
        "notebook: Izhikevich cells",
        lambda: (Stepping(nn.Flatten(), norse.IzhikevichCell(norse.tonic_spiking)), events(1, 8, 8), SPIKES),
    ),
]
