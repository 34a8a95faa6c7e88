"""What the commands of the command line do."""

from certsnn.cli.commands.bench import Examination, bench
from certsnn.cli.commands.common import Setting, prepared
from certsnn.cli.commands.evaluate import Outputs, Suite, attack, evaluate
from certsnn.cli.commands.merge import merge
from certsnn.cli.commands.models import describe, models
from certsnn.cli.commands.train import train
from certsnn.cli.commands.verify import verify

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
