"""Numbers drawn from samples, each with the interval that says how sure one may be of it.

Sources: Wilson 1927 (JASA 22:209); Newcombe 1998 (Stat. Med. 17:857); Agarwal et al. 2021 (rliable: interquartile mean,
stratified bootstrap); Rockafellar & Uryasev 2000 (CVaR).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
CVAR_LEVEL = 0.1
RESAMPLES = 2000

FloatArray = NDArray[np.float64]
Statistic = Callable[..., Any]


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval; an unknowable bound is infinite (one episode bounds no mean)."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """`{"value", "low", "high"}`, an infinite bound as None."""
        return {key: bound if math.isfinite(bound) else None for key, bound in asdict(self).items()}


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a success rate. Raises ValueError unless 0 <= successes <= n and n >= 1."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a success rate wants 0 <= successes <= n and n >= 1, got {successes} of {n}")
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def iqm(values: ArrayLike, axis: int = -1) -> Any:
    """Interquartile mean: the mean without the lowest and highest quarter (rounded down)."""
    return stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)


def cvar(values: ArrayLike, level: float = CVAR_LEVEL, axis: int = -1) -> Any:
    """Mean of the worst `level` of the values (rounded down, at least one): conditional value at risk."""
    array = np.asarray(values, dtype=np.float64)
    if not 0 < level <= 1:
        raise ValueError(f"level must lie in (0, 1], got {level}")
    count = max(1, math.floor(level * array.shape[axis] + 1e-9))
    lowest = np.partition(array, count - 1, axis=axis)
    return np.take(lowest, np.arange(count), axis=axis).mean(axis=axis)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic,
    seed: int,
    *,
    confidence: float = CONFIDENCE,
    strata: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(values [n], axis=...)`.

    `strata` [n] names the group of each value; each is resampled by itself, as its size was chosen and not drawn. A
    group of one value says nothing of its spread, so where there is one all groups are resampled together. Equal values
    give an interval of no width; a single value gives (-inf, inf). Below 20 values or so the intervals are too narrow,
    CVaR's most of all, which rests on order statistics. Raises ValueError for no or non-finite values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"a bootstrap wants a list of one or more finite values, got shape {array.shape}")
    if array.size == 1:
        return -math.inf, math.inf
    if np.ptp(array) == 0:
        point = float(statistic(array, axis=-1))
        return point, point
    groups = _split(array, strata)

    def pooled(*samples: FloatArray, axis: int = -1) -> Any:
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    result = stats.bootstrap(
        groups, pooled, n_resamples=resamples, batch=max(1, 1_000_000 // array.size), vectorized=True, axis=-1,
        confidence_level=confidence, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _split(array: FloatArray, strata: Sequence[Hashable] | None) -> list[FloatArray]:
    if strata is None:
        return [array]
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(strata):
        rows.setdefault(name, []).append(row)
    groups = [array[index] for index in rows.values()]
    return groups if min(len(group) for group in groups) > 1 else [array]
