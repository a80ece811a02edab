"""What the world does to a robot in mid-episode."""

from __future__ import annotations

import math
from collections.abc import Mapping

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.streams import NormalStream

MAX_INTERVAL = 20.0  # [s]


class Pushes:
    """Horizontal blows: every `push.interval` the base's velocity changes at once by `push.speed`, in a direction drawn
    anew each time.

    The change at once is that of legged_gym (Rudin et al. 2022); a blow of impulse J on a robot of mass m is J / m.
    """

    parameters = (
        Parameter("push.speed", "m/s", 0.0, 0.0, 2.0, "change of the base's velocity"),
        Parameter("push.interval", "s", 3.0, 0.5, MAX_INTERVAL, "time between pushes, and before the first"),
    )

    def __init__(self, control_dt: float) -> None:
        self._dt = control_dt
        self._values = {p.name: p.nominal for p in self.parameters}
        self._directions = NormalStream("push", 2, seed=0)

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {p.name: values[p.name] for p in self.parameters}
        self._speed = values["push.speed"]
        self._every = max(1, round(values["push.interval"] / self._dt))

    def read_back(self) -> dict[str, float]:
        return dict(self._values)

    def start(self, seed: int) -> None:
        """Begin an episode; the directions follow from `seed`."""
        self._directions.begin(seed)

    def due(self, control_step: int) -> tuple[float, float, float] | None:
        """The change of velocity [m/s] at the beginning of control step `control_step`, or None."""
        if self._speed == 0.0 or control_step == 0 or control_step % self._every:
            return None
        x, y = self._directions.at(control_step // self._every - 1)
        length = math.hypot(x, y)
        return self._speed * x / length, self._speed * y / length, 0.0
