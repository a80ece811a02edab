"""What a task may ask of physics, whatever engine stands behind it.

A world holds one robot. It derives every engine field from the complete vector of parameter values in one pure
pass and writes what changed, so the order of setting never matters and nothing of one episode leaks into the next.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.patterns import BARE, Texture
from simtoreal.robots.terrain import Terrain

State = tuple[list[float], ...]
"""Positions and velocities of a world's joints, in the order of `World.joints` [rad or m, rad/s or m/s]; of a floating
robot also its base, of one with an object that object [13, or empty where nobody asked for it]: position [m],
orientation (xyzw), linear [m/s] and angular velocity [rad/s], all of its inertial frame, in the ground's axes."""

Wrench = Sequence[float]
"""On a floating base: force [N] and torque about the root link's origin [N m], [6] in the root link's axes; empty for
none."""


GRAVITY = 9.81  # [m/s^2]

TABLE_HALF = (0.55, 0.6, 0.05)  # [m] half its lengths
TABLE_PLACE = (0.3, 0.0, -0.05)  # [m] of its middle: its top is z = 0


OBJECT = "object"  # what it is called beside the robot's links
OBJECT_COLOUR = (0.85, 0.45, 0.15, 1.0)

WALL_HALF = (4.0, 0.05, 3.0)  # [m] half its lengths
WALL_PLACE = (0.0, 1.0, 0.5)  # [m] of its middle
WALL_COLOUR = (0.05, 0.05, 0.05, 1.0)
Paint = tuple[tuple[float, float, float], Texture]  # added red, green, blue; and what lies on it
UNPAINTED: Paint = ((0.0, 0.0, 0.0), BARE)

FIELD_OF_VIEW = 50.0  # [deg] of a camera, from top to bottom, unless it says another


class EngineCalls(NamedTuple):
    """An engine's own functions, for a compiled loop over physics steps."""

    read: Callable[[], Sequence[Any]]  # a tuple a joint that begins with its position and its velocity
    write: Callable[..., Any]  # takes `forces`
    step: Callable[[], Any]
    base_pose: Callable[[], Any] | None  # of a floating robot, or of an object
    base_velocity: Callable[[], Any] | None
    gravity_torque: Callable[[Sequence[float]], Sequence[float]] | None  # of a robot with a fixed base


class PhysicsFault(RuntimeError):
    """The engine's state is not physical any more: not finite, or faster than anything on this robot can be."""


class FootState(NamedTuple):
    """Each foot now: does it touch the ground, where it is [m] and how fast [m/s], in the ground's axes; and whether
    any other part of the robot touches the ground."""

    contact: list[bool]
    position: list[Sequence[float]]
    velocity: list[Sequence[float]]
    other_contact: bool


class Pose(NamedTuple):
    """Where a link's frame is [m] and how it is turned (xyzw), in the ground's axes."""

    position: tuple[float, ...]
    turn: tuple[float, ...]


@dataclass(frozen=True)
class Camera:
    """A camera, placed around a target point as PyBullet's and MuJoCo's free cameras are."""

    target: tuple[float, float, float]
    distance: float  # [m]
    yaw: float = 45.0  # [deg]
    pitch: float = -25.0  # [deg]
    width: int = 480  # [px]
    height: int = 360  # [px]
    rises: bool = False  # with a floating base, which is followed along the ground anyway
    field_of_view: float = FIELD_OF_VIEW  # [deg]

    def aimed(self, base: Sequence[float]) -> tuple[float, float, float]:
        """Its target [m] when a floating base is at `base` [m]."""
        x, y, z = self.target
        return x + base[0], y + base[1], base[2] if self.rises else z


@dataclass(frozen=True)
class Light:
    """A scene's light: turned from where it nominally comes from, about the vertical and upwards [rad], and factors on
    what comes from everywhere and from there."""

    yaw: float = 0.0
    pitch: float = 0.0
    ambient: float = 1.0
    diffuse: float = 1.0

    def turned(self, towards: tuple[float, float, float]) -> tuple[float, float, float]:
        """A direction [3] towards the nominal light, turned, as a unit vector; never beyond the zenith."""
        x, y, z = towards
        azimuth = math.atan2(y, x) + self.yaw
        elevation = min(math.atan2(z, math.hypot(x, y)) + self.pitch, 0.5 * math.pi)
        level = math.cos(elevation)
        return level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)


class Looks(ABC):
    """Colours and light of what a camera sees in a world.

    Attributes:
        names: what can be painted.
    """

    names: Sequence[str]

    @abstractmethod
    def paint(self, name: str, offset: tuple[float, float, float], texture: Texture = BARE) -> None:
        """Add so much red, green and blue to the colours of a thing, from 0 to 1, and lay a texture on it; what was
        added and lay there before is gone."""

    @abstractmethod
    def illuminate(self, light: Light) -> None:
        """Let this be the light of every frame from now on."""


