"""Verdicts: bound methods tried one after the other on the samples that none before has decided.

Most methods run on the whole batch at once; the most expensive ones run on one sample at a time, so that a
time limit means the same for every sample. Before the methods that have a time limit an attack runs: most
samples that the quick methods leave open can be broken, and need no search for a proof. A batch that runs out
of memory is tried again sample by sample: a failure stays a sample's own. Each method's margins are sound, so
their elementwise maximum is: a sample may be certified by two methods together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.interval.propagate import others
from certsnn.bounds.memory import OverBudget, intervals_that_fit
from certsnn.bounds.method import Broken, Method
from certsnn.bounds.options import BoundOptions, OutOfTime
from certsnn.bounds.problem import Problem
from certsnn.notebooks import Shown, data_frame
from certsnn.products import ieee_products

Status = Literal["certified", "broken", "unknown", "timeout", "error", "overflow"]
STATUSES: tuple[Status, ...] = get_args(Status)
ATTACK = "attack"
"""The stage of samples that are broken."""

Attacking = Callable[[Problem, BoundOptions], Broken]
"""See `Method.attack`."""


@final
@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """What is known about each sample; ``margins [B, K-1]`` are sound lower bounds, -inf where unknown.

    ``status``, one word a sample:

    - "certified": no member of the input set changes the class.
    - "broken": a member does, as executed, or makes it a tie; it is kept in ``adversarial``.
    - "unknown": all methods ran, and their bounds do not decide.
    - "timeout": a method was cut short by the time limit, and no other one decides.
    - "error": a method ran out of memory or gave bounds that are not finite; ``reason`` says what happened.
    - "overflow": sums of the network may leave the range of its dtype, so nothing was tried (this is an error
      where rounding is covered).

    ``stage``: the method that certified the sample, "attack" if it is broken, or the last method that was
    begun. ``seconds``: what it took; stages that run on the whole batch are shared out evenly. ``device`` and
    ``arithmetic`` say where the bounds were computed and what they speak about. ``adversarial``, shaped as
    the network's nominal input: of broken samples the member that breaks them, of others that input itself.
    """

    margins: Tensor
    status: list[Status]
    stage: list[str] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    device: str = "cpu"
    arithmetic: str = ""
    adversarial: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def certified(self) -> Tensor:
        """``bool [B]``."""
        return self._ended("certified")

    @property
    def broken(self) -> Tensor:
        """``bool [B]``."""
        return self._ended("broken")

    @property
    def shown(self) -> Mapping[str, str]:
        counts = {word: self.status.count(word) for word in STATUSES}
        return {"samples": str(len(self.status)), **{word: str(n) for word, n in counts.items() if n}}

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row for each sample, in order; ``margin`` is its least one."""
        columns = {"status": self.status, "margin": self.margins.amin(1).tolist(), "stage": self.stage}
        columns |= {"seconds": self.seconds, "reason": self.reason}
        return data_frame(
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )

    def _ended(self, status: Status) -> Tensor:
        words = [word == status for word in self.status]
        return torch.tensor(words, dtype=torch.bool, device=self.margins.device)


@torch.no_grad()
def decide(
    problem: Problem,
    cascade: Sequence[Method],
    options: BoundOptions,
    attack: Attacking = lambda problem, options: Broken.nothing(problem),
) -> Verdict:
    """The verdict of a cascade.

    A sample takes part until all of its margins are positive, or it is broken, or its time is over. One that
    the network itself gets wrong, or ties, can't be certified: it stops after its first method. A method that
    fails leaves the margins as they were, and the next one runs.

    Args:
        problem: a batch.
        cascade: the methods, first to last; those that have a time limit run after the others, and those that
            run on one sample at a time after all. Of several, those that do not suit the network, or were
            never seen to gain on such a one, are left out.
        options: for every method; the deadline is set here, from the limit of each sample, which all stages
            count against. The attack and the methods that are limited get equal shares of what is left, and
            the last one all of it; samples that run together share the sum of theirs.
        attack: runs before the methods that are limited.
    """
    everyone = range(len(problem.y))
    if len(cascade) > 1:
        cascade = [method for method in cascade if method.suits(problem) and method.gains(problem)]
    right = _right(problem) if len(cascade) > 1 else [True for _ in everyone]
    ledger = _Ledger(problem, right, math.inf if options.seconds is None else options.seconds)
    for method in cascade:
        if not method.limited:
            ledger.run(method, ledger.still(everyone), options)
    slow = sorted((method for method in cascade if method.limited), key=lambda method: method.alone)
    shares = {method.name: 1 / (len(slow) - place) for place, method in enumerate(slow)}
    if slow:
        ledger.attack(attack, ledger.still(everyone), options, 1 / (1 + len(slow)))
    for method in slow:
        if not method.alone:
            ledger.run(method, ledger.still(everyone), options, shares[method.name])
    for sample in ledger.still(everyone):
        for method in slow:
            if method.alone:
                ledger.run(method, ledger.still([sample]), options, shares[method.name])
    return ledger.verdict()


