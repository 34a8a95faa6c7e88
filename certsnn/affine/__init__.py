"""Affine operators ``y = A x + b``: the connections between two layers of neurons, frozen for bounds.

Each operator answers the questions of a bound propagator: ``A x``, ``|A| x``, ``A^T y``, the bias, and the
number of products in one output (for its rounding error). Operators act on a batch ``[N, ...]`` and hold no
state. They share the numbers of the module they were made from, so gradients reach it. `certsnn.layers` makes
them of torch's layers.
"""

from certsnn.affine.base import Affine, check_maps, per_channel, refuse, sizes
from certsnn.affine.chain import apply_chain, fold
from certsnn.affine.diagonal import Diagonal
from certsnn.affine.weighted import Convolution, Dense, Weighted
from certsnn.affine.weightless import (
    AdaptivePool,
    AveragePool,
    Flattened,
    Padding,
    Pool,
    Rearranged,
    Reshape,
    Unflattened,
)

__all__ = [
    "AdaptivePool",
    "Affine",
    "AveragePool",
    "Convolution",
    "Dense",
    "Diagonal",
    "Flattened",
    "Padding",
    "Pool",
    "Rearranged",
    "Reshape",
    "Unflattened",
    "Weighted",
    "apply_chain",
    "check_maps",
    "fold",
    "per_channel",
    "refuse",
    "sizes",
]
