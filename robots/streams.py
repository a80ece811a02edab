"""Chance within an episode: one counter-based stream a name, one row a control step."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

ROWS = 16  # drawn at a time


def uniform(rng: np.random.Generator, low: Sequence[float], high: Sequence[float]) -> list[float]:
    """A number from each [low, high): `rng.uniform`'s own, at a fifth of its cost on a few."""
    return [a + (b - a) * u for a, b, u in zip(low, high, rng.random(len(low)).tolist(), strict=True)]


class _Stream(ABC):
    """Rows [size], the t-th row a function of (name, seed, t) alone.

    Philox (Salmon et al. 2011) keyed by a hash of the name and the episode's seed, so another name, another
    sensor or another policy changes no row.
    """

    def __init__(self, name: str, size: int, seed: int) -> None:
        word = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        self._size = size
        self._generator = np.random.Generator(np.random.Philox(key=np.array([word, seed], np.uint64)))
        self._beginning = self._generator.bit_generator.state
        self._rows: Iterator[list[float]] = iter(())
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Let `at` speak of this seed; costs nothing until it is asked."""
        self._seed, self._taken, self._row = seed, 0, [0.0] * self._size

    def at(self, t: int) -> list[float]:
        """The t-th row, asked for in rising order, of the seed that was begun with."""
        if not self._taken:
            self.restart(self._seed)
        while self._taken <= t:
            self._row = self.row()
            self._taken += 1
        return self._row

    def restart(self, seed: int) -> None:
        """Go back to the first row, of another seed (a tenth of the cost of a new stream)."""
        self._beginning["state"]["key"][1] = seed
        self._generator.bit_generator.state = self._beginning
        self._rows = iter(())

    def row(self) -> list[float]:
        """The next row."""
        for row in self._rows:
            return row
        self._rows = iter(self._draw(self._generator).tolist())
        return next(self._rows)

    @abstractmethod
    def _draw(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """The next ROWS rows."""


class NormalStream(_Stream):
    """Standard normal rows."""

    def _draw(self, generator: np.random.Generator) -> NDArray[np.float64]:
        return generator.standard_normal((ROWS, self._size))


class UniformStream(_Stream):
    """Rows uniform in [0, 1)."""

    def _draw(self, generator: np.random.Generator) -> NDArray[np.float64]:
        return generator.random((ROWS, self._size))
