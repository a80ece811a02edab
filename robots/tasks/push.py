"""Push an object to a place on the table: one task family, robots as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simtoreal.robots import catalog, rotation
from simtoreal.robots.actuators import Drive, PDDrive
from simtoreal.robots.kinematics import Plane
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.readers import BASE
from simtoreal.robots.sensors import BaseSensor, JointSensor
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Task
from simtoreal.robots.task_definition import Start
from simtoreal.robots.tools import ToolDrive
from simtoreal.robots.world import Camera, State

MAX_STEP = 0.02  # [m] the tool's target may move along an axis in one control step: 0.4 m/s
GOAL_RADIUS = 0.03  # [m]
REST = 0.02  # [m/s]: slower than that the object rests
CLOSE = 0.06  # [m] within which the policy sees that point, the better for it
CLEARANCE = 0.08  # [m] between the middles of tool and object when an episode begins
WAY = 0.1  # [m] the object has to go at least
BEHIND = 0.03  # [m] from the object's middle: who goes there touches it, and pushes
HINDSIGHT_SPREAD = 0.05  # [m] of relabelled goals around the object


@dataclass(frozen=True)
class Pusher:
    """What pushing needs to know of an arm on a table with an object.

    Attributes:
        tool: the link whose origin is the tool point.
        home: joint positions [rad] with the tool as it is to be turned, and as high as it is to push.
        held: the joints that stay as they are at home, so that six are left for the tool's place and turn.
        kp, kd: gains of the drive [N m/rad, N m s/rad].
        tool_low, tool_high: corners of where the tool may be sent [m, base].
        low, high: corners of where tool and object begin and goals lie [m, base].
    """

    joints: tuple[str, ...]
    tool: str
    home: tuple[float, ...]
    held: tuple[str, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    tool_low: tuple[float, float]
    tool_high: tuple[float, float]
    low: tuple[float, float]
    high: tuple[float, float]


DOCUMENT = """

    20 Hz places of the tool {height:.0f} mm above the table, turned as at the start; the arm's controller finds joint
    targets for them and follows these by an explicit PD with gravity compensation of the nominal robot at 500 Hz; 5 s.
    Tool and object begin anywhere in the rectangle from {low} to {high} m of the base, 8 cm or more apart, the
    object turned anyhow; goals are uniform in the same rectangle, at least 10 cm from the object.
    Success: for the last 0.5 s the object is within 3 cm of the goal and slower than 2 cm/s.

    Observation ({size}):

