"""Actions in even steps, of which a discrete policy chooses one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def grid(levels: Sequence[int]) -> NDArray[np.float64]:
    """Every combination [K, m] of `levels` even steps from -1 to 1 of each of m numbers, K their product: row k is what
    choice k stands for. The last number varies fastest; one of a single level is 0."""
    steps = [np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(1) for count in levels]
    return np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, len(levels))
