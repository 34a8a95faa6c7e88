"""What the commands of the command line do."""

from certsnn.commands.common import Setting, prepared
from certsnn.commands.evaluating import Outputs, Suite, attack, evaluate
from certsnn.commands.listing import models
from certsnn.commands.merging import merge
from certsnn.commands.training import train
from certsnn.commands.verifying import verify

__all__ = [
    "Outputs",
    "Setting",
    "Suite",
    "attack",
    "evaluate",
    "merge",
    "models",
    "prepared",
    "train",
    "verify",
]
