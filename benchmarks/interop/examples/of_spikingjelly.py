"""Networks of SpikingJelly: its models and examples, narrow where a class allows it, else written again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from example import Example, events, images, loud
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

Made = tuple[Any, Tensor, dict[str, Any]]
HOME = "spikingjelly.activation_based"
# The examples' files import it for their logs, and so their classes can't be had without.
stand_in = ModuleType("torch.utils.tensorboard")
stand_in.SummaryWriter = object  # type: ignore[attr-defined]
sys.modules.setdefault("torch.utils.tensorboard", stand_in)
FRAMES = {"input": "frames"}


def own(place: str, name: str) -> Any:
    """A class or a function of the library's."""
    return getattr(import_module(f"{HOME}.{place}"), name)


class OverTime(nn.Module):
    """Images repeated over time, a body in step mode "m", the mean of its outputs."""

    def __init__(self, body: nn.Module, steps: int = 4) -> None:
        super().__init__()
        functional.set_step_mode(body, "m")
        self.body, self.steps = body, steps

    def forward(self, x: Tensor) -> Tensor:
        """Rates."""
        rates: Tensor = self.body(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)
        return rates


def fire(kind: str = "IFNode", **arguments: Any) -> nn.Module:
    made: nn.Module = getattr(neuron, kind)(surrogate_function=surrogate.ATan(), **arguments)
    return made


def over_time(body: Callable[[], nn.Module], *shape: int, factor: float = 2.0) -> Callable[[], Made]:
    return lambda: (loud(OverTime(body()), factor), images(*(shape or (3, 32, 32))), {})


def frames(body: Callable[[], nn.Module], *shape: int, **more: Any) -> Callable[[], Made]:
    """A network on frames ``[T, B, ...]`` in step mode "m"."""

    def make() -> Made:
        module = loud(body())
        functional.set_step_mode(module, "m")
        return module, events(*shape, steps=6), {**FRAMES, "readout": "rate", **more}

    return make


def rows(name: str) -> Callable[[], Made]:
    return frames(lambda: own("examples.rsnn_sequential_fmnist", name)(), 28, readout="rate")


def resnet(place: str, name: str, **arguments: Any) -> Callable[[], nn.Module]:
    """A residual network with one block in each stage, of width 8."""

    def make() -> nn.Module:
        module = import_module(f"{HOME}.model.{place}")
        kind = getattr(module, name)
        made: nn.Module = kind(
            module.BasicBlock, [1, 1, 1, 1], num_classes=10, spiking_neuron=neuron.IFNode, **arguments
        )
        return made

    return make


