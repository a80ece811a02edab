"""When an episode counts as a success, from its reward signals alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

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