AnyLooks = TypeVar("AnyLooks", bound=Looks)


def rendered(looks: AnyLooks | None) -> AnyLooks:
    """Of a world that is made for rendering. Raises ValueError for any other."""
    if looks is None:
        raise ValueError("this world was made without rendering; pass render_mode='rgb_array'")
    return looks


class World(ABC):
    """One robot in one physics engine, with an object on its table or without.

    Attributes:
        joints: the moving joints, in the order of every joint vector.
        parameters: what this engine can set on this robot; what it cannot is absent.
        physics_dt: [s].
        base_axes: of a floating robot: rotation [9, row by row] that takes its base's inertial frame, which `state`
            speaks of, to the axes of the root link; of an object none, the identity.
        down: the direction of gravity in the ground's axes; `gravity` its strength [m/s^2].
        terrain: where the ground is not flat, its heights.
        looks: what its frames show, of a world that is made for rendering.
        torque: of each joint [N m or N], what its drive gave in the last physics step, as whoever drives it says.
        calls: where `step`, `state` and `gravity_torque` are no more than these, these.
    """

    joints: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    physics_dt: float
    base_axes: tuple[float, ...]
    down: tuple[float, float, float] = (0.0, 0.0, -1.0)
    gravity: float = GRAVITY
    calls: EngineCalls | None = None
    terrain: Terrain | None = None
    torque: Sequence[float] = ()
    looks: Looks | None = None

    @abstractmethod
    def apply(self, values: Mapping[str, float]) -> None:
        """Write the engine fields that follow from the complete vector `values` (names of others are ignored)."""

    @abstractmethod
    def read_back(self) -> dict[str, float]:
        """The values that really apply, asked from the engine wherever it can answer."""

    @abstractmethod
    def reset(self, position: Sequence[float], velocity: Sequence[float], base: Sequence[float] = ()) -> None:
        """Put the joints there, and a floating robot's root link, or the object, at `base` [13: position, xyzw,
        velocities].

        No force, motor command or contact of the past survives.
        """

    @abstractmethod
    def state(self) -> State:
        """Where the robot is and how it moves now; an object too."""

    @abstractmethod
    def step(self, torque: Sequence[float], wrench: Wrench = (), *, base: bool = True) -> State:
        """Advance by `physics_dt` under these joint torques [N m] or forces [N] and, for this step alone, this wrench;
        returns the state after it, in which a floating robot's base, or an object, may be left empty unless it is
        asked for."""

    @abstractmethod
    def gravity_torque(self, position: Sequence[float]) -> Sequence[float]:
        """Joint torques that hold the *nominal* robot still at `position`, as its own controller would compute."""

    @abstractmethod
    def in_contact(self) -> bool:
        """Does a robot with a fixed base touch anything but itself and its object?"""

    @abstractmethod
    def link_poses(self) -> dict[str, Pose]:
        """Where every link of the robot's file is now, and under OBJECT its object."""

    def push(self, velocity: Sequence[float]) -> None:
        """Change a floating base's linear velocity at once by `velocity` [3] m/s."""
        raise ValueError("a robot with a fixed base cannot be pushed")

    def ground_height(self, x: float, y: float) -> float:
        """Of a floating robot's ground at a place [m], in its own axes."""
        return self.terrain.height(x, y) if self.terrain else 0.0

    def feet(self) -> FootState:
        """The feet, in the order of the robot's description."""
        raise ValueError("this robot has no feet")

    @abstractmethod
    def reload(self) -> None:
        """Build the engine's world anew, at nominal values: the way back from a physics fault."""

    @abstractmethod
    def mark(self, position: Sequence[float], radius: float) -> None:
        """Show a target sphere (visual only) at `position` [m]; needs a world made for rendering."""

    @abstractmethod
    def render(self, camera: Camera, position: Sequence[float] | None = None) -> NDArray[np.uint8]:
        """An RGB image [height, width, 3] of the robot as it is, or as it is with its joints at `position`; needs a
        world made for rendering, and changes nothing of the simulation."""

    @abstractmethod
    def close(self) -> None:
        """Release the engine; a second call does nothing."""


def exceeds(numbers: Sequence[float], bound: float) -> bool:
    """Is any |number| above `bound`? Their norm, which none exceeds, is asked first: a fifth of the cost."""
    return not math.hypot(*numbers) <= bound and max(map(abs, numbers)) > bound


def check_state(state: State, velocity_bound: float) -> None:
    """Raise PhysicsFault unless every number is finite and every |velocity|, the base's too, <= `velocity_bound`."""
    q, qd, *rest = state
    speeds = [*qd, *(speed for base in rest for speed in base[7:])]
    if not math.isfinite(math.hypot(*chain.from_iterable(state))) or exceeds(speeds, velocity_bound):
        fastest = max(map(abs, speeds))
        raise PhysicsFault(f"speed {fastest:g} against a bound of {velocity_bound:g}, joints {q}, base {rest}")
