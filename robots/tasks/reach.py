"""Bring an arm's tool to a point: one task family, robots as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog
from simtoreal.robots.actuators import Drive, PositionDrive
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.motors import VelocityDrive, position_drive
from simtoreal.robots.sensors import JointSensor, timed
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Task
from simtoreal.robots.task_definition import Start
from simtoreal.robots.world import Camera, State

MAX_STEP = 0.1  # [rad] a target may move in one control step: 2 rad/s
GOAL_RADIUS = 0.02  # [m]
HINDSIGHT_SPREAD = 0.04  # [m] of relabelled goals around the tool


@dataclass(frozen=True)
class Arm:
    """What reaching needs to know of an arm on a table.

    Attributes:
        tool: the link whose origin is the tool point.
        home: joint positions at which an episode starts, within 0.02 rad [rad].
        kp, kd: gains of the drive [N m/rad, N m s/rad].
        goal_low, goal_high: corners of the box of goals [m, base].
        control: what its drives follow; velocity targets need no kp.
    """

    joints: tuple[str, ...]
    tool: str
    home: tuple[float, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    goal_low: tuple[float, float, float]
    goal_high: tuple[float, float, float]
    control: Literal["position", "velocity"] = "position"


ACTIONS = {
    "position": """the joint targets move by 0.1 rad * a, a in [-1, 1]. Command ({n}): `joint_target` [rad] =
    clip(joint_position + tracking_error + 0.1 a, joint limits).""",
    "velocity": """joint speeds of 2 rad/s * a, a in [-1, 1]. Command ({n}): `joint_velocity_target` [rad/s] =
    clip(2 a, joint limits).""",
}
DRIVES = {"position": "explicit PD", "velocity": "a velocity loop"}

DOCUMENT = """

    20 Hz joint {control} targets; {drive} with gravity compensation of the nominal robot at 500 Hz; 2.5 s. Goals are
    uniform in the box from {low} to {high} m of the base.
    Success: the tool is within 2 cm of the goal for the last 0.25 s.

    Observation ({size}):

{table}

    Action ({n}): {action}

    Reward per step, d the tool's distance from the goal [m]: `distance` = -d, `near` = (1 - tanh(d / 0.1 m)) / 2,
    `there` = exp(-(d / 0.02 m)^2) / 2, `motion` = -0.1 |a|^2 (with little of it, policies that succeed still shake).
    Never terminates; truncates after 50 steps. Reward signals: tool_position, goal [m, base], as motion capture gives
    them. A violation is a joint above its speed limit or contact with the table.
    """


def _command(robot: catalog.Robot, arm: Arm, speed: float) -> CommandLayout:
    """Targets of the arm's drives, which an action of 1 moves by `speed` [rad/s]."""
    joints, n = arm.joints, len(arm.joints)
    if arm.control == "velocity":
        most = [robot.velocity(joint) for joint in joints]
        field = Field("joint_velocity_target", n, "rad/s", "joint", joints)
        shown = ("last_velocity_target",)
        return CommandLayout(field, scale=[speed] * n, low=[-v for v in most], high=most, last=shown)
    low, high = zip(*(robot.range(joint) for joint in joints), strict=True)
    field = Field("joint_target", n, "rad", "joint", joints)
    relative = ("joint_position", "tracking_error")
    return CommandLayout(field, scale=[MAX_STEP] * n, low=low, high=high, relative_to=relative)


