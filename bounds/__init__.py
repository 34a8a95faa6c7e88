"""Sound bounds of spiking networks: `margin_bounds`, `certify`, `layer_bounds`."""

from certsnn.bounds.arithmetic import Interval
from certsnn.bounds.cascade import CASCADE, METHODS, Status, Verdict
from certsnn.bounds.verify import LayerBounds, bind, certify, layer_bounds, margin_bounds

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
