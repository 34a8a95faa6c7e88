"""The certified loss as one function, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certsnn.bounds.certify import bind
from certsnn.bounds.interval.overflow import layout
from certsnn.checks import check_labels, check_question
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork
from certsnn.settings import check_share
from certsnn.train.objectives.base import Samples
from certsnn.train.objectives.bounds import IntervalMargins, MarginBound
from certsnn.train.objectives.certified import Certified
from certsnn.train.regularisers import Regulariser
from certsnn.train.schedules import Moment, Ramp

INTERVALS = IntervalMargins()


def certified_loss(
    network: SpikingNetwork,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    kappa: float = 0.5,
    bound: MarginBound = INTERVALS,
    regularisers: Sequence[Regulariser] = (),
    index: Tensor | None = None,
) -> Tensor:
    """``kappa * clean + (1 - kappa) * worst case``, to be minimised.

    The clean loss is the cross-entropy, and the worst case that of margins ``-m`` for lower bounds m of all
    margins (docs/theory/training.md). One pass makes both, so that bounds use the batch's own batch norm
    statistics. Nothing ramps up by itself: ``threat.scaled(share)`` is a smaller threat, and ``kappa`` may
    fall from 1.

    Args:
        network: in training mode; its running statistics are updated.
        x: images ``[B, ...]``, or ``[T, B, ...]``, as the threat takes them.
        y: classes ``[B]``, int64.
        threat: what to certify against.
        kappa: the weight of the clean loss, in [0, 1].
        bound: of the margins: `IntervalMargins` or `CrownMargins`.
        regularisers: added as they are.
        index: the samples' positions in the data set ``[B]``, which key random encodings; 0..B-1 if None.

    Returns:
        A scalar, differentiable towards the parameters.

    Raises:
        ValueError, TypeError: for inputs that do not fit, or a network in eval mode; before any work.
    """
    check_question(network, x, threat)
    check_share("kappa", kappa)
    if not network.training:
        raise ValueError(
            "the network is in eval mode, in which batch norm does not train: call network.train() before "
            "the loss, and network.eval() before certifying"
        )
    axis = 0 if threat.domain == "image" else 1
    samples = Samples(x, y, torch.arange(x.shape[axis]) if index is None else index)
    _check_labels(network, samples, threat, axis)
    objective = Certified(Ramp(start=0, length=0), kappa, regularisers=regularisers, bound=bound)
    return objective.terms(network, samples, threat, Moment(0, 1)).loss


def _check_labels(network: SpikingNetwork, samples: Samples, threat: Threat, axis: int) -> None:
    """Raise ValueError or TypeError unless there is a class of the network for each sample."""
    x, y, positions = samples
    nothing, _ = bind(network, x.narrow(axis, 0, 0), threat, positions[:0])
    classes = layout(network.freeze(), nothing).classes
    check_labels("y", y, x.shape[axis], classes, x.device)
