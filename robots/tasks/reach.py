"""Bring an arm's tool to a point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog
from simtoreal.robots.actuators import Drive, PDDrive
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.sensors import JointSensor
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Start, Task
from simtoreal.robots.world import Camera, State

JOINTS = catalog.PANDA_JOINTS
TOOL = "panda_grasptarget"
HOME = (0.0, -1.2, 0.0, -2.4, 0.0, 1.8, 0.785)  # [rad] the tool at (0.256, 0, 0.615) m, outside the goals' box
KP = (500.0, 600.0, 350.0, 350.0, 100.0, 80.0, 40.0)  # [N m/rad]
KD = (40.0, 46.0, 24.0, 24.0, 10.0, 8.0, 6.0)  # [N m s/rad]
MAX_STEP = 0.1  # [rad] a target may move in one control step: 2 rad/s
GOAL_LOW = (0.3, -0.35, 0.1)  # [m]
GOAL_HIGH = (0.65, 0.35, 0.6)  # [m]
GOAL_RADIUS = 0.02  # [m]
HINDSIGHT_SPREAD = 0.04  # [m] of relabelled goals around the tool


class PandaReach(Task):
    """A Franka Panda on a table brings its tool to a goal and keeps it there.

    20 Hz joint position targets; explicit PD with gravity compensation of the nominal robot at 500 Hz; 2.5 s. Goals are
    uniform in x .3-.65, y +-.35, z .1-.6 m of the base. Success: the tool is within 2 cm of the goal for the last
    0.25 s.

    Observation (27):

    | index | field | unit | frame |
    |---|---|---|---|
    | 0-6 | joint_position | rad | joint |
    | 7-13 | joint_velocity | rad/s | joint |
    | 14-20 | tracking_error (last target minus joint_position) | rad | joint |
    | 21-23 | tool_position (forward kinematics of joint_position) | m | base |
    | 24-26 | goal_from_tool | m | base |

    Action (7): the joint targets move by 0.1 rad * a, a in [-1, 1]. Command (7): `joint_target` [rad] =
    clip(joint_position + tracking_error + 0.1 a, joint limits).

    Reward per step, d the tool's distance from the goal [m]: `distance` = -d, `near` = (1 - tanh(d / 0.1 m)) / 2,
    `there` = exp(-(d / 0.02 m)^2) / 2, `motion` = -0.1 |a|^2 (with little of it, policies that succeed still shake).
    Never terminates; truncates after 50 steps. Reward signals: tool_position, goal [m, base], as motion capture gives
    them. A violation is a joint above its speed limit or contact with the table.
    """

    robot = catalog.panda()
    physics_dt = 0.002
    control_dt = 0.05
    horizon = 50
    lowest_reward = -2.6  # 1.9 m from the goal at full effort
    success_hold = 0.25
    velocity_bound = 60.0
    compensates_gravity = True
    camera = Camera(target=(0.28, 0.0, 0.3), distance=1.35, yaw=60.0, pitch=-20.0)
    _limits = tuple(catalog.panda().model.joints[joint] for joint in JOINTS)
    observation_layout = Layout(
        Field("joint_position", 7, "rad", "joint", JOINTS),
        Field("joint_velocity", 7, "rad/s", "joint", JOINTS),
        Field("tracking_error", 7, "rad", "joint", JOINTS, "last joint target minus joint_position"),
        Field("tool_position", 3, "m", "base", ("x", "y", "z"), "forward kinematics of joint_position"),
        Field("goal_from_tool", 3, "m", "base", ("x", "y", "z"), "goal minus tool_position"),
    )
    command_layout = CommandLayout(
        Field("joint_target", 7, "rad", "joint", JOINTS),
        scale=[MAX_STEP] * 7,
        low=[joint.lower for joint in _limits],
        high=[joint.upper for joint in _limits],
        relative_to=("joint_position", "tracking_error"),
    )
    reward_layout = Layout(
        Field("tool_position", 3, "m", "base", ("x", "y", "z")), Field("goal", 3, "m", "base", ("x", "y", "z"))
    )
    sensors = (
        JointSensor("joint_position", "position", JOINTS, "rad", 0.05, 0.05),
        JointSensor("joint_velocity", "velocity", JOINTS, "rad/s", 0.5, 0.1),
    )
    commanded_joints = JOINTS
    gains: ClassVar[Mapping[str, Sequence[float]]] = {"kp": KP, "kd": KD}
    goals: ClassVar = {"tool_position": (GOAL_LOW, GOAL_HIGH)}

    def make_drive(self) -> Drive:
        self._tool = self.robot.model.chain(TOOL, self.world.joints)
        self._goal = list(GOAL_LOW)
        return PDDrive(KP, KD, [joint.effort for joint in self._limits])

    def apply_bias(self) -> None:
        assert isinstance(self.drive, PDDrive)
        self.drive.encoder_bias = self._readers["joint_position"].bias

    def start(self, rng: np.random.Generator) -> Start:
        self._goal = uniform(rng, GOAL_LOW, GOAL_HIGH)
        position = uniform(rng, [q - 0.02 for q in HOME], [q + 0.02 for q in HOME])
        held = [q + b for q, b in zip(position, self._readers["joint_position"].bias, strict=True)]
        return Start(position, [0.0] * 7, held)

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """`tool_position` [3], in m of the base."""
        self._goal = list(goal["tool_position"])

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
            "tracking_error": [target - x for target, x in zip(command, q, strict=True)],
            "tool_position": tool,
            "goal_from_tool": [g - t for g, t in zip(self._goal, tool, strict=True)],
        }

    @staticmethod
    def reward_terms(signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [7] in [-1, 1]."""
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
        else, obs and next_obs [E, 27] or stacks of frames [E, k 27]; `signals` [E] the reward signals each led to. Half
        of the new goals lie within centimetres of where the tool came to be, half are drawn as a reset draws them.
        """
        tool = np.array([s["tool_position"] for s in signals])
        near = tool + rng.normal(0.0, HINDSIGHT_SPREAD, tool.shape)
        goals = np.where(rng.random((len(tool), 1)) < 0.5, near, rng.uniform(GOAL_LOW, GOAL_HIGH, tool.shape))
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

    def show(self) -> None:
        self.world.mark(self._goal, GOAL_RADIUS)
