"""Bernoulli-encoded images whose pixels move while the encoding noise stays fixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from certsnn.encoding import (
    bernoulli,
    bernoulli_noise,
    check_images,
    check_index,
    check_seed,
    check_steps,
    redrawn_seed,
)
from certsnn.inputsets.base import (
    Domain,
    InputSet,
    Threat,
    check_enumerable,
    check_first,
    check_form,
    check_like,
    check_mask,
    check_place,
    check_size,
    check_spikes,
    check_unscaled,
    mixture,
    uniform,
)
from certsnn.inputsets.box import SpikeBox
from certsnn.inputsets.linf import linf_box


@final
@dataclass(frozen=True, eq=False)
class NestedTrains(InputSet):
    """The spikes 1[x > noise], [T, B, ...], of all images x with lower <= x <= upper, [B, ...].

    A pixel's trains are nested: each sets the steps of the p least noise values, for some p between
    count(noise < lower) and count(noise < upper). Equal noise values flip together, so p may not
    split them: with the noise sorted, p = 0, p = T or noise[p-1] < noise[p].
    """

    domain: ClassVar[Domain] = "spikes"
    network_input: ClassVar[Domain] = "spikes"
    size: ClassVar[str] = ""
    grain: ClassVar[float] = 1.0

    noise: Tensor
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        noise, lower, upper = self.noise, self.lower, self.upper
        if noise.dim() < 3 or noise.shape[0] == 0:
            raise ValueError(f"noise must have shape [T, B, ...], T >= 1, not {list(noise.shape)}")
        if bool(noise.isnan().any()):
            raise ValueError("noise holds NaN")
        check_like(lower, noise[0], "lower")
        check_like(upper, noise[0], "upper")
        if bool((lower > upper).any()):
            raise ValueError("lower exceeds upper at some pixels")

    def scaled(self, factor: float) -> NestedTrains:
        """Itself for factor 1; raises ValueError for any other: scale CoupledBernoulli."""
        check_unscaled(factor, "bound NestedTrains cannot be scaled: scale CoupledBernoulli instead")
        return self

    def describe(self) -> str:
        return f"NestedTrains(steps={self.noise.shape[0]})"

    def check(self, x0: Tensor) -> None:
        check_spikes(x0)
        check_place(x0, self.noise, "the input of these NestedTrains")
        if not bool(self.contains(x0, x0).all()):
            raise ValueError("the nominal spikes are not the encoding of any image of the set")

    def cover(self) -> SpikeBox:
        """The least SpikeBox around the set: it forgets the order in which bits flip."""
        return SpikeBox(bernoulli(self.lower, self.noise), bernoulli(self.upper, self.noise))

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        check_place(x, x0, "x")
        return self._reachable(x).flatten(1).all(dim=1)

    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        return (self.lower > self.noise).to(x0.dtype), (self.upper > self.noise).to(x0.dtype)

    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        # A pixel's trains are prefixes of the sorted noise: its values are prefix sums of sorted A.
        check_form(A, x0)
        order, valid = self._prefixes
        sums = _prefix_sums(A.gather(1, order.expand_as(A)), dim=1)
        return sums.masked_fill(~valid, torch.inf).amin(dim=1).flatten(2).sum(dim=2)

    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        """Per pixel, the train that agrees with x's rounded bits on most bits, or most score >= 0.

        Trains that are reachable stay; ties go to the train nearest x0's, then to fewer spikes.
        """
        check_like(x, x0, "x")
        score = torch.ones_like(x0) if score is None else score
        check_like(score, x0, "score")
        if bool((score < 0).any()) or bool(score.isinf().any()):
            raise ValueError("scores weigh the bits here: they must be finite and at least 0")
        bits = (x > 0.5).to(x0.dtype)
        # From here on only the pixels whose trains are not reachable count: [T, n].
        lost = (~self._reachable(bits)).flatten().nonzero().squeeze(1)
        nominal, own, weight, order, valid, places = (
            part.flatten(1).index_select(1, lost) for part in (x0, bits, score, *self._prefixes, self._places)
        )
        # Disagreement up to a constant: a set bit costs its score where x is 0, gains it where 1.
        cost = _prefix_sums((weight.double() * (1 - 2 * own)).gather(0, order), dim=0)
        cost = cost.masked_fill(~valid, torch.inf)
        distance = (self._sizes().flatten(1) - nominal.sum(dim=0)).abs()
        distance = distance.masked_fill(cost > cost.amin(dim=0), torch.inf)
        nearest = (places < distance.argmin(dim=0)).to(x0.dtype)
        return bits.flatten(1).index_copy(1, lost, nearest).view_as(bits)

    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        _, valid = self._prefixes
        least, most = self._range()
        inner = (uniform(valid.shape, x0, generator) + 1).masked_fill(~valid, 0).argmax(dim=0)
        corner = torch.where(uniform(least.shape, x0, generator) < 0.5, least, most)
        size = mixture(x0.sum(dim=0).long(), inner, corner, generator)
        return self._encode(size, x0)

    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        # Of each pixel, the last step of its prefix and the first one beyond it, where the prefix that is
        # one shorter, or longer, is a member.
        check_like(x, x0, "x")
        _, valid = self._prefixes
        size = x.sum(dim=0, keepdim=True).long()
        steps = len(x0)
        shorter = (size > 0) & valid.gather(0, (size - 1).clamp_min(0))
        longer = (size < steps) & valid.gather(0, (size + 1).clamp_max(steps))
        return ((self._places == size - 1) & shorter) | ((self._places == size) & longer)

    @property
    def reach(self) -> int:
        return 0

    def select(self, mask: Tensor) -> NestedTrains:
        check_mask(mask, self.lower.shape[0])
        return NestedTrains(self.noise[:, mask], self.lower[mask], self.upper[mask])

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, NestedTrains]:
        check_first(x0, steps)
        return x0[:steps], NestedTrains(self.noise[:steps], self.lower, self.upper)

    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        _, valid = self._prefixes
        choices = valid.sum(dim=0)
        for members in choices.double().flatten(1).prod(dim=1).tolist():
            check_enumerable(members)
        # A code's digits in the mixed radix of `choices` number each pixel's valid prefixes.
        radix = choices.flatten(1).cumprod(dim=1)
        weight = radix.div(choices.flatten(1), rounding_mode="floor").view(choices.shape)
        prefixes = (~valid).to(torch.uint8).argsort(dim=0, stable=True)  # valid ones first
        total = radix[:, -1]

        def member(code: int) -> Tensor:
            """Each sample's member of this number; x0 beyond the last."""
            digit = (code // weight) % choices
            size = prefixes.gather(0, digit.unsqueeze(0)).squeeze(0)
            in_range = (code < total).view(-1, *[1] * (x0.dim() - 2))
            return torch.where(in_range, self._encode(size, x0), x0)

        return (member(code) for code in range(int(total.max()) if len(total) else 0))

    def _range(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest number of set bits, [B, ...]."""
        return (self.noise < self.lower).sum(dim=0), (self.noise < self.upper).sum(dim=0)

    def _sizes(self) -> Tensor:
        """The prefix lengths 0 .. T, [T+1, 1, ...]."""
        steps = torch.arange(self.noise.shape[0] + 1, device=self.noise.device)
        return steps.view(-1, *[1] * self.lower.dim())

    @cached_property
    def _prefixes(self) -> tuple[Tensor, Tensor]:
        """The steps by rising noise, [T, B, ...], and which prefixes are members, [T+1, B, ...]."""
        ordered, order = self.noise.sort(dim=0)
        ends = torch.ones_like(ordered[:1], dtype=torch.bool)
        whole = torch.cat([ends, ordered[:-1] < ordered[1:], ends])
        least, most = self._range()
        return order, whole & (self._sizes() >= least) & (self._sizes() <= most)

    @cached_property
    def _places(self) -> Tensor:
        """Each step's place in the order of `_prefixes`, [T, B, ...]."""
        return self._prefixes[0].argsort(dim=0)

    def _encode(self, size: Tensor, x0: Tensor) -> Tensor:
        """The trains, in x0's dtype, that set the first `size` [B, ...] steps by rising noise."""
        return (self._places < size).to(x0.dtype)

    def _reachable(self, x: Tensor) -> Tensor:
        """Whether each pixel's train is a member's, bool [B, ...]."""
        # Some threshold in range parts the noise of the set steps from that of the others.
        highest = self.noise.masked_fill(x != 1, -torch.inf).amax(dim=0)
        lowest = self.noise.masked_fill(x == 1, torch.inf).amin(dim=0)
        lower, upper = self.lower > self.noise, self.upper > self.noise
        fine = ((x == 0) & ~lower) | ((x == 1) & upper)
        return fine.all(dim=0) & (highest < lowest)


def _prefix_sums(x: Tensor, dim: int) -> Tensor:
    """The sums of the first 0 .. T entries along a dimension of length T."""
    return torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x.cumsum(dim=dim)], dim=dim)


