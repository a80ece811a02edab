"""What evaluated episodes say about two bundles, or about one in two engines: differences over the same cases."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from simtoreal.intervals import CONFIDENCE, Estimate, bootstrap_interval
from simtoreal.statistics import Episode, base_suite, heldout_suites, reports_success


@dataclass(frozen=True)
class PairedDifference:
    """Bundle `a` minus bundle `b` over the same `n` cases: the mean difference, and how often each was ahead."""

    a: str
    b: str
    suite: str
    metric: str
    n: int
    difference: Estimate
    wins: int
    losses: int
    ties: int

    def to_json(self) -> dict[str, Any]:
        """A plain dict, JSON-able."""
        return asdict(self) | {"difference": self.difference.to_json()}


def paired_difference(
    a: Sequence[Episode], b: Sequence[Episode], seed: int, *, metric: str = "success", confidence: float = CONFIDENCE
) -> PairedDifference:
    """Mean difference of `metric` ("success" or "return_mean"), bootstrapped over cases within each condition.

    `a` and `b` hold one bundle each over the same cases of the same seeds, in any order. Raises ValueError otherwise.
    """
    if metric not in ("success", "return_mean"):
        raise ValueError(f"no paired metric {metric!r}; metrics: success, return_mean")
    left, right = _by_case(a), _by_case(b)
    if left.keys() != right.keys():
        odd = min(left.keys() ^ right.keys())
        raise ValueError(f"{a[0].bundle} and {b[0].bundle} ran different cases: only one of them ran {odd[0]}:{odd[1]}")
    for case, e in left.items():
        if e.seed != right[case].seed:
            raise ValueError(f"case {case[0]}:{case[1]} was drawn from seed {e.seed} and from seed {right[case].seed}")

    def figure(e: Episode) -> float:
        return float(bool(e.success)) if metric == "success" else e.return_

    values = [figure(e) - figure(right[case]) for case, e in left.items()]
    strata = [(e.suite, e.condition) for e in left.values()]
    low, high = bootstrap_interval(values, np.mean, seed, confidence=confidence, strata=strata)
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    suites = "+".join(dict.fromkeys(e.suite for e in a))
    difference = Estimate(float(np.mean(values)), low, high)
    n = len(values)
    return PairedDifference(a[0].bundle, b[0].bundle, suites, metric, n, difference, wins, losses, n - wins - losses)


def _by_case(episodes: Sequence[Episode]) -> dict[tuple[str, str], Episode]:
    if not episodes:
        raise ValueError("a paired difference wants episodes on both sides, got none")
    cases = {(e.suite, e.case): e for e in episodes}
    bundles = dict.fromkeys(e.bundle for e in episodes)
    if len(bundles) > 1 or len(cases) < len(episodes):
        raise ValueError(f"a side of a paired difference holds each case of one bundle once, got {', '.join(bundles)}")
    return cases


def compare_bundles(
    episodes: Sequence[Episode],
    seed: int = 0,
    *,
    metrics: Sequence[str] | None = None,
    heldout: Collection[str] | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[PairedDifference, ...]:
    """The paired difference of every two bundles in each suite that both ran: of success, where the task reports it,
    and of the mean return, unless other `metrics` are asked for.

    In a held-out suite the cases held out for both count; two bundles that share none are left out. Raises ValueError
    where two bundles ran different cases of one suite.
    """
    names = heldout_suites(episodes) if heldout is None else set(heldout)
    if metrics is None:
        metrics = ("success", "return_mean") if reports_success(episodes) else ("return_mean",)
    groups: dict[str, dict[str, list[Episode]]] = {}
    for e in episodes:
        groups.setdefault(e.suite, {}).setdefault(e.bundle, []).append(e)
    found = []
    for suite, bundles in groups.items():
        for a, b in itertools.combinations(bundles.values(), 2):
            whole = [paired_difference(a, b, seed, metric=metric, confidence=confidence) for metric in metrics]
            if suite in names:
                both = {e.case for e in a if e.held_out} & {e.case for e in b if e.held_out}
                left, right = [e for e in a if e.case in both], [e for e in b if e.case in both]
                whole = [paired_difference(left, right, seed, metric=m, confidence=confidence) for m in metrics if both]
            found += whole
    return tuple(found)


def compare_engines(
    episodes: Sequence[Episode], seed: int = 0, *, confidence: float = CONFIDENCE
) -> tuple[PairedDifference, ...]:
    """The paired difference of each bundle in every further engine and in the first that its suite was run in, over all
    cases: of success, where the task reports it, and of the mean return. A side is called "bundle in engine"."""
    metrics = ("success", "return_mean") if reports_success(episodes) else ("return_mean",)
    groups: dict[tuple[str, str], dict[str, list[Episode]]] = {}
    for e in episodes:
        suite = base_suite(e.suite)
        renamed = replace(e, bundle=f"{e.bundle} in {e.engine}", suite=suite)
        groups.setdefault((suite, e.bundle), {}).setdefault(e.engine, []).append(renamed)
    return tuple(
        paired_difference(further, first, seed, metric=metric, confidence=confidence)
        for first, *others in (list(engines.values()) for engines in groups.values())
        for further in others
        for metric in metrics
    )
