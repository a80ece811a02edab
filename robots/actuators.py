"""Drives: what turns a command into joint torque at the physics rate, imperfections included."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from simtoreal.robots.arrivals import MAX_JITTER, MAX_LATENCY
from simtoreal.robots.control_clock import FASTEST
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.streams import UniformStream
from simtoreal.robots.world import State, Wrench, exceeds

STRENGTH = Parameter("actuator.strength", "-", 1.0, 0.3, 1.5, "torque delivered over torque asked for")
KP = Parameter("actuator.kp", "-", 1.0, 0.4, 1.6, "factor on every position gain")
KD = Parameter("actuator.kd", "-", 1.0, 0.4, 1.6, "factor on every velocity gain")
LIMIT = Parameter("actuator.torque_limit", "-", 1.0, 0.3, 1.0, "factor on every joint's torque limit")
LATENCY = Parameter("actuator.latency", "s", 0.0, 0.0, MAX_LATENCY, "from a command to its effect")
JITTER = Parameter("actuator.jitter", "s", 0.0, 0.0, MAX_JITTER, "at most added to that, each command its own")
DEAD_ZONE = Parameter("actuator.dead_zone", "-", 0.0, 0.0, 0.2, "share of the limit by which what is asked for is less")
BACKLASH = Parameter("actuator.backlash", "rad", 0.0, 0.0, 0.1, "play of each joint's gears")


class Gains(NamedTuple):
    """A joint's torque is clip(d(kp p(target - q - bias) - kd qd + strength * gravity compensation), +-limit).

    p(e) = e - clip(e, +-play) and d(t) = t - clip(t, +-dead), both the identity where that is 0.
    """

    kp: list[float]  # [N m/rad]
    kd: list[float]  # [N m s/rad]
    bias: list[float]  # [rad]
    limit: list[float]  # [N m]
    play: list[float]  # [rad]
    dead: list[float]  # [N m]
    strength: float


class Drive(ABC):
    """Turns a command into torques of all joints of a world, and what acts on a floating base besides.

    Attributes:
        parameters: what can differ of it.
        wrench: on the base, of the step that `torque` was last asked for.
        reads_base: must a state that it is given have a base?
        gains: where `torque` is no more than this, this.
    """

    parameters: tuple[Parameter, ...]
    wrench: Wrench = ()
    reads_base: bool = False
    gains: Gains | None = None

    @abstractmethod
    def apply(self, values: Mapping[str, float]) -> None:
        """Take its parameters' values out of the complete vector."""

    @abstractmethod
    def read_back(self) -> dict[str, float]:
        """Its parameters' values."""

    def start(self, command: Sequence[float]) -> None:  # noqa: B027 (most keep no past)
        """An episode begins, until which `command` was in force: nothing else of the past survives."""

    def targets(self, commands: list[list[float]]) -> list[list[float]]:
        """What `torque` is given for each of the commands of a control step's physics steps."""
        return commands

    @abstractmethod
    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        """Of the next physics step, one for each joint [N m or N]; `gravity` is what holds the nominal robot still,
        empty where it is not compensated."""


class ForceDrive(Drive):
    """Force or torque commands to some joints; the others are passive."""

    parameters = (STRENGTH, LATENCY, JITTER, DEAD_ZONE)

    def __init__(self, joints: Sequence[str], actuated: Sequence[str], effort: Sequence[float]) -> None:
        self._size = len(joints)
        self._actuated = [list(joints).index(joint) for joint in actuated]
        self._effort = list(effort)
        self._values = {p.name: p.nominal for p in self.parameters}

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {p.name: values[p.name] for p in self.parameters}

    def read_back(self) -> dict[str, float]:
        return dict(self._values)

    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        strength, dead = self._values["actuator.strength"], self._values["actuator.dead_zone"]
        out = [0.0] * self._size
        for joint, wanted, limit in zip(self._actuated, command, self._effort, strict=True):
            out[joint] = strength * min(max(beyond(wanted, dead * limit), -limit), limit)
        return out


class PositionDrive(Drive):
    """Joint position targets, by the joints' own encoders, whose constant bias [rad] it therefore shares."""

    @property
    @abstractmethod
    def encoder_bias(self) -> Sequence[float]:
        """Constant offset of each joint's encoder [rad]."""

    @encoder_bias.setter
    @abstractmethod
    def encoder_bias(self, bias: Sequence[float]) -> None: ...


