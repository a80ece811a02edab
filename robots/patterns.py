"""Patterns on what a camera sees: checkers and gradients as of Tobin et al. 2017 (arXiv 1703.06907), and noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PATTERNS = 30
SIDE = 16  # [pixels]
STEPS = 10  # of contrast: PyBullet keeps every texture that it has loaded, so there must be few


class Texture(NamedTuple):
    """A pattern that makes a colour brighter and darker by at most `steps / STEPS` of it; of 0 steps, none."""

    steps: int = 0
    variant: int = 0

    @property
    def contrast(self) -> float:
        return self.steps / STEPS


BARE = Texture()


def texture(contrast: float, variant: float) -> Texture:
    """What these parameters ask for: whatever the variant, what is plain is the same."""
    steps = round(contrast * STEPS)
    return Texture(steps, int(variant)) if steps else BARE


@lru_cache(maxsize=PATTERNS)
def pattern(variant: int) -> NDArray[np.float64]:
    """[SIDE, SIDE] of mean 0, the farthest from it at 1 or -1; the same in every process.

    By turns a checker of 2, 4 or 8 fields a side, a gradient along any direction, and noise between 3 to 8 nodes a
    side. Raises ValueError where there is no such variant.
    """
    if not 0 <= variant < PATTERNS:
        raise ValueError(f"a texture's variant must be 0 to {PATTERNS - 1}, got {variant}")
    shade = (_checker, _gradient, _noise)[variant % 3](np.random.default_rng(variant))
    shade = shade - shade.mean()
    out: NDArray[np.float64] = shade / np.abs(shade).max()
    return out


def pixels(texture: Texture) -> NDArray[np.uint8]:
    """[SIDE, SIDE], what is left, of 255, of a colour that `brightened` gives."""
    contrast = texture.contrast
    return np.rint(255.0 * (1.0 + contrast * pattern(texture.variant)) / (1.0 + contrast)).astype(np.uint8)


def brightened(colour: Sequence[float], texture: Texture) -> list[float]:
    """Of a colour, from 0 to 1, as bright as the texture's brightest spot may be, so that its mean is the colour; where
    that is beyond 1, which no engine shows, of the same hue up to 1."""
    gain = 1.0 / max(1.0 / (1.0 + texture.contrast), *colour)
    return [gain * channel for channel in colour]


def _checker(rng: np.random.Generator) -> NDArray[np.float64]:
    fields = np.arange(SIDE) * 2 ** int(rng.integers(1, 4)) // SIDE
    return np.asarray((fields[:, None] + fields) % 2, dtype=np.float64)


def _gradient(rng: np.random.Generator) -> NDArray[np.float64]:
    turn = rng.uniform(0.0, 2.0 * np.pi)
    along = np.arange(SIDE) / SIDE
    return np.asarray(np.cos(turn) * along[:, None] + np.sin(turn) * along, dtype=np.float64)


def _noise(rng: np.random.Generator) -> NDArray[np.float64]:
    nodes = rng.uniform(size=(int(rng.integers(3, 9)),) * 2)
    places, finely = np.linspace(0, SIDE - 1, len(nodes)), np.arange(SIDE)
    rows = np.stack([np.interp(finely, places, row) for row in nodes])
    return np.stack([np.interp(finely, places, column) for column in rows.T], axis=1)
