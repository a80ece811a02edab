"""Walk as commanded: one task family, robots as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import mul
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog, rotation
from simtoreal.robots.actuators import Drive, PositionDrive
from simtoreal.robots.gait import WalkLimits, WalkScorer
from simtoreal.robots.legs import Legs, find_sides
from simtoreal.robots.mirror import LeftAndRight
from simtoreal.robots.motors import position_drive
from simtoreal.robots.readers import BASE
from simtoreal.robots.sensors import Imu, JointSensor, timed
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Task
from simtoreal.robots.task_definition import Start
from simtoreal.robots.world import Camera, FootState, State

GAIT = 2.5  # [Hz] of the clock that the controller keeps
HOLD = 5.0  # [s] for which a command is given
COMMANDS = ("velocity_command", "yaw_rate_command")
COMMAND_SPREAD = (0.1, 0.15)  # [m/s, rad/s] of relabelled commands around how the robot moved
RELABELLED = 0.5  # share of the mirrored transitions that are given another command
FORWARD = (0.2, 0.8)  # [m/s] of velocity commands
TURN = (-0.6, 0.6)  # [rad/s] of yaw-rate commands
UPRIGHT = 0.8  # cosine of the tilt at which it has fallen
SHARPNESS = 8.0  # of the contact schedule's edges
LIFT = 0.05  # [m] of clearance beyond which a swing earns no more
HARD = 2.0  # [m/s] beyond which a landing costs no more
MOST_SPEED = 95.0  # [rad/s] Bullet cuts speeds at 100
OTHER_SIDE = {"FR": "FL", "FL": "FR", "RR": "RL", "RL": "RR"}
TROT = (1.0, -1.0, -1.0, 1.0)  # of FR, FL, RR, RL


DOCUMENT = """

    50 Hz joint position targets; explicit PD (gains below) at 500 Hz; 10 s, with a new command every 5 s: forward
    velocity uniform in 0.2-0.8 m/s and yaw rate in +-0.6 rad/s.

    Success: it never falls, and each command is followed, from 1 s after it was given, by a walk (`robots/gait.py`):
    mean |velocity error| <= 0.1 m/s and mean |yaw-rate error| <= 0.15 rad/s in the body's frame, each foot touches down
    1.5-4 times a second, swings at least 15 mm high and stands at most 80 % of the time; mean mechanical power <=
    {watts:g} W, action change <= 0.35 (root mean square) and slip of a standing foot <= 0.2 m/s rule out shaking and
    skating.

    Observation ({size}):

{table}

    Action ({n}): `joint_target` [rad] = clip(stand + scale a, joint limits), leg by leg:

