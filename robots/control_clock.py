"""When the controller acts: the period of its loop, and how late it wakes."""

from __future__ import annotations

from collections.abc import Mapping

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.streams import UniformStream

PERIOD, JITTER = "control.period", "control.jitter"
FASTEST, SLOWEST, LATEST = 0.5, 2.0, 0.5  # of the nominal period; the last of how late it wakes at most


class ControlClock:
    """Control step k begins at k x period + jitter x u_k, u_k uniform in [0, 1) and u_0 = 0, to the nearest physics
    step, one after the other: a loop that is called at a fixed rate, and wakes more or less late.

    The policy does not know. What it or the task counts in control steps (the horizon, the phase of a gait, a sensor's
    own period, noise and drift, pushes) goes on as if each were as long as its contract says.
    """

    def __init__(self, physics_dt: float, substeps: int) -> None:
        self._dt, self._substeps = physics_dt, substeps
        self._jitters = UniformStream(JITTER, 1, seed=0)
        nominal = physics_dt * substeps
        self.parameters = [
            Parameter(
                PERIOD, "s", nominal, FASTEST * nominal, SLOWEST * nominal, "of the control loop as it really runs"
            ),
            Parameter(
                JITTER, "s", 0.0, 0.0, LATEST * nominal, "at most by which a control step begins late, each its own"
            ),
        ]
        self._values = {parameter.name: parameter.nominal for parameter in self.parameters}
        self.even = True
        self.start(0)

    @property
    def longest(self) -> int:
        """A control step's physics steps at most."""
        return round((SLOWEST + LATEST) * self._substeps) + 1

    def start(self, seed: int) -> None:
        """Begin an episode, whose jitter follows from `seed`."""
        self._jitters.begin(seed)
        self._due = 0.0  # [physics steps] when the next control step should begin
        self._begun = 0  # when the running one did

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {name: values[name] for name in (PERIOD, JITTER)}
        self._period, self._jitter = (values[name] / self._dt for name in (PERIOD, JITTER))
        self.even = self._jitter == 0.0 and abs(self._period - self._substeps) < 1e-9

    def read_back(self) -> dict[str, float]:
        return dict(self._values)

    def steps(self, control_step: int) -> int:
        """How many physics steps the control step of this number (from 0, in rising order) takes."""
        if self.even and self._begun == self._due:
            self._due += self._substeps
            self._begun += self._substeps
            return self._substeps
        self._due += self._period
        late = self._jitter * self._jitters.at(control_step)[0] if self._jitter else 0.0
        next_one = max(round(self._due + late), self._begun + 1)
        taken, self._begun = next_one - self._begun, next_one
        return taken
