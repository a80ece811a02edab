"""What a contact that is a spring and a damper does to speed."""

from __future__ import annotations

import math

HALVINGS = 60  # of the interval in which a damping ratio is sought: to the last bit


def rebound(ratio: float) -> float:
    """Speed after a bounce over the speed before, of a mass on a spring with this damping ratio in (0, 1] that lets go
    once it would have to pull.

    Schwager and Poeschel 2007, Granular Matter 9 (465), equation 21, arXiv cond-mat/0611502, which for the ratio 1
    tends to exp(-2).
    """
    if ratio >= 1.0:
        return math.exp(-2.0)
    rest = math.sqrt(1.0 - ratio * ratio)
    return math.exp(-ratio / rest * (math.pi - math.atan2(2.0 * ratio * rest, 1.0 - 2.0 * ratio * ratio)))


def damping_ratio(restitution: float) -> float:
    """The inverse of `rebound`, for what lies above exp(-2)."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if rebound(middle) > restitution:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
