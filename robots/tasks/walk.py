"""Walk as commanded: one task family, robots as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog, rotation
from simtoreal.robots.actuators import Drive, PDDrive
from simtoreal.robots.gait import WalkLimits, WalkScorer
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.mirror import Mirror, make_mirror, mirrored
from simtoreal.robots.sensors import BASE, Imu, JointSensor
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Start, Task
from simtoreal.robots.world import Camera, State

GAIT = 2.5  # [Hz] of the clock that the controller keeps
HOLD = 5.0  # [s] for which a command is given
COMMANDS = ("velocity_command", "yaw_rate_command")
COMMAND_SPREAD = (0.1, 0.15)  # [m/s, rad/s] of relabelled commands around how the robot moved
RELABELLED = 0.5  # share of the mirrored transitions that are given another command
FORWARD = (0.2, 0.8)  # [m/s] of velocity commands
TURN = (-0.6, 0.6)  # [rad/s] of yaw-rate commands
UPRIGHT = 0.8  # cosine of the tilt at which it has fallen
SHARPNESS = 8.0  # of the contact schedule's edges
LIFT = 0.04  # [m] of clearance beyond which a swing earns no more


@dataclass(frozen=True)
class Legs:
    """What the walk of a legged robot needs to know of it; joints leg by leg, `mirror_leg` swaps left and right.

    Attributes:
        stand: joint positions [rad] of one leg when standing; `mirror_sign` of each when left and right are swapped.
        scale: an action of 1 moves the targets of one leg's joints by this [rad].
        phase: +1 for legs that stand in the clock's first half, -1 for the others.
        height: of the root link when an episode starts; `fallen` when it has fallen [m].
        foot_radius: [m].
    """

    stand: tuple[float, ...]
    scale: tuple[float, ...]
    mirror_sign: tuple[float, ...]
    mirror_leg: Mapping[str, str]
    phase: tuple[float, ...]
    kp: float  # [N m/rad]
    kd: float  # [N m s/rad]
    torque: float  # [N m]
    height: float
    fallen: float
    foot_radius: float


class A1Walk(Task):
    """A Unitree A1 walks forward and turns as commanded.

    50 Hz joint position targets; explicit PD (60 N m/rad, 2 N m s/rad, 33.5 N m at most) at 500 Hz; 10 s, with a new
    command every 5 s: forward velocity uniform in 0.2-0.8 m/s and yaw rate in +-0.6 rad/s.

    Success: it never falls, and each command is followed, from 1 s after it was given, by a walk (`robots/gait.py`):
    mean |velocity error| < 0.1 m/s and mean |yaw-rate error| < 0.15 rad/s in the body's frame, each foot touches down
    1.5-4 times a second, swings at least 15 mm high and stands at most 80 % of the time; mean mechanical power < 150 W,
    action change < 0.35 (root mean square) and slip of a standing foot < 0.2 m/s rule out shaking and skating.

    Observation (46):

    | index | field | unit | frame |
    |---|---|---|---|
    | 0-2 | gravity (direction, from the IMU) | - | base |
    | 3-5 | angular_velocity (gyro) | rad/s | base |
    | 6-17 | joint_position | rad | joint |
    | 18-29 | joint_velocity | rad/s | joint |
    | 30-41 | last_target | rad | joint |
    | 42-43 | gait_clock (sin, cos of 2.5 Hz) | - | clock |
    | 44 | velocity_command | m/s | base |
    | 45 | yaw_rate_command | rad/s | base |

    Action (12): `joint_target` [rad] = clip(stand + (0.15, 0.3, 0.3) a, joint limits); stand is (0, 0.9, -1.8) for
    each leg.

    Reward per step, e and u the velocity and yaw-rate errors: `velocity` = 1.5 (1 - min(|e| / 0.5, 2)) +
    0.5 exp(-(e / 0.15)^2), `yaw` = 0.5 exp(-(u / 0.35)^2) - min(|u|, 1), `sideways` = -0.3 |vy|, `smooth` = -0.03
    action_change, `power` = -0.002 power, `roll_pitch` = -0.02 (wx^2 + wy^2), `upright` = -0.5 (gx^2 + gy^2), `gait` =
    mean over the feet of s - 0.5, s = D while a foot stands and 1 - D else, D = sigmoid(+-8 sin(clock)): + for FR and
    RL, - for FL and RR, a trot; `lift` = 2 mean over the feet of (1 - D) min(clearance / 0.04 m, 1); `slip` = -1.5 mean
    slip.
    Terminates, as a failure with -15, when the trunk leans by more than 37 degrees or is below 0.15 m. Truncates after
    500 steps.

    Reward signals, as motion capture, an IMU, foot switches and a power meter give them: base_velocity [m/s],
    base_angular_velocity [rad/s], gravity, base_height [m], foot_contact, foot_clearance [m], foot_slip [m/s],
    power [W]; and what the controller knows: action_change (sum of squares), gait_clock, velocity_command [m/s],
    yaw_rate_command [rad/s], command_age [s].
    """

    robot = catalog.a1()
    legs: ClassVar[Legs] = Legs(
        stand=(0.0, 0.9, -1.8),
        scale=(0.15, 0.3, 0.3),
        mirror_sign=(-1.0, 1.0, 1.0),
        mirror_leg={"FR": "FL", "FL": "FR", "RR": "RL", "RL": "RR"},
        phase=(1.0, -1.0, -1.0, 1.0),
        kp=60.0,
        kd=2.0,
        torque=33.5,
        height=0.262,
        fallen=0.15,
        foot_radius=0.02,
    )
    physics_dt = 0.002
    control_dt = 0.02
    horizon = 500
    success_hold = 0.0
    velocity_bound = 95.0
    failure_reward = -15.0
    lowest_reward = -10.0  # thrashing at full effort: -5
    camera = Camera(target=(0.0, 0.0, 0.2), distance=1.3, yaw=35.0, pitch=-15.0)
    walk_limits: ClassVar[WalkLimits] = WalkLimits()
    commanded_joints = catalog.A1_JOINTS
    goals: ClassVar = {
        "velocity_command": (FORWARD[:1], FORWARD[1:]),
        "yaw_rate_command": (TURN[:1], TURN[1:]),
    }
    mirrors = True
    _limits = tuple(catalog.a1().model.joints[joint] for joint in catalog.A1_JOINTS)
    observation_layout = Layout(
        Field("gravity", 3, "-", "base", ("x", "y", "z"), "direction of gravity"),
        Field("angular_velocity", 3, "rad/s", "base", ("x", "y", "z")),
        Field("joint_position", 12, "rad", "joint", catalog.A1_JOINTS),
        Field("joint_velocity", 12, "rad/s", "joint", catalog.A1_JOINTS),
        Field("last_target", 12, "rad", "joint", catalog.A1_JOINTS, "the command given one control step ago"),
        Field("gait_clock", 2, "-", "clock", ("sin", "cos"), "of 2 pi 2.5 Hz t; any phase at the start"),
        Field("velocity_command", 1, "m/s", "base", (), "forward"),
        Field("yaw_rate_command", 1, "rad/s", "base", (), "positive to the left"),
    )
    command_layout = CommandLayout(
        Field("joint_target", 12, "rad", "joint", catalog.A1_JOINTS),
        scale=legs.scale * 4,
        offset=legs.stand * 4,
        low=[joint.lower for joint in _limits],
        high=[joint.upper for joint in _limits],
    )
    reward_layout = Layout(
        Field("base_velocity", 3, "m/s", "base", ("x", "y", "z"), "of the trunk's centre of mass"),
        Field("base_angular_velocity", 3, "rad/s", "base", ("x", "y", "z")),
        Field("gravity", 3, "-", "base", ("x", "y", "z")),
        Field("base_height", 1, "m", "ground"),
        Field("foot_contact", 4, "-", "", catalog.A1_LEGS, "1 while it touches the ground"),
        Field("foot_clearance", 4, "m", "ground", catalog.A1_LEGS),
        Field("foot_slip", 4, "m/s", "ground", catalog.A1_LEGS, "horizontal speed while it touches the ground, else 0"),
        Field("power", 1, "W", "", (), "sum over the joints of |torque times velocity|"),
        Field("action_change", 1, "-", "", (), "sum of squares of the change of the action"),
        Field("gait_clock", 2, "-", "clock", ("sin", "cos")),
        Field("velocity_command", 1, "m/s", "base"),
        Field("yaw_rate_command", 1, "rad/s", "base"),
        Field("command_age", 1, "s", "", (), "since the command was given"),
    )
    privileged_signals = ("base_velocity", "base_height", "foot_contact")
    sensors = (
        JointSensor("joint_position", "position", catalog.A1_JOINTS, "rad", 0.05, 0.1),
        JointSensor("joint_velocity", "velocity", catalog.A1_JOINTS, "rad/s", 3.0, 0.0),
        Imu(),
    )
    gains: ClassVar[Mapping[str, Sequence[float]]] = {"kp": (legs.kp,) * 12, "kd": (legs.kd,) * 12}

    @cached_property
    def _mirrors(self) -> tuple[Mirror, Mirror, Mirror]:
        """Of observations, privileged observations and actions."""
        signs = self.legs.mirror_sign * len(self.robot.feet)
        turned = [joint for joint, sign in zip(self.commanded_joints, signs, strict=True) if sign < 0]
        privileged = [name.removeprefix("parameters.") for name in self.privileged_layout.element_names()]
        seen, true, action = (
            make_mirror(names, self.legs.mirror_leg, turned)
            for names in (self.observation_layout.element_names(), privileged, self.command_layout.element_names())
        )
        return seen, true, action

    @cached_property
    def _command_places(self) -> tuple[list[int], list[int]]:
        """Where the commands stand in an observation's newest frame, counted from its end, and in a privileged one."""
        size = self.observation_layout.size
        seen = [self.observation_layout.slices[name].start - size for name in COMMANDS]
        return seen, [self.privileged_layout.slices[f"true_{name}"].start for name in COMMANDS]

    def make_drive(self) -> Drive:
        n = len(self.commanded_joints)
        legs = self.legs
        self._hold_steps = round(HOLD / self.control_dt)
        self._commands: list[tuple[float, float]] = [(0.0, 0.0)]
        self._phase = 0.0
        self._action = np.zeros(n, np.float32)
        return PDDrive([legs.kp] * n, [legs.kd] * n, [legs.torque] * n)

    def apply_bias(self) -> None:
        assert isinstance(self.drive, PDDrive)
        self.drive.encoder_bias = self._readers["joint_position"].bias

    def start(self, rng: np.random.Generator) -> Start:
        segments = math.ceil(self.horizon / self._hold_steps)
        low, high = zip(FORWARD, TURN, strict=True)
        self._commands = [(velocity, turn) for velocity, turn in (uniform(rng, low, high) for _ in range(segments))]
        self._phase = float(rng.uniform(0.0, 2.0 * math.pi))
        self._last_action = [0.0] * len(self.commanded_joints)
        stand = self.legs.stand * len(self.robot.feet)
        position = uniform(rng, [q - 0.05 for q in stand], [q + 0.05 for q in stand])
        base = (0.0, 0.0, self.legs.height, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6)
        return Start(position, [0.0] * len(position), stand, base)

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """The same command from beginning to end."""
        self._commands = [
            (goal.get("velocity_command", [forward])[0], goal.get("yaw_rate_command", [turn])[0])
            for forward, turn in self._commands
        ]

    @property
    def goal(self) -> dict[str, Sequence[float]]:
        return {name: (value,) for name, value in zip(COMMANDS, self._command_at(self._step_count), strict=True)}

    def _command_at(self, step: int) -> tuple[float, float]:
        return self._commands[min(step // self._hold_steps, len(self._commands) - 1)]

    def _clock(self) -> tuple[float, float]:
        angle = self._phase + 2.0 * math.pi * GAIT * self.control_dt * self._step_count
        return math.sin(angle), math.cos(angle)

    def signals(self, state: State) -> dict[str, Sequence[float]]:
        base, feet = state[BASE], self.world.feet()
        self._touches = feet.other_contact
        body, axes = rotation.from_quaternion(base[3:7]), self.world.base_axes
        velocity, turning, gravity = (
            rotation.apply(axes, rotation.apply_inverse(body, v)) for v in (base[7:10], base[10:13], self.world.down)
        )
        answered = max(self._step_count - 1, 0)  # the control step at which the action was asked for
        segment = min(answered // self._hold_steps, len(self._commands) - 1)
        forward, turn = self._commands[segment]
        action = self._given_action
        change = math.dist(action, self._last_action) ** 2
        self._last_action = action
        radius = self.legs.foot_radius
        return {
            "base_velocity": velocity,
            "base_angular_velocity": turning,
            "gravity": gravity,
            "base_height": (base[2],),
            "foot_contact": [float(contact) for contact in feet.contact],
            "foot_clearance": [place[2] - radius for place in feet.position],
            "foot_slip": [
                math.hypot(v[0], v[1]) if contact else 0.0
                for v, contact in zip(feet.velocity, feet.contact, strict=True)
            ],
            "power": (sum(map(abs, map(mul, self.torque, state[1]))),),
            "action_change": (change,),
            "gait_clock": self._clock(),
            "velocity_command": (forward,),
            "yaw_rate_command": (turn,),
            "command_age": ((self._step_count - segment * self._hold_steps) * self.control_dt,),
        }

    def observe(
        self, readings: Mapping[str, list[float]], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[np.floating]]:
        imu = readings["imu"]
        forward, turn = self._command_at(self._step_count)
        return {
            "gravity": imu[:3],
            "angular_velocity": imu[3:],
            "joint_position": readings["joint_position"],
            "joint_velocity": readings["joint_velocity"],
            "last_target": command,
            "gait_clock": self._clock(),
            "velocity_command": (forward,),
            "yaw_rate_command": (turn,),
        }

    @classmethod
    def scorer(cls) -> WalkScorer:
        return WalkScorer(cls.walk_limits, len(cls.robot.feet), cls.command_layout.size, cls.control_dt, HOLD)

    @classmethod
    def reward_terms(cls, signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [12] in [-1, 1]."""
        (vx, vy, _), (wx, wy, wz), (gx, gy, _) = (
            signals[name] for name in ("base_velocity", "base_angular_velocity", "gravity")
        )
        e, u = vx - signals["velocity_command"][0], wz - signals["yaw_rate_command"][0]
        push = SHARPNESS * signals["gait_clock"][0]
        first = 1.0 / (1.0 + math.exp(-push))  # wanted share of standing of the legs of phase +1
        gait = lift = 0.0
        for contact, clearance, phase in zip(
            signals["foot_contact"], signals["foot_clearance"], cls.legs.phase, strict=True
        ):
            wanted = first if phase > 0 else 1.0 - first
            gait += (wanted if contact else 1.0 - wanted) - 0.5
            lift += (1.0 - wanted) * min(max(clearance, 0.0) / LIFT, 1.0)
        feet = len(cls.legs.phase)
        return {
            "velocity": 1.5 * (1.0 - min(abs(e) / 0.5, 2.0)) + 0.5 * math.exp(-((e / 0.15) ** 2)),
            "yaw": 0.5 * math.exp(-((u / 0.35) ** 2)) - min(abs(u), 1.0),
            "sideways": -0.3 * abs(vy),
            "smooth": -0.03 * signals["action_change"][0],
            "power": -0.002 * signals["power"][0],
            "roll_pitch": -0.02 * (wx * wx + wy * wy),
            "upright": -0.5 * (gx * gx + gy * gy),
            "gait": gait / feet,
            "lift": 2.0 * lift / feet,
            "slip": -1.5 * sum(signals["foot_slip"]) / feet,
        }

    @classmethod
    def succeeds(cls, signals: Mapping[str, Sequence[float]]) -> bool:
        forward = abs(signals["base_velocity"][0] - signals["velocity_command"][0]) < cls.walk_limits.velocity
        turn = abs(signals["base_angular_velocity"][2] - signals["yaw_rate_command"][0]) < cls.walk_limits.yaw_rate
        return forward and turn

    @classmethod
    def fails(cls, signals: Mapping[str, Sequence[float]]) -> bool:
        return signals["gravity"][2] > -UPRIGHT or signals["base_height"][0] < cls.legs.fallen

    def violates(self) -> bool:
        return self.too_fast() or self._touches

    @classmethod
    def relabel(
        cls,
        rows: Mapping[str, NDArray[Any]],
        signals: Sequence[Mapping[str, Sequence[float]]],
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """The same motions under other commands: hindsight, as of Andrychowicz et al. 2017 (arXiv 1707.01495).

        `rows` are transitions of E environments under the names obs, action, reward, next_obs, terminated, obs and
        next_obs [E, 46] or stacks of frames [E, k 46]; `signals` [E] the reward signals each led to. Half of the new
        commands lie near to how the robot moved, half are drawn as a reset draws them. Where the command changed within
        a row it stays as it was.
        """
        n = len(signals)
        moved = np.array([(s["base_velocity"][0], s["base_angular_velocity"][2]) for s in signals])
        low, high = (np.array(ends) for ends in zip(FORWARD, TURN, strict=True))
        near = np.clip(moved + rng.normal(0.0, COMMAND_SPREAD, (n, 2)), low, high)
        commands = np.where(rng.random((n, 1)) < 0.5, near, rng.uniform(low, high, (n, 2)))
        where = [cls.observation_layout.slices[name].start for name in COMMANDS]
        frames = {name: rows[name].reshape(n, -1, cls.observation_layout.size) for name in ("obs", "next_obs")}
        steady = (frames["next_obs"][:, -1, where] == frames["obs"][:, -1, where]).all(axis=1)
        commands = np.where(steady[:, None], commands, frames["obs"][:, -1, where])
        out = dict(rows)
        for name, frame in frames.items():
            changed = frame.copy()
            changed[:, :, where] = np.where(steady[:, None, None], commands[:, None], frame[:, :, where])
            out[name] = changed.reshape(rows[name].shape)
        rewards = rows["reward"].astype(float)
        for i, (s, action, command) in enumerate(zip(signals, rows["action"].tolist(), commands.tolist(), strict=True)):
            if steady[i]:
                other = {**s, **{name: (value,) for name, value in zip(COMMANDS, command, strict=True)}}
                rewards[i] += sum(cls.reward_terms(other, action).values()) - sum(cls.reward_terms(s, action).values())
        out["reward"] = rewards
        return out

    def augment(
        self,
        rows: Mapping[str, NDArray[Any]],
        signals: Sequence[Mapping[str, Sequence[float]]],
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """Their mirror image, half of them under other commands (`relabel`).

        `rows` are transitions of E environments under the names obs, action, reward, next_obs, terminated and, where it
        is observed, privileged and next_privileged.
        """
        chosen = rng.random(len(signals)) < RELABELLED
        other = self.relabel(rows, signals, rng)
        for name, source in (("privileged", "obs"), ("next_privileged", "next_obs")):
            if name in rows:
                places, true_places = self._command_places
                commands, before = other[source][:, places], rows[source][:, places]
                other[name] = rows[name].copy()
                other[name][:, true_places] = np.where(commands != before, commands, rows[name][:, true_places])
        rows = {
            name: np.where(chosen.reshape(-1, *[1] * (value.ndim - 1)), other[name], value)
            for name, value in rows.items()
        }
        return self.mirror_image(rows)

    def mirror_image(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same motions seen in a mirror: left is right, so legs swap and what points sideways turns; names as of
        `augment`."""
        seen, true, action = self._mirrors
        return mirrored(rows, seen=seen, privileged=true, action=action)
