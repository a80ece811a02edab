"""Distributions of one parameter as data: a quantile function and bounds, nothing that holds a random state.

`ppf` takes u in [0, 1] (one number of `philox.uniforms`) to a value; drawing is `ppf(u)`. Each validates itself when
built, and says in the ValueError what was given.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import Protocol

_STANDARD_NORMAL = NormalDist()


class Distribution(Protocol):
    """A distribution of one number."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value that can be drawn."""
        ...

    def ppf(self, u: float) -> float:
        """The quantile function: never falling in `u`, which lies in [0, 1]."""
        ...

    def cdf(self, x: float) -> float:
        """The chance of a value up to `x`."""
        ...


@dataclass(frozen=True)
class Constant:
    """Always the same value."""

    value: float

    def __post_init__(self) -> None:
        _finite(value=self.value)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.value, self.value

    def ppf(self, u: float) -> float:
        return self.value

    def cdf(self, x: float) -> float:
        return float(x >= self.value)


@dataclass(frozen=True)
class Uniform:
    """Every value in [low, high] alike."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def ppf(self, u: float) -> float:
        return min(self.low + u * (self.high - self.low), self.high)

    def cdf(self, x: float) -> float:
        return _share(x, self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """Every ratio in [low, high] alike: the logarithm is uniform; `low` is above zero."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)
        if self.low <= 0:
            raise ValueError(f"log_uniform needs low > 0, got {self.low!r}")

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def ppf(self, u: float) -> float:
        return min(max(self.low * math.exp(u * math.log(self.high / self.low)), self.low), self.high)

    def cdf(self, x: float) -> float:
        return _share(math.log(max(x, self.low)), math.log(self.low), math.log(self.high)) if x >= self.low else 0.0