{targets}

    Reward per step, e and u the velocity and yaw-rate errors: `velocity` = 1.5 (1 - min(|e| / 0.5, 2)) +
    exp(-(e / 0.1)^2), `yaw` = 0.75 exp(-(u / 0.25)^2) - min(|u|, 1), `sideways` = -0.3 |vy|, `smooth` = -0.03
    action_change, `power` = -0.3 power / {watts:g} W, `roll_pitch` = -0.02 (wx^2 + wy^2), `upright` = -0.5 (gx^2 +
    gy^2), `gait` = mean over the feet of s - 0.5, s = D while a foot stands and 1 - D else, D = sigmoid(+-8
    sin(clock)): + for {first}, - for {second}; `lift` = 4.5 mean over the feet of (1 - D) min(clearance / 0.05
    m, sin(clock)^2), so that a foot comes down slowly; `slip` = -1.5 mean slip; `landing` = -5 mean over the
    feet of min(foot_landing, 2 m/s)^2.
    Terminates, as a failure with -15, when the trunk leans by more than 37 degrees or is below {fallen:g} m. Truncates
    after 500 steps.

    Reward signals, as motion capture, an IMU, foot switches and a power meter give them: base_velocity [m/s],
    base_angular_velocity [rad/s], gravity, base_height [m], foot_contact, foot_clearance [m], foot_slip [m/s],
    foot_landing [m/s], power [W]; and what the controller knows: action_change (sum of squares), gait_clock,
    velocity_command [m/s], yaw_rate_command [rad/s], command_age [s].
    """


def _targets(legs: Legs) -> str:
    """How each joint stands, how far an action moves it, and its drive, as a table."""
    rows = ["| joint | stand [rad] | scale [rad] | kp [N m/rad] | kd [N m s/rad] | at most [N m] |", "|" + 6 * "---|"]
    columns = zip(legs.joints, legs.stand, legs.scale, legs.kp, legs.kd, legs.torque, strict=True)
    rows += [f"| {joint} | {' | '.join(f'{number:g}' for number in numbers)} |" for joint, *numbers in columns]
    return "\n".join("    " + row for row in rows)


class Walk(LeftAndRight, Task):
    """A legged robot walks forward and turns as commanded. A robot of the family names `robot` and `legs`, and what it
    is in the first line of its document; the rest of that follows."""

    legs: ClassVar[Legs]
    physics_dt = 0.002
    control_dt = 0.02
    horizon = 500
    success_hold = 0.0
    failure_reward = -15.0
    lowest_reward = -25.0  # thrashing at full effort: -14; landing alone -20 at most
    camera = Camera(target=(0.0, 0.0, 0.2), distance=1.3, yaw=35.0, pitch=-15.0)
    walk_limits: ClassVar[WalkLimits]
    goals: ClassVar = {
        "velocity_command": (FORWARD[:1], FORWARD[1:]),
        "yaw_rate_command": (TURN[:1], TURN[1:]),
    }
    privileged_signals = ("base_velocity", "base_height", "foot_contact")

    def __init_subclass__(cls, **options: Any) -> None:
        """What follows from the legs."""
        super().__init_subclass__(**options)
        legs = cls.legs
        cls.commanded_joints = legs.joints
        cls.gains = {"kp": legs.kp, "kd": legs.kd}
        cls.observation_layout = legs.observation(cls.more_sensors)
        cls.command_layout = legs.command(cls.robot)
        cls.reward_layout = legs.rewarded()
        cls.walk_limits = WalkLimits(power=legs.power)
        fastest = max(cls.robot.velocity(joint) for joint in legs.joints)
        cls.velocity_bound = min(2.0 * fastest, MOST_SPEED)
        sensors = (
            JointSensor("joint_position", "position", legs.joints, "rad", 0.05, 0.1),
            JointSensor("joint_velocity", "velocity", legs.joints, "rad/s", 3.0, 0.3),
            Imu(),
            *cls.more_sensors,
        )
        cls.sensors = timed(sensors, cls.timings)
        first, second = (
            " and ".join(leg for leg, phase in zip(legs.names, legs.phase, strict=True) if phase * sign > 0)
            for sign in (1, -1)
        )
        cls.__doc__ = (cls.__doc__ or "") + DOCUMENT.format(
            size=cls.observation_layout.size,
            table=cls.observation_layout.table("    "),
            n=len(legs.joints),
            watts=legs.power,
            first=first,
            second=second,
            targets=_targets(legs),
            **vars(legs),
        )

    def sides(self) -> tuple[Mapping[str, str], Sequence[str]]:
        found = find_sides(self.robot.model, self.legs)
        return found.swap, found.turned

    @cached_property
    def _command_places(self) -> tuple[list[int], list[int]]:
        """Where the commands stand in an observation's newest frame, counted from its end, and in a privileged one."""
        size = self.observation_layout.size
        seen = [self.observation_layout.slices[name].start - size for name in COMMANDS]
        return seen, [self.privileged_layout.slices[f"true_{name}"].start for name in COMMANDS]

    def make_drive(self) -> Drive:
        legs = self.legs
        self._hold_steps = round(HOLD / self.control_dt)
        self._commands: list[tuple[float, float]] = [(0.0, 0.0)]
        self._phase = 0.0
        return position_drive(self.robot.actuator, legs.kp, legs.kd, legs.torque, self.physics_dt)

    def apply_bias(self) -> None:
        assert isinstance(self.drive, PositionDrive)
        self.drive.encoder_bias = self._readers["joint_position"].bias

    def start(self, rng: np.random.Generator) -> Start:
        segments = math.ceil(self.horizon / self._hold_steps)
        low, high = zip(FORWARD, TURN, strict=True)
        self._commands = [(velocity, turn) for velocity, turn in (uniform(rng, low, high) for _ in range(segments))]
        self._phase = float(rng.uniform(0.0, 2.0 * math.pi))
        self._last_action = [0.0] * len(self.commanded_joints)
        self._feet: FootState | None = None
        stand = self.legs.stand
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
        return {name: (value,) for name, value in zip(COMMANDS, self._command_at(self.control_step), strict=True)}

    def _command_at(self, step: int) -> tuple[float, float]:
        return self._commands[min(step // self._hold_steps, len(self._commands) - 1)]

    def _clock(self) -> tuple[float, float]:
        angle = self._phase + 2.0 * math.pi * GAIT * self.control_dt * self.control_step
        return math.sin(angle), math.cos(angle)

    def signals(self, state: State) -> dict[str, Sequence[float]]:
        base, feet = state[BASE], self.world.feet()
        self._touches = feet.other_contact
        body, axes = rotation.from_quaternion(base[3:7]), self.world.base_axes
        velocity, turning, gravity = (
            rotation.apply(axes, rotation.apply_inverse(body, v)) for v in (base[7:10], base[10:13], self.world.down)
        )
        answered = max(self.control_step - 1, 0)  # the control step at which the action was asked for
        segment = min(answered // self._hold_steps, len(self._commands) - 1)
        forward, turn = self._commands[segment]
        action = self._given_action
        change = math.dist(action, self._last_action) ** 2
        self._last_action = action
        radius = self.legs.foot_radius
        before = self._feet if self._feet and self.control_step > 1 else feet
        self._feet = feet
        return {
            "base_velocity": velocity,
            "base_angular_velocity": turning,
            "gravity": gravity,
            "base_height": (base[2] - self.world.ground_height(base[0], base[1]),),
            "foot_contact": [float(contact) for contact in feet.contact],
            "foot_clearance": [z - radius - self.world.ground_height(x, y) for x, y, z in feet.position],
            "foot_slip": [
                math.hypot(v[0], v[1]) if contact else 0.0
                for v, contact in zip(feet.velocity, feet.contact, strict=True)
            ],
            "foot_landing": [
                math.dist(there, then) / self.control_dt if contact and not stood else 0.0
                for there, then, contact, stood in zip(
                    feet.position, before.position, feet.contact, before.contact, strict=True
                )
            ],
            "power": (sum(map(abs, map(mul, self.world.torque, state[1]))),),
            "action_change": (change,),
            "gait_clock": self._clock(),
            "velocity_command": (forward,),
            "yaw_rate_command": (turn,),
            "command_age": ((self.control_step - segment * self._hold_steps) * self.control_dt,),
        }

    def observe(
        self, readings: Mapping[str, list[float]], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[np.floating]]:
        imu = readings["imu"]
        forward, turn = self._command_at(self.control_step)
        return {
            "gravity": imu[:3],
            "angular_velocity": imu[3:],
            "joint_position": readings["joint_position"],
            "joint_velocity": readings["joint_velocity"],
            "last_target": command,
            "gait_clock": self._clock(),
            "velocity_command": (forward,),
            "yaw_rate_command": (turn,),
            **{sensor.name: readings[sensor.name] for sensor in self.more_sensors},
        }

    @classmethod
    def scorer(cls) -> WalkScorer:
        return WalkScorer(cls.walk_limits, len(cls.robot.feet), cls.command_layout.size, cls.control_dt, HOLD)

    @classmethod
    def reward_terms(cls, signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [m] in [-1, 1]."""
        (vx, vy, _), (wx, wy, wz), (gx, gy, _) = (
            signals[name] for name in ("base_velocity", "base_angular_velocity", "gravity")
        )
        e, u = vx - signals["velocity_command"][0], wz - signals["yaw_rate_command"][0]
        push = SHARPNESS * signals["gait_clock"][0]
        first = 1.0 / (1.0 + math.exp(-push))  # wanted share of standing of the legs of phase +1
        gait = lift = 0.0
        high = signals["gait_clock"][0] ** 2
        for contact, clearance, phase in zip(
            signals["foot_contact"], signals["foot_clearance"], cls.legs.phase, strict=True
        ):
            wanted = first if phase > 0 else 1.0 - first
            gait += (wanted if contact else 1.0 - wanted) - 0.5
            lift += (1.0 - wanted) * min(max(clearance, 0.0) / LIFT, high)
        feet = len(cls.legs.phase)
        return {
            "velocity": 1.5 * (1.0 - min(abs(e) / 0.5, 2.0)) + math.exp(-((e / 0.1) ** 2)),
            "yaw": 0.75 * math.exp(-((u / 0.25) ** 2)) - min(abs(u), 1.0),
            "sideways": -0.3 * abs(vy),
            "smooth": -0.03 * signals["action_change"][0],
            "power": -0.3 / cls.legs.power * signals["power"][0],
            "roll_pitch": -0.02 * (wx * wx + wy * wy),
            "upright": -0.5 * (gx * gx + gy * gy),
            "gait": gait / feet,
            "lift": 4.5 * lift / feet,
            "slip": -1.5 * sum(signals["foot_slip"]) / feet,
            "landing": -5.0 * sum(min(speed, HARD) ** 2 for speed in signals["foot_landing"]) / feet,
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
        next_obs [E, n] or stacks of frames [E, k n]; `signals` [E] the reward signals each led to. Half of the new
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


class A1Walk(Walk):
    """A Unitree A1 walks forward and turns as commanded."""

    robot = catalog.a1()
    legs = Legs(
        names=catalog.QUADRUPED,
        joints=catalog.A1_JOINTS,
        stand=(0.0, 0.9, -1.8) * 4,
        scale=(0.15, 0.3, 0.3) * 4,
        other_side=OTHER_SIDE,
        phase=TROT,
        kp=(60.0,) * 12,
        kd=(2.0,) * 12,
        torque=(33.5,) * 12,
        height=0.262,
        fallen=0.15,
        foot_radius=0.02,
        power=150.0,  # a cost of transport of 2.4 for 12.5 kg at 0.5 m/s
    )


class AliengoWalk(Walk):
    """A Unitree Aliengo walks forward and turns as commanded."""

    robot = catalog.aliengo()
    legs = Legs(
        names=catalog.QUADRUPED,
        joints=catalog.A1_JOINTS,
        stand=(0.0, 0.9, -1.8) * 4,
        scale=(0.15, 0.3, 0.3) * 4,
        other_side=OTHER_SIDE,
        phase=TROT,
        kp=(120.0,) * 12,
        kd=(3.0,) * 12,
        torque=(44.4,) * 12,
        height=0.338,
        fallen=0.2,
        foot_radius=0.0265,
        power=247.0,  # the A1's cost of transport, for 20.6 kg
    )
