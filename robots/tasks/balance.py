"""Keep a pole up that swings freely on what is driven: one task family, robots as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from simtoreal.robots.actuators import Drive, ForceDrive
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.sensors import JointSensor, timed
from simtoreal.robots.streams import uniform
from simtoreal.robots.task import Task
from simtoreal.robots.task_definition import Start
from simtoreal.robots.world import Camera, State

UPRIGHT = math.radians(12.0)  # [rad]


@dataclass(frozen=True)
class Balancer:
    """A robot with two moving joints: one is driven, and on it a pole swings freely.

    Attributes:
        driven, pole: the joints.
        effort: at most, of the driven joint [N or N m].
        room: how far the driven joint may go to each side of `middle` [m or rad].
        middle, upright: positions of the joints at which the driven one is in the middle and the pole stands.
        names: what the driven part and the pole are called in observations.
        linear: does the driven joint slide?
    """

    driven: str
    pole: str
    effort: float
    room: float
    middle: float = 0.0
    upright: float = 0.0
    names: tuple[str, str] = ("drive", "pole")
    linear: bool = True

    @property
    def command(self) -> Field:
        """What a policy commands."""
        what, unit = ("force", "N") if self.linear else ("torque", "N m")
        return Field(what, 1, unit, "track", (self.driven,))

    @property
    def last(self) -> Field:
        """The same as it is observed."""
        what, unit = self.command.name, self.command.unit
        return Field(f"last_{what}", 1, unit, "track", description="the command given one control step ago")

    @property
    def position_unit(self) -> str:
        """Of the driven joint."""
        return "m" if self.linear else "rad"

    def sensors(self) -> tuple[JointSensor, ...]:
        """An encoder and a tachometer on each joint."""
        part, pole, unit = *self.names, self.position_unit
        return (
            JointSensor(f"{part}_position", "position", (self.driven,), unit, 0.05, 0.1),
            JointSensor(f"{part}_velocity", "velocity", (self.driven,), f"{unit}/s", 0.5, 0.1),
            JointSensor(f"{pole}_angle", "position", (self.pole,), "rad", 0.2, 0.2),
            JointSensor(f"{pole}_velocity", "velocity", (self.pole,), "rad/s", 1.0, 0.2),
        )


class Pole(Task):
    """A pole on something driven; what to do with it, a family of tasks says."""

    balancer: ClassVar[Balancer]
    physics_dt = 0.004
    control_dt = 0.02
    horizon = 500
    success_hold = 2.0
    velocity_bound = 60.0  # 24 is the fastest a policy gets at a cart-pole's bounds; Bullet cuts speeds at 100
    camera = Camera(target=(0.0, 0.0, 0.1), distance=3.4, yaw=0.0, pitch=-10.0)
    _last_command: float

    def __init_subclass__(cls, **options: Any) -> None:
        """What follows from a balancer, in the class that names it, where that does not say something else."""
        super().__init_subclass__(**options)
        if "balancer" in vars(cls):
            for name, value in cls.following(cls.balancer).items():
                if name not in vars(cls):
                    setattr(cls, name, value)

    @classmethod
    def following(cls, balancer: Balancer) -> dict[str, Any]:
        """The attributes of a class with this balancer."""
        (part, pole), field = balancer.names, balancer.command
        most = balancer.effort
        return {
            "commanded_joints": (balancer.driven,),
            "command_layout": CommandLayout(field, scale=[most], low=[-most], high=[most]),
            "reward_layout": Layout(
                Field(f"{part}_position", 1, balancer.position_unit, "track"),
                Field(f"{pole}_angle", 1, "rad", "track"),
                Field(f"{pole}_velocity", 1, "rad/s", "track"),
                Field(f"{field.name}_change", 1, field.unit, "track", description="the command less the one before"),
            ),
            "sensors": timed(balancer.sensors(), cls.timings),
        }

    def make_drive(self) -> Drive:
        balancer, joints = self.balancer, list(self.world.joints)
        self._driven, self._pole = joints.index(balancer.driven), joints.index(balancer.pole)
        return ForceDrive(joints, (balancer.driven,), (balancer.effort,))

    def signals(self, state: State) -> dict[str, Sequence[float]]:
        balancer, (part, pole) = self.balancer, self.balancer.names
        q, qd = state
        (command,) = self._command
        change = command - (self._last_command if self.control_step > 1 else 0.0)
        self._last_command = float(np.float32(command))  # as an observation has it
        return {
            f"{part}_position": (q[self._driven] - balancer.middle,),
            f"{pole}_angle": (math.remainder(q[self._pole] - balancer.upright, 2 * math.pi),),
            f"{pole}_velocity": (qd[self._pole],),
            f"{balancer.command.name}_change": (change,),
        }

    def begin(self, position: Sequence[float], velocity: Sequence[float]) -> Start:
        """An episode that starts there: of the driven joint from its middle, of the pole from upright."""
        order = sorted((0, 1), key=(self._driven, self._pole).__getitem__)
        q = position[0] + self.balancer.middle, position[1] + self.balancer.upright
        return Start([q[i] for i in order], [velocity[i] for i in order], (0.0,))


DOCUMENT = """

    50 Hz control over 250 Hz physics, 10 s. `{driven}` starts within {start:g} {unit} of its middle and {speed:g}
    {unit}/s, `{pole}` within 0.08 rad of upright and 0.2 rad/s. Success: the pole has stayed up to the end, and for the
    last 2 s `{driven}` has been within {near:g} {unit} of the middle.

    Observation ({size}):

