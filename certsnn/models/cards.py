"""Cards of trained networks: a model's description, its known errors, and the commands that give both again.

All of it comes from the config and the facts in the model's own file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, final

from torch import nn

from certsnn.inputsets import (
    CoupledBernoulli,
    EventChanges,
    LinfBall,
    LinfFrames,
    SpikeFlips,
    SpikeShift,
    Threat,
)
from certsnn.models.descriptions import LAYERS
from certsnn.models.pretrained import Model
from certsnn.networks import SpikingNetwork
from certsnn.neurons import Neuron
from certsnn.results.rates import percent
from certsnn.train.config import DataConfig, RunConfig

UNKNOWN = "not measured"

TRAINING = {"digits": 1_347, "mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000}
"""The numbers of samples in the published training sets."""

READOUTS = {
    "membrane": "membrane (the mean membrane of a last affine layer)",
    "rate": "rate (the spike counts of a last layer of neurons)",
    "sum": "sum (of a last affine layer over time)",
    "last": "last (the last step of a last affine layer)",
    "maximum": "maximum (of a last affine layer over time)",
}

FLIPS = {"any": "flip", "add": "add", "drop": "drop"}
EVENTS = {"any": "add or remove", "add": "add", "drop": "remove"}


@final
@dataclass(frozen=True)
class Card:
    """A model's named facts, its commands by their purposes, and its known limits."""

    name: str
    facts: Mapping[str, str]
    commands: Mapping[str, str]
    limits: Sequence[str]

    def markdown(self, level: int = 1) -> str:
        """The card under a heading of this level."""
        rows = "".join(f"| {name} | {value} |\n" for name, value in self.facts.items())
        commands = "".join(f"# {purpose}\n{command}\n" for purpose, command in self.commands.items())
        limits = "".join(f"- {limit}\n" for limit in self.limits)
        title = f"{'#' * level} {self.name}\n\n"
        return f"{title}| | |\n|---|---|\n{rows}\n```sh\n{commands}```\n\nKnown limits:\n\n{limits}"


def card(name: str, model: Model, size: int) -> Card:
    """The card of a model.

    Args:
        name: its name on the command line: a pretrained one, a run folder or a weights file.
        model: as `certsnn.models.pretrained.load_model` gives it.
        size: the bytes of its file.
    """
    config, known = model.config, model.facts
    origin = known.get("origin") or known
    facts = {
        "data": config.data.name
        if described_by_layers(config)
        else data_text(config.data, known.get("samples"), known.get("tested")),
        "network": layers_text(config.network.architecture, model),
        "neuron": neuron_text(model.network),
        "steps": f"T = {config.steps}",
        "readout": READOUTS[config.network.readout],
        "threat": f"`{config.threat.describe()}`: {threat_text(config.threat)}",
        "clean error": error_text(known.get("clean_error")),
        "verified error": error_text(known.get("verified_error"), f"{known.get('method')}, rounding covered"),
        "verified by `auto`": error_text(known.get("auto_error"), "at most"),
        "attack error": attack_text(known.get("attack")),
        **trained_facts(config, origin),
        "file": f"{size / 1024:.0f} KiB of safetensors, with the whole config inside",
    }
    return Card(name, facts, commands(name, config, origin), limits(model))


def trained_facts(config: RunConfig, origin: Mapping[str, Any]) -> Mapping[str, str]:
    """How the network was trained, by the names of facts."""
    if described_by_layers(config):
        return {"training": "not by certsnn"}
    return {
        "objective": f"`{brief(config.training.objective)}`",
        "training": training_text(config),
        "trained with": origin_text(origin),
    }


def described_by_layers(config: RunConfig) -> bool:
    """Whether the network is none of certsnn's architectures, and was not trained by the config."""
    return config.network.architecture.startswith(LAYERS)


def data_text(data: DataConfig, test: int | None, part: str | None = None) -> str:
    """The data set, and the samples that trained, chose and tested the network, where these are known.

    Args:
        data: the data of its config.
        test: the number of samples it was tested on.
        part: these samples in words, if the data set may lie there in part.
    """
    tested = "" if test is None else f", tested on {part or f'{test:,} samples'}"
    if data.encoding is not None:
        tested += f"; as spikes: `{brief(data.encoding)}`"
    if data.name not in TRAINING:
        return f"{data.name}; {data.validation:.0%} of the training set chose the checkpoint{tested}"
    chose = max(1, round(data.validation * TRAINING[data.name]))
    return f"{data.name}: trained on {TRAINING[data.name] - chose:,}, validated on {chose:,}{tested}"


def layers_text(architecture: str, model: Model) -> str:
    """The layers of the network in order, and the number of their weights."""
    weights = sum(
        parameter.numel()
        for layer in model.network.leaves()
        if not isinstance(layer, Neuron)
        for parameter in layer.parameters()
    )
    parts = ["x".join(map(str, model.shape)), *filter(None, map(layer_text, model.network.leaves()))]
    kind = "" if model.network.freeze().is_chain else "; a graph, its layers listed in order"
    return f"`{architecture}`: {', '.join(parts)} ({weights:,} weights{kind})"


