import numpy as np
from numpy.typing import NDArray

Levels = tuple[NDArray[np.float64], ...]

def set(levels: Levels, slots: NDArray[np.int64], values: NDArray[np.float64], /) -> None: ...
def draw(
    levels: Levels,
    u: NDArray[np.float64],
    held: float,
    slots: NDArray[np.int64],
    likelihood: NDArray[np.float32],
    /,
) -> None: ...
def judge(
    levels: Levels,
    slots: NDArray[np.int64],
    errors: NDArray[np.float32],
    epsilon: float,
    exponent: float,
    highest: float,
    /,
) -> float: ...
