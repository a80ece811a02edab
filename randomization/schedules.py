"""Parameters that change within an episode: at intervals, anew or along a schedule."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from simtoreal.randomization.distributions import Distribution
from simtoreal.randomization.messages import shown
from simtoreal.randomization.philox import uniforms

SCHEDULES = ("redraw", "random_walk", "drift_up", "drift_down", "cycle_up", "cycle_down", "saw")
STEP = 0.1
LEAST = 2.0**-53  # of the chances that a normal number is made of

Change = dict[str, float]
"""Parameter -> its new value."""


@dataclass(frozen=True)
class Pace:
    """How a parameter changes: every so many seconds [s], by which of `SCHEDULES`, in what steps.

    Between its ends the distribution's quantile u moves (of an even one that is the share of the range): `redraw` takes
    another u; `random_walk` adds a normal number of standard deviation `step`, cut off at the ends; `drift_up` and
    `drift_down` add or take away its absolute value; the cycles too, and begin again where the episode began when they
    have reached an end; `saw` goes up to the end, then down to the other. The schedules of the Real-World RL suite
    (Dulac-Arnold et al. 2020, arXiv 2003.11881, section 3.7), which change between episodes there.
    """

    every: float
    schedule: str = SCHEDULES[0]
    step: float = STEP

    def __post_init__(self) -> None:
        if not 0.0 < self.every < math.inf:
            raise ValueError(f"every must be seconds above 0, got {self.every!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if not 0.0 < self.step <= 1.0:
            raise ValueError(f"step must be a share of the range in (0, 1], got {self.step!r}")

    def to_data(self) -> dict[str, float | str]:
        """As a file holds it."""
        steps = {} if self.schedule == SCHEDULES[0] else {"step": self.step}
        return {"every": self.every, "schedule": self.schedule, **steps}

    def follow(self, u: float, first: float, rising: bool, chance: float) -> tuple[float, bool]:
        """The next u, and whether a saw rises then; `chance` in [0, 1) is that of the change."""
        if self.schedule == "redraw":
            return chance, rising
        moved = self.step * NormalDist().inv_cdf(max(chance, LEAST))
        if self.schedule == "random_walk":
            return min(max(u + moved, 0.0), 1.0), rising
        down = self.schedule in ("drift_down", "cycle_down") or (self.schedule == "saw" and not rising)
        after = u - abs(moved) if down else u + abs(moved)
        if 0.0 <= after <= 1.0:
            return after, rising
        if self.schedule.startswith("cycle"):
            return first, rising
        return min(max(after, 0.0), 1.0), not rising


@dataclass(frozen=True)
class Moving:
    """A parameter that changes: its random number's name, what that means, and between which values it stays."""

    name: str
    stream: str
    distribution: Distribution
    low: float
    high: float
    nominal: float
    pace: Pace


@dataclass(frozen=True)
class Schedule:
    """The changes of one episode, keyed as its draw is: (seed, env, episode); of a `width` below 1 that share of the
    way from nominal."""

    seed: int
    env: int
    episode: int
    moving: tuple[Moving, ...]
    width: float = 1.0

    def begin(self) -> RunningSchedule:
        """For one run of the episode."""
        return RunningSchedule(self)

    def without(self, names: Sequence[str]) -> Schedule:
        """The same, but for parameters that somebody else has set."""
        kept = tuple(moving for moving in self.moving if moving.name not in names)
        return Schedule(self.seed, self.env, self.episode, kept, self.width)


class RunningSchedule:
    """The changes of an episode as it goes."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        streams = tuple(dict.fromkeys(moving.stream for moving in schedule.moving))
        first = uniforms(schedule.seed, schedule.env, schedule.episode, streams).tolist() if streams else []
        self._first = dict(zip(streams, first, strict=True))
        self._now = {stream: (u, True) for stream, u in self._first.items()}
        self._pace = {moving.stream: moving.pace for moving in schedule.moving}

    def due(self, control_step: int, control_dt: float) -> Change:
        """What changes at the beginning of a control step, each of which is asked for once, in turn."""
        moved = set()
        for stream, pace in self._pace.items():
            steps = max(1, round(pace.every / control_dt))
            if control_step and control_step % steps == 0:
                self._now[stream] = self._follow(stream, control_step // steps)
                moved.add(stream)
        return {moving.name: self._value(moving) for moving in self._schedule.moving if moving.stream in moved}

    def _follow(self, stream: str, k: int) -> tuple[float, bool]:
        s = self._schedule
        (chance,) = uniforms(s.seed, s.env, s.episode, (f"{stream}#{k}",)).tolist()
        u, rising = self._now[stream]
        return self._pace[stream].follow(u, self._first[stream], rising, chance)

    def _value(self, moving: Moving) -> float:
        value = min(max(moving.distribution.ppf(self._now[moving.stream][0]), moving.low), moving.high)
        width = self._schedule.width
        return value if width == 1.0 else moving.nominal + width * (value - moving.nominal)


class RecordedChanges:
    """The changes of an episode as a recording has them, control step -> change."""

    def __init__(self, changes: Mapping[int, Change]) -> None:
        self._changes = changes

    @classmethod
    def read(cls, text: str) -> RecordedChanges:
        """From what `written` made of it. Raises ValueError for anything else."""
        found = json.loads(text) if text else {}
        if not isinstance(found, dict):
            raise ValueError(f"changes are a mapping of control steps, got {shown(text)}")
        changes: dict[int, Change] = {}
        for step, change in found.items():
            if not isinstance(change, dict) or not step.isdigit():
                raise ValueError(f"changes are a mapping of control steps to parameters, got {shown(text)}")
            changes[int(step)] = {name: float(value) for name, value in change.items()}
        return cls(changes)

    def due(self, control_step: int, control_dt: float) -> Change:
        """As of a `RunningSchedule`."""
        return self._changes.get(control_step, {})


def written(changes: Mapping[int, Change]) -> str:
    """Changes by control step as text, in full; empty where there are none."""
    return json.dumps(changes, allow_nan=False, separators=(",", ":")) if changes else ""
