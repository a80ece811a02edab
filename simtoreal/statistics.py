"""What evaluated episodes say about a bundle: figures a condition, gates.

Success rates carry Wilson's score interval; returns carry a percentile bootstrap over episodes, resampled within each
condition where several are pooled. Both are two-sided at `confidence`. The pooled Wilson interval takes the conditions
for one population, which errs on the wide side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from simtoreal.gates import METRICS, Gate, GateResult
from simtoreal.intervals import CONFIDENCE, CVAR_LEVEL, Estimate, Statistic, bootstrap_interval, cvar, iqm, wilson
from simtoreal.robots.engines import DEFAULT_ENGINE

__all__ = [
    "METRICS",
    "Episode",
    "Estimate",
    "Figures",
    "Gate",
    "GateResult",
    "SuiteFigures",
    "Summary",
    "base_suite",
    "bootstrap_interval",
    "cvar",
    "heldout_suites",
    "iqm",
    "reports_success",
    "strength",
    "suite_in",
    "summarise",
    "wilson",
]


@dataclass(frozen=True)
class Episode:
    """One evaluated episode of one bundle; a row of `episodes.csv`.

    `case` names it within its suite ("payload/17") and is the same for every bundle. `return_` is undiscounted.
    `held_out` says that at least one parameter lay outside the bundle's training ranges; `severity` [range widths] how
    far outside the ranges the farthest one lay, 0 inside, inf where no width is defined. `falls`, `violations` and
    physics `faults` are counts. `action_rate` is the root mean square change of the action (in [-1, 1]) a control step
    over the episode's second half: a policy that shakes has a large one. `success` is None where the task reported
    none, `unmet` what kept it from being one, where the task says that. `changes` are those of its parameters within
    the episode, as `schedules.written` has them; `held_out` and `severity` are of what it began with. Raises ValueError
    for numbers that no episode can have.
    """

    bundle: str
    suite: str
    condition: str
    case: str
    seed: int
    engine: str
    return_: float
    success: bool | None
    length: int
    falls: int = 0
    violations: int = 0
    held_out: bool = False
    severity: float = 0.0
    faults: int = 0
    action_rate: float = 0.0
    unmet: str = ""
    parameters: dict[str, float] = field(default_factory=dict)
    changes: str = ""

    def __post_init__(self) -> None:
        where = f"episode {self.suite}:{self.case} of {self.bundle}"
        if not math.isfinite(self.return_):
            raise ValueError(f"{where}: return must be finite, got {self.return_}")
        if math.isnan(self.severity) or self.severity < 0:
            raise ValueError(f"{where}: severity must be 0 or more, got {self.severity}")
        for name in ("length", "falls", "violations", "faults"):
            if getattr(self, name) < 0:
                raise ValueError(f"{where}: {name} must be 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Figures:
    """The figures of one bundle over `n` episodes of one condition, or of a whole suite (`condition` None).

    In a held-out suite they are over the held-out cases alone and `seen` counts those left out; where every case was
    seen, `held_out` is False and they are over the seen ones. `severity` is the median over the episodes. `success` is
    None where the task reports none.
    """

    condition: str | None
    n: int
    seen: int
    held_out: bool
    success: Estimate | None
    return_mean: Estimate
    return_iqm: Estimate
    cvar: Estimate
    length: float
    severity: float
    falls: int
    violations: int
    faults: int
    action_rate: float

    def to_json(self) -> dict[str, Any]:
        """A plain dict, JSON-able."""
        estimates = {metric: getattr(self, metric) for metric in METRICS}
        plain: dict[str, Any] = asdict(self) | {name: e and e.to_json() for name, e in estimates.items()}
        return plain | {"severity": self.severity if math.isfinite(self.severity) else None}


def suite_in(engine: str, suite: str) -> str:
    """What a verdict calls a suite that was run in an engine."""
    return suite if engine == DEFAULT_ENGINE else f"{suite}@{engine}"


def base_suite(suite: str) -> str:
    """The suite that was run, whatever the engine."""
    return suite.partition("@")[0]


def strength(figures: Figures) -> tuple[float, float]:
    """What orders figures from weak to strong."""
    return figures.success.value if figures.success else 0.0, figures.return_iqm.value


@dataclass(frozen=True)
class SuiteFigures:
    """One bundle in one suite: all conditions `pooled`, each condition, and the weakest one.

    `held_out` marks a suite meant to lie outside training. The weakest condition has the lowest success rate, then the
    lowest interquartile mean; a condition whose every case was seen does not compete in a held-out suite.
    """

    bundle: str
    suite: str
    engine: str
    held_out: bool
    pooled: Figures
    conditions: tuple[Figures, ...]

    @property
    def judged(self) -> tuple[Figures, ...]:
        """The conditions that count: all, or in a held-out suite those with held-out cases."""
        return tuple(c for c in self.conditions if c.held_out or not self.held_out)

    @property
    def worst(self) -> Figures:
        """The weakest condition."""
        return min(self.judged, key=strength)

    @property
    def weakest_single(self) -> Figures | None:
        """The weakest of several conditions, leaving out `all`, which changes everything at once."""
        single = [c for c in self.judged if c.condition != "all"]
        return min(single, key=strength) if len(self.judged) > 1 and single else None

    def to_json(self) -> dict[str, Any]:
        """A plain dict, JSON-able."""
        head = {"bundle": self.bundle, "suite": self.suite, "engine": self.engine, "held_out": self.held_out}
        body = {"pooled": self.pooled.to_json(), "conditions": [c.to_json() for c in self.conditions]}
        return head | {"worst_condition": self.worst.condition} | body


@dataclass(frozen=True)
class Summary:
    """Every bundle in every suite it ran, in order of first appearance."""

    suites: tuple[SuiteFigures, ...]
    confidence: float
    seed: int

    @property
    def bundles(self) -> tuple[str, ...]:
        """The bundles."""
        return tuple(dict.fromkeys(s.bundle for s in self.suites))

    @property
    def suite_names(self) -> tuple[str, ...]:
        """The suites."""
        return tuple(dict.fromkeys(s.suite for s in self.suites))

    def find(self, bundle: str, suite: str) -> SuiteFigures | None:
        """One bundle in one suite; None where it did not run."""
        return next((s for s in self.suites if (s.bundle, s.suite) == (bundle, suite)), None)

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        head = {"format_version": 1, "confidence": self.confidence, "cvar_level": CVAR_LEVEL, "seed": self.seed}
        return head | {"bundles": list(self.bundles), "suites": [s.to_json() for s in self.suites]}


def summarise(
    episodes: Iterable[Episode],
    *,
    heldout: Collection[str] | None = None,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Summary:
    """Figures per bundle, suite and condition.

    `heldout` names the suites meant to lie outside training; None takes those in which every bundle has a held-out
    case. In them only a bundle's held-out cases count. `seed` drives the bootstrap. Raises ValueError for no episodes,
    a case that appears twice for one bundle, two engines in one bundle's suite, and a held-out suite with nothing held
    out for a bundle.
    """
    groups: dict[tuple[str, str], list[Episode]] = {}
    for episode in episodes:
        groups.setdefault((episode.bundle, episode.suite), []).append(episode)
    if not groups:
        raise ValueError("no episodes to summarise")
    every = list(itertools.chain.from_iterable(groups.values()))
    names = heldout_suites(every) if heldout is None else set(heldout)
    told = reports_success(every)
    suites = tuple(_suite(group, suite in names, told, seed, confidence) for (_, suite), group in groups.items())
    return Summary(suites, confidence, seed)


def reports_success(episodes: Iterable[Episode]) -> bool:
    """Does the task of these episodes say whether they succeeded? Then one that did not come to it counts as failed."""
    return any(e.success is not None for e in episodes)


def heldout_suites(episodes: Iterable[Episode]) -> set[str]:
    """The suites in which every bundle that ran has at least one held-out case."""
    some: dict[tuple[str, str], bool] = {}
    for e in episodes:
        some[e.suite, e.bundle] = some.get((e.suite, e.bundle), False) or e.held_out
    return {suite for suite, _ in some} - {suite for (suite, _), held_out in some.items() if not held_out}


def _suite(group: list[Episode], held_out: bool, told: bool, seed: int, confidence: float) -> SuiteFigures:
    first = group[0]
    cases: set[str] = set()
    conditions: dict[str, list[Episode]] = {}
    for e in group:
        if e.engine != first.engine:
            raise ValueError(f"{e.bundle} ran suite {e.suite} in {first.engine} and in {e.engine}; name them apart")
        if e.case in cases:
            raise ValueError(f"case {e.case} of suite {e.suite} appears twice for {e.bundle}")
        cases.add(e.case)
        conditions.setdefault(e.condition, []).append(e)
    if held_out and not any(e.held_out for e in group):
        raise ValueError(f"suite {first.suite} holds nothing out for {first.bundle}: all lies in its training ranges")
    pooled = _figures(group, None, held_out, told, seed, confidence)
    parts = tuple(_figures(part, name, held_out, told, seed, confidence) for name, part in conditions.items())
    return SuiteFigures(first.bundle, first.suite, first.engine, held_out, pooled, parts)


def _figures(
    group: list[Episode], condition: str | None, held_out: bool, told: bool, seed: int, confidence: float
) -> Figures:
    counted = [e for e in group if e.held_out] if held_out else group
    any_held_out = bool(counted)
    counted = counted or group
    n, successes = len(counted), sum(bool(e.success) for e in counted)
    returns = np.array([e.return_ for e in counted])
    strata = [e.condition for e in counted]

    def estimate(statistic: Statistic) -> Estimate:
        low, high = bootstrap_interval(returns, statistic, seed, confidence=confidence, strata=strata)
        return Estimate(float(statistic(returns, axis=-1)), low, high)

    return Figures(
        condition=condition,
        n=n,
        seen=sum(not e.held_out for e in group),
        held_out=held_out and any_held_out,
        success=Estimate(successes / n, *wilson(successes, n, confidence)) if told else None,
        return_mean=estimate(np.mean),
        return_iqm=estimate(iqm),
        cvar=estimate(cvar),
        length=float(np.mean([e.length for e in counted])),
        severity=float(np.median([e.severity for e in counted])),
        falls=sum(e.falls for e in counted),
        violations=sum(e.violations for e in counted),
        faults=sum(e.faults for e in counted),
        action_rate=float(np.mean([e.action_rate for e in counted])),
    )
