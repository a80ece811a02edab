"""Sensors as parts of the robot: noise, bias, latency, jitter and rate are parameters whose nominal is mostly ideal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from simtoreal.robots import arrivals, imperfections
from simtoreal.robots.imperfections import IDEAL, NOISE
from simtoreal.robots.layout import Field
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.readers import (
    BASE_PARTS,
    GRAVITY_FLAWS,
    AccelerationReader,
    BaseReader,
    ContactReader,
    ImuReader,
    JointReader,
    SensorReader,
    TorqueReader,
)
from simtoreal.robots.world import World


class Sensor(ABC):
    """A part that measures; `name` is its reading's, and what `sees` needs a world that renders.

    Its nominal `latency` [s] is the age of a reading, its nominal `period` [s] the time between samples: between them
    the last one is read again; 0 for a sample whenever it is read.
    """

    name: str
    sees: ClassVar[bool] = False
    latency: float
    period: float

    @abstractmethod
    def parameters(self) -> list[Parameter]: ...

    @abstractmethod
    def reader(self, world: World) -> SensorReader:
        """What reads it in `world`."""

    def timing(self) -> list[Parameter]:
        """When it samples, and when a reading arrives, see `Arrivals`."""
        return arrivals.parameters(f"sensor.{self.name}", self.latency, self.period)


def timed(sensors: Sequence[Sensor], timings: Mapping[str, tuple[float, float]]) -> tuple[Sensor, ...]:
    """The same sensors, of which those named have another nominal latency and period [s]."""
    return tuple(
        replace(sensor, latency=timings[sensor.name][0], period=timings[sensor.name][1])  # type: ignore[type-var]
        if sensor.name in timings
        else sensor
        for sensor in sensors
    )


class ChannelSensor(Sensor):
    """A part of several channels of one unit.

    Parameters it adds: those `flaws` of `IDEAL` that it can have (`sensor.NAME.noise`, `.scale`, `.drift`,
    `.resolution`), its timing, and a constant bias for each channel: `sensor.NAME.bias` if it has one, else
    `sensor.NAME.bias.CHANNEL`.
    """

    unit: str
    max_noise: float
    max_bias: float
    frame: ClassVar[str] = ""
    noise: ClassVar[str] = NOISE
    flaws: ClassVar[tuple[str, ...]] = tuple(IDEAL)

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """What each is called."""

    def field(self) -> Field:
        """What an observation shows of it."""
        return Field(self.name, len(self.channels), self.unit, self.frame, self.channels)

    def bias_names(self) -> list[str]:
        """One for each channel."""
        several = len(self.channels) > 1
        return [f"sensor.{self.name}.bias" + (f".{channel}" if several else "") for channel in self.channels]

    def parameters(self) -> list[Parameter]:
        bias, what = self.max_bias, f"sensor.{self.name}"
        return [
            *imperfections.parameters(what, self.unit, self.flaws, noise=self.max_noise, drift=bias, said=self.noise),
            *self.timing(),
            *(Parameter(name, self.unit, 0.0, -bias, bias, "constant offset") for name in self.bias_names()),
        ]


@dataclass(frozen=True)
class JointSensor(ChannelSensor):
    """An encoder (position) or tachometer (velocity) on some joints."""

    name: str
    quantity: Literal["position", "velocity"]
    joints: tuple[str, ...]
    unit: str
    max_noise: float
    max_bias: float
    latency: float = 0.0
    period: float = 0.0
    frame: ClassVar[str] = "joint"

    @property
    def channels(self) -> tuple[str, ...]:
        return self.joints

    def reader(self, world: World) -> SensorReader:
        return JointReader(self, world.joints)


@dataclass(frozen=True)
class TorqueSensor(ChannelSensor):
    """What the drives of some joints deliver, as their currents tell."""

    joints: tuple[str, ...]
    max_noise: float  # [N m]
    max_bias: float  # [N m]
    name: str = "joint_torque"
    latency: float = 0.0
    period: float = 0.0
    unit: str = "N m"
    frame: ClassVar[str] = "joint"

    @property
    def channels(self) -> tuple[str, ...]:
        return self.joints

    def reader(self, world: World) -> SensorReader:
        return TorqueReader(self, world)


@dataclass(frozen=True)
class ContactSensor(ChannelSensor):
    """A switch in each foot: 1 while it touches the ground, else 0. Its noise is the chance of a wrong reading; its
    bias is added before it is rounded, so that from 0.5 on it sticks at 1 and below -0.5 at 0."""

    feet: tuple[str, ...]  # what each is called, in the order of the robot's feet
    name: str = "foot_contact"
    max_noise: float = 0.2
    latency: float = 0.0
    period: float = 0.0
    unit: str = "-"
    max_bias: float = 1.0
    noise: ClassVar[str] = "chance of a wrong reading"
    flaws: ClassVar[tuple[str, ...]] = ("noise",)

    @property
    def channels(self) -> tuple[str, ...]:
        return self.feet

    def reader(self, world: World) -> SensorReader:
        return ContactReader(self, world)


@dataclass(frozen=True)
class BaseSensor(ChannelSensor):
    """What motion capture, an estimator or a gyro says of a floating base, or a camera of an object, in the ground's
    axes: its position [3, m], its place on the ground [2, m], its velocity [3, m/s], its heading [1, rad], the
    direction of the root link's x on the ground from the ground's; or, about the root link's z, its yaw rate [1,
    rad/s]."""

    name: str
    quantity: Literal["position", "place", "velocity", "heading", "yaw_rate"]
    unit: str
    max_noise: float
    max_bias: float
    latency: float = 0.0
    period: float = 0.0
    frame: ClassVar[str] = "ground"

    @property
    def channels(self) -> tuple[str, ...]:
        if self.quantity in ("heading", "yaw_rate"):
            return (self.quantity,)
        return ("x", "y", "z")[: len(BASE_PARTS[self.quantity])]

    def reader(self, world: World) -> SensorReader:
        return BaseReader(self, world)


def motion_capture(rate: float = 30.0, latency: float = 0.02) -> tuple[BaseSensor, BaseSensor]:
    """A floating base's pose on the ground, by cameras that see it `rate` times a second: position and heading."""
    return (
        BaseSensor("position", "position", "m", 0.05, 0.1, latency, 1.0 / rate),
        BaseSensor("heading", "heading", "rad", 0.2, 0.2, latency, 1.0 / rate),
    )


