"""Clean and verified error over a data set, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import torch

from certsnn.bounds import METHODS, Status, certify
from certsnn.bounds.problem import Options
from certsnn.data import Batch
from certsnn.encoding import Encoding
from certsnn.errors import UnsoundBoundError
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork, strictly_correct


@final
@dataclass(frozen=True)
class SampleResult:
    """One sample: its position in the data set, its class, and what was found.

    ``correct``: the class has strictly the largest logit (a tie is an error). ``margin``: the least lower
    bound of its margins; > 0 is what certifies. ``stage``: the method that certified it, or the last one that
    was begun; ``seconds``: what the bounds took (an equal share of what a whole batch took); ``reason``: what
    happened, where the status is "error".
    """

    index: int
    label: int
    correct: bool
    status: Status
    margin: float
    stage: str
    seconds: float = 0.0
    reason: str = ""


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
    unknown: int
    timeout: int
    error: int
    by_stage: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def verify(
    network: SpikingNetwork,
    batches: Iterable[Batch],
    threat: Threat,
    *,
    encoding: Encoding | None = None,
    method: str = "s-ibp",
    rounding: bool = True,
    relaxation: Literal["joint", "separate"] = "joint",
    memory: int = Options.memory,
    seconds: float | None = None,
) -> Iterator[list[SampleResult]]:
    """Clean and certified results, a list for each batch.

    Args:
        network: in eval mode during the call, then as it was.
        batches: ``(x, y, index)`` from a loader.
        threat: what the adversary may do.
        encoding: turns images into the spikes that the threat takes; None where it takes x itself.
        method, rounding, relaxation, memory, seconds: see `certify`.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        for x, y, index in batches:
            x = (x if encoding is None else encoding(x, index)).to(device)
            y = y.to(device)
            x0, input_set = threat.bind(x, index)
            verdict = certify(
                network,
                x0,
                y,
                input_set,
                method,
                rounding=rounding,
                relaxation=relaxation,
                memory=memory,
                seconds=seconds,
            )
            correct = strictly_correct(network(x0), y)
            rows = zip(
                index.tolist(),
                y.tolist(),
                correct.tolist(),
                verdict.status,
                verdict.margins.amin(1).tolist(),
                verdict.stage,
                verdict.seconds,
                verdict.reason,
                strict=True,
            )
            yield [SampleResult(*row) for row in rows]
    finally:
        network.train(training)


def check_sound(results: Iterable[SampleResult]) -> None:
    """Raise UnsoundBoundError if a misclassified sample is certified: only an unsound bound can do that."""
    for result in results:
        if result.status == "certified" and not result.correct:
            raise UnsoundBoundError(
                f"sample {result.index} is misclassified and yet certified: the bounds are unsound. "
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
    counts = {
        status: sum(result.status == status for result in results)
        for status in ("certified", "unknown", "timeout", "error")
    }
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
