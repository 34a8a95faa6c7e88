"""The attack of a cascade: it proves nothing, and ends samples that no bound could certify.

The only file of the bounds that knows attacks. What it finds is checked by the attack's own interface: a
member of the input set that the network, executed, gets wrong.
"""

from __future__ import annotations

import torch

from certsnn.attacks.criterion import Criterion
from certsnn.attacks.oracle import activation_bytes
from certsnn.attacks.strongest import strongest
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.method import Broken
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem


def broken_by_attack(problem: Problem, options: BoundOptions) -> Broken:
    """What the strongest attack on the set breaks, on as many samples at a time as the memory allows.

    Raises:
        OverBudget, MemoryError, RuntimeError: for want of memory.
    """
    found = Broken.nothing(problem)
    one = problem.x0.narrow(problem.program.input.batch_axis, 0, 1)
    size = rows_that_fit(activation_bytes(problem.program, one), options.memory)
    for attack in strongest(problem.input_set):
        parts = [
            attack.run(part.program, part.x0, Criterion(part.y), part.input_set, options.late)
            for part in problem.groups(size)
        ]
        members = torch.cat([part.adversarial for part in parts], problem.program.input.batch_axis)
        found = Broken(torch.cat([part.success for part in parts]), members)
    return found
