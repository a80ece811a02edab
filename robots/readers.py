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
from simtoreal.robots.streams import NormalStream, UniformStream
from simtoreal.robots.world import GRAVITY, State, World

if TYPE_CHECKING:
    from simtoreal.robots.sensors import BaseSensor, ChannelSensor, JointSensor, TorqueSensor

MAX_LATENCY = 0.1  # [s] of any sensor or actuator
MAX_JITTER = 0.05  # [s]
MAX_PERIOD = 0.1  # [s]
PARTS = {"position": 0, "velocity": 1}  # of a State, of its joints
BASE = 2  # its third part
NOTHING: State = ([], [], [])  # of a state that was not kept
ATTITUDE = (3, 4, 5, 6, 10, 11, 12)  # of a base: its quaternion and its angular velocity
VELOCITY = (7, 8, 9)
BASE_PARTS = {"position": (0, 1, 2), "place": (0, 1), "velocity": VELOCITY, "heading": ATTITUDE, "yaw_rate": ATTITUDE}
SAME = 1e-9  # [s] of two instants
FASTEST = 5e-4  # [s] between samples: what is faster than any physics step comes as the reader likes

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

    def __init__(self, physics_dt: float, substeps: int = 1) -> None:
        self.physics_dt = physics_dt
        self.control_dt = physics_dt * substeps
        self._size = int((MAX_LATENCY + MAX_JITTER + MAX_PERIOD) / physics_dt) + 4 + substeps
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
    """Reads one sensor under the current parameter values.

    A sample is taken every `period`, counted from the beginning of an episode, or, where that is shorter than
    `FASTEST`, whenever it is read; it arrives
    `latency` later, and up to `jitter` more, drawn for each. A reading is the newest sample that has arrived.

    Attributes:
        which: part of the state that it reads.
        latency: [s].
        bias: constant offset of each element.
    """

    def __init__(
        self, name: str, which: int, size: int, part: str, noise: Sequence[str], bias: Sequence[str | None]
    ) -> None:
        """`part` is what its timing belongs to; `noise` and `bias` name each element's parameter."""
        self.which = which
        self._timing_names = [f"{part}.{what}" for what in ("latency", "jitter", "period")]
        self._noise_names, self._bias_names = list(noise), list(bias)
        self._stream = NormalStream(f"sensor.{name}.noise", size, seed=0)
        self._delays = UniformStream(f"sensor.{name}.jitter", 1, seed=0)
        self._drawn: list[float] = []  # of the episode's samples so far, the share of the jitter
        self._silence = [0.0] * size
        self._seed, self._streams = 0, False  # a stream begins with the first noise of an episode
        self._timing = [0.0, 0.0, 0.0]
        self.latency = 0.0
        self._timed = False
        self._noise = [0.0] * size
        self._noisy = self._imperfect = False
        self.bias: list[float] = [0.0] * size
        self._taken: float | None = None  # [s] into the episode, when the sample was taken that was read last
        self._held: Reading = []

    def start(self, seed: int) -> None:
        """Begin an episode; its noise and jitter follow from `seed`."""
        self._seed = seed
        self._streams = False
        self._drawn = []
        self._taken = None

    def apply(self, values: Mapping[str, float]) -> None:
        self._timing = [values[name] for name in self._timing_names]
        self.latency = self._timing[0]
        self._timed = any(self._timing[1:])
        self._noise = [values[name] for name in self._noise_names]
        self._noisy = any(self._noise)
        self.bias = [0.0 if name is None else values[name] for name in self._bias_names]
        self._imperfect = self._noisy or any(self.bias)

    def read_back(self) -> dict[str, float]:
        biases = {name: b for name, b in zip(self._bias_names, self.bias, strict=True) if name is not None}
        timing = dict(zip(self._timing_names, self._timing, strict=True))
        return timing | dict(zip(self._noise_names, self._noise, strict=True)) | biases

    @property
    def age(self) -> float | None:
        """Of every reading [s]; None where it differs."""
        return None if self._timed else self.latency

    @abstractmethod
    def ideal(self, state: State) -> Reading:
        """What a perfect sensor would read in `state`."""

    @abstractmethod
    def _true(self, ring: StateRing, age: float) -> Any:
        """What it would have read `age` [s] ago, misaligned, without noise and bias."""

    def read(self, ring: StateRing, control_step: int) -> Reading:
        """One reading, at control step `control_step` of the episode (the noise row follows it)."""
        row = self._row(control_step)
        if not self._timed:
            self._taken = None
            return self._disturbed(self._true(ring, self.latency), row)
        age = self._arrived(control_step, ring.control_dt)
        if age is not None:
            self._held = self._disturbed(self._true(ring, age), row)
        return self._held.copy()

    def _disturbed(self, true: Any, row: list[float]) -> Any:
        """What is read of what is true; `row` as of `_row`."""
        if not self._imperfect:
            return list(true)
        row = row or self._silence
        return [v + b + s * z for v, b, s, z in zip(true, self.bias, self._noise, row, strict=True)]

    def _arrived(self, control_step: int, control_dt: float) -> float | None:
        """Age [s] of the newest sample that is there; None if that is the one that was read last."""
        latency, jitter, period = self._timing
        if period < FASTEST:
            self._taken = None
            return latency + jitter * self._share(control_step)
        now = control_step * control_dt
        sample = math.floor((now - latency + SAME) / period)
        while sample * period + latency + jitter * self._share(sample) > now + SAME:
            sample -= 1
        taken = sample * period
        if self._taken is not None and taken <= self._taken + SAME:
            return None
        self._taken = taken
        return now - taken

    def _share(self, sample: int) -> float:
        """Of the jitter, by which a sample is late; none before the episode."""
        if not self._drawn:
            self._delays.restart(self._seed)
        while len(self._drawn) <= sample:
            self._drawn += self._delays.row()
        return self._drawn[sample] if sample >= 0 else 0.0

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
        super().__init__(sensor.name, which, size, what, [f"{what}.noise"] * size, sensor.bias_names())


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
        felt = [(v - u) / dt - GRAVITY * g for v, u, g in zip(new, old, world.down, strict=True)]
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

    def _disturbed(self, true: list[float], row: list[float]) -> list[float]:
        read = list(true)
        if self._noisy:
            wrong = NormalDist().inv_cdf(self._noise[0])
            read = [1.0 - v if z < wrong else v for v, z in zip(true, row, strict=True)]
        return [float(v + b >= 0.5) for v, b in zip(read, self.bias, strict=True)]


class ImuReader(SensorReader):
    """Reads an Imu."""

    def __init__(self, world: World) -> None:
        noise = ["sensor.gravity.noise"] * 3 + ["sensor.gyro.noise"] * 3
        bias = [None] * 3 + [f"sensor.gyro.bias.{axis}" for axis in "xyz"]
        super().__init__("imu", BASE, 6, "sensor.imu", noise, bias)
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
