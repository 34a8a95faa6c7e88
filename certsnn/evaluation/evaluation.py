"""The three errors of a network side by side: clean, under attack, and verified.

For every sample, clean <= attacked <= exact <= verified holds for the same network, input set and encoding
noise. So each attack is also a check of the bounds: an input that breaks a certified sample, or that only
falls below a margin that was proved, shows a defect of certsnn and stops the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from certsnn.attacks import Attack
from certsnn.attacks.statistics import outcome
from certsnn.bounds.options import BoundOptions
from certsnn.data import Batch
from certsnn.encoding import Encoding
from certsnn.evaluation.batches import numbered
from certsnn.evaluation.suites import check_suite, default_suite
from certsnn.evaluation.verification import (
    Attempt,
    Bound,
    SampleResult,
    bind_batch,
    evaluating,
    evidence_of,
    judge,
)
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork
from certsnn.program import strictly_correct
from certsnn.results.counterexample import Refutation, Refuted, saving
from certsnn.results.schema import row
from certsnn.results.summary import Report

UNSOUND = Path("unsound")
"""Where the evidence of an unsound bound goes, below the working directory."""

Judge = Callable[[SpikingNetwork, Bound], list[SampleResult]]
"""Clean and certified results of a batch; `clean_only` where nothing is to be certified."""


def evaluate(
    network: SpikingNetwork,
    batches: Iterable[Any],
    threat: Threat,
    method: str = "s-ibp",
    attacks: Sequence[Attack] | None = None,
    *,
    encoding: Encoding | None = None,
    seed: int = 0,
    evidence: Path = UNSOUND,
    **bounds: Any,
) -> Report:
    """Clean, attack and verified error with the results of every sample.

    Each sample that the network gets right is attacked by every attack, the certified ones too: that is the
    check of the bounds.

    Args:
        network: in eval mode during the call, then as it was.
        batches: ``(x, y, index)`` from a loader, or ``(x, y)`` in the order of the data set.
        threat: what the adversary may do.
        method: a name in `certsnn.bounds.METHODS`.
        attacks: the worst case over them counts; `default_suite` if None.
        encoding: turns images into the spikes that the threat takes; None where it takes x itself.
        seed: of the default suite.
        evidence: a folder, made if an unsound bound is found, for all that reproduces it.
        bounds: rounding, relaxation, memory, seconds, iterations: see `certsnn.bounds.certify`.

    Raises:
        TypeError: for another keyword.
        ValueError: if there are no samples, an attack does not fit the threat, or a shuffled loader does not
            say the positions that key the threat's noise; before any work.
        UnsoundBoundError: if the network refutes a bound; the message names the folder of the evidence.
    """
    options = BoundOptions(method, **bounds)
    remaining = numbered(batches, threat, encoding)
    first = next(remaining, None)
    if first is None:
        raise ValueError("there are no samples to evaluate")
    input_set = bind_batch(network, first, threat, encoding).input_set
    suite = default_suite(input_set, seed) if attacks is None else tuple(attacks)
    check_suite(suite, input_set, threat)
    rounding, samples = options.rounding, chain([first], remaining)
    facts = {"threat": threat.describe(), "attacks": [repr(attack) for attack in suite], **options.facts}
    with saving(evidence, network, facts):
        examine = partial(judge, options=options)
        found = evaluated(network, samples, threat, examine, suite, encoding=encoding, rounding=rounding)
        results = tuple(result for batch in found for result in batch)
    return Report(threat.describe(), method, rounding, tuple(a.describe() for a in suite), results)


def evaluated(
    network: SpikingNetwork,
    batches: Iterable[Batch],
    threat: Threat,
    bounds: Judge,
    attacks: Sequence[Attack],
    *,
    encoding: Encoding | None = None,
    rounding: bool = True,
) -> Iterator[list[SampleResult]]:
    """The results of each batch, as they come; arguments as `evaluate`.

    Args:
        bounds: the clean and certified results of a batch.
        rounding: whether the bounds cover the rounding of the executed network. If so, no input may fall
            below a proved margin at all; if not, none may break a certified sample.

    Raises:
        Refuted: for an unsound bound.
    """
    with evaluating(network):
        for batch in batches:
            bound = bind_batch(network, batch, threat, encoding)
            check_suite(attacks, bound.input_set, threat)
            results = bounds(network, bound)
            right = [position for position, result in enumerate(results) if result.correct]
            found: dict[str, Tensor] = {}
            for attack in attacks if right else ():
                name = attack.describe()
                attempts, found[name] = attacked(network, bound, right, attack)
                for position, attempt in zip(right, attempts, strict=True):
                    known = results[position].attacks
                    results[position] = replace(results[position], attacks={**known, name: attempt})
            _check(network, bound, results, right, found, rounding)
            yield results


@torch.no_grad()
def clean_only(network: SpikingNetwork, batch: Bound) -> list[SampleResult]:
    """Clean results of a batch; nothing is certified, and no margin known."""
    correct = strictly_correct(network(batch.x0), batch.y)
    rows = zip(batch.index.tolist(), batch.y.tolist(), correct.tolist(), strict=True)
    return [SampleResult(index, label, right, "unknown", -math.inf, "") for index, label, right in rows]


def attacked(
    network: SpikingNetwork, batch: Bound, chosen: Sequence[int], attack: Attack
) -> tuple[list[Attempt], Tensor]:
    """What an attack does to the samples at these (ascending) positions, and the inputs that it found."""
    part = batch.select(chosen)
    begun = perf_counter()
    result = attack(network, part.x0, part.y, part.input_set)
    share = (perf_counter() - begun) / len(chosen)
    with torch.no_grad():
        margins = least_margins(network(result.adversarial), part.y)
    right = torch.ones(len(chosen), dtype=torch.bool)  # only these are attacked
    found = outcome(part.x0, right, part.input_set, result)
    columns = found.success, margins, found.entry_change, found.pixel_change, found.queries, found.iterations
    rows = zip(*(column.tolist() for column in (*columns, found.random)), [share] * len(chosen), strict=True)
    return [Attempt(*row) for row in rows], result.adversarial


def least_margins(logits: Tensor, y: Tensor) -> Tensor:
    """``[B]``, float64: the least ``logit[y] - logit[j]`` over j != y of logits ``[B, K]``."""
    own = logits.double().gather(1, y[:, None])
    others = logits.double().scatter(1, y[:, None], -math.inf)
    return own.squeeze(1) - others.amax(1)


def refuted_by(result: SampleResult, rounding: bool) -> str | None:
    """What the network refutes a sample's bounds at: an attack's name, "x0", or None if nothing does."""
    certified = result.status == "certified"
    if certified and not result.correct:
        return "x0"
    for name, attempt in result.attacks.items():
        if (certified and attempt.success) or (rounding and attempt.margin < result.margin):
            return name
    return None


def _check(
    network: SpikingNetwork,
    batch: Bound,
    results: Sequence[SampleResult],
    right: Sequence[int],
    found: Mapping[str, Tensor],
    rounding: bool,
) -> None:
    """Raise Refuted for the first sample of a batch whose bounds the network refutes."""
    for position, result in enumerate(results):
        name = refuted_by(result, rounding)
        if name is None:
            continue
        one = batch.select([position])
        adversarial = one.x0
        if name in found:
            adversarial = found[name].narrow(network.input.batch_axis, right.index(position), 1)
        shown = Refutation(result.index, evidence_of(network, one, adversarial), row(result))
        raise Refuted(_message(result, name, rounding), shown)


def _message(result: SampleResult, name: str, rounding: bool) -> str:
    attempt = result.attacks.get(name)
    claim = f"the margin of sample {result.index} is at least {result.margin:g} by {result.stage}"
    fact = "yet the network misclassifies it"
    if attempt is not None:
        fact = f"yet {name} finds an input with the margin {attempt.margin:g}"
    covered = "" if rounding else " (or only the rounding that rounding=False leaves out)"
    return f"{claim}, {fact}: the bounds are unsound{covered}"
