"""Clean and verified error over a data set, batch by batch; what is known about each sample."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from certsnn.bounds import METHODS, Status, bind
from certsnn.bounds.cascade import STATUSES
from certsnn.bounds.certify import certified
from certsnn.bounds.options import STANDARD, BoundOptions
from certsnn.data import Batch
from certsnn.encoding import Encoding
from certsnn.errors import UnsoundBoundError
from certsnn.files import write_tensors
from certsnn.inference_mode import outside_inference_mode, usable_network
from certsnn.inputsets import InputSet, Threat
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.products import ieee_products
from certsnn.program import strictly_correct


@final
@dataclass(frozen=True)
class Attempt:
    """What one attack did to one sample.

    ``success``: the class lost, or tied. ``margin``: the network's own least margin at what the attack found
    (at x0, where it failed). ``entry_change`` and ``pixel_change``: see `certsnn.attacks.statistics.Outcome`.
    ``queries``, ``iterations``, ``random``: see `certsnn.attacks.AttackResult`. ``seconds``: an equal share
    of what the batch took.
    """

    success: bool
    margin: float
    entry_change: float
    pixel_change: float
    queries: int
    iterations: int
    random: bool
    seconds: float


@final
@dataclass(frozen=True)
class SampleResult:
    """One sample: its position in the data set, its class, and what was found.

    ``correct``: the class has strictly the largest logit (a tie is an error). ``margin``: the least lower
    bound of its margins; > 0 is what certifies. ``stage``: the method that certified it, or the last one that
    was begun, or "attack" where the cascade broke it; ``seconds``: what that took (an equal share of what a
    whole batch took); ``reason``: what happened, where the status is "error". ``attacks``: what each further
    attack did, by its description.

    Raises:
        ValueError: for a negative index or label, a margin that is NaN or inf, or a sample that is certified
            without a margin > 0.
    """

    index: int
    label: int
    correct: bool
    status: Status
    margin: float
    stage: str
    seconds: float = 0.0
    reason: str = ""
    attacks: Mapping[str, Attempt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("index", "label"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 0")
        if not self.margin < math.inf:
            raise ValueError(f"margin is {self.margin}, which is no lower bound")
        if self.status == "certified" and not self.margin > 0:
            raise ValueError(f"it is certified with a margin of {self.margin}, but only > 0 certifies")

    @property
    def broken_by(self) -> tuple[str, ...]:
        """The attacks that succeeded; "attack" is that of the cascade."""
        found = tuple(name for name, outcome in self.attacks.items() if outcome.success)
        return (*found, self.stage) if self.status == "broken" else found

    @property
    def fell(self) -> bool:
        """Whether it counts in the attack error: misclassified, or broken by some attack."""
        return not self.correct or bool(self.broken_by)


@final
@dataclass(frozen=True)
class Summary:
    """Errors in percent, over ``samples`` samples.

    A sample counts as verified only with the status "certified"; the others are counted by status.
    ``by_stage``: how many samples each method has certified, of those that were some sample's last.
    """

    samples: int
    clean_error: float
    verified_error: float
    certified: int
    broken: int
    unknown: int
    timeout: int
    error: int
    overflow: int
    by_stage: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@final
@dataclass(frozen=True, eq=False)
class Bound:
    """A batch as the network takes it: ``x0``, classes, positions, and what the adversary may choose.

    ``x`` is what the threat was bound to, of the domain that it takes.
    """

    x: Tensor
    x0: Tensor
    y: Tensor
    index: Tensor
    input_set: InputSet
    domain: Domain

    def select(self, chosen: Sequence[int]) -> Bound:
        """The samples at these positions, ascending."""
        mask = torch.zeros(len(self.y), dtype=torch.bool)
        mask[list(chosen)] = True
        here = mask.to(self.y.device)
        return replace(
            self,
            x=self.x[here] if self.domain == "image" else self.x[:, here],
            x0=self.x0[here] if self.input_set.domain == "image" else self.x0[:, here],
            y=self.y[here],
            index=self.index[mask.to(self.index.device)],
            input_set=self.input_set.select(here),
        )


def bind_batch(network: SpikingNetwork, batch: Batch, threat: Threat, encoding: Encoding | None) -> Bound:
    """The batch ``(x, y, index)`` of a loader on the network's device; arguments as `verify`.

    Raises:
        ValueError, TypeError: if threat, network and batch do not fit.
    """
    x, y, index = batch
    device = next(network.parameters()).device
    x = (x if encoding is None else encoding(x, index)).to(device)
    x0, input_set = bind(network, x, threat, index)
    return Bound(x, x0, y.to(device), index, input_set, threat.domain)


Keeping = Callable[[SampleResult, Bound, Tensor], None]
"""What is done with a sample that the cascade breaks, and the member that breaks it, each a batch of one."""


def kept_nowhere(result: SampleResult, one: Bound, adversarial: Tensor) -> None:
    """Nothing is kept."""


@contextmanager
def evaluating(network: SpikingNetwork) -> Iterator[None]:
    """The network in eval mode while the block runs, then as it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def verify(
    network: SpikingNetwork,
    batches: Iterable[Batch],
    threat: Threat,
    *,
    encoding: Encoding | None = None,
    options: BoundOptions = STANDARD,
    keep: Keeping = kept_nowhere,
) -> Iterator[list[SampleResult]]:
    """Clean and certified results, a list for each batch.

    Args:
        network: in eval mode during the call, then as it was.
        batches: ``(x, y, index)`` from a loader.
        threat: what the adversary may do.
        encoding: turns images into the spikes that the threat takes; None where it takes x itself.
        options: how to bound.
        keep: is called for each sample whose status is "broken".
    """
    with evaluating(network):
        for batch in batches:
            yield judge(network, bind_batch(network, batch, threat, encoding), options, keep)


