"""Did it walk? Success of a commanded walk, from what motion capture, foot switches and a power meter give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simtoreal.robots.scoring import Scorer, Signals


@dataclass(frozen=True)
class WalkLimits:
    """What counts as walking on command; means are over the steps after `settle`.

    The first two are the task. The rest rule out what scores well and is no walk: shaking (`action_change`, `power`,
    `touchdowns`), skating (`slip`, `swing_height`) and dragging or carrying a leg (`duty`, `touchdowns`).
    """

    velocity: float = 0.1  # [m/s] mean |error| of the forward velocity
    yaw_rate: float = 0.15  # [rad/s] mean |error|
    settle: float = 1.0  # [s] after a command before it is judged
    power: float = 150.0  # [W] mean mechanical power; a cost of transport of 2.4 for 12.5 kg at 0.5 m/s
    action_change: float = 0.35  # rms change of an action element a step; a full-range sine of 2.5 Hz at 50 Hz has 0.22
    slip: float = 0.2  # [m/s] mean speed of a foot while it stands, the slowest command: a skater slides as it goes
    touchdowns: tuple[float, float] = (1.5, 4.0)  # [1/s] of each foot
    swing_height: float = 0.015  # [m] each foot's mean highest clearance in a swing
    duty: float = 0.8  # share of the time that any foot stands, at most
    shortest_swing: int = 2  # [control steps] a foot must be up for its return to be a touchdown


class WalkScorer(Scorer):
    """Judges each command at its end; the episode is a success if every command was followed by a walk.

    Reads velocity_command, yaw_rate_command, command_age, base_velocity, base_angular_velocity, foot_contact,
    foot_clearance, foot_slip, power and action_change.
    """

    def __init__(self, limits: WalkLimits, feet: int, actions: int, control_dt: float, hold: float) -> None:
        """`hold` [s] is how long a command is given."""
        self._limits, self._feet, self._actions, self._dt = limits, feet, actions, control_dt
        self._last_age = hold - 0.5 * control_dt
        self.start()

    def start(self) -> None:
        self._unmet: list[str] = []
        self._judged = 0
        self._steps: list[tuple[float, ...]] = []
        self._feet_seen: list[list[tuple[float, float]]] = []

    def see(self, signals: Signals) -> bool:
        age = signals["command_age"][0]
        if age > self._limits.settle:
            self._note(signals)
        if age >= self._last_age:
            self._judged += 1
            self._unmet += [f"command {self._judged}: {limit}" for limit in self._broken()]
            self._steps, self._feet_seen = [], []
        return self._judged > 0 and not self._unmet

    @property
    def unmet(self) -> Sequence[str]:
        """The limits that did not hold, of each command that was judged: `command 2: yaw_rate`."""
        return self._unmet

    def _note(self, s: Signals) -> None:
        """Keep what this control step shows: it is added up when the command is judged."""
        self._steps.append(
            (
                abs(s["base_velocity"][0] - s["velocity_command"][0]),
                abs(s["base_angular_velocity"][2] - s["yaw_rate_command"][0]),
                s["power"][0],
                s["action_change"][0],
                sum(s["foot_slip"]),
            )
        )
        self._feet_seen.append(list(zip(s["foot_contact"], s["foot_clearance"], strict=True)))

    def figures(self) -> dict[str, list[float]]:
        """What the limits are held against, since the command settled: by name, one number or one for each foot."""
        n = max(len(self._steps), 1)
        velocity, yaw_rate, power, change, slip = map(sum, zip(*self._steps, strict=True)) if self._steps else [0.0] * 5
        feet = [self._stance(foot) for foot in zip(*self._feet_seen, strict=True)] or [(0, 0, 0.0)] * self._feet
        return {
            "velocity": [velocity / n],
            "yaw_rate": [yaw_rate / n],
            "power": [power / n],
            "action_change": [math.sqrt(change / (n * self._actions))],
            "slip": [slip / max(sum(standing for standing, _, _ in feet), 1)],
            "touchdowns": [touchdowns / (n * self._dt) for _, touchdowns, _ in feet],
            "swing_height": [peaks / max(touchdowns, 1) for _, touchdowns, peaks in feet],
            "duty": [standing / n for standing, _, _ in feet],
        }

    def _stance(self, foot: Sequence[tuple[float, float]]) -> tuple[int, int, float]:
        """Of one foot's contacts and clearances: control steps on the ground, touchdowns, sum of its swings' peaks."""
        standing = touchdowns = up = 0
        peak = peaks = 0.0
        for contact, clearance in foot:
            if not contact:
                up += 1
                peak = max(peak, clearance)
                continue
            standing += 1
            if up >= self._limits.shortest_swing:
                touchdowns += 1
                peaks += peak
            up, peak = 0, 0.0
        return standing, touchdowns, peaks

    def _broken(self) -> list[str]:
        """The limits that do not hold, none for a walk."""
        found, limits = self.figures(), self._limits
        broken = [
            name
            for name in ("velocity", "yaw_rate", "power", "action_change", "slip", "duty")
            if not max(found[name]) <= getattr(limits, name)
        ]
        low, high = limits.touchdowns
        if not all(low <= rate <= high for rate in found["touchdowns"]):
            broken.append("touchdowns")
        if not min(found["swing_height"]) >= limits.swing_height:
            broken.append("swing_height")
        return broken
