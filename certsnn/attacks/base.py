"""The attack interface: subclasses only propose inputs; this file checks them and decides success.

For every sample: clean error <= attack error. So x itself is a candidate, and a sample is broken only if a
member of the input set, put to the network as it acts in eval mode, meets the criterion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, final, get_args

import torch
from torch import Tensor

from certsnn.attacks.criterion import Criterion
from certsnn.attacks.oracle import Ledger, Oracle, sample_keys
from certsnn.checks import check_labels, check_question
from certsnn.inference_mode import outside_inference_mode, usable, usable_network
from certsnn.inputsets import InputSet
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.notebooks import Shown
from certsnn.products import ieee_products
from certsnn.program import Program

EVERY: frozenset[Domain] = frozenset(get_args(Domain))
BOTH: frozenset[Domain] = frozenset({"image", "spikes"})
NUMBERS: frozenset[Domain] = frozenset({"image", "frames"})
SPIKES: frozenset[Domain] = frozenset({"spikes"})
FRAMES: frozenset[Domain] = frozenset({"frames"})


@final
@dataclass(frozen=True, eq=False, repr=False)
class AttackResult(Shown):
    """The outcome of an attack, for each sample of a batch.

    adversarial: a member of the input set that breaks the sample; x itself where the attack failed (or x is
        misclassified already). Shaped as x.
    success: bool ``[B]``; untargeted: the label is not strictly the largest logit, so a tie counts.
    queries: int64 ``[B]``, forward passes of the sample, those of gradients and of x itself included.
    iterations: int64 ``[B]``, rounds of proposals until success (all of them where it failed); 0 if x itself
        was a success.
    random: bool ``[B]``, whether random flips stood in for a vanished gradient (RSF).
    """

    adversarial: Tensor
    success: Tensor
    queries: Tensor
    iterations: Tensor
    random: Tensor

    @property
    def shown(self) -> Mapping[str, str]:
        queries = self.queries.double().mean().item() if len(self.queries) else 0
        return {
            "samples": str(len(self.success)),
            "broken": str(int(self.success.sum())),
            "queries a sample": f"{queries:.0f}",
        }


class Attack(ABC):
    """Looks for a member of the input set that the network gets wrong.

    Subclasses are frozen dataclasses of their settings, constructible without arguments, their effort first.
    Randomness is keyed on (seed, content of the sample): neither the order nor the batch changes a sample's
    draws, unless the attack says otherwise. Floating-point sums may still depend on the batch.
    """

    domains: ClassVar[frozenset[Domain]]
    """The inputs of networks that the attack can change."""
    grain: ClassVar[float] = 0.0
    """The least change of an entry that it makes; sets of a smaller grain are not for it."""

    @abstractmethod
    def search(self, oracle: Oracle) -> None:
        """Propose inputs to the oracle (`Oracle.attempt`, `Oracle.measure`), which keeps the successes.

        Called without gradients, on samples that x itself does not break; not on an empty batch.
        """

    @abstractmethod
    def view(self, program: Program) -> Program:
        """The network as the attack's gradient passes see it (`certsnn.attacks.gradients`); often itself.

        Called before any work. Raises ValueError if the attack's settings do not fit the network.
        """

    @final
    def fits(self, input_set: InputSet) -> bool:
        """Whether the attack can search this input set."""
        return input_set.domain in self.domains and input_set.grain >= self.grain

    @final
    def describe(self) -> str:
        """A short name for tables, e.g. "PGD(iterations=25)": the effort, and settings unlike the default.

        Fields that are not compared (bounds of memory) change nothing about the result, and are left out.
        """
        shown = []
        compared = [field for field in fields(self) if field.compare]  # type: ignore[arg-type]
        for place, field in enumerate(compared):
            value = getattr(self, field.name)
            if place == 0 or value != _default(field):
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    @final
    @outside_inference_mode()
    @torch.no_grad()
    def __call__(
        self,
        network: SpikingNetwork,
        x: Tensor,
        y: Tensor,
        input_set: InputSet,
        targets: Tensor | None = None,
    ) -> AttackResult:
        """Attack a batch.

        Args:
            network: attacked as it acts in eval mode; it is not changed.
            x: its nominal input, images ``[B, ...]``, spikes or frames ``[T, B, ...]``.
            y: the labels ``[B]``, int64.
            input_set: the inputs that the adversary may choose, around x (`Threat.bind` gives both).
            targets: classes ``[B]``, int64, other than y: success then means that the network answers these.

        Raises:
            ValueError, TypeError: for inputs, labels or combinations that do not fit; before any work.
        """
        self._check(network, x, input_set)
        x, program = usable(x), usable_network(network).freeze()
        self.view(program)
        with ieee_products():
            _check_criterion(y, targets, x, input_set.batch_axis, program)
        criterion = Criterion(usable(y), None if targets is None else usable(targets))
        return self.run(program, x, criterion, input_set)

    @final
    @torch.no_grad()
    def run(
        self,
        program: Program,
        x: Tensor,
        criterion: Criterion,
        input_set: InputSet,
        late: Callable[[], bool] = lambda: False,
    ) -> AttackResult:
        """Attack a frozen network with inputs, labels and a set that are known to fit it and the attack.

        ``late`` is asked between rounds whether to end the search.
        """
        axis = input_set.batch_axis
        with ieee_products():
            ledger = Ledger(x, axis, program, late)
            rows = torch.arange(len(criterion.y), device=x.device)
            keys = sample_keys(x, axis)
            oracle = Oracle(program, self.view(program), x, criterion, input_set, keys, ledger, rows)
            if len(oracle):
                oracle.measure(x[None])
                ledger.iterations.zero_()
                rest, _ = oracle.unbroken()
                if len(rest):
                    self.search(rest)
            return _decided(oracle)

    def _check(self, network: SpikingNetwork, x: Tensor, input_set: InputSet) -> None:
        """Raise ValueError or TypeError unless network, x and input set fit each other and the attack."""
        name = type(self).__name__
        check_question(network, x, input_set)
        if not isinstance(input_set, InputSet):
            raise TypeError(
                f"{name} needs an input set, got {type(input_set).__name__}; bind the threat first: "
                "x0, input_set = threat.bind(x, index)"
            )
        if input_set.domain not in self.domains:
            raise ValueError(
                f"{name} changes inputs of the kind {' or '.join(sorted(self.domains))}, but "
                f"{input_set.describe()} is a set of the kind {input_set.domain}; choose another attack"
            )
        if not self.fits(input_set):
            raise ValueError(
                f"{name} changes whole numbers, but {input_set.describe()} holds others: choose another one"
            )
        if input_set.domain != network.input.kind:
            raise ValueError(
                f"{input_set.describe()} needs a network with input={input_set.domain!r}, this one has "
                f"input={network.input.kind!r}"
            )
        network.check(x)
        input_set.check(x)


def _default(field: Any) -> Any:
    """The default of a dataclass field; MISSING where it has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _check_criterion(y: Tensor, targets: Tensor | None, x: Tensor, axis: int, program: Program) -> None:
    """Raise ValueError unless x fits the layers, and labels and targets are int64 [B] and in range."""
    batch = x.shape[axis]
    classes = program.run(x.narrow(axis, 0, 0)).shape[1]
    check_labels("y", y, batch, classes, x.device)
    if targets is None:
        return
    check_labels("targets", targets, batch, classes, x.device)
    if bool((targets == y).any()):
        raise ValueError("targets must differ from the labels: a target is the wrong answer that is wanted")


def _decided(oracle: Oracle) -> AttackResult:
    """Success, decided anew from the inputs alone: members of the set that meet the criterion."""
    ledger, x0 = oracle.ledger, oracle.x0
    success = torch.zeros_like(ledger.broken)
    broken, found = oracle.broken()
    if len(broken):
        met = broken.criterion.met(broken.program.run(found))
        success[broken.rows] = met & broken.input_set.contains(broken.x0, found)
        ledger.queries[broken.rows] += 1
    adversarial = torch.where(oracle.aligned(success), ledger.found, x0)
    return AttackResult(adversarial, success, ledger.queries, ledger.iterations, ledger.random)
