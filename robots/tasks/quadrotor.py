"""Fly to a point, or along a path, and nowhere else: one task family, quadrotors as data."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog, rotation
from simtoreal.robots.actuators import Drive
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.mirror import LeftAndRight
from simtoreal.robots.readers import BASE
from simtoreal.robots.rotors import RotorDrive, Rotors
from simtoreal.robots.scoring import ScoredByMeans
from simtoreal.robots.sensors import BaseSensor, Imu
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Task
from simtoreal.robots.task_definition import Start
from simtoreal.robots.world import GRAVITY, Camera, State

XYZ = ("x", "y", "z")
MAX_RATES = (5.0, 5.0, 2.0)  # [rad/s] that can be commanded about x, y and z
ROOM = ((-1.0, -1.0, 0.8), (1.0, 1.0, 1.8))  # [m] corners of the box in which it starts and goals lie
LEAN = (0.1, 0.4)  # [rad] at the start: who does nothing does not stay
START_HEADING, START_SPEED, START_TURNING = 1.0, 0.5, 0.5  # [rad, m/s, rad/s] at most
FAR = 4.0  # [m] from where it should be
LOW = 0.1  # [m] above the ground
HINDSIGHT = (0.15, 0.5)  # [m] of relabelled goals around where it was, and around the goal

DOCUMENT = """

    50 Hz collective thrust and body rates, the innermost mode of an autopilot; its rate loop runs with the physics at
    250 Hz (`robots/rotors.py`). Starts within {low} to {high} m, leaning by 0.1 to 0.4 rad in any direction, turned by
    up to 1 rad, at up to 0.5 m/s and 0.5 rad/s along and about each axis. {story}

    Observation ({size}); the level frame stands where the robot is, z up, x where it heads:

