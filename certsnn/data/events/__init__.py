"""Event data: recordings of event cameras, and images seen by a simulated one, as binary frames."""

from certsnn.data.events.frames import Events, Frames
from certsnn.data.events.saccades import Saccades

__all__ = ["Events", "Frames", "Saccades"]