@dataclass(frozen=True)
class TruncatedNormal:
    """A normal distribution of `mean` and `std`, given that the value lies in [low, high]."""

    mean: float
    std: float
    low: float
    high: float

    def __post_init__(self) -> None:
        _finite(mean=self.mean, std=self.std)
        _ordered(self.low, self.high)
        if self.std <= 0:
            raise ValueError(f"truncated_normal needs std > 0, got {self.std!r}")
        if self.low == self.high:
            raise ValueError(f"truncated_normal needs low < high, got [{self.low!r}, {self.high!r}]")
        if max((self.low - self.mean) / self.std, (self.mean - self.high) / self.std) > 30:
            raise ValueError(
                f"[{self.low!r}, {self.high!r}] lies more than 30 std from the mean {self.mean!r} (std {self.std!r})"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def ppf(self, u: float) -> float:
        scale, a, b, below, inside = self._standard
        mass = below + (u if scale > 0 else 1.0 - u) * inside
        z = _STANDARD_NORMAL.inv_cdf(mass) if 0.0 < mass < 1.0 else a if mass <= 0.0 else b
        return min(max(self.mean + scale * z, self.low), self.high)

    def cdf(self, x: float) -> float:
        if not self.low < x < self.high:
            return float(x >= self.high)
        scale, _, _, below, inside = self._standard
        share = (_normal_cdf((x - self.mean) / scale) - below) / inside
        return min(max(share if scale > 0 else 1.0 - share, 0.0), 1.0)

    @cached_property
    def _standard(self) -> tuple[float, float, float, float, float]:
        """(scale, a, b, P(z < a), P(a < z < b)): value = mean + scale z, with z standard normal in [a, b].

        An upper tail is mirrored (scale < 0) into the lower one, where the distribution function keeps its digits.
        """
        scale = self.std if self.low <= self.mean else -self.std
        a, b = sorted(((self.low - self.mean) / scale, (self.high - self.mean) / scale))
        return scale, a, b, _normal_cdf(a), _normal_cdf(b) - _normal_cdf(a)


@dataclass(frozen=True)
class Choice:
    """One of `values`, each as often as its weight says; alike without weights. They are kept in rising order."""

    values: tuple[float, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("choice needs at least one value")
        weights = self.weights or (1.0,) * len(self.values)
        if len(weights) != len(self.values):
            raise ValueError(f"choice has {len(self.values)} values and {len(weights)} weights")
        for value, weight in zip(self.values, weights, strict=True):
            _finite(value=value, weight=weight)
            if weight < 0:
                raise ValueError(f"choice needs weights >= 0, got {weight!r}")
        if not 0 < sum(weights) < math.inf:
            raise ValueError(f"choice needs a finite sum of weights above 0, got {sum(weights)!r}")
        pairs = sorted(pair for pair in zip(self.values, weights, strict=True) if pair[1] > 0)
        object.__setattr__(self, "values", tuple(value for value, _ in pairs))
        object.__setattr__(self, "weights", tuple(weight for _, weight in pairs))

    @property
    def bounds(self) -> tuple[float, float]:
        return self.values[0], self.values[-1]

    def ppf(self, u: float) -> float:
        edges = list(accumulate(self.weights))
        return self.values[min(bisect_right(edges, u * edges[-1]), len(self.values) - 1)]

    def cdf(self, x: float) -> float:
        return sum(w for v, w in zip(self.values, self.weights, strict=True) if v <= x) / sum(self.weights)


@dataclass(frozen=True)
class Intervals:
    """Every value in a union of disjoint intervals alike: `pieces` = ((low, high), …), kept in rising order."""

    pieces: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.pieces:
            raise ValueError("intervals needs at least one [low, high]")
        pieces = tuple(sorted((low, high) for low, high in self.pieces))
        for low, high in pieces:
            _ordered(low, high)
            if low == high:
                raise ValueError(f"intervals needs low < high, got [{low!r}, {high!r}]")
        for (low, high), (next_low, next_high) in pairwise(pieces):
            if next_low < high:
                raise ValueError(f"intervals overlap: [{low!r}, {high!r}] and [{next_low!r}, {next_high!r}]")
        object.__setattr__(self, "pieces", pieces)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.pieces[0][0], self.pieces[-1][1]

    def ppf(self, u: float) -> float:
        left = u * sum(high - low for low, high in self.pieces)
        for low, high in self.pieces:
            if left < high - low:
                return min(low + left, high)
            left -= high - low
        return self.pieces[-1][1]

    def cdf(self, x: float) -> float:
        return sum(min(max(x - low, 0.0), high - low) for low, high in self.pieces) / sum(
            high - low for low, high in self.pieces
        )


@dataclass(frozen=True)
class Mixture:
    """A value of one of `parts` = ((weight, distribution), …), of each as often as its weight says."""

    parts: tuple[tuple[float, Distribution], ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise ValueError(f"mixture needs at least two parts, got {len(self.parts)}")
        for weight, part in self.parts:
            if not 0.0 < weight < math.inf:
                raise ValueError(f"a part of a mixture needs a weight above 0, got {weight!r}")
            if isinstance(part, Mixture):
                raise ValueError("a part of a mixture is no mixture itself: give its parts their weights here")

    @property
    def bounds(self) -> tuple[float, float]:
        ends = [part.bounds for _, part in self.parts]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def cdf(self, x: float) -> float:
        return min(sum(weight * part.cdf(x) for weight, part in self.parts) / self._total, 1.0)

    def ppf(self, u: float) -> float:
        """The least x with cdf(x) >= u: one of the values that have a chance of their own, or found by bisection."""
        low, high = self.bounds
        if u <= 0.0:
            return low
        for value, chance in self._atoms.items():
            if (up_to := self.cdf(value)) - chance < u <= up_to:
                return value
        while low < (middle := 0.5 * (low + high)) < high:
            low, high = (low, middle) if self.cdf(middle) >= u else (middle, high)
        return high

    @cached_property
    def _total(self) -> float:
        return sum(weight for weight, _ in self.parts)

    @cached_property
    def _atoms(self) -> dict[float, float]:
        found: dict[float, float] = {}
        for share, part in self.parts:
            weight = share / self._total
            if isinstance(part, Constant):
                found[part.value] = found.get(part.value, 0.0) + weight
            elif isinstance(part, Choice):
                for value, chance in zip(part.values, part.weights, strict=True):
                    found[value] = found.get(value, 0.0) + weight * chance / sum(part.weights)
        return found


@dataclass(frozen=True)
class Affine:
    """`offset + scale * x` with x drawn from `inner`; a negative scale mirrors, a zero one is refused."""

    inner: Distribution
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        _finite(scale=self.scale, offset=self.offset)
        if self.scale == 0:
            raise ValueError("a scale of 0 leaves one value; give a constant instead")

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = (self.offset + self.scale * bound for bound in self.inner.bounds)
        return min(low, high), max(low, high)

    def ppf(self, u: float) -> float:
        return self.offset + self.scale * self.inner.ppf(u if self.scale > 0 else 1.0 - u)

    def cdf(self, x: float) -> float:
        """Of what has no value with a chance of its own, if it mirrors."""
        inner = self.inner.cdf((x - self.offset) / self.scale)
        return inner if self.scale > 0 else 1.0 - inner


def line(distribution: Distribution) -> tuple[float, float] | None:
    """The values at u = 0 and 1 of a distribution whose quantile function is a straight line, else None."""
    match distribution:
        case Uniform() | Affine(Uniform()):
            return distribution.bounds
    return None


def _share(x: float, low: float, high: float) -> float:
    """Of the way from low to high."""
    return min(max((x - low) / (high - low), 0.0), 1.0) if low < high else float(x >= low)


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _finite(**numbers: float) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")


def _ordered(low: float, high: float) -> None:
    _finite(low=low, high=high)
    if low > high:
        raise ValueError(f"low must not exceed high, got [{low!r}, {high!r}]")
    if not math.isfinite(high - low):
        raise ValueError(f"[{low!r}, {high!r}] is too wide to draw from")
