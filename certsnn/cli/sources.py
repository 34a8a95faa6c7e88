"""What a command can be told to examine: a model's file, a network that Python code makes, a NIR file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.configuration import override
from certsnn.data import LabelledDataset
from certsnn.errors import UserError
from certsnn.files import read_tensors
from certsnn.interop.importing import Import
from certsnn.models.own import model_of
from certsnn.models.pretrained import Model, load_model
from certsnn.networks import SpikingNetwork
from certsnn.train.config import RunConfig

COMPARED = 8
"""Samples of the test set that an import is compared on."""


@final
@dataclass(frozen=True)
class Reading:
    """How a network that is no model of certsnn's is read; None is not said. See `certsnn.from_torch` and
    `certsnn.from_nir`.

    ``weights``: a file with the state dict of what Python code makes.
    """

    weights: Path | None = None
    steps: int | None = None
    readout: Any = None
    output: int | None = None
    dt: float | None = None
    reset: Any = None

    @property
    def said(self) -> list[str]:
        """The options that were given."""
        return [f"--{name}" for name, value in asdict(self).items() if value is not None]

    def only(self, names: Sequence[str], source: str) -> None:
        """Raise UserError for options but these."""
        others = [option for option in self.said if option[2:] not in names]
        if others:
            raise UserError(f"{', '.join(others)}: {source} does not take that; leave it out")


PLAIN = Reading()
"""Nothing is said."""


def opened(
    source: str,
    reading: Reading,
    overrides: Sequence[str],
    test_set: Callable[[RunConfig], LabelledDataset],
) -> Model:
    """The model of a source, in eval mode on the CPU.

    Args:
        source: ``FILE.py:FUNCTION``, which makes a network; ``NAME.nir``; or what `load_model` takes.
        reading: how the first two are read.
        overrides: config keys; the first two need data and a threat among them.
        test_set: loads the test set that a config names.

    Raises:
        UserError: if there is no such network, or it can't be read like this.
    """
    if source.rpartition(":")[0].endswith(".py"):
        make, facts = _made, {"made by": source}
        reading.only(("weights", "steps", "readout", "output"), "a network that code makes")
    elif source.endswith(".nir"):
        make, facts = _nir, {"read from": source}
        reading.only(("steps", "readout", "dt", "reset"), "a NIR file")
    else:
        reading.only((), "a model of certsnn's")
        return load_model(source)
    tops = {word.removeprefix("--").partition("=")[0].partition(".")[0] for word in overrides}
    if not {"data", "threat"} <= tops:
        raise UserError(
            f"{source} does not say what it classifies, nor against what it is examined: give --data.name "
            "NAME and a threat, such as --threat.eps 0.01 or --threat.class_path SpikeFlips"
        )
    config = override("", overrides)[0]
    data = test_set(config).head(COMPARED)
    x, _, index = data[list(range(len(data)))]
    x = x if config.data.encoding is None else config.data.encoding(x, index)
    x = config.threat.bind(x, index)[0]
    network, check = make(source, reading, config, x)
    if check:
        print(f"certsnn: imported: {check}", file=sys.stderr)
        facts["imported"] = check
    return model_of(network, x, config, facts)


def _nir(source: str, reading: Reading, config: RunConfig, x: Tensor) -> tuple[SpikingNetwork, str]:
    """The network of a NIR file; there is nothing to compare it with."""
    from certsnn.interop.nir_graphs import from_nir

    missing = [f"--{name}" for name in ("dt", "reset", "steps", "readout") if getattr(reading, name) is None]
    if missing:
        raise UserError(f"a NIR file leaves open how it is run: give {', '.join(missing)}")
    given: dict[str, Any] = {name: getattr(reading, name) for name in ("dt", "reset", "steps", "readout")}
    return from_nir(source, **given, input=config.threat.network_input), ""


def _made(source: str, reading: Reading, config: RunConfig, x: Tensor) -> tuple[SpikingNetwork, str]:
    """The network that a function of a Python file makes, imported where it is another library's."""
    file, _, name = source.rpartition(":")
    made = _called(Path(file), name)
    if reading.weights is not None:
        _load(made.network if isinstance(made, Import) else made, reading.weights)
    if isinstance(made, Import):
        reading.only(("weights",), "a network that is imported already")
        return made.network, str(made.check)
    if isinstance(made, SpikingNetwork):
        reading.only(("weights",), "a SpikingNetwork")
        return made.eval(), ""
    found = importer(made)(
        *(made, x),
        steps=reading.steps,
        readout=reading.readout,
        input=config.threat.network_input,
        output=reading.output,
    )
    return found.network, str(found.check)


def importer(module: nn.Module) -> Callable[..., Import]:
    """The function that imports a module of these classes; raises UserError where libraries are mixed."""
    from certsnn.interop.norse import from_norse
    from certsnn.interop.own_modules import from_torch
    from certsnn.interop.snntorch import from_snntorch
    from certsnn.interop.spikingjelly import from_spikingjelly

    known: Mapping[str, Callable[..., Import]] = {
        "norse": from_norse,
        "snntorch": from_snntorch,
        "spikingjelly": from_spikingjelly,
    }
    used = {type(part).__module__.partition(".")[0] for part in module.modules()} & set(known)
    if len(used) > 1:
        raise UserError(f"the network has modules of {' and '.join(sorted(used))}: import it with Python")
    return known[used.pop()] if used else from_torch


def _called(path: Path, name: str) -> nn.Module | Import:
    """What a function without arguments returns; the file is run as a module of its own."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # for what stands beside it
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, name, None)):
            raise UserError(f"{path} has no function {name!r}")
        made = getattr(module, name)()
    except UserError:
        raise
    except Exception as error:  # whatever a person's own code raises
        raise UserError(f"{path}:{name} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(made, (nn.Module, Import)):
        raise UserError(f"{path}:{name} returned a {type(made).__name__}; it must return a torch module")
    return made


def _load(module: nn.Module, path: Path) -> None:
    """Load a state dict, of safetensors or torch's, without unpickling anything else."""
    try:
        if path.suffix == ".safetensors":
            state: Any = read_tensors(path)[0]
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: a missing file, a zip archive, pickle, safetensors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} can't be read as weights, which are all that is read: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(part, Tensor) for part in state.values()):
        raise UserError(f"{path} holds no state dict: save it with torch.save(network.state_dict(), FILE)")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the network: {' '.join(str(error).split())}") from error