def layer_text(layer: nn.Module) -> str:
    """A layer in a few words; "" for one that only reshapes."""
    match layer:
        case nn.Flatten():
            return ""
        case nn.Linear():
            return f"linear {layer.in_features}-{layer.out_features}"
        case nn.Conv1d() | nn.Conv2d():
            kernel = "x".join(map(str, layer.kernel_size))
            stride = "" if set(layer.stride) == {1} else f" stride {layer.stride[0]}"
            return f"{layer.out_channels} of {kernel} conv{stride}"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return "batch norm"
        case Neuron():
            return type(layer).__name__
    return str(layer)


def neuron_text(network: SpikingNetwork) -> str:
    """The neurons with their parameters, each kind once."""
    kinds = dict.fromkeys(f"`{layer}`" for layer in network.leaves() if isinstance(layer, Neuron))
    return ", ".join(kinds)


def threat_text(threat: Threat) -> str:
    """The adversary's changes in words."""
    match threat:
        case LinfBall():
            return f"every pixel may change by up to {threat.eps:g}"
        case LinfFrames():
            return f"every entry of every frame may change by up to {threat.eps:g}"
        case EventChanges():
            events = f"{EVENTS[threat.kind]} up to {threat.budget} events"
            return f"the adversary may {events} anywhere in the recording, jointly over time and space"
        case SpikeFlips():
            flips = f"{FLIPS[threat.kind]} up to {threat.budget} spikes"
            return f"the adversary may {flips} anywhere in the train, jointly over time and space"
        case SpikeShift():
            reach = f"by at most {threat.max_shift} steps each"
            return f"up to {threat.moved} spikes may be delayed or advanced {reach}"
        case CoupledBernoulli():
            spikes = f"{threat.steps} steps of random spikes, whose noise stays as it is"
            return f"every pixel may change by up to {threat.eps:g} before the image becomes {spikes}"
    return "see `certsnn.inputsets`"


def error_text(error: float | None, how: str = "") -> str:
    """An error in percent, with its method in brackets."""
    if error is None:
        return UNKNOWN
    return f"{percent(error)} ({how})" if how else percent(error)


def attack_text(attack: Mapping[str, Any] | None) -> str:
    """The error under attack with the errors of the same samples beside it, and the attacks."""
    if attack is None:
        return UNKNOWN
    beside = f"clean {percent(attack['clean_error'])}"
    beside += f", verified {percent(attack['verified_error'])} by {attack['method']}"
    attacks = ", ".join(f"`{name}`" for name in attack["attacks"])
    return f"{percent(attack['attack_error'])} on {attack['samples']} ({beside}), worst case over {attacks}"


def training_text(config: RunConfig) -> str:
    """The training's length and settings beside the objective."""
    training = config.training
    parts = [f"{training.epochs} epochs", f"batches of {training.batch_size}"]
    parts += [
        f"`{brief(part)}`"
        for part in (training.learning_rate, training.initialisation, training.averaging)
        if brief(part) not in ("TorchDefault()", "Latest()")
    ]
    return ", ".join([*parts, f"seed {config.seed}"])


def brief(value: Any) -> str:
    """A value as its class would be called, less the arguments that have their defaults."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(brief, value))}]"
    if not is_dataclass(value):
        return f"{value:g}" if isinstance(value, float) else repr(value)
    given = [field for field in fields(value) if getattr(value, field.name) != _default(field)]
    shown = ", ".join(f"{field.name}={brief(getattr(value, field.name))}" for field in given)
    return f"{type(value).__name__}({shown})"


def _default(field: Field[Any]) -> Any:
    """The default of a dataclass field."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def origin_text(origin: Mapping[str, Any]) -> str:
    """The versions and threads of the training, and its log where that is on record."""
    if "versions" not in origin:
        return "not recorded"
    versions = origin["versions"]
    what = f"certsnn {versions['certsnn']}, torch {versions['torch']}, Python {versions['python']}"
    log = f"; log: `{origin['log']}`" if "log" in origin else ""
    return f"{what}, {origin['threads']} thread(s){log}"


def commands(name: str, config: RunConfig, origin: Mapping[str, Any]) -> Mapping[str, str]:
    """The commands that train the model, and that prove its errors again, by their purposes."""
    data = "" if config.data.name.startswith("digits") else " --data.root DIR --data.download true"
    verify = f"certsnn verify {name}{data}"
    found = {
        "proves the verified error again": verify,
        "tries more, for longer": f"{verify} --method auto --seconds 30",
    }
    if origin.get("config") is None:
        return found
    train = f"certsnn train {origin['config']} --seed {config.seed} --threads {origin['threads']}{data}"
    return {"trains it, in a clone": train, **found}


def limits(model: Model) -> list[str]:
    """The limits of the errors' meaning, a sentence each."""
    known, config = model.facts, model.config
    found = [
        "The errors hold for this threat, on this test set, for the float32 network as executed; they say "
        "nothing of other changes of the input.",
        "Ties count as errors, in the clean error too.",
    ]
    if not described_by_layers(config):
        found.append(
            f"One training, seed {config.seed}; another seed, processor or number of threads gives another "
            "network."
        )
    if isinstance(config.threat, CoupledBernoulli):
        found.append(
            f"The noise of the encoding is that of seed {config.threat.seed}: proofs hold for these spikes, "
            "not for all draws."
        )
    if "auto_error" in known:
        found.append("`auto` ran where S-IBP failed by little; its error is an upper bound.")
    attack = known.get("attack")
    if attack is None:
        found.append("Not attacked: how far the verified error lies above the true one is not known.")
    elif attack["subset"]:
        found.append("Attacked on a subset: compare that error only with those beside it.")
    return found
