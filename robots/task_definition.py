"""What a task says of itself: its robot, layouts, sensors, goals, reward terms, success; `task.Task` runs it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.actuators import Drive
from simtoreal.robots.catalog import Robot
from simtoreal.robots.layout import CommandLayout, Layout
from simtoreal.robots.scoring import HoldScorer, Scorer
from simtoreal.robots.sensors import ChannelSensor, Sensor
from simtoreal.robots.world import Camera, State


@dataclass(frozen=True)
class Start:
    """How an episode begins: joint positions and velocities, the command that was in force until now, and the base [13]
    of a floating robot, or the object (position, xyzw, velocities)."""

    position: Sequence[float]
    velocity: Sequence[float]
    command: Sequence[float]
    base: Sequence[float] = ()


class TaskDefinition:
    """One robot with one goal; every number in SI."""

    robot: Robot
    physics_dt: float  # [s]
    control_dt: float  # [s]
    horizon: int  # [control steps]
    success_hold: float  # [s] for which the success condition must have held when the episode ends
    velocity_bound: float  # [rad/s or m/s] beyond which physics has failed
    failure_reward: float = 0.0
    lowest_reward: float  # of a control step, whatever the robot is commanded
    observation_layout: Layout
    command_layout: CommandLayout
    reward_layout: Layout
    privileged_signals: tuple[str, ...] = ()  # reward signals that critics may see too
    state_layout: ClassVar[Layout | None] = None  # of `true_state`, where that is not an observation
    sensors: tuple[Sensor, ...]
    more_sensors: ClassVar[tuple[ChannelSensor, ...]] = ()  # of a robot of a family, observed besides what all have
    timings: ClassVar[Mapping[str, tuple[float, float]]] = {}  # of a robot's sensors by name: latency, period [s]
    commanded_joints: tuple[str, ...]
    gains: ClassVar[Mapping[str, Sequence[float]]] = {}  # kp [N m/rad], kd [N m s/rad] of the commanded joints
    compensates_gravity: bool = False
    goals: ClassVar[Mapping[str, tuple[Sequence[float], Sequence[float]]]] = {}  # what a reset may be asked for: bounds
    relabel: ClassVar[Callable[..., dict[str, NDArray[Any]]] | None] = None  # rows under other commands
    mirrors: ClassVar[bool] = False  # does `augment` hold only for a robot whose left and right are alike?
    camera: Camera

    @abstractmethod
    def make_drive(self) -> Drive:
        """The robot's drive; called once."""

    @abstractmethod
    def start(self, rng: np.random.Generator) -> Start:
        """Begin an episode."""

    @property
    def goal(self) -> dict[str, Sequence[float]]:
        """What is to be reached or followed now, by name of `goals`."""
        return {}

    @property
    def marker(self) -> tuple[Sequence[float], float] | None:
        """Where a viewer should look: middle and radius of a sphere [m]."""
        return None

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """Replace what `start` drew of the goal by these, names of `goals` with values within their bounds."""
        raise NotImplementedError

    @abstractmethod
    def signals(self, state: State) -> dict[str, Sequence[float]]:
        """The reward signals, what a lab could measure, by field of `reward_layout`; called once a control step."""

    def remember(self, readings: Mapping[str, Any]) -> None:
        """Hook for a controller that keeps something of each control step's readings; called before `observe`."""

    @abstractmethod
    def observe(
        self, readings: Mapping[str, Any], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[Any]]:
        """The observation by field of `observation_layout`, from sensor readings and the last command."""

    @staticmethod
    @abstractmethod
    def reward_terms(signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """Named terms whose sum is the reward; pure in the reward signals and the action in [-1, 1]."""

    @staticmethod
    @abstractmethod
    def succeeds(signals: Mapping[str, Sequence[float]]) -> bool:
        """Is the goal met at this instant?"""

    @classmethod
    def scorer(cls) -> Scorer:
        """What decides whether an episode is a success."""
        return HoldScorer(cls.succeeds, round(cls.success_hold / cls.control_dt))

    @staticmethod
    def fails(signals: Mapping[str, Sequence[float]]) -> bool:
        """Does the episode end here, as a failure?"""
        return False

    def violates(self) -> bool:
        """Does this state break a limit that a real robot's controller would stop at?"""
        return False

    @classmethod
    def refusal_reward(cls, steps: int) -> float:
        """What an action that is not finite is paid after `steps` control steps: no more than going on would be."""
        return cls.failure_reward + (cls.horizon - steps) * cls.lowest_reward

    def apply_bias(self) -> None:
        """Hook for a drive that shares an encoder with a sensor, and so its bias."""
