"""Objectives of training: each turns a batch into a loss.

A config may name the classes that are imported here.
"""

from certsnn.train.objectives.adversarial import Adversarial
from certsnn.train.objectives.base import Objective
from certsnn.train.objectives.certified import Certified
from certsnn.train.objectives.natural import Natural

__all__ = ["Adversarial", "Certified", "Natural", "Objective"]