@final
@dataclass(frozen=True)
class CoupledBernoulli(Threat):
    """Images [B, ...] in [0, 1] that move by <= eps before Bernoulli encoding with fixed noise.

    The noise is keyed on (seed, index), as in `certsnn.encoding.Bernoulli(steps, seed)`, whose
    spikes are the nominal input. The image set is that of LinfBall(eps).
    """

    domain: ClassVar[Domain] = "image"
    network_input: ClassVar[Domain] = "spikes"
    size: ClassVar[str] = "eps"

    eps: float
    steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_size("eps", self.eps)
        check_steps(self.steps)
        check_seed(self.seed)

    def scaled(self, factor: float) -> CoupledBernoulli:
        check_size("factor", factor)
        return replace(self, eps=self.eps * factor)

    def redrawn(self, draw: int) -> CoupledBernoulli:
        return replace(self, seed=redrawn_seed(self.seed, draw))

    def describe(self) -> str:
        return f"CoupledBernoulli(eps={self.eps:g}, steps={self.steps}, seed={self.seed})"

    def bind(self, x: Tensor, index: Tensor) -> tuple[Tensor, NestedTrains]:
        check_images(x)
        check_index(index, x.shape[0])
        noise = bernoulli_noise(x.shape[1:], self.steps, self.seed, index, x.device)
        return bernoulli(x, noise), NestedTrains(noise, *linf_box(x, self.eps, 0.0, 1.0))

    def cover(self, x: Tensor, index: Tensor) -> tuple[Tensor, SpikeBox]:
        """As `bind`, with the looser SpikeBox that the S-IBP / S-CROWN authors use."""
        x0, trains = self.bind(x, index)
        return x0, trains.cover()
