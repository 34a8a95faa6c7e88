"""Verdicts: bound methods tried one after the other on the samples that none before has decided.

Most methods run on the whole batch at once; the most expensive one runs on one sample at a time, so that a
time limit means the same for every sample. A batch that runs out of memory is tried again sample by sample: a
failure stays a sample's own. Each method's margins are sound, so their elementwise maximum is: a sample may
be certified by two methods together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final, get_args

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.interval.propagate import others
from certsnn.bounds.memory import OverBudget
from certsnn.bounds.method import Method
from certsnn.bounds.options import BoundOptions, OutOfTime
from certsnn.bounds.problem import Problem
from certsnn.products import ieee_products

Status = Literal["certified", "unknown", "timeout", "error", "overflow"]
STATUSES: tuple[Status, ...] = get_args(Status)


@final
@dataclass(frozen=True)
class Verdict:
    """What is known about each sample; ``margins [B, K-1]`` are sound lower bounds, -inf where unknown.

    ``status``, one word a sample:

    - "certified": no member of the input set changes the class.
    - "unknown": all methods ran, and their bounds do not decide.
    - "timeout": the time limit came before all of them were done.
    - "error": a method ran out of memory or gave bounds that are not finite; ``reason`` says what happened.
    - "overflow": sums of the network may leave the range of its dtype, so nothing was tried (this is an error
      where rounding is covered).

    ``stage``: the method that certified the sample, or the last one that was begun. ``seconds``: what it
    took; methods that run on the whole batch are shared out evenly. ``device`` and ``arithmetic`` say where
    the bounds were computed and what they speak about.
    """

    margins: Tensor
    status: list[Status]
    stage: list[str] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    device: str = "cpu"
    arithmetic: str = ""

    @property
    def certified(self) -> Tensor:
        """``bool [B]``."""
        words = [word == "certified" for word in self.status]
        return torch.tensor(words, dtype=torch.bool, device=self.margins.device)


@torch.no_grad()
def decide(problem: Problem, cascade: Sequence[Method], options: BoundOptions) -> Verdict:
    """The verdict of a cascade.

    A sample takes part until all of its margins are positive. One that the network itself gets wrong, or
    ties, can't be certified: it stops after its first method. A method that fails leaves the margins as they
    were, and the next one runs.

    Args:
        problem: a batch.
        cascade: the methods, first to last; those that run on one sample at a time run after the others. Of
            several, those that do not suit the network are left out.
        options: for every method; the deadline is set here, from the limit of each sample. Samples that run
            together share the sum of what is left to each.
    """
    everyone = range(len(problem.y))
    if len(cascade) > 1:
        cascade = [method for method in cascade if method.suits(problem)]
    right = _right(problem) if len(cascade) > 1 else [True for _ in everyone]
    ledger = _Ledger(problem, right, math.inf if options.seconds is None else options.seconds)
    for method in cascade:
        if not method.alone:
            ledger.run(method, ledger.still(everyone), options)
    for sample in ledger.still(everyone):
        for method in cascade:
            if method.alone:
                ledger.run(method, ledger.still([sample]), options)
    return ledger.verdict()


def out_of_memory(error: Exception) -> bool:
    """Whether a method failed for want of memory: of the machine's, or of what the options allow."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError, OverBudget)):
        return True
    return "DefaultCPUAllocator" in str(error)  # torch has no error class of its own for the CPU's memory


@final
class _Ledger:
    """What is known so far about each sample of a batch.

    ``right``: the network itself has it right; ``limit``: seconds for each, over all limited stages.
    """

    def __init__(self, problem: Problem, right: Sequence[bool], limit: float) -> None:
        samples = len(right)
        self._problem, self._right = problem, right
        self._margins = problem.nothing_known()
        self._stage = [""] * samples
        self._reason = [""] * samples
        self._late = [False] * samples
        self._seconds = [0.0] * samples
        self._left = [limit] * samples

    def still(self, samples: Sequence[int]) -> list[int]:
        """Those of the samples that a further stage is for."""
        proved = self._proved()
        return [
            i
            for i in samples
            if not self._stage[i] or (self._right[i] and not proved[i] and not self._late[i])
        ]

    def run(self, method: Method, samples: Sequence[int], options: BoundOptions) -> None:
        """One method on some of the samples; what fails for want of memory or time is written down."""
        if not samples:
            return
        begun = time.perf_counter()
        if method.limited:
            options = replace(options, deadline=time.monotonic() + sum(self._left[i] for i in samples))
        chosen = torch.tensor(samples, device=self._margins.device)
        reasons = [""] * len(samples)
        late = False
        try:
            options.check_time()
            found = method(self._problem.at(chosen), options).to(self._margins)
            reasons = self._improve(method, chosen, found)
            options.check_time()  # a method may end at the deadline with what it has
        except OutOfTime:
            late = True
        except (MemoryError, RuntimeError, ValueError) as error:
            if not out_of_memory(error):
                raise
            if len(samples) > 1 and not method.alone:
                for sample in samples:
                    self.run(method, [sample], options)
                return
            reasons = [f"{method.name}: {' '.join(str(error).split()) or 'out of memory'}"] * len(samples)
        share = (time.perf_counter() - begun) / len(samples)
        for i, reason in zip(samples, reasons, strict=True):
            self._stage[i] = method.name
            self._late[i] = late
            self._reason[i] = self._reason[i] or reason
            self._seconds[i] += share
            self._left[i] -= share if method.limited else 0

    def verdict(self) -> Verdict:
        """All of it."""
        proved = self._proved()
        reasons = ["" if sure else reason for sure, reason in zip(proved, self._reason, strict=True)]
        words: list[Status] = [
            "certified" if sure else "error" if reason else "timeout" if late else "unknown"
            for sure, reason, late in zip(proved, reasons, self._late, strict=True)
        ]
        device, arithmetic = device_name(self._margins.device), self._problem.arithmetic.describe()
        return Verdict(self._margins, words, self._stage, reasons, self._seconds, device, arithmetic)

    def _proved(self) -> list[bool]:
        proved: list[bool] = (self._margins > 0).all(1).tolist()
        return proved

    def _improve(self, method: Method, chosen: Tensor, found: Tensor) -> list[str]:
        """Take margins in, those of a sample only if all are finite; why not, for each sample."""
        finite = found.isfinite().all(1)
        better = torch.maximum(self._margins[chosen], found)
        self._margins[chosen] = torch.where(finite[:, None], better, self._margins[chosen])
        return ["" if fine else f"{method.name}: the bounds are not finite" for fine in finite.tolist()]


def overflowed(y: Tensor, reason: str) -> Verdict:
    """The verdict of a batch of classes ``y [B]`` whose network may overflow: no rival is bounded."""
    samples = len(y)
    margins = torch.full((samples, 1), -math.inf, device=y.device)
    words: list[Status] = ["overflow"] * samples
    rest = [""] * samples, [reason] * samples, [0.0] * samples
    return Verdict(margins, words, *rest, device_name(y.device), PLAIN.describe())


def device_name(device: torch.device) -> str:
    """``cpu``, or what the GPU is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _right(problem: Problem) -> list[bool]:
    """Whether the class of each sample has strictly the largest logit at x0."""
    with ieee_products():
        logits = problem.program.run(problem.x0)
    own = logits.gather(1, problem.y[:, None])
    right: list[bool] = (own > logits.gather(1, others(problem.y, logits.shape[1]))).all(1).tolist()
    return right
