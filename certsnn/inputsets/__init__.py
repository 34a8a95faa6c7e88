"""Threats (as configs name them) and input sets (the inputs an adversary may choose)."""

from certsnn.inputsets.base import InputSet, Threat
from certsnn.inputsets.box import FreeSpikes, SpikeBox
from certsnn.inputsets.coupled import CoupledBernoulli, NestedTrains
from certsnn.inputsets.events import EventChanges
from certsnn.inputsets.flips import SpikeFlips
from certsnn.inputsets.linf import LinfBall, LinfFrames
from certsnn.inputsets.shifts import SpikeShift

__all__ = [
    "CoupledBernoulli",
    "EventChanges",
    "FreeSpikes",
    "InputSet",
    "LinfBall",
    "LinfFrames",
    "NestedTrains",
    "SpikeBox",
    "SpikeFlips",
    "SpikeShift",
    "Threat",
]
