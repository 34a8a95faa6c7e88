"""Checks of the settings of attacks, encodings and training."""

from __future__ import annotations

import math


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise TypeError or ValueError unless value is an integer of at least this size."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless value lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless value is finite and greater than 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and greater than 0, got {value}")
