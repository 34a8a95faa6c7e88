"""Sound bounds of spiking networks: `margin_bounds`, `certify`, `layer_bounds`."""

from certsnn.bounds.arithmetic import Interval
from certsnn.bounds.methods import METHODS
from certsnn.bounds.verify import (
    LayerBounds,
    Status,
    Verdict,
    bind,
    certify,
    layer_bounds,
    margin_bounds,
)

__all__ = [
    "METHODS",
    "Interval",
    "LayerBounds",
    "Status",
    "Verdict",
    "bind",
    "certify",
    "layer_bounds",
    "margin_bounds",
]
