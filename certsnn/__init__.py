"""Provably robust spiking neural networks: train them, prove their robustness, attack them.

The names below are imported from their modules when they are first used, so importing certsnn is quick.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certsnn.attacks import FGSM as FGSM
    from certsnn.attacks import G2S as G2S
    from certsnn.attacks import PGD as PGD
    from certsnn.attacks import RSF as RSF
    from certsnn.attacks import Attack as Attack
    from certsnn.attacks import AttackResult as AttackResult
    from certsnn.attacks import ExhaustiveFlips as ExhaustiveFlips
    from certsnn.attacks import GreedyEvents as GreedyEvents
    from certsnn.attacks import GreedyFlips as GreedyFlips
    from certsnn.attacks import GreedyShifts as GreedyShifts
    from certsnn.attacks import RandomSearch as RandomSearch
    from certsnn.bounds import Interval as Interval
    from certsnn.bounds import LayerBounds as LayerBounds
    from certsnn.bounds import Verdict as Verdict
    from certsnn.bounds import layer_bounds as layer_bounds
    from certsnn.bounds import margin_bounds as margin_bounds
    from certsnn.bounds.certify import certify as certify
    from certsnn.data import FrameDataset as FrameDataset
    from certsnn.data import Frames as Frames
    from certsnn.data import ImageDataset as ImageDataset
    from certsnn.data import Saccades as Saccades
    from certsnn.data import SpikeDataset as SpikeDataset
    from certsnn.data import load as load
    from certsnn.data import loader as loader
    from certsnn.encoding import Bernoulli as Bernoulli
    from certsnn.encoding import Latency as Latency
    from certsnn.errors import UserError as UserError
    from certsnn.evaluation import evaluate as evaluate
    from certsnn.filters import Synapse as Synapse
    from certsnn.graph import Branches as Branches
    from certsnn.graph import Graph as Graph
    from certsnn.graph import Residual as Residual
    from certsnn.inputsets import CoupledBernoulli as CoupledBernoulli
    from certsnn.inputsets import EventChanges as EventChanges
    from certsnn.inputsets import FreeSpikes as FreeSpikes
    from certsnn.inputsets import InputSet as InputSet
    from certsnn.inputsets import LinfBall as LinfBall
    from certsnn.inputsets import LinfFrames as LinfFrames
    from certsnn.inputsets import SpikeBox as SpikeBox
    from certsnn.inputsets import SpikeFlips as SpikeFlips
    from certsnn.inputsets import SpikeShift as SpikeShift
    from certsnn.inputsets import Threat as Threat
    from certsnn.interop.nir_graphs import from_nir as from_nir
    from certsnn.interop.nir_writing import to_nir as to_nir
    from certsnn.interop.norse import from_norse as from_norse
    from certsnn.interop.own_modules import from_torch as from_torch
    from certsnn.interop.snntorch import from_snntorch as from_snntorch
    from certsnn.interop.spikingjelly import from_spikingjelly as from_spikingjelly
    from certsnn.layers import Normalize as Normalize
    from certsnn.layers import Scale as Scale
    from certsnn.layers import SumPool1d as SumPool1d
    from certsnn.layers import SumPool2d as SumPool2d
    from certsnn.models import Model as Model
    from certsnn.models import load_model as load_model
    from certsnn.models import save as save
    from certsnn.models import save_model as save_model
    from certsnn.networks import SpikingNetwork as SpikingNetwork
    from certsnn.neurons import IF as IF
    from certsnn.neurons import LIF as LIF
    from certsnn.neurons import Neuron as Neuron
    from certsnn.recurrence import Recurrent as Recurrent
    from certsnn.train import certified_loss as certified_loss

__version__ = "0.1.0"

# bounds/ and train/ stand beside this folder in a checkout, and in it once installed. Python prefers the
# checkout that it is started in (`python -m`, `torchrun -m`) to the installed package.
if find_spec("certsnn.bounds") is None:
    raise ImportError(
        f"{Path(__file__).parent} is certsnn's source folder, which is no whole package: start Python in "
        "another folder, or install the checkout with `pip install -e .`"
    )

HOMES = {
    "attacks": "FGSM G2S PGD RSF Attack AttackResult ExhaustiveFlips "
    "GreedyEvents GreedyFlips GreedyShifts RandomSearch",
    "bounds": "Interval LayerBounds Verdict layer_bounds margin_bounds",
    "bounds.certify": "certify",
    "data": "FrameDataset Frames ImageDataset Saccades SpikeDataset load loader",
    "encoding": "Bernoulli Latency",
    "errors": "UserError",
    "evaluation": "evaluate",
    "filters": "Synapse",
    "graph": "Branches Graph Residual",
    "inputsets": "CoupledBernoulli EventChanges FreeSpikes InputSet LinfBall LinfFrames "
    "SpikeBox SpikeFlips SpikeShift Threat",
    "interop.nir_graphs": "from_nir",
    "interop.nir_writing": "to_nir",
    "interop.norse": "from_norse",
    "interop.own_modules": "from_torch",
    "interop.snntorch": "from_snntorch",
    "interop.spikingjelly": "from_spikingjelly",
    "layers": "Normalize Scale SumPool1d SumPool2d",
    "models": "Model load_model save save_model",
    "networks": "SpikingNetwork",
    "neurons": "IF LIF Neuron",
    "recurrence": "Recurrent",
    "train": "certified_loss",
}
"""The public names by the module below certsnn that they are imported from."""

_HOME = {name: home for home, names in HOMES.items() for name in names.split()}

__all__ = list(_HOME)


if not TYPE_CHECKING:  # for a checker, only the names above exist

    def __getattr__(name: str) -> Any:
        """A public name, from its module; raises AttributeError for another one."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The names of the module, the public ones of its submodules included."""
    return sorted([*globals(), *__all__])
