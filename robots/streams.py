"""Chance within an episode: one counter-based stream a name, one row a control step."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROWS = 16  # of a block, which is drawn at a time


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
        self._scale: NDArray[np.float64] = np.ones(size)
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Let the rows be of this seed; costs nothing until they are asked for (then a tenth of a new stream)."""
        self._seed, self._number, self._listed = seed, -1, -1

    def block(self, number: int) -> NDArray[np.float64]:
        """The rows [ROWS, size] from the (ROWS number)-th on; it costs least in rising order."""
        if number < self._number or self._number < 0:
            self._beginning["state"]["key"][1] = self._seed
            self._generator.bit_generator.state = self._beginning
            self._number = -1
        while self._number < number:
            self._block = self._draw(self._generator)
            self._number += 1
        return self._block

    def scale(self, by: Sequence[float]) -> None:
        """Let each number of `at` be so many times what it is in its block."""
        self._scale, self._listed = np.array(by), -1

    def at(self, t: int) -> list[float]:
        """The t-th row, scaled."""
        number, row = divmod(t, ROWS)
        if number != self._listed:
            self._rows: list[list[float]] = (self.block(number) * self._scale).tolist()
            self._listed = number
        return self._rows[row]

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
