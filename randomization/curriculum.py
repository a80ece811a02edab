"""Ranges that find themselves: they begin at nominal and widen as the policy masters them.

Automatic domain randomization (ADR) of OpenAI et al. 2019, "Solving Rubik's cube with a robot hand" (arXiv 1910.07113,
section 5.2, algorithm 1), with a share of the episodes at a boundary as in DeXtreme (Handa et al. 2022, arXiv
2210.13702): in such an episode one entry of the preset stands at one end of its range, all else is drawn. What came of
it goes into the queue of that boundary; when the mean of a full queue reaches a threshold the boundary moves a step
out, or falls to another, a step in, and the queue begins anew.

How far a boundary is out, its extent, is told in shares of the preset: 0 is nominal, 1 where the preset's range ends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simtoreal.randomization.distributions import (
    Affine,
    Constant,
    Distribution,
    LogUniform,
    TruncatedNormal,
    Uniform,
)
from simtoreal.randomization.philox import uniforms
from simtoreal.randomization.randomizer import Randomizer, Table, assign

Extents = NDArray[np.float64]
"""How far each boundary is out [S]."""

KINDS = ("adr", "success")
NARROWEST = 0.01  # of the preset's width: what a range counts in the entropy at least, as that of a point is -inf
SAME = 1e-9  # of two extents
LONGEST_QUEUE = 10_000  # episodes
LEAST_STEP = 1e-3
STREAMS = ("curriculum.probes", "curriculum.boundary")


class Boundary(NamedTuple):
    """An end of the range of an entry."""

    pattern: str
    end: Literal["low", "high"]

    def __str__(self) -> str:
        return f"{self.pattern}/{self.end}"


class MovingRanges:
    """The ranges of a randomizer as functions of how far their boundaries are out.

    What moves are the entries that draw from one range (uniform, log_uniform, truncated_normal), evenly between the
    boundaries (of log_uniform: evenly in the logarithm); choices, intervals, mixtures and constants are drawn as the
    preset has them. A range that does not hold nominal begins there all the same. An end that lies at nominal is no
    boundary. Beyond extent 1 a range goes on until it meets the parameter's bounds.

    Args:
        whole: the preset's.
        table: the parameters.
    """

    def __init__(self, whole: Randomizer, table: Table) -> None:
        self.whole = whole
        self._table, self._ends = table, whole.ranges
        chosen = assign(whole.preset.entries, table)
        self._names: dict[str, list[str]] = {}  # of each entry that moves
        for name, distribution in whole.distributions.items():
            if isinstance(_shape(distribution), Uniform | LogUniform | TruncatedNormal):
                self._names.setdefault(chosen[name].pattern, []).append(name)
        self.boundaries = tuple(
            Boundary(pattern, end)
            for pattern, names in self._names.items()
            for end in ("low", "high")
            if any(self._end(name, end, 1.0) != table[name].nominal for name in names)
        )
        self._index = {boundary: i for i, boundary in enumerate(self.boundaries)}

    def at(self, extents: Extents) -> Randomizer:
        """The randomizer whose boundaries are out by `extents` [S]. Raises ValueError for another number of them."""
        if np.shape(extents) != (len(self.boundaries),) or not (np.asarray(extents) >= 0).all():
            raise ValueError(f"extents must be {len(self.boundaries)} numbers from 0, got {extents}")
        moved = {}
        for pattern, names in self._names.items():
            for name in names:
                low, high = (self._end(name, end, self._extent(extents, pattern, end)) for end in ("low", "high"))
                moved[name] = _between(low, high, _shape(self.whole.distributions[name]))
        return self.whole.replaced(moved)

    def standing_at(self, boundary: int, extents: Extents) -> dict[str, float]:
        """The values of an entry whose names all stand at that boundary."""
        pattern, end = self.boundaries[boundary]
        return {name: self._end(name, end, float(extents[boundary])) for name in self._names[pattern]}

    def probed(self, share: float, seed: int, env: int, episode: int) -> int | None:
        """Which boundary an episode stands at, each as often, in a `share` of all episodes; else None."""
        probes, which = uniforms(seed, env, episode, STREAMS).tolist()
        return int(which * len(self.boundaries)) if probes < share and self.boundaries else None

    def farthest(self, boundary: int, limit: float) -> float:
        """How far a boundary can be out up to `limit`: not beyond where all of its entry are at their bounds."""
        pattern, end = self.boundaries[boundary]
        reach = 0.0
        for name in self._names[pattern]:
            nominal, whole = self._table[name].nominal, self._end(name, end, 1.0)
            bound = self._table[name].low if end == "low" else self._table[name].high
            reach = max(reach, (bound - nominal) / (whole - nominal) if whole != nominal else 0.0)
        return min(limit, max(reach, 1.0))

    def entropy(self, extents: Extents) -> float:
        """Of the ranges that move, in nats per entry; 0 where all are as wide as the preset's.

        The mean of the logarithms of their widths (OpenAI et al. 2019, section 5.2), in the preset's.
        """
        widths = []
        for pattern in self._names:
            ends = [end for end in ("low", "high") if (pattern, end) in self._index]
            if ends:
                width = sum(self._extent(extents, pattern, end) for end in ends) / len(ends)
                widths.append(math.log(max(width, NARROWEST)))
        return float(np.mean(widths)) if widths else 0.0

    def _extent(self, extents: Extents, pattern: str, end: str) -> float:
        index = self._index.get(Boundary(pattern, end))  # type: ignore[arg-type]
        return 0.0 if index is None else float(extents[index])

    def _end(self, name: str, end: str, extent: float) -> float:
        parameter, (low, high) = self._table[name], self._ends[name]
        nominal = parameter.nominal
        whole = min(low, nominal) if end == "low" else max(high, nominal)
        return min(max(nominal + extent * (whole - nominal), parameter.low), parameter.high)


@dataclass(frozen=True)
class CurriculumSettings:
    """How ranges move.

    Attributes:
        kind: "adr", each boundary by itself; "success", all together, by what comes of all episodes.
        share: of the episodes that stand at a boundary (adr).
        queue: episodes whose mean decides.
        high: the mean from which on ranges widen.
        low: the mean up to which they narrow.
        step: by how much, in the preset's width.
        limit: how far they may widen, in the same.
        metric: "success" or "return", of an episode with exploration.

    Raises:
        ValueError: one is out of range.
    """

    kind: Literal["adr", "success"] = "adr"
    share: float = 0.5
    queue: int = 4
    high: float | None = None
    low: float | None = None
    step: float = 0.25
    limit: float = 1.0
    metric: Literal["success", "return"] = "success"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.metric == "success":
            object.__setattr__(self, "high", 0.75 if self.high is None else self.high)
            object.__setattr__(self, "low", 0.25 if self.low is None else self.low)
        if self.high is None or self.low is None:
            raise ValueError("high and low must be given where the metric is the return: they are of its size")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low must lie below high, got low {self.low!r} and high {self.high!r}")
        if self.metric == "success" and not 0.0 < self.high <= 1.0:
            raise ValueError(f"high of successes must lie in (0, 1], got {self.high!r}")
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share must lie in (0, 1], got {self.share!r}")
        if not 1 <= self.queue <= LONGEST_QUEUE:
            raise ValueError(f"queue must be from 1 to {LONGEST_QUEUE}, got {self.queue!r}")
        if not LEAST_STEP <= self.step <= self.limit < math.inf:
            raise ValueError(
                f"step must be from {LEAST_STEP} to the limit, got step {self.step!r} and limit {self.limit!r}"
            )

    @property
    def thresholds(self) -> tuple[float, float]:
        """Low and high."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def probes(self) -> float:
        """The share of the episodes that stand at a boundary."""
        return self.share if self.kind == "adr" else 0.0


