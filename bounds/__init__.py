"""Sound bounds of spiking networks: `margin_bounds`, `certify`, `layer_bounds`."""

from certsnn.bounds.cascade import Status, Verdict
from certsnn.bounds.certify import LayerBounds, bind, certify, layer_bounds, margin_bounds
from certsnn.bounds.filters import Filtering as Filtering  # registers its node, as the other two do theirs
from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.method import Method
from certsnn.bounds.methods import METHODS
from certsnn.bounds.readouts import sum_error as sum_error
from certsnn.bounds.recurrence import FiringBack as FiringBack
from certsnn.bounds.support import BoundSupport
from certsnn.bounds.supports import SUPPORTS

__all__ = [
    "METHODS",
    "SUPPORTS",
    "BoundSupport",
    "Interval",
    "LayerBounds",
    "Method",
    "Status",
    "Verdict",
    "bind",
    "certify",
    "layer_bounds",
    "margin_bounds",
]

# These register the bounds of nodes and readouts.
from certsnn.bounds import filters as filters
from certsnn.bounds import readouts as readouts
from certsnn.bounds import recurrence as recurrence
