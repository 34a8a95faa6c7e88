"""Modules written with certsnn's own neurons and a forward of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign_networks import images, spikes
from torch import Tensor, nn

import certsnn
from certsnn.errors import UserError
from certsnn.networks import SpikingNetwork

Forward = Callable[["Free", Tensor], Any]


class Free(nn.Module):
    """Layers, and a forward that a test gives."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.one = nn.Conv2d(1, 2, 3, padding=1), certsnn.LIF(0.5, 0.7, "subtract", initial=0.1)
        self.body, self.two = nn.Conv2d(2, 2, 3, padding=1), certsnn.IF(0.4)
        self.fc, self.run = nn.Linear(32, 3), forward

    def forward(self, x: Tensor) -> Any:
        """What the test says."""
        return self.run(self, x)


def residual(net: Free, x: Tensor) -> Tensor:
    a = net.one(net.conv(x))
    b = net.two(net.body(a))
    y: Tensor = net.fc(F.avg_pool2d(a - b * 0.5 + 0, 2).flatten(1))
    return y


def rebuilt(net: Free) -> SpikingNetwork:
    """`residual` as it is written by hand."""
    nodes: dict[str, Any] = {
        "conv": (net.conv, ["input"]),
        "one": (net.one, ["conv"]),
        "body": (net.body, ["one"]),
        "two": (net.two, ["body"]),
        "halved": (certsnn.Scale(0.5), ["two"]),
        "minus": (certsnn.Scale(-1.0), ["halved"]),
        "sum": (certsnn.graph.Add(), ["one", "minus"]),
        "pool": (nn.AvgPool2d(2), ["sum"]),
        "flat": (nn.Flatten(), ["pool"]),
        "fc": (net.fc, ["flat"]),
    }
    return SpikingNetwork.from_graph(nodes, 6, "membrane").eval()


def test_a_step_of_a_residual_network() -> None:
    module, x = Free(residual), images()
    network, check = certsnn.from_torch(module, x, steps=6, readout="membrane")
    assert check.differ == 0 and check.membranes == 0
    assert torch.equal(network(x), rebuilt(module)(x))
    y = network(x).argmax(1)
    found = certsnn.margin_bounds(network, x, y, certsnn.LinfBall(0.01))
    assert torch.equal(found, certsnn.margin_bounds(rebuilt(module), x, y, certsnn.LinfBall(0.01)))


def test_a_forward_over_all_steps() -> None:
    def over_time(net: Free, x: Tensor) -> Tensor:
        return torch.stack([residual(net, frame) for frame in x]).mean(dim=0)

    network, check = certsnn.from_torch(Free(over_time), spikes(), input="spikes")
    assert network.readout == "membrane" and check.differ == 0


READINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda outputs: outputs.sum(0),
    "last": lambda outputs: outputs[-1],
    "maximum": lambda outputs: outputs.max(0).values,
}


@pytest.mark.parametrize("readout", READINGS)
def test_other_readings_over_time(readout: Any) -> None:
    read = READINGS[readout]

    def inside(net: Free, x: Tensor) -> Tensor:
        return read(torch.stack([residual(net, x) for _ in range(4)]))

    x = images()
    network, check = certsnn.from_torch(Free(inside), x)
    assert network.readout == readout and check.logits < 1e-5
    said, _ = certsnn.from_torch(Free(residual), x, steps=4, readout=readout)
    assert torch.equal(said(x), network(x))
    with pytest.raises(UserError, match=f"readout='{readout}', not 'rate'"):
        certsnn.from_torch(Free(inside), x, readout="rate")


def test_steps_are_written_to_their_places_and_a_softmax_comes_last() -> None:
    def filled(net: Free, x: Tensor) -> Tensor:
        outputs = torch.zeros(4, len(x), 3)
        for step in range(4):
            outputs[step, :] = net.fc(F.max_pool2d(F.relu(net.one(net.conv(x))), 2).flatten(1))
        return outputs.mean(0).softmax(1)

    x = images()
    network, check = certsnn.from_torch(Free(filled), x)
    assert network.readout == "membrane" and check.logits < 1e-6
    torch.testing.assert_close(network(x).softmax(1), Free(filled)(x))


def test_an_import_can_be_trained_and_has_the_paths_of_the_original() -> None:
    network, _ = certsnn.from_torch(Free(residual), images(), steps=2, readout="membrane")
    network.train()(images()).sum().backward()
    names = {name.removeprefix("layers.0.nodes.") for name, _ in network.named_parameters()}
    assert {"conv.weight", "body.bias", "fc.weight"} <= names


def head(net: Free, spikes: Tensor) -> Tensor:
    y: Tensor = net.fc(F.avg_pool2d(spikes, 2).flatten(1))
    return y


def twice(net: Free, x: Tensor) -> Tensor:
    return head(net, net.one(net.body(net.one(net.conv(x)))))


def conditional(net: Free, x: Tensor) -> Tensor:
    return head(net, net.one(net.conv(x) if (x > 2).any() else net.conv(-x)))


class Recurrent:
    """A step that takes the spikes of the step before."""

    def __init__(self) -> None:
        self.before: Tensor | None = None

    def __call__(self, net: Free, x: Tensor) -> Tensor:
        current = net.conv(x) if self.before is None else net.conv(x) + net.body(self.before)
        self.before = net.one(current)
        return head(net, self.before)


class Differencing:
    """Reads the difference of the spikes of two steps."""

    def __init__(self) -> None:
        self.before: Tensor | None = None

    def __call__(self, net: Free, x: Tensor) -> Tensor:
        spikes = net.one(net.conv(x))
        before, self.before = self.before, spikes
        return head(net, spikes if before is None else spikes - before)


