"""Sound bounds of spiking networks: `margin_bounds`, `certify`, `layer_bounds`."""

from certsnn.bounds.cascade import CASCADE, METHODS, Status, Verdict
from certsnn.bounds.certify import LayerBounds, bind, certify, layer_bounds, margin_bounds
from certsnn.bounds.interval.arithmetic import Interval

__all__ = [
    "CASCADE",
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
