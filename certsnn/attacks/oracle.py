"""The oracle that an attack queries: a network's answers and gradients, and a ledger of the findings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from certsnn.attacks.criterion import Criterion
from certsnn.attacks.losses import Loss
from certsnn.encoding import keyed_uniform
from certsnn.inputsets import InputSet
from certsnn.program import Program

MEMORY = 2**28
"""Bytes that the activations of one forward pass may take; more candidates are cut into pieces."""


@final
class Ledger:
    """The findings so far about each sample of the whole batch.

    ``bytes``: the memory that the activations of one sample's forward pass take. ``late``: whether the search
    is to end.
    """

    def __init__(self, x0: Tensor, batch_axis: int, program: Program, late: Callable[[], bool]) -> None:
        batch = x0.shape[batch_axis]
        self.late = late
        self.batch_axis = batch_axis
        self.bytes = activation_bytes(program, x0.narrow(batch_axis, 0, min(1, batch)))
        self.found = x0.clone()
        self.broken, self.random = (torch.zeros(batch, dtype=torch.bool, device=x0.device) for _ in range(2))
        self.queries, self.iterations = (
            torch.zeros(batch, dtype=torch.int64, device=x0.device) for _ in range(2)
        )


@final
@dataclass(frozen=True, eq=False)
class Oracle:
    """Some samples of a batch, as an attack's `search` sees them.

    Every query of the network is counted, and an input that breaks its sample is kept. Part of a batch has an
    oracle of its own that shares the ledger: see `unbroken`.

    Args:
        program: the network as it acts in eval mode.
        view: the network as the attack's gradient passes see it.
        x0: the nominal input, images ``[B, ...]``, spikes or frames ``[T, B, ...]``.
        criterion: of success.
        input_set: the inputs that the adversary may choose.
        keys: numbers ``[B]`` that samples draw their randomness by; see `sample_keys`.
        ledger: of the whole batch.
        rows: the samples' places in the ledger, ``[B]``.
    """

    program: Program
    view: Program
    x0: Tensor
    criterion: Criterion
    input_set: InputSet
    keys: Tensor
    ledger: Ledger
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def unbroken(self, *state: Tensor) -> tuple[Oracle, tuple[Tensor, ...]]:
        """The oracle of those samples that nothing has broken yet, and their part of tensors like x0.

        Without samples once the time is over.
        """
        open_ = ~self.ledger.broken[self.rows]
        return self._part(torch.zeros_like(open_) if self.ledger.late() else open_, state)

    def broken(self) -> tuple[Oracle, Tensor]:
        """The oracle of those samples that are broken, and the inputs that broke them."""
        found = self.ledger.found.index_select(self.ledger.batch_axis, self.rows)
        oracle, (found,) = self._part(self.ledger.broken[self.rows], (found,))
        return oracle, found

    def select(self, x: Tensor, mask: Tensor) -> Tensor:
        """Those of x's samples (shaped as x0) that the boolean mask ``[B]`` names."""
        return x[mask] if self.ledger.batch_axis == 0 else x[:, mask]

    def aligned(self, values: Tensor) -> Tensor:
        """Values ``[..., B]`` of samples, shaped to broadcast against ``[..., *x0.shape]``."""
        before = [1] * self.ledger.batch_axis
        after = [1] * (self.x0.dim() - self.ledger.batch_axis - 1)
        return values.reshape(*values.shape[:-1], *before, values.shape[-1], *after)

    def per_sample(self, x: Tensor) -> Tensor:
        """x (shaped as x0) as ``[B, bits]``, one row a sample."""
        return x.movedim(self.ledger.batch_axis, 0).flatten(1)

    def uniform(self, steps: int, seed: int, stream: int) -> Tensor:
        """Numbers in [0, 1), ``[steps, B, ...]`` with a sample's features, keyed on (seed, sample)."""
        features = self.x0.shape[self.ledger.batch_axis + 1 :]
        return keyed_uniform((steps, *features), seed, self.keys, stream, self.x0.device)

    def gradient(self, x: Tensor, loss: Loss, program: Program | None = None) -> Tensor:
        """The gradient of the objective at x, which the attack ascends; NaN as 0.

        Args:
            x: as the program takes it.
            loss: the term of the objective.
            program: another network than `view` to take the gradient of.
        """
        self.ledger.queries[self.rows] += 1
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            objective = self.criterion.objective(loss, (program or self.view).run(x)).sum()
            (gradient,) = torch.autograd.grad(objective, x)
        return gradient.nan_to_num(0, 0, 0)

    def attempt(self, x: Tensor, score: Tensor | None = None) -> Tensor:
        """Try a proposal: the member nearest to it, which is returned, is put to the network.

        Args:
            x: shaped as x0.
            score: the worth of each change, where not all of them can be kept (`InputSet.project`).
        """
        member = self.input_set.project(self.x0, x, score)
        self.measure(member[None])
        return member

    def measure(self, members: Tensor, memory: int = MEMORY) -> Tensor:
        """Distances of members ``[C, *x0.shape]`` of the set from success, ``[C, B]`` (`Criterion.gap`).

        The first one that breaks its sample replaces the sample's input in the ledger. All are one iteration
        and C queries of each sample.
        """
        axis = self.ledger.batch_axis
        gaps, met = [], []
        for chunk in members.split(max(1, memory // (self.ledger.bytes * max(1, len(self))))):
            logits = self.program.run(chunk.movedim(0, axis).flatten(axis, axis + 1))
            criterion = self.criterion.repeat(len(chunk))
            gaps.append(criterion.gap(logits).unflatten(0, (len(chunk), len(self))))
            met.append(criterion.met(logits).unflatten(0, (len(chunk), len(self))))
        self._record(members, torch.cat(met))
        return torch.cat(gaps)

    def note_random(self, mask: Tensor) -> None:
        """Note that the samples of the boolean mask ``[B]`` needed random flips."""
        self.ledger.random[self.rows] |= mask

    def _record(self, members: Tensor, met: Tensor) -> None:
        """Enter members ``[C, *x0.shape]`` into the ledger; ``met [C, B]``: whether they break the sample."""
        ledger = self.ledger
        ledger.queries[self.rows] += len(members)
        ledger.iterations[self.rows] += ~ledger.broken[self.rows]
        hit = met.any(0)
        first = met.to(torch.uint8).argmax(0).to(torch.int64)
        chosen = members.gather(0, self.aligned(first[None]).expand_as(members[:1]))[0]
        ledger.broken[self.rows] |= hit
        places = self.rows[hit]
        ledger.found.index_copy_(ledger.batch_axis, places, self.select(chosen, hit))

    def _part(self, mask: Tensor, state: tuple[Tensor, ...]) -> tuple[Oracle, tuple[Tensor, ...]]:
        """The oracle of the samples that the mask ``[B]`` names, and their part of tensors like x0."""
        if bool(mask.all()):
            return self, state
        part = replace(
            self,
            x0=self.select(self.x0, mask),
            criterion=self.criterion.select(mask),
            input_set=self.input_set.select(mask),
            keys=self.keys[mask.cpu()],
            rows=self.rows[mask],
        )
        return part, tuple(self.select(x, mask) for x in state)


def activation_bytes(program: Program, one: Tensor) -> int:
    """Bytes that a forward pass of a batch of one, or of none, keeps; at least 1."""
    # Of every node its values, and as much again: membranes, or what a sum is made of.
    numbers = one.numel() + 2 * sum(values.numel() for values in program.values(one)[1:])
    return max(1, numbers * one.element_size())


def sample_keys(x0: Tensor, batch_axis: int) -> Tensor:
    """A number ``[B]`` for each sample, from its content alone, so the same in every batch."""
    rows = x0.detach().movedim(batch_axis, 0).flatten(1).contiguous().cpu().view(torch.uint8).numpy()
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return torch.tensor([int.from_bytes(d, "little") >> 1 for d in digests], dtype=torch.int64)
