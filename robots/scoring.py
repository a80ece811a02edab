"""When an episode counts as a success, from its reward signals alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

Signals = Mapping[str, Sequence[float]]


class Scorer(ABC):
    """Follows one episode; what a lab measures is enough for it, so a robot is scored as a simulator is."""

    @abstractmethod
    def start(self) -> None:
        """A new episode begins."""

    @property
    def unmet(self) -> Sequence[str]:
        """What has kept the episode from being a success, where that can be told."""
        return ()

    @abstractmethod
    def see(self, signals: Signals) -> bool:
        """One control step later: is the episode a success up to now?"""


class HoldScorer(Scorer):
    """A condition that has held for the last `steps` control steps."""

    def __init__(self, holds: Callable[[Signals], bool], steps: int) -> None:
        self._holds, self._steps, self._held = holds, steps, 0

    def start(self) -> None:
        self._held = 0

    def see(self, signals: Signals) -> bool:
        self._held = self._held + 1 if self._holds(signals) else 0
        return self._held >= self._steps


class ScoredByMeans:
    """Of a task whose episodes are successes where errors of their control steps are small in the mean.

    Attributes:
        settle: [s] before it is judged.
        limits_of_means: of the errors, by name.
    """

    settle: ClassVar[float]
    limits_of_means: ClassVar[Mapping[str, float]]
    control_dt: float

    @classmethod
    @abstractmethod
    def errors(cls, signals: Signals) -> dict[str, float]:
        """What the success limits are held against, of one control step."""

    @classmethod
    def succeeds(cls, signals: Signals) -> bool:
        """Are all errors within their limits at this instant?"""
        found = cls.errors(signals)
        return all(found[name] <= limit for name, limit in cls.limits_of_means.items())

    @classmethod
    def scorer(cls) -> Scorer:
        """Of their means."""
        return MeanScorer(cls.errors, cls.limits_of_means, round(cls.settle / cls.control_dt))


class MeanScorer(Scorer):
    """Errors that are, in the mean over all control steps after the first `settle`, within their limits."""

    def __init__(
        self, errors: Callable[[Signals], Mapping[str, float]], limits: Mapping[str, float], settle: int
    ) -> None:
        self._errors, self._limits, self._settle = errors, limits, settle
        self.start()

    def start(self) -> None:
        self._seen = 0
        self._sums = dict.fromkeys(self._limits, 0.0)

    def see(self, signals: Signals) -> bool:
        self._seen += 1
        if self._seen > self._settle:
            found = self._errors(signals)
            self._sums = {name: total + found[name] for name, total in self._sums.items()}
        return self._seen > self._settle and not self.unmet

    def means(self) -> dict[str, float]:
        """The errors' means up to now; nan before the settling is over."""
        n = self._seen - self._settle
        return {name: total / n if n > 0 else math.nan for name, total in self._sums.items()}

    @property
    def unmet(self) -> Sequence[str]:
        """The errors whose means are beyond their limits."""
        return [name for name, mean in self.means().items() if not mean <= self._limits[name]]