@dataclass(frozen=True)
class Accelerometer(ChannelSensor):
    """Acceleration of a floating base less gravity's, in the root link's axes: at rest it shows 9.81 m/s^2 upwards."""

    name: str = "acceleration"
    max_noise: float = 2.0
    max_bias: float = 0.5
    latency: float = 0.0
    period: float = 0.0
    unit: str = "m/s^2"
    frame: ClassVar[str] = "base"

    @property
    def channels(self) -> tuple[str, ...]:
        return "x", "y", "z"

    def reader(self, world: World) -> SensorReader:
        return AccelerationReader(self, world)


@dataclass(frozen=True)
class Imu(Sensor):
    """An inertial unit in a floating base: the direction of gravity [3, -], then the angular velocity [3, rad/s], both
    in the axes it is mounted in.

    Parameters it adds: `sensor.gravity.noise` and `.resolution`, all `IDEAL` has of `sensor.gyro`, `sensor.gyro.bias.x`
    (y, z), its timing, and its mounting error `sensor.imu.tilt.roll` and `.pitch`, which turns both readings.
    """

    name: str = "imu"
    max_gravity_noise: float = 0.2
    max_gyro_noise: float = 1.0  # [rad/s]
    max_gyro_bias: float = 0.3  # [rad/s]
    max_tilt: float = 0.15  # [rad]
    latency: float = 0.0
    period: float = 0.0

    def parameters(self) -> list[Parameter]:
        bias, tilt = self.max_gyro_bias, self.max_tilt
        return [
            *imperfections.parameters("sensor.gravity", "-", GRAVITY_FLAWS, noise=self.max_gravity_noise),
            *imperfections.parameters("sensor.gyro", "rad/s", tuple(IDEAL), noise=self.max_gyro_noise, drift=bias),
            *(Parameter(f"sensor.gyro.bias.{x}", "rad/s", 0.0, -bias, bias, "constant offset") for x in "xyz"),
            *self.timing(),
            *(Parameter(f"sensor.imu.tilt.{x}", "rad", 0.0, -tilt, tilt, "mounting error") for x in ("roll", "pitch")),
        ]

    def reader(self, world: World) -> SensorReader:
        return ImuReader(world)
