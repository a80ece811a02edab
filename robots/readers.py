"""How sensors are read: of which instant a reading is, when it arrives, and what is wrong with it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from operator import mul
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from simtoreal.robots import rotation
from simtoreal.robots.arrivals import MAX_JITTER, MAX_LATENCY, MAX_PERIOD, SAME, Arrivals
from simtoreal.robots.imperfections import IDEAL, Channels, Imperfections
from simtoreal.robots.world import State, World

if TYPE_CHECKING:
    from simtoreal.robots.sensors import BaseSensor, ChannelSensor, JointSensor, TorqueSensor

PARTS = {"position": 0, "velocity": 1}  # of a State, of its joints
BASE = 2  # its third part
NOTHING: State = ([], [], [])  # of a state that was not kept
ATTITUDE = (3, 4, 5, 6, 10, 11, 12)  # of a base: its quaternion and its angular velocity
VELOCITY = (7, 8, 9)
GRAVITY_FLAWS = ("noise", "resolution")  # of a direction
BASE_PARTS = {"position": (0, 1, 2), "place": (0, 1), "velocity": VELOCITY, "heading": ATTITUDE, "yaw_rate": ATTITUDE}

Reading = list[float] | NDArray[Any]
"""Numbers, or an image [height, width, channels]."""


def kept_substeps(latencies: Sequence[float | None], physics_dt: float, substeps: int) -> list[bool]:
    """For each substep of a control step: will anyone look at the state after it? The last counts always, then the two
    between which a reading of a sensor with one of these `latencies` [s] falls, and all for one that has no fixed."""
    if None in latencies:
        return [True] * substeps
    whole = [int(latency / physics_dt) for latency in latencies if latency is not None]
    ages = {0}.union(*({age % substeps, (age + 1) % substeps} for age in whole))
    return [age in ages for age in reversed(range(substeps))]


class StateRing:
    """The states after each of the last physics substeps (Tan et al. 2018, arXiv 1804.10332).

    A reading of age `latency` is one linear interpolation between two substeps: the nearest of which that part of the
    state is there. It may be left out, all of it by putting NOTHING, but not for a control step of `substeps` on end.
    """

    def __init__(self, physics_dt: float, substeps: int = 1, longest: int = 0) -> None:
        """`longest`: physics steps of a control step at most, if they can be more than `substeps`."""
        self.physics_dt = physics_dt
        self.control_dt = physics_dt * substeps
        self._size = int((MAX_LATENCY + MAX_JITTER + MAX_PERIOD) / physics_dt) + 4 + max(substeps, longest)
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
        back = latency / self.physics_dt
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
    """Reads one sensor under the current parameter values: the newest sample that has arrived, with what is wrong
    with it.

    Attributes:
        which: part of the state that it reads.
    """

    def __init__(self, name: str, which: int, channels: Sequence[Channels], width: int | None = None) -> None:
        """`name` of the sensor; `width` of a row of its noise, if that is not one number a channel."""
        self.which = which
        self._arrivals = Arrivals(name)
        self._flaws = Imperfections(name, channels, width)
        self._held: Reading = []

    def start(self, seed: int) -> None:
        """Begin an episode; its noise and jitter follow from `seed`."""
        self._arrivals.start(seed)
        self._flaws.start(seed)

    def apply(self, values: Mapping[str, float]) -> None:
        self._arrivals.apply(values)
        self._flaws.apply(values)

    def read_back(self) -> dict[str, float]:
        return self._arrivals.read_back() | self._flaws.read_back()

    @property
    def age(self) -> float | None:
        """Of every reading [s]; None where it differs."""
        return self._arrivals.age

    @property
    def bias(self) -> list[float]:
        """Constant offset of each element."""
        return self._flaws.bias

    @abstractmethod
    def ideal(self, state: State) -> Reading:
        """What a perfect sensor would read in `state`."""

    @abstractmethod
    def _true(self, ring: StateRing, age: float) -> Any:
        """What it would have read `age` [s] ago, misaligned, without noise and bias."""

    def read(self, ring: StateRing, control_step: int) -> Reading:
        """One reading, at control step `control_step` of the episode (noise and losses follow it)."""
        age = self._arrivals.newest(control_step, ring.control_dt)
        if age is not None:
            self._held = self._disturbed(self._true(ring, age), control_step, ring.control_dt)
        return self._held.copy()

    def _disturbed(self, true: Any, control_step: int, control_dt: float) -> Any:
        """What is read of what is true."""
        return self._flaws.read(true, control_step, control_dt)


class ChannelReader(SensorReader):
    """Reads a ChannelSensor."""

    def __init__(self, sensor: ChannelSensor, which: int) -> None:
        what = f"sensor.{sensor.name}"
        super().__init__(what, which, [Channels(len(sensor.channels), what, sensor.flaws, sensor.bias_names())])


class JointReader(ChannelReader):
    """Reads a JointSensor."""

    def __init__(self, sensor: JointSensor, joints: Sequence[str]) -> None:
        super().__init__(sensor, PARTS[sensor.quantity])
        self._joints = [list(joints).index(joint) for joint in sensor.joints]

    def ideal(self, state: State) -> list[float]:
        now = state[self.which]
        return [now[joint] for joint in self._joints]

    def _true(self, ring: StateRing, age: float) -> list[float]:
        return ring.read(self.which, self._joints, age)


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

    def _true(self, ring: StateRing, age: float) -> list[float]:
        return self._said(ring.read(BASE, self._elements, age))


class AccelerationReader(ChannelReader):
    """Reads an Accelerometer: the change of velocity over one physics step."""

    def __init__(self, sensor: ChannelSensor, world: World) -> None:
        super().__init__(sensor, BASE)
        self._world = world
        self._last = [0.0, 0.0, 0.0]

    @property
    def age(self) -> None:
        """It looks at two steps on end."""
        return

    def ideal(self, state: State) -> list[float]:
        return self._last

    def read(self, ring: StateRing, control_step: int) -> Reading:
        self._last = self._true(ring, 0.0)
        return super().read(ring, control_step)

    def _true(self, ring: StateRing, age: float) -> list[float]:
        dt, world = ring.physics_dt, self._world
        new, old = ring.read(BASE, VELOCITY, age), ring.read(BASE, VELOCITY, age + dt)
        felt = [(v - u) / dt - world.gravity * g for v, u, g in zip(new, old, world.down, strict=True)]
        body = rotation.from_quaternion(ring.read(BASE, ATTITUDE[:4], age))
        return list(rotation.apply(world.base_axes, rotation.apply_inverse(body, felt)))


class StepReader(ChannelReader):
    """Reads what is known once a control step alone: a reading is of the last one that is old enough."""

    def __init__(self, sensor: ChannelSensor) -> None:
        super().__init__(sensor, PARTS["position"])
        self._past: list[list[float]] = []

    @property
    def age(self) -> float:
        """It looks at no state."""
        return 0.0

    def start(self, seed: int) -> None:
        super().start(seed)
        self._past = []

    @abstractmethod
    def _now(self) -> list[float]: ...

    def ideal(self, state: State) -> list[float]:
        return self._past[-1]

    def read(self, ring: StateRing, control_step: int) -> Reading:
        self._past.append(self._now())
        return super().read(ring, control_step)

    def _true(self, ring: StateRing, age: float) -> list[float]:
        back = math.ceil((age - SAME) / ring.control_dt)
        return self._past[-1 - min(back, len(self._past) - 1)]


class TorqueReader(StepReader):
    """Reads a TorqueSensor."""

    def __init__(self, sensor: TorqueSensor, world: World) -> None:
        super().__init__(sensor)
        self._world = world
        self._joints = [list(world.joints).index(joint) for joint in sensor.joints]

    def _now(self) -> list[float]:
        return [self._world.torque[joint] for joint in self._joints]


class ContactReader(StepReader):
    """Reads a ContactSensor."""

    def __init__(self, sensor: ChannelSensor, world: World) -> None:
        super().__init__(sensor)
        self._world = world

    def _now(self) -> list[float]:
        return [float(contact) for contact in self._world.feet().contact]

    def _disturbed(self, true: list[float], control_step: int, control_dt: float) -> list[float]:
        read = list(true)
        if self._flaws.noisy:
            wrong = NormalDist().inv_cdf(self._flaws.noise[0])
            read = [1.0 - v if z < wrong else v for v, z in zip(true, self._flaws.row(control_step), strict=True)]
        return [float(v + b >= 0.5) for v, b in zip(read, self.bias, strict=True)]


class ImuReader(SensorReader):
    """Reads an Imu."""

    def __init__(self, world: World) -> None:
        super().__init__(
            "sensor.imu",
            BASE,
            [
                Channels(3, "sensor.gravity", GRAVITY_FLAWS),
                Channels(3, "sensor.gyro", tuple(IDEAL), [f"sensor.gyro.bias.{axis}" for axis in "xyz"]),
            ],
        )
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

    def _true(self, ring: StateRing, age: float) -> list[float]:
        return self._turned(ring.read(BASE, ATTITUDE, age), self._mounting)
