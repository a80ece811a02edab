"""Noise within an episode: one counter-based stream a name, one row a control step."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

ROWS = 64  # drawn at a time


class NormalStream:
    """Standard normal rows [size], the t-th row a function of (name, seed, t) alone.

    Philox (Salmon et al. 2011) keyed by a hash of the name and the episode's seed, so another name, another
    sensor or another policy changes no row.
    """

    def __init__(self, name: str, size: int, seed: int) -> None:
        word = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        self._generator = np.random.Generator(np.random.Philox(key=np.array([word, seed], np.uint64)))
        self._size = size
        self._block: NDArray[np.float64] = np.empty((0, size))
        self._next = 0

    def row(self) -> list[float]:
        """The next row."""
        if self._next == len(self._block):
            self._block = self._generator.standard_normal((ROWS, self._size))
            self._next = 0
        self._next += 1
        row: list[float] = self._block[self._next - 1].tolist()
        return row