class Outcome(NamedTuple):
    """What came of an episode: at which boundary it stood (None: at none), and how well it went."""

    boundary: int | None
    performance: float


class Move(NamedTuple):
    """A boundary's new extent, from environment step `step` on."""

    step: int
    boundary: int
    extent: float


class Curriculum:
    """Where the boundaries are and what is known of the policy at each.

    Args:
        settings: how they move.
        ranges: what they bound. Raises ValueError where nothing of it moves.
    """

    def __init__(self, settings: CurriculumSettings, ranges: MovingRanges) -> None:
        if not ranges.boundaries:
            raise ValueError("the preset has no range that could widen")
        self.settings, self.ranges = settings, ranges
        count = len(ranges.boundaries)
        self.extents: Extents = np.zeros(count)
        self.widest: Extents = np.zeros(count)  # each boundary's widest so far
        self._limits = [ranges.farthest(i, settings.limit) for i in range(count)]
        self.moves: list[Move] = []
        groups = count if settings.kind == "adr" else 1  # of boundaries that move together
        self._queues: list[deque[float]] = [deque(maxlen=settings.queue) for _ in range(groups)]

    @property
    def entropy(self) -> float:
        """As `MovingRanges.entropy`, now."""
        return self.ranges.entropy(self.extents)

    @property
    def drawn_from(self) -> Randomizer:
        """The widest ranges so far, which no draw has left."""
        return self.ranges.at(self.widest)

    def take(self, step: int, outcomes: Iterable[Outcome]) -> bool:
        """Learn from the episodes that ended at environment step `step`; has a boundary moved?"""
        before = len(self.moves)
        for boundary, performance in outcomes:
            if self.settings.kind == "success":
                self._judge(step, 0, range(len(self.extents)), performance)
            elif boundary is not None:
                self._judge(step, boundary, (boundary,), performance)
        return len(self.moves) > before

    def _judge(self, step: int, group: int, boundaries: Iterable[int], performance: float) -> None:
        queue = self._queues[group]
        queue.append(performance)
        if len(queue) < self.settings.queue:
            return
        mean, (low, high) = sum(queue) / len(queue), self.settings.thresholds
        direction = 1 if mean >= high else -1 if mean <= low else 0
        for i in boundaries:
            extent = min(max(self.extents[i] + direction * self.settings.step, 0.0), self._limits[i])
            if abs(extent - self.extents[i]) > SAME:
                self.extents[i] = extent
                self.widest[i] = max(self.widest[i], extent)
                self.moves.append(Move(step, i, float(extent)))
                queue.clear()

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """Enough to go on: extents [S], widest [S], queues [G, queue], each filled so far [G], moves [M, 3]."""
        queues = np.zeros((len(self._queues), self.settings.queue))
        for row, queue in zip(queues, self._queues, strict=True):
            row[: len(queue)] = queue
        return {
            "extents": self.extents.copy(),
            "widest": self.widest.copy(),
            "queues": queues,
            "filled": np.array([len(queue) for queue in self._queues], float),
            "moves": np.array(self.moves, float).reshape(-1, 3),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where another of the same settings and ranges stood. Raises ValueError when it is of others."""
        mine = self.state_dict()
        if state.keys() != mine.keys():
            raise ValueError(f"curriculum: found {sorted(state)}, expected {', '.join(sorted(mine))}")
        for name in ("extents", "widest", "queues", "filled"):
            if np.shape(state[name]) != mine[name].shape:
                raise ValueError(f"curriculum: {name} of shape {np.shape(state[name])}, expected {mine[name].shape}")
        self.extents, self.widest = (np.array(state[name], float) for name in ("extents", "widest"))
        for queue, row, filled in zip(self._queues, state["queues"], state["filled"], strict=True):
            queue.clear()
            queue.extend(row[: int(filled)].tolist())
        self.moves = [Move(int(step), int(boundary), extent) for step, boundary, extent in np.asarray(state["moves"])]


def _shape(distribution: Distribution) -> Distribution:
    return distribution.inner if isinstance(distribution, Affine) else distribution


def _between(low: float, high: float, shape: Distribution) -> Distribution:
    if low == high:
        return Constant(low)
    return LogUniform(low, high) if isinstance(shape, LogUniform) and low > 0 else Uniform(low, high)
