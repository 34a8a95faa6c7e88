"""The three errors of an evaluation, in all, by attack and by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from certsnn.attacks.statistics import AttackStatistics, Outcome, statistics
from certsnn.errors import UnsoundBoundError
from certsnn.evaluation.verification import SampleResult, Summary, check_sound, summarise
from certsnn.notebooks import Shown, data_frame
from certsnn.results.rates import Rate, percent


@final
@dataclass(frozen=True)
class AttackSummary:
    """One attack over the samples that it was run on, those that the network gets right.

    ``success``: those that it broke. ``means``: see `certsnn.attacks.statistics`. ``seconds``: the sum.
    """

    name: str
    success: Rate
    means: AttackStatistics
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("random_share", "queries", "iterations", "entry_change", "pixel_change")
        return {
            "success": self.success.as_dict(),
            "attacked": self.success.total,
            **{name: getattr(self.means, name) for name in names},
            "seconds": self.seconds,
        }


@final
@dataclass(frozen=True)
class ClassRow:
    """The three errors among the samples of one class."""

    label: int
    clean: Rate
    attack: Rate
    verified: Rate


@final
@dataclass(frozen=True, repr=False)
class Report(Shown):
    """An evaluation: ``results`` sample by sample, and the three errors.

    ``method``: the bounds, or "" where nothing was to be certified. ``attacks``: their descriptions.

    Raises:
        ValueError: without samples.
        UnsoundBoundError: if a certified sample is misclassified or broken.
    """

    threat: str
    method: str
    rounding: bool
    attacks: tuple[str, ...]
    results: tuple[SampleResult, ...]

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError("there are no samples to report on")
        check_sound(self.results)
        if not self.clean.count <= self.attack.count <= self.verified.count:
            raise UnsoundBoundError(
                f"{self.clean.count} samples are misclassified, {self.attack.count} misclassified or broken, "
                f"{self.verified.count} not certified: this is impossible, a defect of certsnn"
            )

    @property
    def shown(self) -> Mapping[str, str]:
        errors = {"clean": self.clean, "attack": self.attack, "verified": self.verified}
        return {
            "threat": self.threat,
            "samples": str(len(self.results)),
            **{f"{name} error": percent(rate.percent) for name, rate in errors.items()},
            "method": self.method,
        }

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row for each sample; a column for each attack: whether it broke it."""
        rows = []
        for result in self.results:
            values = {name: value for name, value in vars(result).items() if name != "attacks"}
            rows.append(values | {name: attempt.success for name, attempt in result.attacks.items()})
        return data_frame(rows)

    @property
    def clean(self) -> Rate:
        """Misclassified samples; a tie is an error."""
        return self._share([not result.correct for result in self.results])

    @property
    def attack(self) -> Rate:
        """Samples that are misclassified, or broken by at least one attack."""
        return self._share([result.fell for result in self.results])

    @property
    def verified(self) -> Rate:
        """Samples that are not certified."""
        return self._share([result.status != "certified" for result in self.results])

    @property
    def clean_error(self) -> float:
        """In percent."""
        return self.clean.percent

    @property
    def attack_error(self) -> float:
        """In percent; the worst case over the attacks, sample by sample."""
        return self.attack.percent

    @property
    def verified_error(self) -> float:
        """In percent."""
        return self.verified.percent

    @property
    def gap(self) -> Rate:
        """Samples of which neither is known: not certified, and broken by no attack."""
        return self._share([result.status != "certified" and not result.fell for result in self.results])

    @property
    def summary(self) -> Summary:
        """Counts of statuses and stages."""
        return summarise(self.results)

    def by_attack(self) -> list[AttackSummary]:
        """A summary of each attack; none where no sample was attacked."""
        return [
            _summarised(name, self.results) for name in self.attacks if any(r.attacks for r in self.results)
        ]

    def by_class(self) -> list[ClassRow]:
        """The errors of each class, in the order of the labels."""
        rows = []
        for label in sorted({result.label for result in self.results}):
            part = [result for result in self.results if result.label == label]
            errors = (
                sum(not result.correct for result in part),
                sum(result.fell for result in part),
                sum(result.status != "certified" for result in part),
            )
            rows.append(ClassRow(label, *(Rate(count, len(part)) for count in errors)))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the samples."""
        errors = {"clean": self.clean, "attack": self.attack}
        values: dict[str, Any] = {"threat": self.threat}
        if self.method:
            errors |= {"verified": self.verified, "gap": self.gap}
            summary = self.summary.as_dict() | {"attack_error": self.attack_error}
            values |= {"method": self.method, "rounding": self.rounding, "summary": summary}
        return values | {
            "errors": {name: rate.as_dict() for name, rate in errors.items()},
            "attacks": {attack.name: attack.as_dict() for attack in self.by_attack()},
        }

    def _share(self, found: list[bool]) -> Rate:
        """The share of samples of which this holds."""
        return Rate(sum(found), len(found))


def _summarised(name: str, results: tuple[SampleResult, ...]) -> AttackSummary:
    """The summary of one attack."""
    attempts = [result.attacks[name] for result in results if name in result.attacks]

    def column(field: str) -> Tensor:
        """A field of all attempts, ``[N]``."""
        return torch.tensor([getattr(attempt, field) for attempt in attempts])

    names = ("success", "random", "iterations", "queries", "entry_change", "pixel_change")
    columns = {field: column(field) for field in names}
    right = torch.ones(len(attempts), dtype=torch.bool)  # only these are attacked
    means = statistics([Outcome(correct=right, **columns)])
    success = Rate(int(columns["success"].sum()), len(attempts))
    return AttackSummary(name, success, means, sum(attempt.seconds for attempt in attempts))


def nested(reports: list[Report]) -> None:
    """Check reports on the same samples under threats of growing size: a larger one can't do less.

    Raises:
        UnsoundBoundError: if a sample is certified under a threat and broken under a smaller one.
    """
    broken: dict[int, tuple[str, str]] = {}
    for report in reports:
        for result in report.results:
            smaller = broken.get(result.index)
            if smaller is not None and result.status == "certified":
                raise UnsoundBoundError(
                    f"sample {result.index} is certified under {report.threat}, but broken by {smaller[1]} "
                    f"under {smaller[0]}, which allows less: the bounds are unsound. Please report this with "
                    "the model and the command"
                )
            if result.broken_by:
                broken.setdefault(result.index, (report.threat, result.broken_by[0]))
