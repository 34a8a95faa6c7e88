"""What the commands of the command line do."""

from certsnn.commands.benchmarking import Examination, bench
from certsnn.commands.common import Setting, prepared
from certsnn.commands.evaluating import Outputs, Suite, attack, evaluate
from certsnn.commands.listing import describe, models
from certsnn.commands.merging import merge
from certsnn.commands.training import train
from certsnn.commands.verifying import verify

__all__ = [
    "Examination",
    "Outputs",
    "Setting",
    "Suite",
    "attack",
    "bench",
    "describe",
    "evaluate",
    "merge",
    "models",
    "prepared",
    "train",
    "verify",
]