{table}

    Action (1): {force} = {most:g} {force_unit} * a, a in [-1, 1]. Command: `{force}` [{force_unit}].

    Reward per step, x the driven joint's place: `up` = 0.5, `centred` = 0.5 / (1 + (x / {start:g} {unit})^2), `effort`
    = -0.01 a^2 and `smooth` = -0.05 (change of a)^2: without it, policies that succeed hold the pole by chattering.
    Terminates, as a failure, when the pole leans by more than 12 degrees or the driven joint is farther than {room:g}
    {unit} from its middle. Truncates after 500 steps.
    """


class Balance(Pole):
    """A pole stands near upright; hold it up, and what it is on near the middle. A robot of the family names `robot`
    and `balancer`, and what it is in the first line of its document; the rest of that follows."""

    lowest_reward = 0.0  # of a pole that falls at once there are no more steps

    def __init_subclass__(cls, **options: Any) -> None:
        """What follows from the balancer, where a class does not say something else."""
        super().__init_subclass__(**options)
        if "balancer" in vars(cls) and cls.__doc__ is not None and "\n" not in cls.__doc__:
            balancer, layout, field = cls.balancer, cls.observation_layout, cls.balancer.command
            cls.__doc__ += DOCUMENT.format(
                **vars(balancer) | {"unit": balancer.position_unit, "near": cls.near(), "start": 0.15 * balancer.room},
                speed=0.1 * balancer.room,
                size=layout.size,
                table=layout.table("    "),
                force=field.name,
                force_unit=field.unit,
                most=balancer.effort,
            )

    @classmethod
    def following(cls, balancer: Balancer) -> dict[str, Any]:
        (part, pole), unit = balancer.names, balancer.position_unit
        layout = Layout(
            Field(f"{part}_position", 1, unit, "track"),
            Field(f"{part}_velocity", 1, f"{unit}/s", "track"),
            Field(f"{pole}_angle", 1, "rad", "track"),
            Field(f"{pole}_velocity", 1, "rad/s", "track"),
            balancer.last,
        )
        return super().following(balancer) | {"observation_layout": layout}

    @classmethod
    def near(cls) -> float:
        """How far from the middle still counts as in it [m or rad]."""
        return 0.25 * cls.balancer.room

    def start(self, rng: np.random.Generator) -> Start:
        room = self.balancer.room
        most = (0.15 * room, 0.1 * room, 0.08, 0.2)
        x, speed, lean, spin = uniform(rng, [-number for number in most], most)
        return self.begin((x, lean), (speed, spin))

    def observe(self, readings: Mapping[str, Any], command: Sequence[float]) -> dict[str, Any]:
        balancer, (part, pole) = self.balancer, self.balancer.names
        (x,), (angle,) = readings[f"{part}_position"], readings[f"{pole}_angle"]
        return {
            **readings,
            f"{part}_position": (x - balancer.middle,),
            f"{pole}_angle": (angle - balancer.upright,),
            balancer.last.name: command,
        }

    @classmethod
    def reward_terms(cls, signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [1] in [-1, 1]."""
        (a,), balancer = action, cls.balancer
        change = signals[f"{balancer.command.name}_change"][0] / balancer.effort
        return {**cls.standing(signals), "effort": -0.01 * min(a * a, 1.0), "smooth": -0.05 * change**2}

    @classmethod
    def standing(cls, signals: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """What a pole that stands is worth each control step: 1 in the middle, less farther out."""
        x = signals[f"{cls.balancer.names[0]}_position"][0] / (0.15 * cls.balancer.room)
        return {"up": 0.5, "centred": 0.5 / (1.0 + x**2)}

    @classmethod
    def succeeds(cls, signals: Mapping[str, Sequence[float]]) -> bool:
        return abs(signals[f"{cls.balancer.names[0]}_position"][0]) <= cls.near() and not cls.fails(signals)

    @classmethod
    def fails(cls, signals: Mapping[str, Sequence[float]]) -> bool:
        part, pole = cls.balancer.names
        return abs(signals[f"{pole}_angle"][0]) > UPRIGHT or abs(signals[f"{part}_position"][0]) > cls.balancer.room