REFUSED: dict[str, tuple[Forward, str]] = {
    "twice a step": (twice, "used at two places"),
    "a condition": (conditional, "__bool__: the module goes on as numbers|gt: "),
    "a constant": (lambda net, x: head(net, net.one(net.conv(x)) + 1), "adds a constant"),
    "a product": (lambda net, x: head(net, net.one(net.conv(x)) * x), "only one number"),
    "samples mixed": (lambda net, x: head(net, net.one(net.conv(x.flip(0)))), "flip: certsnn has no bound"),
    "batch in a shape": (lambda net, x: net.one(net.conv(x)).reshape(-1, 2), "it mixes samples"),
    "random": (
        lambda net, x: head(net, net.one(net.conv((torch.rand_like(x) < x).float()))),
        "encode the input",
    ),
    "numbers": (
        lambda net, x: head(net, net.one(net.conv(x)) * net.conv(x).view(len(x), -1).argmax().item()),
        "argmax|item",
    ),
    "no neurons": (lambda net, x: head(net, net.body(net.conv(x))), "there are none"),
    "two steps": (Differencing(), "sub: it combines values of different steps"),
    "dropout": (lambda net, x: head(net, net.one(F.dropout(net.conv(x)))), "drops values in eval mode"),
    "a rectifier of currents": (lambda net, x: head(net, net.one(F.relu(net.conv(x)))), "relu: .* on spikes"),
    "a softmax of a step": (
        lambda net, x: residual(net, x).softmax(1),
        "softmax: it stands before what reads",
    ),
    "an error": (lambda net, x: net.fc(x), "it raised RuntimeError"),
    "a state before": (Recurrent(), "different steps|differs between steps"),
}


@pytest.mark.parametrize("forward, words", REFUSED.values(), ids=REFUSED)
def test_what_no_graph_says_is_refused(forward: Forward, words: str) -> None:
    with pytest.raises(UserError, match=words):
        certsnn.from_torch(Free(forward), images(), steps=3, readout="membrane")


def test_another_graph_on_other_inputs_is_refused() -> None:
    def hidden(net: Free, x: Tensor) -> Tensor:
        bright = bool((x.detach().cpu().clone().untyped_storage()[0]) > 127)
        return head(net, net.one(net.conv(x) * (2.0 if bright else 1.0)))

    x = images()
    x[0, 0, 0, 0] = 0  # its first byte is 0; that of a random number is not
    with pytest.raises(UserError, match="another graph"):
        certsnn.from_torch(Free(hidden), x, steps=2, readout="membrane")


def test_an_operation_that_changes_what_was_recorded_is_found() -> None:
    def aliased(net: Free, x: Tensor) -> Tensor:
        y = net.conv(x)
        y.view(len(x), -1).mul_(3.0)  # changes y, too
        return head(net, net.one(y))

    with pytest.raises(UserError, match=r"one does not do what its import does, from step 1 on"):
        certsnn.from_torch(Free(aliased), images(), steps=2, readout="membrane")


def test_affine_layers_behind_a_mean_and_no_others() -> None:
    def decoded(net: Free, x: Tensor) -> Tensor:
        rates = torch.stack([net.one(net.conv(x)) for _ in range(4)]).mean(0)
        return head(net, rates)

    x = images()
    network, check = certsnn.from_torch(Free(decoded), x)
    assert network.readout == "membrane" and check.logits < 1e-6
    torch.testing.assert_close(network(x), Free(decoded)(x))

    def pooled(net: Free, x: Tensor) -> Tensor:
        rates = torch.stack([net.one(net.conv(x)) for _ in range(4)]).mean(0)
        logits: Tensor = net.fc(F.max_pool2d(rates, 2).flatten(1))
        return logits

    def summed(net: Free, x: Tensor) -> Tensor:
        return head(net, torch.stack([net.one(net.conv(x)) for _ in range(4)]).sum(0))

    with pytest.raises(UserError, match="pool before that"):
        certsnn.from_torch(Free(pooled), x)
    with pytest.raises(UserError, match=r"fc \(Linear\): it works on what has been read"):
        certsnn.from_torch(Free(summed), x)


def test_a_place_is_written_once_and_in_order() -> None:
    def backwards(net: Free, x: Tensor) -> Tensor:
        outputs = torch.zeros(2, len(x), 3)
        for step in range(2):
            outputs[1 - step] = residual(net, x)
        return outputs.mean(0)

    def again(net: Free, x: Tensor) -> Tensor:
        outputs = torch.stack([residual(net, x), residual(net, x)])
        outputs[0] = 0.0
        return outputs.mean(0)

    def left_out(net: Free, x: Tensor) -> Tensor:
        outputs = torch.zeros(3, len(x), 3)
        found = [residual(net, x) for _ in range(3)]
        outputs[0], outputs[2] = found[0], found[2]
        return outputs.mean(0)

    for forward in (backwards, again, left_out):
        with pytest.raises(UserError, match="each is written once, in their order"):
            certsnn.from_torch(Free(forward), images())


def test_outputs_of_a_part_of_the_steps() -> None:
    def first_two(net: Free, x: Tensor) -> Tensor:
        return torch.stack([residual(net, x) for _ in range(3)][:2])

    with pytest.raises(UserError, match="holds 2 of its 3 steps"):
        certsnn.from_torch(Free(first_two), images(), readout="membrane")


def test_types_are_checked_first() -> None:
    with pytest.raises(UserError, match=r"must both be torch\.float32"):
        certsnn.from_torch(Free(residual).double(), images(), steps=2, readout="membrane")
    with pytest.raises(UserError, match="give a torch module"):
        certsnn.from_torch(residual, images())  # type: ignore[arg-type]
