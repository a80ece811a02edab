"""Drives beyond an ideal one: a velocity loop, a motor that weakens with speed, one that was learned from data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.actuators import (
    DEAD_ZONE,
    JITTER,
    KD,
    LATENCY,
    LIMIT,
    STRENGTH,
    Drive,
    PDDrive,
    PositionDrive,
    beyond,
)
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.world import State


class VelocityDrive(Drive):
    """Joint velocity targets: strength * clip(d(kd (target - qd)), +-limit), d as of `Gains`."""

    parameters = (STRENGTH, KD, LIMIT, LATENCY, JITTER, DEAD_ZONE)

    def __init__(self, kd: Sequence[float], effort: Sequence[float]) -> None:
        self._kd_nominal, self._effort = list(kd), list(effort)
        self.apply({p.name: p.nominal for p in self.parameters})

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {p.name: values[p.name] for p in self.parameters}
        self._strength = values["actuator.strength"]
        self._kd = [values["actuator.kd"] * k for k in self._kd_nominal]
        self._limit = [values["actuator.torque_limit"] * effort for effort in self._effort]

    def read_back(self) -> dict[str, float]:
        return dict(self._values)

    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        carried = gravity or [0.0] * len(self._kd)
        columns = zip(self._kd, command, state[1], carried, self._limit, strict=True)
        dead = self._values["actuator.dead_zone"]
        return [
            self._strength * min(max(beyond(d * (c - v) + g, dead * most), -most), most) for d, c, v, g, most in columns
        ]


@dataclass(frozen=True)
class DCMotor:
    """A brushed motor behind its gears, or a brushless one behind its controller, as seen at each joint.

    Attributes:
        stall_torque: [N m] at rest, at the nominal voltage.
        free_speed: [rad/s] without load, at the nominal voltage.
        voltage: [V] nominal, of the battery.
    """

    stall_torque: tuple[float, ...]
    free_speed: tuple[float, ...]
    voltage: float

    def __post_init__(self) -> None:
        if min(*self.stall_torque, *self.free_speed, self.voltage) <= 0.0:
            raise ValueError("a motor's stall torque, free speed and voltage are above 0")


class DCMotorDrive(PDDrive):
    """As PDDrive, and within what the motor can give: at a speed w and a voltage of s times the nominal one, torque is
    at most stall (s - w / free), if that is above 0, and at least -stall (s + w / free), if that is below (Isaac Lab's
    DCMotor, with a battery that runs down)."""

    def __init__(self, kp: Sequence[float], kd: Sequence[float], effort: Sequence[float], motor: DCMotor) -> None:
        self._motor = motor
        low, high = 0.5 * motor.voltage, 1.2 * motor.voltage
        self.parameters = (
            *PDDrive.parameters,
            Parameter("battery.voltage", "V", motor.voltage, low, high, "sets torque at rest and speed without load"),
        )
        super().__init__(kp, kd, effort)

    def _renew(self) -> None:
        super()._renew()
        self.gains = None  # the torque is more than that
        share = self._values["battery.voltage"] / self._motor.voltage
        self._stall = [self._strength * share * torque for torque in self._motor.stall_torque]
        self._slope = [
            self._strength * torque / speed
            for torque, speed in zip(self._motor.stall_torque, self._motor.free_speed, strict=True)
        ]

    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        asked = super().torque(state, command, gravity)
        columns = zip(asked, state[1], self._stall, self._slope, strict=True)
        return [min(max(t, min(-m - k * w, 0.0)), max(m - k * w, 0.0)) for t, w, m, k in columns]


Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Of each joint a row: [n, 2 k] -> [n] torque in N m."""


@dataclass(frozen=True)
class ActuatorNetwork:
    """A drive that was learned from a real one's log.

    Attributes:
        network: takes of each joint its position errors (target - q) [rad] at k instants and then its velocities
            [rad/s] at the same.
        lags: how long ago these instants are [s].
        source: the file it came from.
    """

    network: Network
    lags: tuple[float, ...]
    source: Path | None = None

    def __post_init__(self) -> None:
        if not self.lags or min(self.lags) < 0.0:
            raise ValueError(f"the lags of an actuator network are 0 s or more, got {list(self.lags)}")


class NetworkDrive(PositionDrive):
    """Joint position targets: strength * clip(network(position errors, velocities) + gravity compensation, +-limit), as
    of Hwangbo et al. 2019 (Science Robotics 4 (26), arXiv 1901.08652), at every physics step."""

    parameters = (STRENGTH, LIMIT, LATENCY, JITTER)

    def __init__(self, actuator: ActuatorNetwork, effort: Sequence[float], physics_dt: float) -> None:
        self._network, self._effort = actuator.network, np.array(effort)
        self._back = [round(lag / physics_dt) for lag in actuator.lags]
        self._past: deque[tuple[NDArray[np.float64], NDArray[np.float64]]] = deque(maxlen=max(self._back) + 1)
        self._bias = np.zeros(len(effort))
        self.apply({p.name: p.nominal for p in self.parameters})

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {p.name: values[p.name] for p in self.parameters}
        self._limit = self._effort * values["actuator.torque_limit"]

    def read_back(self) -> dict[str, float]:
        return dict(self._values)

    @property
    def encoder_bias(self) -> Sequence[float]:
        return self._bias.tolist()

    @encoder_bias.setter
    def encoder_bias(self, bias: Sequence[float]) -> None:
        self._bias = np.array(bias)

    def start(self, command: Sequence[float]) -> None:
        """As if the robot had been for ever as it is."""
        self._past.clear()

    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        now = np.array(command) - state[0] - self._bias, np.array(state[1])
        self._past.extend([now] * (1 if self._past else self._past.maxlen or 1))
        instants = [self._past[-1 - back] for back in self._back]
        rows = np.stack([error for error, _ in instants] + [velocity for _, velocity in instants], axis=1)
        asked = self._network(rows.astype(np.float32)).astype(float)
        if gravity:
            asked = asked + gravity
        limited = np.clip(asked, -self._limit, self._limit)
        return [self._values["actuator.strength"] * t for t in limited.tolist()]


def position_drive(
    actuator: DCMotor | ActuatorNetwork | None,
    kp: Sequence[float],
    kd: Sequence[float],
    effort: Sequence[float],
    physics_dt: float,
) -> PositionDrive:
    """The drive for joint position targets of a robot whose actuators are such; None for ideal ones."""
    if isinstance(actuator, ActuatorNetwork):
        return NetworkDrive(actuator, effort, physics_dt)
    return PDDrive(kp, kd, effort) if actuator is None else DCMotorDrive(kp, kd, effort, actuator)
