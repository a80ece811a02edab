"""What a task may ask of physics, whatever engine stands behind it.

A world holds one robot. It derives every engine field from the complete vector of parameter values in one pure
pass and writes what changed, so the order of setting never matters and nothing of one episode leaks into the next.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.parameters import Parameter

JointState = tuple[list[float], list[float]]
"""Positions and velocities of a world's joints, in the order of `World.joints` [rad or m, rad/s or m/s]."""


class PhysicsFault(RuntimeError):
    """The engine's state is not physical any more: not finite, or faster than anything on this robot can be."""


@dataclass(frozen=True)
class Camera:
    """A fixed camera, placed around a target point as PyBullet's and MuJoCo's free cameras are."""

    target: tuple[float, float, float]
    distance: float  # [m]
    yaw: float = 45.0  # [deg]
    pitch: float = -25.0  # [deg]
    width: int = 480  # [px]
    height: int = 360  # [px]


class World(ABC):
    """One robot in one physics engine.

    Attributes:
        joints: the moving joints, in the order of every joint vector.
        parameters: what this engine can set on this robot; what it cannot is absent.
        physics_dt: [s].
    """

    joints: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    physics_dt: float

    @abstractmethod
    def apply(self, values: Mapping[str, float]) -> None:
        """Write the engine fields that follow from the complete vector `values` (names of others are ignored)."""

    @abstractmethod
    def read_back(self) -> dict[str, float]:
        """The values that really apply, asked from the engine wherever it can answer."""

    @abstractmethod
    def reset(self, position: Sequence[float], velocity: Sequence[float]) -> None:
        """Put the joints there; no force, motor command or contact of the past survives."""

    @abstractmethod
    def joint_state(self) -> JointState:
        """Positions and velocities of the joints now."""

    @abstractmethod
    def step(self, torque: Sequence[float]) -> None:
        """Advance by `physics_dt` under these joint torques [N m] or forces [N]."""

    @abstractmethod
    def gravity_torque(self, position: Sequence[float]) -> Sequence[float]:
        """Joint torques that hold the *nominal* robot still at `position`, as its own controller would compute."""

    @abstractmethod
    def in_contact(self) -> bool:
        """Does the robot touch anything but itself?"""

    @abstractmethod
    def reload(self) -> None:
        """Build the engine's world anew, at nominal values: the way back from a physics fault."""

    @abstractmethod
    def mark(self, position: Sequence[float], radius: float) -> None:
        """Show a target sphere (visual only) at `position` [m]; needs a world made for rendering."""

    @abstractmethod
    def render(self, camera: Camera) -> NDArray[np.uint8]:
        """An RGB image [height, width, 3]; needs a world made for rendering."""

    @abstractmethod
    def close(self) -> None:
        """Release the engine; a second call does nothing."""


def check_state(state: JointState, velocity_bound: float) -> None:
    """Raise PhysicsFault unless every number is finite and every |velocity| <= `velocity_bound`."""
    position, velocity = state
    fastest = max(map(abs, velocity))
    if not math.isfinite(sum(position)) or not fastest <= velocity_bound or not math.isfinite(sum(velocity)):
        raise PhysicsFault(f"joint speed {fastest:g} against a bound of {velocity_bound:g}, positions {position}")
