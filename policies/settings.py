"""How a dataclass of settings says what is wrong with one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

RATE = "above 0 and at most 1"  # of learning: beyond it Adam moves every weight by more than itself
DEVIATION = "at least 0 and at most 1"  # of noise on an action in [-1, 1]


def is_rate(value: float) -> bool:
    """Is this a learning rate, as `RATE` says?"""
    return 0 < value <= 1


def is_deviation(value: float) -> bool:
    """Is this a standard deviation of noise, as `DEVIATION` says?"""
    return 0 <= value <= 1


def check_finite(settings: Any) -> None:
    """Raises ValueError naming the first setting that is a float and not finite."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{f.name} must be finite, got {value}")


def check_ranges(settings: Any, checks: Mapping[str, tuple[bool, str]]) -> None:
    """Raises ValueError for the first setting that does not hold; `checks` says of each whether it does, and what is
    expected of it."""
    for name, (holds, expected) in checks.items():
        if not holds:
            raise ValueError(f"{name} must be {expected}, got {getattr(settings, name)}")
