"""What the walk of a legged robot needs to know of it, and what follows from that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simtoreal.robots.catalog import Robot
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.model import ModelError, RobotModel
from simtoreal.robots.sensors import ChannelSensor

ALIKE = 1e-3  # of unit axes, and [rad] of standing joints, on both sides
APART = 0.02  # [m] of what should be in the same place on both sides


@dataclass(frozen=True)
class Legs:
    """The legs of a robot whose root link looks along x and has y to its left, z up.

    Attributes:
        names: of the legs, in the order of the robot's feet.
        joints: leg by leg, as many in each, in the order from hip to foot.
        stand: positions of the joints when standing [rad].
        scale: an action of 1 moves the joints' targets by this [rad].
        other_side: leg -> the leg that is its mirror image.
        phase: of each leg +1 if it stands in the clock's first half, -1 if in the second.
        kp, kd, torque: of each joint's drive [N m/rad, N m s/rad, N m at most].
        height: of the root link when an episode starts; `fallen` when it has fallen [m].
        foot_radius: [m].
        power: [W] mean mechanical power of a walk, at most.
    """

    names: tuple[str, ...]
    joints: tuple[str, ...]
    stand: tuple[float, ...]
    scale: tuple[float, ...]
    other_side: Mapping[str, str]
    phase: tuple[float, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    torque: tuple[float, ...]
    height: float
    fallen: float
    foot_radius: float
    power: float

    def __post_init__(self) -> None:
        if not self.names or len(self.joints) % len(self.names):
            raise ValueError(f"{len(self.joints)} joints are not as many for each of {len(self.names)} legs")
        if {*self.other_side} != {*self.names} or any(self.other_side[b] != a for a, b in self.other_side.items()):
            raise ValueError(f"each of the legs {', '.join(self.names)} needs one on the other side, and is that one's")

    @cached_property
    def by_leg(self) -> dict[str, tuple[str, ...]]:
        """The joints of each leg."""
        k = len(self.joints) // len(self.names)
        return {leg: self.joints[i * k : (i + 1) * k] for i, leg in enumerate(self.names)}

    def observation(self, more: Sequence[ChannelSensor] = ()) -> Layout:
        """What the robot's sensors, some of them beside those that all have, and its controller know while it walks."""
        n = len(self.joints)
        return Layout(
            Field("gravity", 3, "-", "base", ("x", "y", "z"), "direction of gravity"),
            Field("angular_velocity", 3, "rad/s", "base", ("x", "y", "z")),
            Field("joint_position", n, "rad", "joint", self.joints),
            Field("joint_velocity", n, "rad/s", "joint", self.joints),
            Field("last_target", n, "rad", "joint", self.joints, "the command given one control step ago"),
            Field("gait_clock", 2, "-", "clock", ("sin", "cos"), "of 2 pi 2.5 Hz t; any phase at the start"),
            Field("velocity_command", 1, "m/s", "base", (), "forward"),
            Field("yaw_rate_command", 1, "rad/s", "base", (), "positive to the left"),
            *(sensor.field() for sensor in more),
        )

    def command(self, robot: Robot) -> CommandLayout:
        """Joint targets around those of standing."""
        ranges = [robot.range(joint) for joint in self.joints]
        return CommandLayout(
            Field("joint_target", len(self.joints), "rad", "joint", self.joints),
            scale=self.scale,
            offset=self.stand,
            low=[low for low, _ in ranges],
            high=[high for _, high in ranges],
            last=("last_target",),
        )

    def rewarded(self) -> Layout:
        """What motion capture, an IMU, foot switches, a power meter and the controller know of a walk."""
        n = len(self.names)
        return Layout(
            Field("base_velocity", 3, "m/s", "base", ("x", "y", "z"), "of the trunk's centre of mass"),
            Field("base_angular_velocity", 3, "rad/s", "base", ("x", "y", "z")),
            Field("gravity", 3, "-", "base", ("x", "y", "z")),
            Field("base_height", 1, "m", "ground"),
            Field("foot_contact", n, "-", "", self.names, "1 while it touches the ground"),
            Field("foot_clearance", n, "m", "ground", self.names),
            Field("foot_slip", n, "m/s", "ground", self.names, "horizontal speed while it touches the ground, else 0"),
            Field(
                "foot_landing",
                n,
                "m/s",
                "ground",
                self.names,
                "mean speed of the step in which it touches down, else 0",
            ),
            Field("power", 1, "W", "", (), "sum over the joints of |torque times velocity|"),
            Field("action_change", 1, "-", "", (), "sum of squares of the change of the action"),
            Field("gait_clock", 2, "-", "clock", ("sin", "cos")),
            Field("velocity_command", 1, "m/s", "base"),
            Field("yaw_rate_command", 1, "rad/s", "base"),
            Field("command_age", 1, "s", "", (), "since the command was given"),
        )


@dataclass(frozen=True)
class Sides:
    """Left and right of a robot: each name -> that of its image in a mirror, for legs, joints and links; and the joints
    whose angle changes sign there."""

    swap: Mapping[str, str]
    turned: tuple[str, ...]


def mirror_cosine(model: RobotModel, joint: str, image: str) -> float:
    """Between the axis of a joint's mirror image and that of `image`, all at zero: 1 where their angles are equal, -1
    where they are opposite."""
    x, y, z = model.axis(joint)  # of a rotation, the part along the mirror changes sides
    return float(np.dot((-x, y, -z), model.axis(image)))


def find_sides(model: RobotModel, legs: Legs) -> Sides:
    """From the tree of joints and their axes.

    Raises:
        ModelError: the legs of both sides are no images of each other, or do not stand as such.
    """
    swap: dict[str, str] = dict(legs.other_side)
    turned = []
    stand = dict(zip(legs.joints, legs.stand, strict=True))
    for leg, other in legs.other_side.items():
        for joint, image in zip(legs.by_leg[leg], legs.by_leg[other], strict=True):
            sign = mirror_cosine(model, joint, image)
            where = f"{model.path}: joints {joint} and {image}"
            here, there = (model.chain(model.joints[name].child, ()).position(()) for name in (joint, image))
            if math.dist((here[0], -here[1], here[2]), there) > APART:
                raise ModelError(f"{where} are no mirror images: they are at {here} and {there} m from the root")
            if abs(abs(sign) - 1.0) > ALIKE:
                raise ModelError(
                    f"{where} are no mirror images: their axes are {model.axis(joint)} and {model.axis(image)}"
                )
            if abs(stand[image] - sign * stand[joint]) > ALIKE:
                raise ModelError(
                    f"{where} do not stand as mirror images: {stand[joint]:g} and {stand[image]:g} rad, where the "
                    f"second should be {round(sign) * stand[joint]:g}"
                )
            swap[joint] = image
            swap.update(_links(model, model.joints[joint].child, model.joints[image].child, legs.joints))
            if sign < 0.0:
                turned.append(joint)
    return Sides(swap, tuple(turned))


def _links(model: RobotModel, one: str, other: str, joints: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """A link, what is fixed to it, and their images, as far as to the next joint."""
    yield one, other
    mine, theirs = (
        [joint.child for joint in model.joints.values() if joint.parent == link and joint.name not in joints]
        for link in (one, other)
    )
    if len(mine) != len(theirs):
        raise ModelError(
            f"{model.path}: links {one} and {other} are no mirror images: {mine} and {theirs} hang on them"
        )
    for a, b in zip(mine, theirs, strict=True):
        yield from _links(model, a, b, joints)