class Reach(Task):
    """An arm on a table brings its tool to a goal and keeps it there. A robot of the family names `robot` and `arm`,
    and what it is in the first line of its document; the rest of that follows."""

    arm: ClassVar[Arm]
    physics_dt = 0.002
    control_dt = 0.05
    horizon = 50
    lowest_reward = -2.6  # 1.9 m from the goal at full effort
    success_hold = 0.25
    velocity_bound = 60.0
    compensates_gravity = True
    camera = Camera(target=(0.28, 0.0, 0.3), distance=1.35, yaw=60.0, pitch=-20.0)
    reward_layout = Layout(
        Field("tool_position", 3, "m", "base", ("x", "y", "z")), Field("goal", 3, "m", "base", ("x", "y", "z"))
    )

    def __init_subclass__(cls, **options: Any) -> None:
        """What follows from the arm."""
        super().__init_subclass__(**options)
        arm, n = cls.arm, len(cls.arm.joints)
        cls.commanded_joints = arm.joints
        cls.gains = {"kp": arm.kp, "kd": arm.kd} if arm.control == "position" else {"kd": arm.kd}
        cls.goals = {"tool_position": (arm.goal_low, arm.goal_high)}
        cls.observation_layout = Layout(
            Field("joint_position", n, "rad", "joint", arm.joints),
            Field("joint_velocity", n, "rad/s", "joint", arm.joints),
            Field("tracking_error", n, "rad", "joint", arm.joints, "last joint target minus joint_position")
            if arm.control == "position"
            else Field("last_velocity_target", n, "rad/s", "joint", arm.joints, "the command given one step ago"),
            Field("tool_position", 3, "m", "base", ("x", "y", "z"), "forward kinematics of joint_position"),
            Field("goal_from_tool", 3, "m", "base", ("x", "y", "z"), "goal minus tool_position"),
            *(sensor.field() for sensor in cls.more_sensors),
        )
        cls.command_layout = _command(cls.robot, arm, MAX_STEP / cls.control_dt)
        sensors = (
            JointSensor("joint_position", "position", arm.joints, "rad", 0.05, 0.05),
            JointSensor("joint_velocity", "velocity", arm.joints, "rad/s", 0.5, 0.1),
            *cls.more_sensors,
        )
        cls.sensors = timed(sensors, cls.timings)
        layout = cls.observation_layout
        cls.__doc__ = (cls.__doc__ or "") + DOCUMENT.format(
            low=arm.goal_low,
            high=arm.goal_high,
            size=layout.size,
            table=layout.table("    "),
            n=n,
            control=arm.control,
            drive=DRIVES[arm.control],
            action=ACTIONS[arm.control].format(n=n),
        )

    def make_drive(self) -> Drive:
        arm = self.arm
        self._tool = self.robot.model.chain(arm.tool, self.world.joints)
        self._goal = list(arm.goal_low)
        if arm.control == "velocity":
            return VelocityDrive(arm.kd, self.limits["effort"])
        return position_drive(self.robot.actuator, arm.kp, arm.kd, self.limits["effort"], self.physics_dt)

    def apply_bias(self) -> None:
        if isinstance(self.drive, PositionDrive):
            self.drive.encoder_bias = self._readers["joint_position"].bias

    def start(self, rng: np.random.Generator) -> Start:
        arm = self.arm
        self._goal = uniform(rng, arm.goal_low, arm.goal_high)
        position = uniform(rng, [q - 0.02 for q in arm.home], [q + 0.02 for q in arm.home])
        rest = [0.0] * len(position)
        if arm.control == "velocity":
            return Start(position, rest, rest)
        held = [q + b for q, b in zip(position, self._readers["joint_position"].bias, strict=True)]
        return Start(position, rest, held)

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """`tool_position` [3], in m of the base."""
        self._goal = list(goal["tool_position"])

    @property
    def goal(self) -> dict[str, Sequence[float]]:
        return {"tool_position": self._goal}

    @property
    def marker(self) -> tuple[Sequence[float], float]:
        return self._goal, GOAL_RADIUS

    def signals(self, state: State) -> dict[str, Sequence[float]]:
        return {"tool_position": self._tool.position(state[0]), "goal": self._goal}

    def observe(
        self, readings: Mapping[str, list[float]], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[np.floating]]:
        q = readings["joint_position"]
        tool = self._tool.position(q)
        return {
            "joint_position": q,
            "joint_velocity": readings["joint_velocity"],
            **(
                {"tracking_error": [target - x for target, x in zip(command, q, strict=True)]}
                if self.arm.control == "position"
                else {"last_velocity_target": command}
            ),
            "tool_position": tool,
            "goal_from_tool": [g - t for g, t in zip(self._goal, tool, strict=True)],
            **{sensor.name: readings[sensor.name] for sensor in self.more_sensors},
        }

    @staticmethod
    def reward_terms(signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [m] in [-1, 1]."""
        d = math.dist(signals["tool_position"], signals["goal"])
        effort = sum(min(a * a, 1.0) for a in action)
        return {
            "distance": -d,
            "near": (1.0 - math.tanh(d / 0.1)) / 2,
            "there": math.exp(-((d / GOAL_RADIUS) ** 2)) / 2,
            "motion": -0.1 * effort,
        }

    @staticmethod
    def succeeds(signals: Mapping[str, Sequence[float]]) -> bool:
        return math.dist(signals["tool_position"], signals["goal"]) <= GOAL_RADIUS

    @classmethod
    def augment(
        cls,
        rows: Mapping[str, NDArray[Any]],
        signals: Sequence[Mapping[str, Sequence[float]]],
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """The same motions towards other goals: hindsight in the manner of Andrychowicz et al. 2017 (arXiv 1707.01495).

        `rows` are transitions of E environments under the names obs, action, reward, next_obs, terminated and whatever
        else, obs and next_obs [E, n] or stacks of frames [E, k n]; `signals` [E] the reward signals each led to. Half
        of the new goals lie within centimetres of where the tool came to be, half are drawn as a reset draws them.
        """
        tool = np.array([s["tool_position"] for s in signals])
        near = tool + rng.normal(0.0, HINDSIGHT_SPREAD, tool.shape)
        close = rng.random((len(tool), 1)) < 0.5
        goals = np.where(close, near, rng.uniform(cls.arm.goal_low, cls.arm.goal_high, tool.shape))
        out = dict(rows)
        where, measured = (cls.observation_layout.slices[name] for name in ("goal_from_tool", "tool_position"))
        for name in ("obs", "next_obs"):
            out[name] = rows[name].copy()
            frames = out[name].reshape(len(goals), -1, cls.observation_layout.size)
            frames[..., where] = goals[:, None] - frames[..., measured]
        rewards = [
            sum(cls.reward_terms({**s, "goal": goal}, action).values())
            for s, goal, action in zip(signals, goals.tolist(), rows["action"].tolist(), strict=True)
        ]
        out["reward"] = np.array(rewards)
        return out

    def violates(self) -> bool:
        return self.too_fast() or self.world.in_contact()


class PandaReach(Reach):
    """A Franka Panda on a table brings its tool to a goal and keeps it there."""

    robot = catalog.panda()
    arm = Arm(
        joints=catalog.PANDA_JOINTS,
        tool="panda_grasptarget",
        home=(0.0, -1.2, 0.0, -2.4, 0.0, 1.8, 0.785),  # the tool at (0.256, 0, 0.615) m, outside the goals' box
        kp=(500.0, 600.0, 350.0, 350.0, 100.0, 80.0, 40.0),
        kd=(40.0, 46.0, 24.0, 24.0, 10.0, 8.0, 6.0),
        goal_low=(0.3, -0.35, 0.1),
        goal_high=(0.65, 0.35, 0.6),
    )


class KukaReach(Reach):
    """A KUKA LBR iiwa 14 on a table brings its tool to a goal and keeps it there."""

    robot = catalog.kuka()
    arm = Arm(
        joints=catalog.KUKA_JOINTS,
        tool="lbr_iiwa_link_7",
        home=(0.0, -0.3, 0.0, -1.8, 0.0, 1.2, 0.0),  # the tool at (0.309, 0, 0.716) m, above the goals' box
        kp=(1500.0, 1500.0, 1000.0, 1000.0, 300.0, 200.0, 60.0),
        kd=(100.0, 100.0, 60.0, 50.0, 20.0, 14.0, 6.0),
        goal_low=(0.3, -0.35, 0.1),
        goal_high=(0.6, 0.35, 0.6),
    )


class XArmReach(Reach):
    """A UFACTORY xArm 6 on a table brings its tool to a goal and keeps it there."""

    robot = catalog.xarm()
    arm = Arm(
        joints=catalog.XARM_JOINTS,
        tool="link6",
        home=(0.0, -0.8, -0.8, 0.0, 1.6, 0.0),  # the tool at (0.249, 0, 0.494) m, above the goals' box
        kp=(300.0, 400.0, 300.0, 150.0, 100.0, 60.0),
        kd=(25.0, 30.0, 22.0, 12.0, 8.0, 6.0),
        goal_low=(0.25, -0.3, 0.1),
        goal_high=(0.5, 0.3, 0.45),
    )
