"""When a sensor samples, and when a sample arrives, if it does."""

from __future__ import annotations

import math
from collections.abc import Mapping

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.streams import UniformStream

MAX_LATENCY = 0.1  # [s] of any sensor or actuator
MAX_JITTER = 0.05  # [s]
MAX_PERIOD = 0.1  # [s]
MAX_DROPOUT, MAX_OUTAGE = 0.5, 0.5  # [-], [s]
SAME = 1e-9  # [s] of two instants
OLDEST = MAX_LATENCY + MAX_JITTER + MAX_PERIOD  # [s] age of a sample that is read for the first time
FASTEST = 5e-4  # [s] between samples: what is faster than any physics step comes as the reader likes


def parameters(name: str, latency: float, period: float) -> list[Parameter]:
    """Latency, jitter, period, dropout and outage of the sensor `name`, of these nominal values [s]."""
    lost = "chance that a sample is lost: the one before is read again"
    return [
        Parameter(f"{name}.latency", "s", latency, 0.0, MAX_LATENCY, "age of a reading"),
        Parameter(f"{name}.jitter", "s", 0.0, 0.0, MAX_JITTER, "at most added to the age, each sample its own"),
        Parameter(f"{name}.period", "s", period, 0.0, MAX_PERIOD, "between samples; 0: whenever it is read"),
        Parameter(f"{name}.dropout", "-", 0.0, 0.0, MAX_DROPOUT, lost),
        Parameter(f"{name}.outage", "s", 0.0, 0.0, MAX_OUTAGE, "for how long what follows a lost sample is lost too"),
    ]


class Arrivals:
    """Which sample of a sensor is the newest that has arrived.

    A sample is taken every `period`, counted from the beginning of an episode, or, where that is shorter than
    `FASTEST`, whenever it is read; it arrives `latency` later, and up to `jitter` more, drawn for each; or it is lost,
    by a chance of `dropout`, and with it all that are taken for an `outage` [s] from then: what came before it is read
    again, as of a packet that did not arrive, or of a sensor that sticks. The first of an episode is never lost.
    """

    def __init__(self, name: str) -> None:
        """`name` of the sensor."""
        self._names = [parameter.name for parameter in parameters(name, 0.0, 0.0)]
        self._values = [0.0] * len(self._names)
        self._delays = UniformStream(f"{name}.jitter", 1, seed=0)
        self._losses = UniformStream(f"{name}.dropout", 1, seed=0)
        self.latency = 0.0
        self._varied = False
        self.start(0)

    def start(self, seed: int) -> None:
        """Begin an episode; jitter and losses follow from `seed`."""
        self._delays.begin(seed)
        self._losses.begin(seed)
        self._drawn: list[float] = []  # of the episode's samples so far, the share of the jitter
        self._lost: list[bool] = []  # and whether it is lost
        self._back = 0.0  # [s] into the episode, when the last outage ends
        self._taken: float | None = None  # [s] into the episode, when the sample was taken that was read last

    def apply(self, values: Mapping[str, float]) -> None:
        before, self._values = self._values, [values[name] for name in self._names]
        if self._values[2] != before[2]:  # samples of another period are others
            self._drawn, self._lost, self._back = [], [], 0.0
        self.latency, jitter, period, dropout, _ = self._values
        self._varied = bool(jitter or period or dropout)

    def read_back(self) -> dict[str, float]:
        return dict(zip(self._names, self._values, strict=True))

    @property
    def age(self) -> float | None:
        """Of every reading [s]; None where it differs."""
        return None if self._varied else self.latency

    def newest(self, control_step: int, control_dt: float) -> float | None:
        """Age [s] of the newest sample that is there at a control step; None if that is the one that was read last."""
        latency, jitter, period, _, _ = self._values
        if not self._varied or period < FASTEST:
            if self._varied and self._is_lost(control_step, control_dt):
                return None
            age = latency + jitter * self._share(control_step)
            self._taken = control_step * control_dt - age
            return age
        now = control_step * control_dt
        sample = math.floor((now - latency + SAME) / period)
        while sample * period + latency + jitter * self._share(sample) > now + SAME or self._is_lost(sample, period):
            sample -= 1
        taken = sample * period
        if self._taken is not None and (taken <= self._taken + SAME or now - taken > OLDEST + SAME):
            return None  # known, or, where the period changed and others are lost now, too old to be there
        self._taken = taken
        return now - taken

    def _share(self, sample: int) -> float:
        """Of the jitter, by which a sample is late; none before the episode."""
        if not self._values[1]:
            return 0.0
        while len(self._drawn) <= sample:
            self._drawn += self._delays.at(len(self._drawn))
        return self._drawn[sample] if sample >= 0 else 0.0

    def _is_lost(self, sample: int, spacing: float) -> bool:
        """Of the samples so far, `spacing` [s] apart."""
        *_, dropout, outage = self._values
        if not dropout or sample <= 0:
            return False
        while len(self._lost) <= sample:
            taken = len(self._lost) * spacing
            (chance,) = self._losses.at(len(self._lost))
            if chance < dropout and self._lost:
                self._back = max(self._back, taken + outage)
                self._lost.append(True)
            else:
                self._lost.append(taken < self._back - SAME)
        return self._lost[sample]