@outside_inference_mode()
@torch.no_grad()
def judge(
    network: SpikingNetwork, batch: Bound, options: BoundOptions, keep: Keeping = kept_nowhere
) -> list[SampleResult]:
    """Clean and certified results of one batch by a network in eval mode; arguments as `verify`."""
    program = usable_network(network).freeze()
    verdict = certified(network, program, batch.x0, batch.y, batch.input_set, options)
    with ieee_products():
        correct = strictly_correct(program.run(batch.x0), batch.y)
    rows = zip(
        batch.index.tolist(),
        batch.y.tolist(),
        correct.tolist(),
        verdict.status,
        verdict.margins.amin(1).tolist(),
        verdict.stage,
        verdict.seconds,
        verdict.reason,
        strict=True,
    )
    results = [SampleResult(*row) for row in rows]
    for position in verdict.broken.nonzero().squeeze(1).tolist():
        adversarial = verdict.adversarial.narrow(network.input.batch_axis, position, 1)
        keep(results[position], batch.select([position]), adversarial)
    return results


@torch.no_grad()
def evidence_of(network: SpikingNetwork, one: Bound, adversarial: Tensor) -> dict[str, Tensor]:
    """All that it takes to see again what the network answers to a member of a sample's input set."""
    return {
        "x": one.x,
        "x0": one.x0,
        "adversarial": adversarial,
        "label": one.y,
        "index": one.index,
        "logits": network(one.x0),
        "adversarial_logits": network(adversarial),
    }


def kept_in(folder: Path, network: SpikingNetwork) -> Keeping:
    """Keeps the `evidence_of` each broken sample in a file of the folder, sample-INDEX.safetensors."""

    def keep(result: SampleResult, one: Bound, adversarial: Tensor) -> None:
        place = folder / f"sample-{result.index}.safetensors"
        write_tensors(place, evidence_of(network, one, adversarial), {})

    return keep


def check_sound(results: Iterable[SampleResult]) -> None:
    """Raise UnsoundBoundError if a sample is certified and yet misclassified, or broken by an attack.

    Only an unsound bound can do that.
    """
    for result in results:
        if result.status == "certified" and result.fell:
            fate = f"broken by {result.broken_by[0]}" if result.broken_by else "misclassified"
            raise UnsoundBoundError(
                f"sample {result.index} is {fate} and yet certified: the bounds are unsound. "
                "Please report this with the model and the command"
            )


def summarise(results: Iterable[SampleResult]) -> Summary:
    """Errors over all samples.

    Raises:
        ValueError: without samples.
        UnsoundBoundError: see `check_sound`.
    """
    results = list(results)
    if not results:
        raise ValueError("there are no samples to summarise")
    check_sound(results)
    counts = {status: sum(result.status == status for result in results) for status in STATUSES}
    total = len(results)
    return Summary(
        samples=total,
        clean_error=100 * sum(not result.correct for result in results) / total,
        verified_error=100 * (total - counts["certified"]) / total,
        **counts,
        by_stage=certified_by_stage(results),
    )


def certified_by_stage(results: Iterable[SampleResult]) -> dict[str, int]:
    """How many samples each method has certified, for those that were some sample's last, in their order."""
    ends = Counter((result.stage, result.status == "certified") for result in results)
    return {name: ends[name, True] for name in METHODS if ends[name, True] or ends[name, False]}
