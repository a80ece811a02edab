"""Patterns that may lie on what a camera sees: checkers, gradients and noise (Tobin et al. 2017, arXiv 1703.06907)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PATTERNS = 30  # which are numbered from 1; 0 is none
SIDE = 64  # [pixels]


@lru_cache(maxsize=PATTERNS)
def pattern(number: int) -> NDArray[np.uint8]:
    """[SIDE, SIDE], what is left of a colour where it lies, of 255: dark spots keep from 0.1 to 0.7, bright ones all.

    By turns a checker of 2 to 8 fields a side, a gradient along any direction, and noise between 3 to 16 nodes a side.
    """
    if not 1 <= number <= PATTERNS:
        raise ValueError(f"patterns are 1 to {PATTERNS}, got {number}")
    rng = np.random.default_rng(number)
    darkest = rng.uniform(0.1, 0.7)
    shade = (_checker, _gradient, _noise)[number % 3](rng)
    shade = (shade - shade.min()) / (shade.max() - shade.min())
    return np.rint(255.0 * (1.0 - (1.0 - darkest) * shade)).astype(np.uint8)


def _checker(rng: np.random.Generator) -> NDArray[np.float64]:
    fields = np.arange(SIDE) * 2 * int(rng.integers(1, 5)) // SIDE
    return np.asarray((fields[:, None] + fields) % 2, dtype=np.float64)


def _gradient(rng: np.random.Generator) -> NDArray[np.float64]:
    turn = rng.uniform(0.0, 2.0 * np.pi)
    along = np.arange(SIDE) / SIDE
    return np.asarray(np.cos(turn) * along[:, None] + np.sin(turn) * along, dtype=np.float64)


def _noise(rng: np.random.Generator) -> NDArray[np.float64]:
    nodes = rng.uniform(size=(int(rng.integers(3, 17)),) * 2)
    places, finely = np.linspace(0, SIDE - 1, len(nodes)), np.arange(SIDE)
    rows = np.stack([np.interp(finely, places, row) for row in nodes])
    return np.stack([np.interp(finely, places, column) for column in rows.T], axis=1)