{table}

    Action ({n}): `thrust` [N] = {weight:.4f} (1 + a), the nominal weight at a = 0, of at most {most:.3f} N;
    `body_rates` [rad/s] = {rates} a about x, y, z.

    Reward per step, d the distance from the goal [m], v the velocity's difference from the goal's [m/s], w the body's
    turning [rad/s], h its heading [rad]: `near` = exp(-d / 0.5 m), `there` = 1 / (1 + (d / 0.1 m)^2),
    `velocity` = -0.1 min(|v|, 4), `heading` = 0.3 exp(-(h / 0.3)^2) - 0.1 |h|, `turning` = -0.03 min(|w|^2, 40),
    `smooth` = -0.3 action_change.
    Terminates, as a failure with -20, more than 4 m from the goal, lower than 0.1 m, or upside down. Truncates after
    {horizon} steps. Reward signals: position, goal [m, ground], velocity, goal_velocity [m/s, ground], heading [rad],
    gravity, angular_velocity [rad/s, base], as motion capture gives them; and action_change (sum of squares), which the
    controller knows.
    """


class Quadrotor(ScoredByMeans, LeftAndRight, Task):
    """A quadrotor follows a goal. A task of the family names `robot`, `rotors`, how far it sees ahead and what the goal
    does; the rest of its document follows from that."""

    rotors: ClassVar[Rotors]
    ahead: ClassVar[tuple[float, ...]] = ()  # [s] for which the goal's way is known
    story: ClassVar[str]
    physics_dt = 0.004
    control_dt = 0.02
    success_hold = 0.0
    velocity_bound = 99.0  # Bullet cuts speeds at 100
    failure_reward = -20.0
    lowest_reward = -6.8  # thrashing: four actions reversed in every step, turning wildly
    commanded_joints = ()
    camera = Camera(target=(0.0, 0.0, 1.3), distance=1.0, yaw=-60.0, pitch=-10.0, rises=True)
    sensors = (
        BaseSensor("position", "position", "m", 0.1, 0.1),
        BaseSensor("velocity", "velocity", "m/s", 0.5, 0.1),
        BaseSensor("heading", "heading", "rad", 0.2, 0.2),
        Imu(),
    )
    reward_layout = Layout(
        Field("position", 3, "m", "ground", XYZ),
        Field("goal", 3, "m", "ground", XYZ),
        Field("velocity", 3, "m/s", "ground", XYZ),
        Field("goal_velocity", 3, "m/s", "ground", XYZ),
        Field("heading", 1, "rad", "ground"),
        Field("gravity", 3, "-", "base", XYZ),
        Field("angular_velocity", 3, "rad/s", "base", XYZ),
        Field("action_change", 1, "-", "", (), "sum of squares of the change of the action"),
    )

    def __init_subclass__(cls, **options: Any) -> None:
        """What follows from the robot."""
        super().__init_subclass__(**options)
        weight, most = GRAVITY * cls.robot.model.mass, 4 * cls.rotors.max_thrust
        later = tuple(f"{axis}+{t:g}s" for t in cls.ahead for axis in XYZ)
        way = [Field("goal_ahead", len(later), "m", "level", later, "where the goal will be")] if later else []
        cls.observation_layout = Layout(
            Field("goal_from_base", 3, "m", "level", XYZ),
            *way,
            Field("velocity", 3, "m/s", "level", XYZ),
            Field("heading", 2, "-", "ground", ("sin", "cos")),
            Field("gravity", 3, "-", "base", XYZ, "direction of gravity"),
            Field("angular_velocity", 3, "rad/s", "base", XYZ),
            Field("last_thrust", 1, "N", "base", (), "the command given one control step ago"),
            Field("last_body_rates", 3, "rad/s", "base", XYZ),
        )
        cls.command_layout = CommandLayout(
            Field("thrust", 1, "N", "base", (), "of all rotors together"),
            Field("body_rates", 3, "rad/s", "base", XYZ),
            scale=[weight, *MAX_RATES],
            offset=[weight, 0.0, 0.0, 0.0],
            low=[0.0, *(-rate for rate in MAX_RATES)],
            high=[min(2.0 * weight, most), *MAX_RATES],
        )
        layout = cls.observation_layout
        (low, high), n = ROOM, cls.command_layout.size
        cls.__doc__ = (cls.__doc__ or "") + DOCUMENT.format(
            low=low, high=high, story=cls.story, size=layout.size, table=layout.table("    "), n=n, weight=weight,
            most=min(2.0 * weight, most), rates=MAX_RATES, horizon=cls.horizon,
        )  # fmt: skip

    @abstractmethod
    def goal_at(self, time: float) -> tuple[Sequence[float], Sequence[float]]:
        """Where the goal is `time` [s] into the episode [m, ground], and how fast it moves [m/s]."""

    @abstractmethod
    def begin(self, rng: np.random.Generator) -> Sequence[float]:
        """Draw the goal of an episode; where the robot starts [m]."""

    def make_drive(self) -> Drive:
        self._last_action = [0.0] * self.command_layout.size
        return RotorDrive(self.rotors, self.physics_dt, self.world.base_axes)

    def apply_bias(self) -> None:
        assert isinstance(self.drive, RotorDrive)
        self.drive.gyro_bias = self._readers["imu"].bias[3:]

    def start(self, rng: np.random.Generator) -> Start:
        place = self.begin(rng)
        lean, towards, heading = uniform(rng, (LEAN[0], 0.0, -START_HEADING), (LEAN[1], 2.0 * math.pi, START_HEADING))
        most = (START_SPEED,) * 3 + (START_TURNING,) * 3
        moving = uniform(rng, [-v for v in most], most)
        self._last_action = [0.0] * self.command_layout.size
        base = (*place, *rotation.from_heading_and_lean(heading, lean, towards), *moving)
        return Start((), (), self.command_layout.offset.tolist(), base)

    def signals(self, state: State) -> dict[str, Sequence[float]]:
        base, axes = state[BASE], self.world.base_axes
        body = rotation.from_quaternion(base[3:7])
        goal, goal_velocity = self.goal_at(self.control_step * self.control_dt)
        change = math.dist(self._given_action, self._last_action) ** 2
        self._last_action = self._given_action
        return {
            "position": base[:3],
            "goal": goal,
            "velocity": base[7:10],
            "goal_velocity": goal_velocity,
            "heading": (rotation.heading(base[3:7], axes[:3]),),
            "gravity": rotation.apply(axes, rotation.apply_inverse(body, self.world.down)),
            "angular_velocity": rotation.apply(axes, rotation.apply_inverse(body, base[10:13])),
            "action_change": (change,),
        }

    def observe(
        self, readings: Mapping[str, list[float]], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[np.floating]]:
        place, (heading,), imu = readings["position"], readings["heading"], readings["imu"]
        now = self.control_step * self.control_dt
        goal, *later = (
            rotation.level([g - p for g, p in zip(self.goal_at(now + t)[0], place, strict=True)], heading)
            for t in (0.0, *self.ahead)
        )
        return {
            "goal_from_base": goal,
            "goal_ahead": [number for point in later for number in point],
            "velocity": rotation.level(readings["velocity"], heading),
            "heading": (math.sin(heading), math.cos(heading)),
            "gravity": imu[:3],
            "angular_velocity": imu[3:],
            "last_thrust": command[:1],
            "last_body_rates": command[1:],
        }

    @staticmethod
    def reward_terms(signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [4] in [-1, 1]."""
        d = math.dist(signals["position"], signals["goal"])
        speed = math.dist(signals["velocity"], signals["goal_velocity"])
        (heading,), turning = signals["heading"], signals["angular_velocity"]
        return {
            "near": math.exp(-d / 0.5),
            "there": 1.0 / (1.0 + (d / 0.1) ** 2),
            "velocity": -0.1 * min(speed, 4.0),
            "heading": 0.3 * math.exp(-((heading / 0.3) ** 2)) - 0.1 * abs(heading),
            "turning": -0.03 * min(sum(w * w for w in turning), 40.0),
            "smooth": -0.3 * signals["action_change"][0],
        }

    @classmethod
    def errors(cls, signals: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {
            "distance": math.dist(signals["position"], signals["goal"]),
            "heading": abs(signals["heading"][0]),
            "turning": math.hypot(*signals["angular_velocity"]),
            "action_change": signals["action_change"][0],
        }

    @staticmethod
    def fails(signals: Mapping[str, Sequence[float]]) -> bool:
        place = signals["position"]
        return math.dist(place, signals["goal"]) > FAR or place[2] < LOW or signals["gravity"][2] > 0.0

    def augment(
        self,
        rows: Mapping[str, NDArray[Any]],
        signals: Sequence[Mapping[str, Sequence[float]]],
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """The same flights towards a goal that is elsewhere (Andrychowicz et al. 2017, arXiv 1707.01495), half of the
        times in a mirror.

        `rows` are transitions of E environments under the names obs, action, reward, next_obs, terminated and, where it
        is observed, privileged and next_privileged; `signals` [E] the reward signals each led to. Half of the new goals
        lie about where it came to be, half about the old one; what ended in a failure stays as it is.
        """
        place, goal = (np.array([s[name] for s in signals]) for name in ("position", "goal"))
        near, further = (rng.normal(0.0, spread, place.shape) for spread in HINDSIGHT)
        shift = np.where(rng.random((len(place), 1)) < 0.5, place + near - goal, further)
        shift[rows["terminated"].astype(bool) | (np.linalg.norm(goal + shift - place, axis=1) > FAR)] = 0.0
        out = dict(rows)
        for name, row in rows.items():
            if name in ("obs", "next_obs"):
                out[name] = _shifted(row, self.observation_layout, "", shift)
            elif name in ("privileged", "next_privileged"):
                out[name] = _shifted(row, self.privileged_layout, "true_", shift)
        gains = [
            sum(self.reward_terms({**s, "goal": other}, action).values()) - sum(self.reward_terms(s, action).values())
            for s, other, action in zip(signals, (goal + shift).tolist(), rows["action"].tolist(), strict=True)
        ]
        out["reward"] = rows["reward"] + np.array(gains)
        return self.mirror_image(out) if rng.random() < 0.5 else out

    @property
    def marker(self) -> tuple[Sequence[float], float]:
        return self.goal_at(self.control_step * self.control_dt)[0], 0.03


def _shifted(rows: NDArray[Any], layout: Layout, prefix: str, shift: NDArray[np.float64]) -> NDArray[Any]:
    """Observations [E, n], or stacks of frames [E, k n], with the goal elsewhere by `shift` [E, 3] (m, ground)."""
    frames = rows.reshape(len(rows), -1, layout.size).copy()
    sine, cosine = np.moveaxis(frames[..., layout.slices[f"{prefix}heading"]], -1, 0)
    x, y, z = (shift[:, i, None] for i in range(3))
    moved = np.stack([cosine * x + sine * y, cosine * y - sine * x, np.broadcast_to(z, sine.shape)], axis=-1)
    for field in ("goal_from_base", "goal_ahead"):
        if (where := layout.slices.get(prefix + field)) is not None:
            frames[..., where] += np.tile(moved, (where.stop - where.start) // 3)
    return frames.reshape(rows.shape)


CRAZYFLIE = Rotors(
    place={
        "front_left": (0.0325, 0.0325),
        "front_right": (0.0325, -0.0325),
        "rear_left": (-0.0325, 0.0325),
        "rear_right": (-0.0325, -0.0325),
    },
    spin={"front_left": 1.0, "front_right": -1.0, "rear_left": -1.0, "rear_right": 1.0},
    max_thrust=0.16,  # Foerster 2015: 0.1597 N at full input
    torque_ratio=0.005964552,  # Foerster 2015
    lag=0.05,
    drag=0.007,  # Foerster 2015: 9.2e-7 kg/rad times the sum of the rotors' speeds, near hover
    inertia=(16.571710e-6, 16.655602e-6, 29.261652e-6),
    rate_gains=((40.0, 100.0, 1.0), (40.0, 100.0, 1.0), (10.0, 20.0, 0.0)),  # damping ratio 0.7 with the nominal lag
)


class QuadrotorHover(Quadrotor):
    """A Crazyflie flies to a point and stays there, heading along the ground's x."""

    robot = catalog.crazyflie()
    rotors = CRAZYFLIE
    horizon = 300
    settle = 4.0
    goals: ClassVar = {"goal": ROOM}
    limits_of_means: ClassVar = {"distance": 0.1, "heading": 0.2, "turning": 1.0, "action_change": 0.25}
    story = """Goals are uniform in the same box.
    Success: over the last 2 s it is, in the mean, within 0.1 m of the goal and 0.2 rad of the heading, turns by less
    than 1 rad/s, and its action changes by less than 0.25 an element (root mean square), which rules out shaking."""

    def begin(self, rng: np.random.Generator) -> Sequence[float]:
        self._goal = uniform(rng, *ROOM)
        return uniform(rng, *ROOM)

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """`goal` [3], in m of the ground."""
        self._goal = list(goal["goal"])

    @property
    def goal(self) -> dict[str, Sequence[float]]:
        return {"goal": self._goal}

    def goal_at(self, time: float) -> tuple[Sequence[float], Sequence[float]]:
        return self._goal, (0.0, 0.0, 0.0)


class QuadrotorTrajectory(Quadrotor):
    """A Crazyflie follows a goal that moves, heading along the ground's x."""

    robot = catalog.crazyflie()
    rotors = CRAZYFLIE
    horizon = 500
    settle = 2.0
    ahead = (0.2, 0.4, 0.6)
    middle: ClassVar = (0.0, 0.0, 1.3)  # [m]
    amplitude: ClassVar = ((0.5, 0.5, 0.1), (1.0, 1.0, 0.3))  # [m] low, high
    frequency: ClassVar = ((0.1, 0.1, 0.1), (0.25, 0.25, 0.25))  # [Hz] low, high
    goals: ClassVar = {"amplitude": amplitude, "frequency": frequency}
    limits_of_means: ClassVar = {"distance": 0.12, "heading": 0.2, "turning": 1.5, "action_change": 0.25}
    story = """Starts within 0.2 m, along each axis, of where the goal starts, which moves on a Lissajous figure around
    (0, 0, 1.3) m: amplitudes of 0.5-1 m sideways and 0.1-0.3 m upwards, 0.1-0.25 Hz along each axis, any phase: up to
    2.3 m/s.
    Success: after the first 2 s it is, in the mean, within 0.12 m of the goal and 0.2 rad of the heading, turns by less
    than 1.5 rad/s, and its action changes by less than 0.25 an element (root mean square), which rules out shaking."""

    def begin(self, rng: np.random.Generator) -> Sequence[float]:
        bounds = (self.amplitude, self.frequency, ((0.0,) * 3, (1.0,) * 3))
        self._sizes, self._rates, phases = (uniform(rng, low, high) for low, high in bounds)
        self._turns = [2.0 * math.pi * phase for phase in phases]
        self._draw()
        return [x + off for x, off in zip(self.goal_at(0.0)[0], uniform(rng, (-0.2,) * 3, (0.2,) * 3), strict=True)]

    def _draw(self) -> None:
        rates = [2.0 * math.pi * rate for rate in self._rates]
        self._figure = list(zip(self.middle, self._sizes, rates, self._turns, strict=True))

    def aim(self, goal: Mapping[str, Sequence[float]]) -> None:
        """`amplitude` [3] in m and `frequency` [3] in Hz of the figure, on which the goal goes on from where it is, or
        from as near to there as the new figure comes."""
        now = self.control_step * self.control_dt
        before = [w * now + phase for _, _, w, phase in self._figure]
        heights = [a * math.sin(angle) for a, angle in zip(self._sizes, before, strict=True)]
        self._sizes = list(goal.get("amplitude", self._sizes))
        self._rates = list(goal.get("frequency", self._rates))
        for i, (height, angle) in enumerate(zip(heights, before, strict=True)):
            there = math.asin(min(max(height / self._sizes[i], -1.0), 1.0))
            there = there if math.cos(angle) >= 0.0 else math.pi - there  # the same way
            self._turns[i] = there - 2.0 * math.pi * self._rates[i] * now
        self._draw()

    @property
    def goal(self) -> dict[str, Sequence[float]]:
        return {"amplitude": self._sizes, "frequency": self._rates}

    def goal_at(self, time: float) -> tuple[Sequence[float], Sequence[float]]:
        angles = [w * time + phase for _, _, w, phase in self._figure]
        return (
            [c + a * math.sin(angle) for (c, a, _, _), angle in zip(self._figure, angles, strict=True)],
            [a * w * math.cos(angle) for (_, a, w, _), angle in zip(self._figure, angles, strict=True)],
        )