class PDDrive(PositionDrive):
    """Joint position targets: strength * clip(d(kp p(target - q - bias) - kd qd + gravity compensation), +-limit), with
    p and d as of `Gains`.

    Explicit PD evaluated every physics step; the gravity term comes from the robot maker's nominal model.
    `actuator.kp` and `actuator.kd` multiply the drive's gains, `actuator.torque_limit` its limits. With `damping` c and
    inertia I at a joint, keep c dt / I < 1. `actuator.backlash` is the play of gears without inertia: within it no
    torque is transmitted (Nordin and Gutman 2002, the dead-zone model); `actuator.dead_zone` what a motor needs before
    it moves (Tao and Kokotovic 1996).
    """

    parameters: tuple[Parameter, ...] = (STRENGTH, KP, KD, LIMIT, LATENCY, JITTER, DEAD_ZONE, BACKLASH)

    def __init__(self, kp: Sequence[float], kd: Sequence[float], effort: Sequence[float]) -> None:
        self._kp_nominal, self._kd_nominal, self._effort = list(kp), list(kd), list(effort)
        self._bias: Sequence[float] = [0.0] * len(self._kp_nominal)
        self.apply({p.name: p.nominal for p in self.parameters})

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {p.name: values[p.name] for p in self.parameters}
        self._strength = strength = values["actuator.strength"]
        self._kp = [strength * values["actuator.kp"] * k for k in self._kp_nominal]
        self._kd = [strength * values["actuator.kd"] * k for k in self._kd_nominal]
        self._limit = [strength * values["actuator.torque_limit"] * effort for effort in self._effort]
        self._least_limit = min(self._limit)
        self._play = [0.5 * values["actuator.backlash"]] * len(self._limit)
        self._dead = [values["actuator.dead_zone"] * limit for limit in self._limit]
        self._lost = bool(values["actuator.backlash"] or values["actuator.dead_zone"])
        self._renew()

    def _renew(self) -> None:
        self._command: Sequence[float] | None = None
        rest = list(self._bias), self._limit, self._play, self._dead, self._strength
        self.gains = Gains(self._kp, self._kd, *rest)

    @property
    def encoder_bias(self) -> Sequence[float]:
        return self._bias

    @encoder_bias.setter
    def encoder_bias(self, bias: Sequence[float]) -> None:
        self._bias = bias
        self._renew()

    def read_back(self) -> dict[str, float]:
        return dict(self._values)

    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        if command is not self._command:  # a command lasts for many physics steps
            self._command = command
            self._goal = [c - b for c, b in zip(command, self._bias, strict=True)]
            self._feed = [p * g for p, g in zip(self._kp, self._goal, strict=True)]
        if self._lost:
            return self._transmitted(state, gravity)
        now = zip(self._feed, self._kp, state[0], self._kd, state[1], strict=True)
        if gravity:
            strength = self._strength
            out = [f - p * x - d * v + strength * g for (f, p, x, d, v), g in zip(now, gravity, strict=True)]
        else:
            out = [f - p * x - d * v for f, p, x, d, v in now]
        if exceeds(out, self._least_limit):
            out = [min(max(t, -limit), limit) for t, limit in zip(out, self._limit, strict=True)]
        return out

    def _transmitted(self, state: State, gravity: Sequence[float]) -> list[float]:
        """Where some of it is lost in play or dead zone."""
        now = zip(self._goal, self._kp, state[0], self._kd, state[1], self._play, strict=True)
        out = [p * beyond(c - x, play) - d * v for c, p, x, d, v, play in now]
        if gravity:
            out = [t + self._strength * g for t, g in zip(out, gravity, strict=True)]
        felt = zip(out, self._dead, self._limit, strict=True)
        return [min(max(beyond(t, dead), -limit), limit) for t, dead, limit in felt]


def beyond(value: float, width: float) -> float:
    """What is left of it when it loses up to `width`."""
    return value - min(max(value, -width), width)


class CommandDelay:
    """A command takes effect `latency` after it was given, and up to `jitter` more, drawn for each control step, to a
    fraction of a physics step.

    In the step in which two commands meet, each counts for its share of the step, so the impulse is exact.
    """

    def __init__(self, physics_dt: float, substeps: int) -> None:
        self._dt = physics_dt
        self._substeps = substeps
        self._keep = int((MAX_LATENCY + MAX_JITTER) / (FASTEST * physics_dt * substeps)) + 2
        self._history: deque[list[float]] = deque(maxlen=self._keep)
        self._given: deque[int] = deque(maxlen=self._keep)  # [physics steps] since the episode began, when each was
        self._delays = UniformStream("actuator.jitter", 1, seed=0)
        self.start(0)

    def start(self, seed: int) -> None:
        """Begin an episode, whose jitter follows from `seed`."""
        self._delays.begin(seed)
        self._step = self._now = 0
        self._even = True  # were all commands given every `substeps`?

    def fill(self, command: Sequence[float]) -> None:
        """As if `command` had been given for ever."""
        self._history.extend([list(command)] * self._keep)
        self._given.extend(-self._substeps * k for k in range(self._keep, 0, -1))

    def schedule(
        self, command: Sequence[float], latency: float, jitter: float = 0.0, steps: int | None = None
    ) -> list[list[float]]:
        """The command in force in each of the next control step's `steps` substeps (None: as many as nominally)."""
        count = self._substeps if steps is None else steps
        self._history.append(list(command))
        self._given.append(self._now)
        self._now += count
        self._even = self._even and count == self._substeps
        if jitter:
            latency += jitter * self._delays.at(self._step)[0]
        self._step += 1
        if latency == 0.0:
            return [self._history[-1]] * count
        back = latency / self._dt  # [physics steps]
        if not self._even:
            return [self._mixed(begin, back) for begin in range(self._now - count, self._now)]
        periods, rest = divmod(back, self._substeps)
        newer, older = self._history[-1 - int(periods)], self._history[-2 - int(periods)]
        whole = int(rest)
        part = rest - whole
        mixed = [n + part * (o - n) for n, o in zip(newer, older, strict=True)]
        return [older] * whole + [mixed] + [newer] * (self._substeps - whole - 1)

    def _mixed(self, begin: int, back: float) -> list[float]:
        """The mean over one physics step of what is in force, of commands that were given at uneven times."""
        out, until = [0.0] * len(self._history[-1]), float(begin + 1)
        for command, given in zip(reversed(self._history), reversed(self._given), strict=True):
            since = max(given + back, float(begin))
            if since < until:
                out = [x + (until - since) * c for x, c in zip(out, command, strict=True)]
                until = since
            if until <= begin:
                return out
        return [x + (until - begin) * c for x, c in zip(out, self._history[0], strict=True)]
