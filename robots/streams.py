"""Noise within an episode: one counter-based stream a name, one row a control step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

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
        self._rows: Iterator[list[float]] = iter(())

    def row(self) -> list[float]:
        """The next row."""
        for row in self._rows:
            return row
        self._rows = iter(self._generator.standard_normal((ROWS, self._size)).tolist())
        return next(self._rows)
