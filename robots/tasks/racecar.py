"""Drive along a path: one task family, cars as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog, rotation
from simtoreal.robots.actuators import Drive
from simtoreal.robots.cars import CarDrive, Chassis
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.mirror import LeftAndRight
from simtoreal.robots.paths import Path
from simtoreal.robots.readers import BASE
from simtoreal.robots.scoring import ScoredByMeans
from simtoreal.robots.sensors import BaseSensor, JointSensor
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Task
from simtoreal.robots.task_definition import Start
from simtoreal.robots.world import Camera, State

MAX_STEER = 0.4  # [rad]
SPEEDS = (0.5, 2.0)  # [m/s] that are asked for
TOP_SPEED = 2.5  # [m/s] that can be commanded
WAVES = 3
CURVATURE, WAVELENGTH = (0.1, 0.25), (3.0, 8.0)  # [1/m], [m] of each wave
AHEAD = (0.0, 0.25, 0.5, 0.75, 1.0)  # [m] at which the curvature is known
OFF = 0.5  # [m] beside the path


class RacecarPath(ScoredByMeans, LeftAndRight, Task):
    """MIT's racecar follows a path at a commanded speed.

    20 Hz steering angle and speed; servos and motor at 200 Hz (`robots/cars.py`); 15 s. The path's curvature is a sum
    of three sines of the way along it (0.1-0.25 1/m, 3-8 m long, any phase), so it bends by up to 0.75 1/m; the car
    starts at rest within 0.15 m of it and 0.2 rad along it. The speed, 0.5-2 m/s, is drawn for each episode.

    Success: it is never 0.5 m off the path, and after the first 2 s, in the mean, within 0.05 m of it, 0.1 m/s of its
    speed, and its action changes by less than 0.16 an element (root mean square), which rules out weaving.

    Observation (13):

    | index | field | unit | frame |
    |---|---|---|---|
    | 0 | steering_angle (of one wheel in the middle, from both hinges) | rad | base |
    | 1 | wheel_speed (mean of the wheels, times their radius) | m/s | base |
    | 2 | yaw_rate (gyro) | rad/s | base |
    | 3 | cross_track_error (to the left of the path) | m | path |
    | 4 | heading_error (to the left of the path's direction) | rad | path |
    | 5-9 | curvature_ahead (0, 0.25, 0.5, 0.75, 1 m ahead) | 1/m | path |
    | 10 | speed_command | m/s | base |
    | 11 | last_steering_angle | rad | base |
    | 12 | last_speed | m/s | base |

    Action (2): `steering_angle` [rad] = 0.4 a, `speed` [m/s] = 1.25 (1 + a).

    Reward per step, e the cross-track error [m], u the speed's error [m/s], h the heading error [rad]: `track` =
    exp(-(e / 0.1)^2) - min(|e|, 0.5), `pace` = 0.5 exp(-(u / 0.2)^2) - 0.5 min(|u|, 1), `direction` = -0.2 min(|h|, 1),
    `smooth` = -0.2 action_change.
    Terminates, as a failure with -10, more than 0.5 m off the path. Truncates after 300 steps.
    Reward signals, as motion capture gives them: cross_track_error [m], heading_error [rad] and speed [m/s] of the
    middle of the rear axle; and what the controller knows: speed_command [m/s] and action_change (sum of squares). A
    violation is a joint above its speed limit.
    """

    robot = catalog.racecar()
    chassis: ClassVar[Chassis] = Chassis(
        steering=catalog.RACECAR_STEERING,
        wheels=tuple(f"{wheel}_joint" for wheel in catalog.RACECAR_WHEELS),
        wheelbase=0.325,
        track=0.2,
        radius=0.05,
        servo=(4.0, 0.08, 1.0),
        motor=(0.2, 0.5, 1.0),
    )
    physics_dt = 0.005
    control_dt = 0.05
    horizon = 300
    success_hold = 0.0
    velocity_bound = 99.0
    failure_reward = -10.0
    lowest_reward = -2.9  # both actions reversed in every step, at the edge
    goals: ClassVar = {"speed_command": (SPEEDS[:1], SPEEDS[1:])}
    settle = 2.0
    limits_of_means: ClassVar = {"cross_track": 0.05, "speed": 0.1, "action_change": 0.05}
    camera = Camera(target=(0.0, 0.0, 0.1), distance=2.2, yaw=-60.0, pitch=-14.0)
    commanded_joints = catalog.RACECAR_JOINTS
    turned = catalog.RACECAR_STEERING
    sensors = (
        JointSensor("steering_position", "position", catalog.RACECAR_STEERING, "rad", 0.05, 0.05),
        JointSensor("wheel_velocity", "velocity", chassis.wheels, "rad/s", 5.0, 1.0),
        BaseSensor("place", "place", "m", 0.1, 0.1),
        BaseSensor("heading", "heading", "rad", 0.1, 0.1),
        BaseSensor("yaw_rate", "yaw_rate", "rad/s", 0.5, 0.2),
    )
    observation_layout = Layout(
        Field("steering_angle", 1, "rad", "base", (), "of one wheel in the middle, from both hinges"),
        Field("wheel_speed", 1, "m/s", "base", (), "mean of the wheels, times their radius"),
        Field("yaw_rate", 1, "rad/s", "base", (), "gyro"),
        Field("cross_track_error", 1, "m", "path", (), "to the left of the path"),
        Field("heading_error", 1, "rad", "path", (), "to the left of the path's direction"),
        Field("curvature_ahead", len(AHEAD), "1/m", "path", tuple(f"+{s:g}m" for s in AHEAD), "positive to the left"),
        Field("speed_command", 1, "m/s", "base"),
        Field("last_steering_angle", 1, "rad", "base", (), "the command given one control step ago"),
        Field("last_speed", 1, "m/s", "base"),
    )
    command_layout = CommandLayout(
        Field("steering_angle", 1, "rad", "base", (), "of one wheel in the middle, positive to the left"),
        Field("speed", 1, "m/s", "base"),
        scale=[MAX_STEER, TOP_SPEED / 2],
        offset=[0.0, TOP_SPEED / 2],
        low=[-MAX_STEER, 0.0],
        high=[MAX_STEER, TOP_SPEED],
    )
    reward_layout = Layout(
        Field("cross_track_error", 1, "m", "path"),
        Field("heading_error", 1, "rad", "path"),
        Field("speed", 1, "m/s", "base", (), "forwards"),
        Field("speed_command", 1, "m/s", "base"),
        Field("action_change", 1, "-", "", (), "sum of squares of the change of the action"),
    )

    def make_drive(self) -> Drive:
        self._along = self._followed = 0.0
        self._last_action = [0.0] * self.command_layout.size
        return CarDrive(self.chassis, self.world.joints, self.physics_dt)

    def start(self, rng: np.random.Generator) -> Start:
        low, high = (CURVATURE[0], WAVELENGTH[0], 0.0), (CURVATURE[1], WAVELENGTH[1], 2.0 * math.pi)
        waves = [uniform(rng, low, high) for _ in range(WAVES)]
        self._path = Path([(a, wave, phase) for a, wave, phase in waves], TOP_SPEED * self.horizon * self.control_dt)
        self._along = self._followed = 0.0  # as it is, and as the controller thinks
        self._last_action = [0.0] * self.command_layout.size
        self._speed, left, heading = uniform(rng, (SPEEDS[0], -0.15, -0.2), (SPEEDS[1], 0.15, 0.2))
        turn = rotation.from_heading_and_lean(heading, 0.0, 0.0)
        still = [0.0] * len(self.world.joints)
        return Start(still, still, (0.0, 0.0), (0.0, left, 0.001, *turn, *[0.0] * 6))

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """`speed_command` [1], in m/s."""
        (self._speed,) = goal["speed_command"]

    @property
    def goal(self) -> dict[str, Sequence[float]]:
        return {"speed_command": (self._speed,)}

    def signals(self, state: State) -> dict[str, Sequence[float]]:
        base = state[BASE]
        heading = rotation.heading(base[3:7], self.world.base_axes[:3])
        self._along, left = self._path.nearest(base[0], base[1], self._along)
        change = math.dist(self._given_action, self._last_action) ** 2
        self._last_action = self._given_action
        return {
            "cross_track_error": (left,),
            "heading_error": (math.remainder(heading - self._path.heading(self._along), 2.0 * math.pi),),
            "speed": rotation.level(base[7:10], heading)[:1],
            "speed_command": (self._speed,),
            "action_change": (change,),
        }

    def remember(self, readings: Mapping[str, list[float]]) -> None:
        x, y = readings["place"]
        self._followed, _ = self._path.nearest(x, y, self._followed)

    def observe(
        self, readings: Mapping[str, list[float]], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[np.floating]]:
        (x, y), (heading,), wheels = readings["place"], readings["heading"], readings["wheel_velocity"]
        along, left = self._path.nearest(x, y, self._followed)
        return {
            "steering_angle": (self.chassis.steering_angle(*readings["steering_position"]),),
            "wheel_speed": (self.chassis.radius * sum(wheels) / len(wheels),),
            "yaw_rate": readings["yaw_rate"],
            "cross_track_error": (left,),
            "heading_error": (math.remainder(heading - self._path.heading(along), 2.0 * math.pi),),
            "curvature_ahead": [self._path.curvature(along + further) for further in AHEAD],
            "speed_command": (self._speed,),
            "last_steering_angle": command[:1],
            "last_speed": command[1:],
        }

    @staticmethod
    def reward_terms(signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [2] in [-1, 1]."""
        (e,), (h,) = signals["cross_track_error"], signals["heading_error"]
        u = signals["speed"][0] - signals["speed_command"][0]
        return {
            "track": math.exp(-((e / 0.1) ** 2)) - min(abs(e), 0.5),
            "pace": 0.5 * math.exp(-((u / 0.2) ** 2)) - 0.5 * min(abs(u), 1.0),
            "direction": -0.2 * min(abs(h), 1.0),
            "smooth": -0.2 * signals["action_change"][0],
        }

    @classmethod
    def errors(cls, signals: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {
            "cross_track": abs(signals["cross_track_error"][0]),
            "speed": abs(signals["speed"][0] - signals["speed_command"][0]),
            "action_change": signals["action_change"][0],
        }

    @staticmethod
    def fails(signals: Mapping[str, Sequence[float]]) -> bool:
        return abs(signals["cross_track_error"][0]) > OFF

    def violates(self) -> bool:
        return self.too_fast()

    @property
    def marker(self) -> tuple[Sequence[float], float]:
        return (*self._path.place(self._along + AHEAD[-1]), 0.05), 0.05
