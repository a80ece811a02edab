"""Sensors as parts of the robot: white noise, constant bias and latency are parameters whose nominal is ideal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.streams import NormalStream
from simtoreal.robots.world import JointState

MAX_LATENCY = 0.1  # [s] of any sensor or actuator


@dataclass(frozen=True)
class JointSensor:
    """An encoder (position) or tachometer (velocity) on some joints.

    Parameters it adds: `sensor.NAME.noise` (standard deviation of white noise a control step), `sensor.NAME.latency`,
    and a constant bias for each joint: `sensor.NAME.bias` if it has one joint, else `sensor.NAME.bias.JOINT`.
    """

    name: str
    quantity: Literal["position", "velocity"]
    joints: tuple[str, ...]
    unit: str
    max_noise: float
    max_bias: float

    def bias_name(self, joint: str) -> str:
        return f"sensor.{self.name}.bias" + (f".{joint}" if len(self.joints) > 1 else "")

    def parameters(self) -> list[Parameter]:
        what = f"sensor.{self.name}"
        return [
            Parameter(f"{what}.noise", self.unit, 0.0, 0.0, self.max_noise, "standard deviation of white noise"),
            Parameter(f"{what}.latency", "s", 0.0, 0.0, MAX_LATENCY, "age of a reading"),
            *(
                Parameter(self.bias_name(joint), self.unit, 0.0, -self.max_bias, self.max_bias, "constant offset")
                for joint in self.joints
            ),
        ]


class StateRing:
    """The joint states after each of the last physics substeps (Tan et al. 2018, arXiv 1804.10332).

    A reading of age `latency` is one linear interpolation between two substeps.
    """

    def __init__(self, physics_dt: float) -> None:
        self._dt = physics_dt
        self._size = int(MAX_LATENCY / physics_dt) + 3
        self._states: list[JointState] = []
        self._head = 0

    def fill(self, state: JointState) -> None:
        """As if the robot had rested in `state` for ever."""
        self._states = [state] * self._size
        self._head = 0

    def push(self, state: JointState) -> None:
        self._head = (self._head + 1) % self._size
        self._states[self._head] = state

    def read(self, which: int, joints: Sequence[int], latency: float) -> list[float]:
        """Positions (`which` 0) or velocities (1) of `joints`, `latency` [s] ago."""
        if latency == 0.0:
            now = self._states[self._head][which]
            return [now[j] for j in joints]
        back = latency / self._dt
        whole = int(back)
        part = back - whole
        newer = self._states[self._head - whole][which]
        older = self._states[self._head - whole - 1][which]
        return [newer[j] + part * (older[j] - newer[j]) for j in joints]


class SensorReader:
    """Reads one sensor under the current parameter values."""

    def __init__(self, sensor: JointSensor, joints: Sequence[str]) -> None:
        self._sensor = sensor
        self._which = 0 if sensor.quantity == "position" else 1
        self._joints = [list(joints).index(joint) for joint in sensor.joints]
        self._noise_name = f"sensor.{sensor.name}.noise"
        self._latency_name = f"sensor.{sensor.name}.latency"
        self._bias_names = [sensor.bias_name(joint) for joint in sensor.joints]
        self._stream: NormalStream | None = None
        self._seed = 0
        self._noise = self._latency = 0.0
        self.bias: list[float] = [0.0] * len(self._joints)

    def start(self, seed: int) -> None:
        """Begin an episode; its noise follows from `seed`."""
        self._seed = seed
        self._stream = None

    def apply(self, values: Mapping[str, float]) -> None:
        self._noise = values[self._noise_name]
        self._latency = values[self._latency_name]
        self.bias = [values[name] for name in self._bias_names]

    def read_back(self) -> dict[str, float]:
        return {self._noise_name: self._noise, self._latency_name: self._latency} | dict(
            zip(self._bias_names, self.bias, strict=True)
        )

    def ideal(self, state: JointState) -> list[float]:
        """What a perfect sensor would read in `state`."""
        now = state[self._which]
        return [now[joint] for joint in self._joints]

    def read(self, ring: StateRing, control_step: int) -> list[float]:
        """One reading, at control step `control_step` of the episode (the noise row follows it)."""
        values = ring.read(self._which, self._joints, self._latency)
        values = [v + b for v, b in zip(values, self.bias, strict=True)]
        if self._noise > 0.0:
            if self._stream is None:
                self._stream = NormalStream(self._noise_name, len(values), self._seed)
                for _ in range(control_step):
                    self._stream.row()
            sigma = self._noise
            values = [v + sigma * z for v, z in zip(values, self._stream.row(), strict=True)]
        elif self._stream is not None:
            self._stream.row()
        return values