def out_of_memory(error: Exception) -> bool:
    """Whether a method failed for want of memory: of the machine's, or of what the options allow."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError, OverBudget)):
        return True
    return "DefaultCPUAllocator" in str(error)  # torch has no error class of its own for the CPU's memory


@final
class _Ledger:
    """What is known so far about each sample of a batch.

    ``right``: the network itself has it right; ``limit``: seconds for each, over all stages.
    """

    def __init__(self, problem: Problem, right: Sequence[bool], limit: float) -> None:
        samples = len(right)
        self._problem, self._right = problem, right
        self._margins = problem.nothing_known()
        self._stage = [""] * samples
        self._reason = [""] * samples
        self._cut = [False] * samples  # some method was, by the time limit
        self._broken = [False] * samples
        self._adversarial = problem.x0.clone()
        self._seconds = [0.0] * samples
        self._left = [limit] * samples

    def still(self, samples: Sequence[int]) -> list[int]:
        """Those of the samples that a further stage is for."""
        proved = self._proved()

        def ended(i: int) -> bool:
            late = self._cut[i] and self._left[i] <= 0
            return not self._right[i] or proved[i] or self._broken[i] or late

        return [i for i in samples if not self._stage[i] or not ended(i)]

    def attack(self, attack: Attacking, samples: Sequence[int], options: BoundOptions, part: float) -> None:
        """An attack on some of the samples, in a part of their time; for want of memory there is none."""
        if not samples:
            return
        begun = time.monotonic()
        options = replace(options, deadline=begun + part * self._time(samples))
        problem = self._problem.at(torch.tensor(samples, device=self._margins.device))
        try:
            found, members = attack(problem, options)
        except (MemoryError, RuntimeError, ValueError) as error:
            if not out_of_memory(error):
                raise
            found, members = Broken.nothing(problem)
        share = (time.monotonic() - begun) / len(samples)
        axis = self._problem.program.input.batch_axis
        for place, i in enumerate(samples):
            self._spend(i, share)
            if found[place]:
                self._broken[i], self._stage[i] = True, ATTACK
                self._adversarial.select(axis, i).copy_(members.select(axis, place))

    def run(self, method: Method, samples: Sequence[int], options: BoundOptions, part: float = 1.0) -> None:
        """One method on some of the samples; what fails for want of memory or time is written down.

        ``part``: of the time that is left, where the method is limited.
        """
        if not samples:
            return
        begun = time.monotonic()
        if method.limited:
            options = replace(options, deadline=begun + part * self._time(samples))
        chosen = torch.tensor(samples, device=self._margins.device)
        reasons = [""] * len(samples)
        late = False
        try:
            options.check_time()
            # The first method meets samples that are proved with ease; the others only those that are not.
            bound = method if self._stage[samples[0]] else method.prove
            pieces = intervals_that_fit(self._problem.at(chosen), options.memory)
            found = torch.cat([bound(piece, options) for piece in pieces]).to(self._margins)
            reasons = self._improve(method, chosen, found)
            options.check_time()  # a method may end at the deadline with what it has
        except OutOfTime:
            late = True
        except (MemoryError, RuntimeError, ValueError) as error:
            if not out_of_memory(error):
                raise
            if len(samples) > 1 and not method.alone:
                for sample in samples:
                    self.run(method, [sample], options, part)
                return
            reasons = [f"{method.name}: {' '.join(str(error).split()) or 'out of memory'}"] * len(samples)
        share = (time.monotonic() - begun) / len(samples)
        for i, reason in zip(samples, reasons, strict=True):
            self._stage[i] = method.name
            self._cut[i] |= late
            self._reason[i] = self._reason[i] or reason
            self._spend(i, share)

    def _time(self, samples: Sequence[int]) -> float:
        """Seconds that are left to them together."""
        return sum(max(self._left[i], 0.0) for i in samples)

    def _spend(self, i: int, seconds: float) -> None:
        self._seconds[i] += seconds
        self._left[i] -= seconds

    def verdict(self) -> Verdict:
        """All of it."""
        proved = self._proved()
        found = zip(self._broken, proved, self._reason, self._cut, strict=True)
        words = [_status(*facts) for facts in found]
        reasons = [
            reason if word == "error" else "" for word, reason in zip(words, self._reason, strict=True)
        ]
        device, arithmetic = device_name(self._margins.device), self._problem.arithmetic.describe()
        rest = self._stage, reasons, self._seconds, device, arithmetic, self._adversarial
        return Verdict(self._margins, words, *rest)

    def _proved(self) -> list[bool]:
        proved: list[bool] = (self._margins > 0).all(1).tolist()
        return proved

    def _improve(self, method: Method, chosen: Tensor, found: Tensor) -> list[str]:
        """Take margins in, those of a sample only if all are finite; why not, for each sample."""
        finite = found.isfinite().all(1)
        better = torch.maximum(self._margins[chosen], found)
        self._margins[chosen] = torch.where(finite[:, None], better, self._margins[chosen])
        return ["" if fine else f"{method.name}: the bounds are not finite" for fine in finite.tolist()]


def _status(broken: bool, proved: bool, reason: str, cut: bool) -> Status:
    if broken:  # first: whatever else is claimed, an executed network refutes it
        return "broken"
    if proved:
        return "certified"
    return "error" if reason else "timeout" if cut else "unknown"


def overflowed(x0: Tensor, y: Tensor, reason: str) -> Verdict:
    """The verdict of inputs x0 of classes ``y [B]`` whose network may overflow: no rival is bounded."""
    samples = len(y)
    margins = torch.full((samples, 1), -math.inf, device=y.device)
    words: list[Status] = ["overflow"] * samples
    rest = [""] * samples, [reason] * samples, [0.0] * samples
    return Verdict(margins, words, *rest, device_name(y.device), PLAIN.describe(), x0)


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
