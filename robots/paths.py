"""Smooth paths on the ground, to be followed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

STEP = 0.05  # [m] of the table of places


class Path:
    """Starts at the origin along x; its curvature is a sum of sines of the way along it.

    k(s) = sum_i a_i sin(2 pi s / l_i + p_i), so the heading is known in closed form, and places by the midpoint rule.

    Args:
        waves: (a_i [1/m], l_i [m], p_i [rad]) of each.
        length: [m]; beyond it the path goes on straight.
    """

    def __init__(self, waves: Sequence[tuple[float, float, float]], length: float) -> None:
        self._waves = [(a, 2.0 * math.pi / wave, phase) for a, wave, phase in waves]
        middles = STEP * (np.arange(math.ceil(length / STEP)) + 0.5)
        heading = sum(a / w * (np.cos(p) - np.cos(w * middles + p)) for a, w, p in self._waves)
        self._x, self._y = ([0.0, *np.cumsum(STEP * f(heading)).tolist()] for f in (np.cos, np.sin))

    def curvature(self, s: float) -> float:
        """[1/m], positive to the left, at `s` [m] along it."""
        return sum(a * math.sin(w * s + p) for a, w, p in self._waves)

    def heading(self, s: float) -> float:
        """[rad] from x towards y, not wrapped."""
        return sum(a / w * (math.cos(p) - math.cos(w * s + p)) for a, w, p in self._waves)

    def place(self, s: float) -> tuple[float, float]:
        """[m]."""
        k = min(max(int(s / STEP), 0), len(self._x) - 1)
        rest = s - k * STEP
        heading = self.heading(k * STEP + 0.5 * min(rest, STEP))
        return self._x[k] + rest * math.cos(heading), self._y[k] + rest * math.sin(heading)

    def nearest(self, x: float, y: float, near: float) -> tuple[float, float]:
        """The point of the path nearest to (x, y) [m], by Newton's method from `near`: how far along the path [m], and
        how far (x, y) is to its left [m]."""
        s, left = near, 0.0
        for _ in range(3):
            (px, py), heading = self.place(s), self.heading(s)
            c, d = math.cos(heading), math.sin(heading)
            left = c * (y - py) - d * (x - px)
            s += (c * (x - px) + d * (y - py)) / max(1.0 - self.curvature(s) * left, 0.5)
        return s, left
