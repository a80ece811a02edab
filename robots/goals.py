"""What a robot is to reach, as its caller gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def check_goal(
    goal: Mapping[str, Sequence[float]], bounds: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> dict[str, list[float]]:
    """`goal` as plain numbers. Raises ValueError for an unknown name, a wrong count, or a value out of bounds."""
    if not isinstance(goal, Mapping):
        raise ValueError(f"goal must name what to set, got {goal!r}; goals: {', '.join(bounds) or 'none'}")
    checked = {}
    for name, given in goal.items():
        if name not in bounds:
            raise ValueError(f"no goal {name!r} to choose here; goals: {', '.join(bounds) or 'none'}")
        low, high = bounds[name]
        numbers = np.asarray(given, float).ravel().tolist()
        if len(numbers) != len(low):
            raise ValueError(f"goal {name} takes {len(low)} numbers, got {len(numbers)}")
        if not all(a <= x <= b for x, a, b in zip(numbers, low, high, strict=True)):
            raise ValueError(f"goal {name} must be from {list(low)} to {list(high)}, got {numbers}")
        checked[name] = numbers
    return checked
