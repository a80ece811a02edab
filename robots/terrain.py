"""Ground that is not flat: stairs and rough ground, as heights on a grid that both engines load."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CELL = 0.05  # [m] between heights
LOW, HIGH = (-4.0, -6.0), (9.0, 6.0)  # [m] corners of the grid; robots start at the origin and look along x
SHAPE = tuple(round((high - low) / CELL) + 1 for low, high in zip(LOW, HIGH, strict=True))  # along x, along y
MIDDLE = (LOW[0] + HIGH[0]) / 2, (LOW[1] + HIGH[1]) / 2
LANDING = 0.5  # [m] half the side of the square around the origin that is flat and at z = 0
TREAD = 0.3  # [m] of a stair
STAIRS = (0, 1, 2, 3, 2, 1)  # levels, outwards from the landing, again and again
BUMPS = 4  # cells between the heights that are drawn; between them it is linear
MAX_ROUGHNESS, MAX_STEP = 0.1, 0.15  # [m]
GREATEST = MAX_ROUGHNESS + max(STAIRS) * MAX_STEP  # [m] height, up or down
DEEP = 100.0  # [m] below all that matters, where a grid lies that is not wanted
BELOW = 0.01  # [m] from the lowest height down to the flat ground beyond the grid

Shape = tuple[float, float, int]
"""Roughness [m], height of a step [m], number of the variant."""

FLAT: Shape = (0.0, 0.0, 0)
PARAMETERS = ("ground.roughness", "ground.step_height", "ground.variant")  # that ask for a shape


def shape(roughness: float, step_height: float, variant: float) -> Shape:
    """What these parameters ask for: whatever the variant, flat ground is the same."""
    return (roughness, step_height, int(variant)) if roughness or step_height else FLAT


class Terrain:
    """The heights of one piece of ground.

    Concentric square stairs go up and down around the landing, `step_height` each, with treads of 30 cm and risers
    that take one cell; bumps of at most `roughness` up or down lie on them, drawn 20 cm apart, as random uniform
    terrain is in Rudin et al. 2022 (arXiv 2109.11978). The landing is up to a tread larger, by variant. Variant -k is
    the mirror image of variant k, left as right; variant 0 is its own.

    Attributes:
        heights: [y, x] in m, at `LOW` + `CELL` times the indices.
        base: [m] of the flat ground around.
    """

    def __init__(self, shape: Shape) -> None:
        roughness, step_height, variant = shape
        rng = np.random.default_rng(abs(variant))
        landing = LANDING + TREAD * rng.random()
        x, y = (np.arange(n) * CELL + low for n, low in zip(SHAPE, LOW, strict=True))
        outwards = np.maximum(abs(x)[None, :], abs(y)[:, None])
        number = np.ceil(np.maximum(outwards - landing, 0.0) / TREAD - 1e-9).astype(int)
        stairs = step_height * np.array(STAIRS, float)[number % len(STAIRS)]
        nodes = [-(-(n - 1) // BUMPS) + 1 for n in SHAPE]
        drawn = rng.uniform(-1.0, 1.0, nodes[::-1])
        bumps = _between(_between(drawn, SHAPE[1], 0), SHAPE[0], 1) * np.clip((outwards - LANDING) / TREAD, 0.0, 1.0)
        if variant < 0:
            bumps = bumps[::-1]
        elif variant == 0:
            bumps = (bumps + bumps[::-1]) / 2.0
        self.heights: NDArray[np.float64] = stairs + roughness * bumps
        self.base = float(self.heights.min()) - BELOW

    def height(self, x: float, y: float) -> float:
        """Of the ground at a place [m], as both engines have it: triangles whose edges go along the cells' sides and
        from a cell's corner at its least x and y to that at its greatest."""
        i, j = (x - LOW[0]) / CELL, (y - LOW[1]) / CELL
        if not (0.0 <= i <= SHAPE[0] - 1 and 0.0 <= j <= SHAPE[1] - 1):
            return self.base
        column, row = min(int(i), SHAPE[0] - 2), min(int(j), SHAPE[1] - 2)
        a, b = i - column, j - row
        (near, right), (left, far) = self.heights[row : row + 2, column : column + 2].tolist()
        corner = right if a > b else left
        return float(near + min(a, b) * (far - corner) + max(a, b) * (corner - near))

    def triangles(self) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Corners [n, 3] in m and, of each triangle, the numbers of its corners [m, 3]."""
        x, y = np.meshgrid(*(np.arange(n) * CELL + low for n, low in zip(SHAPE, LOW, strict=True)))
        number = np.arange(x.size).reshape(x.shape)
        near, right, left, far = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
        corners = np.stack([x, y, self.heights], axis=-1).reshape(-1, 3)
        return corners, np.stack([near, right, far, near, far, left], axis=-1).reshape(-1, 3)


@lru_cache(maxsize=4)
def terrain(roughness: float, step_height: float, variant: float) -> Terrain | None:
    """Of this shape; None of flat ground."""
    asked = shape(roughness, step_height, variant)
    return None if asked == FLAT else Terrain(asked)


def _between(nodes: NDArray[np.float64], size: int, axis: int) -> NDArray[np.float64]:
    """`size` numbers along an axis, linear between nodes that lie `BUMPS` apart."""
    place = np.arange(size) / BUMPS
    first = np.minimum(place.astype(int), nodes.shape[axis] - 2)
    share = np.expand_dims(place - first, 1 - axis)
    return np.take(nodes, first, axis) * (1.0 - share) + np.take(nodes, first + 1, axis) * share