def vgg(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made: nn.Module = own("model.spiking_vgg", "SpikingVGG")(
            cfg=[8, "M", 16, "M", 16, 16, "M"],
            num_classes=10,
            spiking_neuron=neuron.IFNode,
            init_weights=False,
            **arguments,
        )
        made.classifier = nn.Sequential(layer.Linear(784, 32), fire(), layer.Linear(32, 10))  # narrower
        return made

    return make


class Block(nn.Module):
    """A residual block on currents: spikes, convolution, twice, and the sum (MS-ResNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(
                part
                for _ in range(2)
                for part in (
                    fire("LIFNode"),
                    layer.Conv2d(channels, channels, 3, padding=1, bias=False),
                    layer.BatchNorm2d(channels),
                )
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.body(x) + x


def membrane() -> nn.Module:
    return nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1),
        layer.BatchNorm2d(8),
        Block(8),
        Block(8),
        fire("LIFNode"),
        layer.AdaptiveAvgPool2d((1, 1)),
        layer.Flatten(),
        layer.Linear(8, 10),
    )


def gestures(channels: int = 8) -> nn.Module:
    made: nn.Module = own("model.parametric_lif_net", "DVSGestureNet")(
        channels=channels, spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan()
    )
    return made


def parametric(name: str, *shape: int) -> Callable[[], Made]:
    return over_time(
        lambda: own("model.parametric_lif_net", name)(
            channels=8, spiking_neuron=neuron.ParametricLIFNode, surrogate_function=surrogate.ATan()
        ),
        *shape,
    )


def fashion() -> Made:
    return loud(own("examples.conv_fashion_mnist", "CSNN")(T=4, channels=4), 2), images(1, 28, 28), {}


def fully() -> Made:
    return (
        loud(own("examples.lif_fc_mnist", "SNN")(tau=2.0)),
        images(1, 28, 28),
        {"steps": 25, "readout": "rate"},
    )


def events_vgg() -> nn.Module:
    def block(inputs: int, outputs: int, pool: bool) -> list[nn.Module]:
        found: list[nn.Module] = [layer.AvgPool2d(2)] if pool else []
        return [
            *found,
            layer.Conv2d(inputs, outputs, 3, 1, 1),
            layer.BatchNorm2d(outputs),
            fire("LIFNode", tau=1.333, decay_input=False),
        ]

    layers = [*block(2, 8, False), *block(8, 16, True), *block(16, 16, True), layer.AvgPool2d(2)]
    return nn.Sequential(*layers, layer.Flatten(), nn.Dropout(0.25), nn.Linear(16 * 36, 10))


class Deep(nn.Module):
    """The form of spiking Q-networks: a body, the mean over time, an affine decoder behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = OverTime(
            nn.Sequential(
                layer.Conv2d(4, 8, 8, 4),
                fire("LIFNode"),
                layer.Flatten(),
                layer.Linear(8 * 49, 32),
                fire("LIFNode"),
            )
        )
        self.decoder = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Values of actions."""
        values: Tensor = self.decoder(self.body(x))
        return values


class State(nn.Module):
    """`spiking_dqn_state.DQSN`: run for T steps, the potential of a neuron that never spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = own("examples.spiking_dqn_state", "DQSN")(4, 16, 2, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Values of actions."""
        values: Tensor = self.net(x)
        return values


def whole(place: str, name: str, *shape: int, **arguments: Any) -> Callable[[], Made]:
    """A model that repeats its images itself, or takes them over time."""
    return lambda: (loud(own(place, name)(**arguments)), images(*shape), {"readout": "membrane"})


SPIKINGJELLY = [
    Example("lif_fc_mnist.SNN", fully, True),
    Example("conv_fashion_mnist.CSNN", fashion, True),
    Example("rsnn_sequential_fmnist.PlainNet", rows("PlainNet"), True),
    Example("rsnn_sequential_fmnist.StatefulSynapseNet", rows("StatefulSynapseNet"), True),
    Example("rsnn_sequential_fmnist.FeedBackNet", rows("FeedBackNet"), True),
    Example("classify_dvsg: DVSGestureNet", frames(gestures, 2, 128, 128, readout="membrane"), True),
    Example("parametric_lif_net.MNISTNet", parametric("MNISTNet", 1, 28, 28), True),
    Example("parametric_lif_net.CIFAR10Net", parametric("CIFAR10Net", 3, 32, 32), True),
    Example(
        "parametric_lif_net.CIFAR10DVSNet",
        frames(
            lambda: own("model.parametric_lif_net", "CIFAR10DVSNet")(
                channels=8, spiking_neuron=neuron.ParametricLIFNode
            ),
            2,
            128,
            128,
            readout="membrane",
        ),
        True,
    ),
    Example("spiking_vgg.SpikingVGG", over_time(vgg("SpikingVGG")), True),
    Example(
        "spiking_vgg.SpikingVGG with batch norm",
        over_time(vgg("bn", batch_norm=True, norm_layer=layer.BatchNorm2d)),
        True,
    ),
    Example(
        "spiking_resnet.SpikingResNet", over_time(resnet("spiking_resnet", "SpikingResNet"), factor=1.0), True
    ),
    Example(
        "sew_resnet.SEWResNet, ADD", over_time(resnet("sew_resnet", "SEWResNet", cnf="ADD"), factor=1.0), True
    ),
    Example(
        "sew_resnet.SEWResNet, AND", over_time(resnet("sew_resnet", "SEWResNet", cnf="AND"), factor=1.0), True
    ),
    Example(
        "sew_resnet.SEWResNet, IAND",
        over_time(resnet("sew_resnet", "SEWResNet", cnf="IAND"), factor=1.0),
        True,
    ),
    Example("ms_resnet: sums of currents", over_time(membrane, factor=1.0)),
    Example("memopt: VGG on CIFAR10-DVS", frames(events_vgg, 2, 48, 48, readout="membrane")),
    Example("dsqn: the mean over time, then a decoder", lambda: (loud(Deep()), images(4, 32, 32), {})),
    Example("spiking_dqn_state.DQSN", lambda: (State(), images(4), {"readout": "last"}), True),
    Example(
        "spiking LSTM on sequential MNIST",
        lambda: (
            own("rnn", "SpikingLSTM")(28, 10, 1),
            events(28),
            {**FRAMES, "readout": "rate", "output": 0},
        ),
        True,
    ),
    Example("spikformer.Spikformer", whole("model.spikformer", "spikformer_ti", 3, 32, 32), True),
    Example("qkformer.QKFormer", whole("model.qkformer", "QKFormer", 3, 32, 32), True),
    Example(
        "spike_driven_transformer",
        whole("model.spike_driven_transformer", "SpikeDrivenTransformer", 3, 32, 32),
        True,
    ),
    Example("maxformer.MaxFormer", whole("model.maxformer", "MaxFormer", 3, 32, 32), True),
    Example(
        "a recurrent layer that adds its spikes",
        frames(
            lambda: nn.Sequential(
                layer.Linear(28, 10), layer.ElementWiseRecurrentContainer(fire(), lambda y, x: x + y)
            ),
            28,
        ),
    ),
    Example(
        "voting layer, dropout (PLIF's end)",
        over_time(
            lambda: nn.Sequential(
                layer.Flatten(),
                layer.Dropout(0.5),
                layer.Linear(64, 40),
                fire("ParametricLIFNode"),
                layer.VotingLayer(4),
            ),
            1,
            8,
            8,
        ),
    ),
    Example(
        "ann2snn: IF neurons, subtract, average pooling",
        over_time(
            lambda: nn.Sequential(
                layer.Conv2d(1, 4, 3, padding=1),
                fire(v_reset=None),
                layer.AvgPool2d(2),
                layer.Flatten(),
                layer.Linear(64, 10),
            ),
            1,
            8,
            8,
        ),
    ),
    Example(
        "EIFNode",
        over_time(lambda: nn.Sequential(layer.Flatten(), layer.Linear(64, 10), fire("EIFNode")), 1, 8, 8),
    ),
    Example(
        "QIFNode",
        over_time(lambda: nn.Sequential(layer.Flatten(), layer.Linear(64, 10), fire("QIFNode")), 1, 8, 8),
    ),
    Example(
        "IzhikevichNode",
        over_time(
            lambda: nn.Sequential(layer.Flatten(), layer.Linear(64, 10), fire("IzhikevichNode")), 1, 8, 8
        ),
    ),
    Example(
        "PSN (parallel spiking neurons)",
        over_time(lambda: nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.PSN(4)), 1, 8, 8),
    ),
    Example(
        "NeuNorm",
        over_time(
            lambda: nn.Sequential(
                layer.Conv2d(1, 4, 3),
                layer.NeuNorm(4, 6, 6),
                fire(),
                layer.Flatten(),
                layer.Linear(144, 10),
                fire(),
            ),
            1,
            8,
            8,
        ),
    ),
]
