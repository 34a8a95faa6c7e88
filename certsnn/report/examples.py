"""Examples for a report: samples that an attack breaks, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.attacks import Attack
from certsnn.data import LabelledDataset
from certsnn.encoding import Encoding
from certsnn.evaluation.verification import SampleResult, bind_batch, evaluating
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork


@final
@dataclass(frozen=True, eq=False)
class Example:
    """``before`` and ``after``: one sample as the network takes it, ``[...]`` or ``[T, ...]``.

    ``label`` is its class, ``answer`` the other class with the largest logit at ``after``.
    """

    index: int
    label: int
    answer: int
    attack: str
    before: Tensor
    after: Tensor
    spikes: bool


def examples(
    network: SpikingNetwork,
    data: LabelledDataset,
    threat: Threat,
    attacks: Sequence[Attack],
    results: Sequence[SampleResult],
    *,
    encoding: Encoding | None = None,
    count: int = 6,
) -> list[Example]:
    """Some of the broken samples, of different classes first, broken again by the attack that did it.

    Where an attack does not break a sample a second time (sums in another order), it is left out.
    """
    by_name = {attack.describe(): attack for attack in attacks}
    positions = {index: position for position, index in enumerate(data.index.tolist())}
    found = []
    with evaluating(network):
        for result in _varied(results)[:count]:
            attack = by_name[_least(result)]
            bound = bind_batch(network, data[[positions[result.index]]], threat, encoding)
            broken = attack(network, bound.x0, bound.y, bound.input_set)
            if not bool(broken.success):
                continue
            axis = network.input.batch_axis
            with torch.no_grad():
                logits = network(broken.adversarial).scatter(1, bound.y[:, None], -torch.inf)
            found.append(
                Example(
                    result.index,
                    result.label,
                    int(logits.argmax(1)),
                    attack.describe(),
                    bound.x0.select(axis, 0).cpu(),
                    broken.adversarial.select(axis, 0).cpu(),
                    network.input.kind == "spikes",
                )
            )
    return found


def _least(result: SampleResult) -> str:
    """The attack that broke the sample by the least change."""
    return min(result.broken_by, key=lambda name: result.attacks[name].entry_change)


def _varied(results: Sequence[SampleResult]) -> list[SampleResult]:
    """The broken samples: the first of each class, then the second of each, and so on."""
    seen: dict[int, int] = {}
    ranked = []
    for result in results:
        if result.broken_by:
            rank = seen.get(result.label, 0)
            seen[result.label] = rank + 1
            ranked.append((rank, result.index, result))
    return [result for _, _, result in sorted(ranked, key=lambda entry: entry[:2])]
