"""Sensors as parts of the robot: white noise, constant bias and latency are parameters whose nominal is ideal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from simtoreal.robots import rotation
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.streams import NormalStream
from simtoreal.robots.world import State, World

MAX_LATENCY = 0.1  # [s] of any sensor or actuator
PARTS = {"position": 0, "velocity": 1}  # of a State, of its joints
BASE = 2  # its third part
NOTHING: State = ([], [], [])  # of a state that was not kept
ATTITUDE = (3, 4, 5, 6, 10, 11, 12)  # of a base: its quaternion and its angular velocity
BASE_PARTS = {"position": (0, 1, 2), "place": (0, 1), "velocity": (7, 8, 9), "heading": ATTITUDE, "yaw_rate": ATTITUDE}


Reading = list[float] | NDArray[Any]
"""Numbers, or an image [height, width, channels]."""


class Sensor(ABC):
    """A part that measures; `name` is its reading's, and what `sees` needs a world that renders."""

    name: str
    sees: ClassVar[bool] = False

    @abstractmethod
    def parameters(self) -> list[Parameter]: ...

    @abstractmethod
    def reader(self, world: World) -> SensorReader:
        """What reads it in `world`."""


class ChannelSensor(Sensor):
    """A part of several channels of one unit.

    Parameters it adds: `sensor.NAME.noise` (standard deviation of white noise a control step), `sensor.NAME.latency`,
    and, if `max_bias` > 0, a constant bias for each channel: `sensor.NAME.bias` if it has one, else
    `sensor.NAME.bias.CHANNEL`.
    """

    unit: str
    max_noise: float
    max_bias: float

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """What each is called."""

    def bias_names(self) -> list[str]:
        """One for each channel; none if it has no bias."""
        if self.max_bias == 0.0:
            return []
        several = len(self.channels) > 1
        return [f"sensor.{self.name}.bias" + (f".{channel}" if several else "") for channel in self.channels]

    def parameters(self) -> list[Parameter]:
        what = f"sensor.{self.name}"
        return [
            Parameter(f"{what}.noise", self.unit, 0.0, 0.0, self.max_noise, "standard deviation of white noise"),
            Parameter(f"{what}.latency", "s", 0.0, 0.0, MAX_LATENCY, "age of a reading"),
            *(
                Parameter(name, self.unit, 0.0, -self.max_bias, self.max_bias, "constant offset")
                for name in self.bias_names()
            ),
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

    @property
    def channels(self) -> tuple[str, ...]:
        return self.joints

    def reader(self, world: World) -> SensorReader:
        return JointReader(self, world.joints)


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

    @property
    def channels(self) -> tuple[str, ...]:
        if self.quantity in ("heading", "yaw_rate"):
            return (self.quantity,)
        return ("x", "y", "z")[: len(BASE_PARTS[self.quantity])]

    def reader(self, world: World) -> SensorReader:
        return BaseReader(self, world)


@dataclass(frozen=True)
class Imu(Sensor):
    """An inertial unit in a floating base: the direction of gravity [3, -], then the angular velocity [3, rad/s], both
    in the axes it is mounted in.

    Parameters it adds: `sensor.gravity.noise`, `sensor.gyro.noise`, `sensor.gyro.bias.x` (y, z), `sensor.imu.latency`,
    and its mounting error `sensor.imu.tilt.roll` and `.pitch`, which turns both readings.
    """

    name: str = "imu"
    max_gravity_noise: float = 0.2
    max_gyro_noise: float = 1.0  # [rad/s]
    max_gyro_bias: float = 0.3  # [rad/s]
    max_tilt: float = 0.15  # [rad]

    def parameters(self) -> list[Parameter]:
        bias, tilt = self.max_gyro_bias, self.max_tilt
        what = "standard deviation of white noise"
        return [
            Parameter("sensor.gravity.noise", "-", 0.0, 0.0, self.max_gravity_noise, what),
            Parameter("sensor.gyro.noise", "rad/s", 0.0, 0.0, self.max_gyro_noise, what),
            *(Parameter(f"sensor.gyro.bias.{x}", "rad/s", 0.0, -bias, bias, "constant offset") for x in "xyz"),
            Parameter("sensor.imu.latency", "s", 0.0, 0.0, MAX_LATENCY, "age of a reading"),
            *(Parameter(f"sensor.imu.tilt.{x}", "rad", 0.0, -tilt, tilt, "mounting error") for x in ("roll", "pitch")),
        ]

    def reader(self, world: World) -> SensorReader:
        return ImuReader(world)


def kept_substeps(latencies: Sequence[float], physics_dt: float, substeps: int) -> list[bool]:
    """For each substep of a control step: will anyone look at the state after it? The last counts always, then the two
    between which a reading of a sensor with one of these `latencies` [s] falls."""
    whole = [int(latency / physics_dt) for latency in latencies]
    ages = {0}.union(*({age % substeps, (age + 1) % substeps} for age in whole))
    return [age in ages for age in reversed(range(substeps))]


class StateRing:
    """The states after each of the last physics substeps (Tan et al. 2018, arXiv 1804.10332).

    A reading of age `latency` is one linear interpolation between two substeps: the nearest of which that part of the
    state is there. It may be left out, all of it by putting NOTHING, but not `gap` times on end.
    """

    def __init__(self, physics_dt: float, gap: int = 1) -> None:
        self._dt = physics_dt
        self._size = int(MAX_LATENCY / physics_dt) + 2 + gap
        self._states: deque[State] = deque(maxlen=self._size)

    def fill(self, state: State) -> None:
        """As if the robot had rested in `state` for ever."""
        self._states.extend([state] * self._size)

    def extend(self, states: Iterable[State]) -> None:
        """The states after the next substeps, the newest last."""
        self._states.extend(states)

    def read(self, which: int, elements: Sequence[int], latency: float) -> list[float]:
        """`elements` of part `which` of the state (0 positions, 1 velocities, 2 base), `latency` [s] ago."""
        states = self._states
        if latency == 0.0:
            now = states[-1][which]
            return [now[j] for j in elements]
        back = latency / self._dt
        newer = int(back)
        older = newer + 1
        while not states[-1 - newer][which]:
            newer -= 1
        while not states[-1 - older][which]:
            older += 1
        part = (back - newer) / (older - newer)
        new, old = states[-1 - newer][which], states[-1 - older][which]
        return [new[j] + part * (old[j] - new[j]) for j in elements]


class SensorReader(ABC):
    """Reads one sensor under the current parameter values.

    Attributes:
        which: part of the state that it reads.
        latency: [s] age of its readings.
        bias: constant offset of each element.
    """

    def __init__(
        self, name: str, which: int, size: int, latency: str, noise: Sequence[str], bias: Sequence[str | None]
    ) -> None:
        """`noise` and `bias` name each element's parameter."""
        self.which = which
        self._size = size
        self._latency_name, self._noise_names, self._bias_names = latency, list(noise), list(bias)
        self._stream = NormalStream(f"sensor.{name}.noise", size, seed=0)
        self._silence = [0.0] * size
        self._seed, self._streams = 0, False  # a stream begins with the first noise of an episode
        self.latency = 0.0
        self._noise = [0.0] * size
        self._noisy = self._imperfect = False
        self.bias: list[float] = [0.0] * size

    def start(self, seed: int) -> None:
        """Begin an episode; its noise follows from `seed`."""
        self._seed = seed
        self._streams = False

    def apply(self, values: Mapping[str, float]) -> None:
        self.latency = values[self._latency_name]
        self._noise = [values[name] for name in self._noise_names]
        self._noisy = any(self._noise)
        self.bias = [0.0 if name is None else values[name] for name in self._bias_names]
        self._imperfect = self._noisy or any(self.bias)

    def read_back(self) -> dict[str, float]:
        biases = {name: b for name, b in zip(self._bias_names, self.bias, strict=True) if name is not None}
        return {self._latency_name: self.latency} | dict(zip(self._noise_names, self._noise, strict=True)) | biases

    @abstractmethod
    def ideal(self, state: State) -> Reading:
        """What a perfect sensor would read in `state`."""

    @abstractmethod
    def _true(self, ring: StateRing) -> Any:
        """The reading, late and misaligned, without noise and bias."""

    def read(self, ring: StateRing, control_step: int) -> Reading:
        """One reading, at control step `control_step` of the episode (the noise row follows it)."""
        true = self._true(ring)
        row = self._row(control_step)
        if not self._imperfect:
            return list(true)
        row = row or self._silence
        return [v + b + s * z for v, b, s, z in zip(true, self.bias, self._noise, row, strict=True)]

    def _row(self, control_step: int) -> list[float]:
        """The noise of a control step in standard deviations, empty where there has been none in this episode."""
        if self._noisy and not self._streams:
            self._streams = True
            self._stream.restart(self._seed)
            for _ in range(control_step):
                self._stream.row()
        return self._stream.row() if self._streams else []


class ChannelReader(SensorReader):
    """Reads a ChannelSensor."""

    def __init__(self, sensor: ChannelSensor, which: int) -> None:
        size, what = len(sensor.channels), f"sensor.{sensor.name}"
        noise = [f"{what}.noise"] * size
        bias: Sequence[str | None] = sensor.bias_names() or [None] * size
        super().__init__(sensor.name, which, size, f"{what}.latency", noise, bias)


class JointReader(ChannelReader):
    """Reads a JointSensor."""

    def __init__(self, sensor: JointSensor, joints: Sequence[str]) -> None:
        super().__init__(sensor, PARTS[sensor.quantity])
        self._joints = [list(joints).index(joint) for joint in sensor.joints]

    def ideal(self, state: State) -> list[float]:
        now = state[self.which]
        return [now[joint] for joint in self._joints]

    def _true(self, ring: StateRing) -> list[float]:
        return ring.read(self.which, self._joints, self.latency)


class BaseReader(ChannelReader):
    """Reads a BaseSensor."""

    def __init__(self, sensor: BaseSensor, world: World) -> None:
        super().__init__(sensor, BASE)
        self._elements = BASE_PARTS[sensor.quantity]
        self._quantity = sensor.quantity
        self._forward, self._up = world.base_axes[:3], world.base_axes[6:]  # of the root link, in its inertial frame

    def _said(self, numbers: list[float]) -> list[float]:
        if self._quantity == "heading":
            return [rotation.heading(numbers[:4], self._forward)]
        if self._quantity == "yaw_rate":
            up = rotation.apply(rotation.from_quaternion(numbers[:4]), self._up)
            return [sum(map(mul, up, numbers[4:]))]
        return numbers

    def ideal(self, state: State) -> list[float]:
        base = state[BASE]
        return self._said([base[i] for i in self._elements])

    def _true(self, ring: StateRing) -> list[float]:
        return self._said(ring.read(BASE, self._elements, self.latency))


class ImuReader(SensorReader):
    """Reads an Imu."""

    def __init__(self, world: World) -> None:
        noise = ["sensor.gravity.noise"] * 3 + ["sensor.gyro.noise"] * 3
        bias = [None] * 3 + [f"sensor.gyro.bias.{axis}" for axis in "xyz"]
        super().__init__("imu", BASE, 6, "sensor.imu.latency", noise, bias)
        self._world = world
        self._tilt = (0.0, 0.0)
        self._mounting: rotation.Matrix = world.base_axes

    def apply(self, values: Mapping[str, float]) -> None:
        super().apply(values)
        self._tilt = (values["sensor.imu.tilt.roll"], values["sensor.imu.tilt.pitch"])
        # a sensor turned by T reads T^-1 of what the link's axes would show
        a, b, c, d, e, f, g, h, i = rotation.roll_pitch(*self._tilt)
        self._mounting = rotation.product((a, d, g, b, e, h, c, f, i), self._world.base_axes)

    def read_back(self) -> dict[str, float]:
        return super().read_back() | dict(
            zip(("sensor.imu.tilt.roll", "sensor.imu.tilt.pitch"), self._tilt, strict=True)
        )

    def _turned(self, attitude: Sequence[float], mounting: rotation.Matrix) -> list[float]:
        body = rotation.from_quaternion(attitude[:4])
        gravity = rotation.apply(mounting, rotation.apply_inverse(body, self._world.down))
        return [*gravity, *rotation.apply(mounting, rotation.apply_inverse(body, attitude[4:]))]

    def ideal(self, state: State) -> list[float]:
        base = state[BASE]
        return self._turned([base[i] for i in ATTITUDE], self._world.base_axes)

    def _true(self, ring: StateRing) -> list[float]:
        return self._turned(ring.read(BASE, ATTITUDE, self.latency), self._mounting)