{table}

    Action (2): the target moves by 0.02 m * a, a in [-1, 1]. Command (2): `tool_target` [m] =
    clip(tool_place + tracking_error + 0.02 a, {tool_low}, {tool_high}).

    Reward per step, d the object's distance from the goal and b the tool's from the point 3 cm behind the object as
    seen from the goal [m], c the cosine of the angle between the ways from tool to object and from there to the goal:
    `distance` = -2 min(d, 0.5), `near` = (1 - tanh(d / 0.1 m)) / 2, `there` = exp(-(d / 0.02 m)^2) / 2, and, with f
    = min(d / 0.03 m, 1), `behind` = -f (tanh(b / 0.05 m) / 2 + min(b, 0.3)), `side` = -0.15 f (1 - c), `progress` = f
    s/m times the object's speed towards the goal, up to 0.5 m/s, `motion` = -0.05 |a|^2.
    Never terminates; truncates after 100 steps. Reward signals: tool_place, object_place, goal [m, base] and
    object_velocity [m/s], as motion capture gives them. A violation is a joint above its speed limit or contact of the
    arm with the table.
    """


class Push(Task):
    """An arm pushes an object on its table to a goal, where it comes to rest. A robot of the family names `robot`, one
    with an object, and `arm`, and what it is in the first line of its document; the rest of that follows."""

    arm: ClassVar[Pusher]
    physics_dt = 0.002
    control_dt = 0.05
    horizon = 100
    lowest_reward = -2.8  # 0.5 m from the goal, at full effort, far from the object and before it
    success_hold = 0.5
    velocity_bound = 60.0
    compensates_gravity = True
    camera = Camera(target=(0.45, 0.0, 0.1), distance=1.0, yaw=60.0, pitch=-30.0)
    reward_layout = Layout(
        Field("tool_place", 2, "m", "base", ("x", "y")),
        Field("object_place", 2, "m", "base", ("x", "y")),
        Field("object_velocity", 3, "m/s", "base", ("x", "y", "z")),
        Field("goal", 2, "m", "base", ("x", "y")),
    )
    privileged_signals = ("object_velocity",)
    observation_layout = Layout(
        Field("tool_place", 2, "m", "base", ("x", "y"), "forward kinematics of the encoders"),
        Field("tool_velocity", 2, "m/s", "base", ("x", "y"), "of the encoders and tachometers"),
        Field("tracking_error", 2, "m", "base", ("x", "y"), "last tool_target minus tool_place"),
        Field("object_from_tool", 2, "m", "base", ("x", "y"), "the object's place as it is seen, minus tool_place"),
        Field("object_heading", 2, "-", "base", ("sin", "cos"), "of four times its heading: a cube has four fronts"),
        Field("goal_from_object", 2, "m", "base", ("x", "y"), "goal minus the object's place as it is seen"),
        Field("behind_from_tool", 2, "m", "base", ("x", "y"), "3 cm behind the object, up to 6 cm"),
    )

    def __init_subclass__(cls, **options: Any) -> None:
        """What follows from the arm."""
        super().__init_subclass__(**options)
        arm = cls.arm
        cls.commanded_joints = arm.joints
        cls.gains = {"kp": arm.kp, "kd": arm.kd}
        cls.goals = {"object_place": (arm.low, arm.high)}
        cls.command_layout = CommandLayout(
            Field("tool_target", 2, "m", "base", ("x", "y"), "the arm's controller keeps height and turn"),
            scale=[MAX_STEP] * 2,
            low=arm.tool_low,
            high=arm.tool_high,
            relative_to=("tool_place", "tracking_error"),
        )
        cls.sensors = (
            JointSensor("joint_position", "position", arm.joints, "rad", 0.05, 0.05),
            JointSensor("joint_velocity", "velocity", arm.joints, "rad/s", 0.5, 0.1),
            BaseSensor("object_place", "place", "m", 0.03, 0.03),
            BaseSensor("object_heading", "heading", "rad", 0.2, 0.2),
        )
        layout = cls.observation_layout
        height = 1e3 * cls.robot.model.chain(arm.tool, arm.joints).position(arm.home)[2]
        facts = {"low": arm.low, "high": arm.high, "tool_low": arm.tool_low, "tool_high": arm.tool_high}
        cls.__doc__ = (cls.__doc__ or "") + DOCUMENT.format(
            **facts, height=height, size=layout.size, table=layout.table("    ")
        )

    def make_drive(self) -> Drive:
        arm, thing = self.arm, self.robot.object
        assert thing is not None
        self._tool = self.robot.model.chain(arm.tool, self.world.joints)
        self._plane = Plane(self._tool, arm.home, [arm.joints.index(joint) for joint in arm.held])
        self._height = thing.size[2] / 2
        self._goal = list(arm.low)
        return ToolDrive(self._plane, arm.kp, arm.kd, self.limits["effort"])

    def apply_bias(self) -> None:
        assert isinstance(self.drive, PDDrive)
        self.drive.encoder_bias = self._readers["joint_position"].bias

    def start(self, rng: np.random.Generator) -> Start:
        tool, thing, self._goal = self._apart(rng)
        (heading,) = uniform(rng, (-math.pi,), (math.pi,))
        self._plane.rest()
        position = self._plane.joints(tool)
        seen = [q + b for q, b in zip(position, self._readers["joint_position"].bias, strict=True)]
        turn = rotation.from_heading_and_lean(heading, 0.0, 0.0)
        place = (*thing, self._height, *turn, *[0.0] * 6)
        return Start(position, [0.0] * len(position), self._tool.position(seen)[:2], place)

    def _apart(self, rng: np.random.Generator) -> tuple[list[float], list[float], list[float]]:
        """Places of the tool, of an object that it does not touch, and of a goal that the object is not at."""
        while True:
            tool, thing, goal = (uniform(rng, self.arm.low, self.arm.high) for _ in range(3))
            if math.dist(thing, tool) >= CLEARANCE and math.dist(thing, goal) >= WAY:
                return tool, thing, goal

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """`object_place` [2], in m of the base."""
        self._goal = list(goal["object_place"])

    @property
    def goal(self) -> dict[str, Sequence[float]]:
        return {"object_place": self._goal}

    @property
    def marker(self) -> tuple[Sequence[float], float]:
        return (*self._goal, 0.0), GOAL_RADIUS

    def signals(self, state: State) -> dict[str, Sequence[float]]:
        thing = state[BASE]
        return {
            "tool_place": self._tool.position(state[0])[:2],
            "object_place": thing[:2],
            "object_velocity": thing[7:10],
            "goal": self._goal,
        }

    def observe(
        self, readings: Mapping[str, list[float]], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[np.floating]]:
        (x, y, _), _, columns = self._tool.motion(readings["joint_position"])
        speeds, (a, b), (heading,) = readings["joint_velocity"], readings["object_place"], readings["object_heading"]
        px, py = behind((a, b), self._goal)
        return {
            "tool_place": (x, y),
            "tool_velocity": [sum(c[i] * v for c, v in zip(columns, speeds, strict=True)) for i in range(2)],
            "tracking_error": (command[0] - x, command[1] - y),
            "object_from_tool": (a - x, b - y),
            "object_heading": (math.sin(4.0 * heading), math.cos(4.0 * heading)),
            "goal_from_object": (self._goal[0] - a, self._goal[1] - b),
            "behind_from_tool": (min(max(px - x, -CLOSE), CLOSE), min(max(py - y, -CLOSE), CLOSE)),
        }

    @staticmethod
    def reward_terms(signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [2] in [-1, 1]."""
        (x, y), (gx, gy), (tx, ty) = signals["object_place"], signals["goal"], signals["tool_place"]
        v, w, _ = signals["object_velocity"]
        d, r = math.hypot(gx - x, gy - y), math.hypot(x - tx, y - ty)
        b = math.dist(behind((x, y), (gx, gy)), (tx, ty))
        straight = ((gx - x) * (x - tx) + (gy - y) * (y - ty)) / max(d * r, 1e-9)
        approach = (v * (gx - x) + w * (gy - y)) / max(d, 1e-9)
        far = min(d / GOAL_RADIUS, 1.0)
        return {
            "distance": -2.0 * min(d, 0.5),
            "near": (1.0 - math.tanh(d / 0.1)) / 2,
            "there": math.exp(-((d / 0.02) ** 2)) / 2,
            "behind": -far * (math.tanh(b / 0.05) / 2 + min(b, 0.3)),
            "side": -0.15 * far * (1.0 - straight),
            "progress": far * min(max(approach, -0.5), 0.5),
            "motion": -0.05 * sum(min(a * a, 1.0) for a in action),
        }

    @staticmethod
    def succeeds(signals: Mapping[str, Sequence[float]]) -> bool:
        near = math.dist(signals["object_place"], signals["goal"]) <= GOAL_RADIUS
        return near and math.hypot(*signals["object_velocity"]) <= REST

    @classmethod
    def augment(
        cls,
        rows: Mapping[str, NDArray[Any]],
        signals: Sequence[Mapping[str, Sequence[float]]],
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """The same motions towards other goals: hindsight in the manner of Andrychowicz et al. 2017 (arXiv 1707.01495).

        `rows` and `signals` as of `Reach.augment`. Half of the new goals lie around where the object
        came to be, half are uniform where a reset draws them.
        """
        places = np.array([s["object_place"] for s in signals])
        near = places + rng.normal(0.0, HINDSIGHT_SPREAD, places.shape)
        close = rng.random((len(places), 1)) < 0.5
        goals = np.where(close, near, rng.uniform(cls.arm.low, cls.arm.high, places.shape))
        out = dict(rows)
        names = ("goal_from_object", "behind_from_tool", "tool_place", "object_from_tool")
        where, push, tool, thing = (cls.observation_layout.slices[name] for name in names)
        for name in ("obs", "next_obs"):
            out[name] = rows[name].copy()
            frames = out[name].reshape(len(goals), -1, cls.observation_layout.size)
            seen = frames[..., tool] + frames[..., thing]
            frames[..., where] = goals[:, None] - seen
            frames[..., push] = np.clip(behind(seen, goals[:, None]) - frames[..., tool], -CLOSE, CLOSE)
        rewards = [
            sum(cls.reward_terms({**s, "goal": goal}, action).values())
            for s, goal, action in zip(signals, goals.tolist(), rows["action"].tolist(), strict=True)
        ]
        out["reward"] = np.array(rewards)
        return out

    def violates(self) -> bool:
        return self.too_fast() or self.world.in_contact()


def behind(thing: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
    """Where [..., 2] m an object at `thing` [..., 2] m is to be pushed: behind it as seen from `goal` [..., 2] m."""
    place = np.asarray(thing, float)
    way = np.asarray(goal, float) - place
    return place - BEHIND * way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-9)


class PandaPush(Push):
    """A Franka Panda pushes a cube of 5 cm on its table to a goal, where it comes to rest."""

    robot = catalog.panda_with_cube()
    arm = Pusher(
        joints=catalog.PANDA_JOINTS,
        tool="panda_grasptarget",
        home=(0.0, 0.2788, 0.0, -2.7486, 0.0, 3.0274, math.pi / 4),  # the tool at (0.38, 0, 0.03) m, downwards
        held=("panda_joint3",),
        kp=(500.0, 600.0, 350.0, 350.0, 100.0, 80.0, 40.0),
        kd=(40.0, 46.0, 24.0, 24.0, 10.0, 8.0, 6.0),
        tool_low=(0.32, -0.28),
        tool_high=(0.68, 0.28),
        low=(0.4, -0.2),
        high=(0.6, 0.2),
    )
