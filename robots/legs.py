"""What the walk of a legged robot needs to know of it, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simtoreal.robots.catalog import Robot
from simtoreal.robots.layout import CommandLayout, Field, Layout


@dataclass(frozen=True)
class Legs:
    """The legs of a robot, all alike; everything of a joint is in the order hip to foot, joints and feet leg by leg.

    Attributes:
        names: of the legs; joints carry them as a whole word, up to an underscore.
        joints: the names of all their joints.
        stand: joint positions [rad] of one leg when standing.
        scale: an action of 1 moves the targets of one leg's joints by this [rad].
        mirror_sign: of each joint of one leg when left and right are swapped, -1 where its angle changes sign.
        mirror_leg: leg -> the leg on the other side.
        phase: of each leg +1 if it stands in the clock's first half, -1 if in the second.
        kp, kd, torque: of every joint's drive [N m/rad, N m s/rad, N m at most].
        height: of the root link when an episode starts; `fallen` when it has fallen [m].
        foot_radius: [m].
        power: [W] mean mechanical power of a walk, at most.
    """

    names: tuple[str, ...]
    joints: tuple[str, ...]
    stand: tuple[float, ...]
    scale: tuple[float, ...]
    mirror_sign: tuple[float, ...]
    mirror_leg: Mapping[str, str]
    phase: tuple[float, ...]
    kp: float
    kd: float
    torque: float
    height: float
    fallen: float
    foot_radius: float
    power: float

    def __post_init__(self) -> None:
        if len(self.joints) != len(self.names) * len(self.stand):
            raise ValueError(f"{len(self.names)} legs of {len(self.stand)} joints need as many, not {len(self.joints)}")

    @property
    def standing(self) -> tuple[float, ...]:
        """The positions of all joints when standing [rad]."""
        return self.stand * len(self.names)

    @property
    def turned(self) -> list[str]:
        """The joints whose angle changes sign in a mirror."""
        signs = self.mirror_sign * len(self.names)
        return [joint for joint, sign in zip(self.joints, signs, strict=True) if sign < 0]

    def observation(self) -> Layout:
        """What the robot's sensors and its controller know while it walks."""
        n = len(self.joints)
        return Layout(
            Field("gravity", 3, "-", "base", ("x", "y", "z"), "direction of gravity, from the IMU"),
            Field("angular_velocity", 3, "rad/s", "base", ("x", "y", "z"), "gyro"),
            Field("joint_position", n, "rad", "joint", self.joints),
            Field("joint_velocity", n, "rad/s", "joint", self.joints),
            Field("last_target", n, "rad", "joint", self.joints, "the command given one control step ago"),
            Field("gait_clock", 2, "-", "clock", ("sin", "cos"), "of 2 pi 2.5 Hz t; any phase at the start"),
            Field("velocity_command", 1, "m/s", "base", (), "forward"),
            Field("yaw_rate_command", 1, "rad/s", "base", (), "positive to the left"),
        )

    def command(self, robot: Robot) -> CommandLayout:
        """Joint targets around those of standing."""
        ranges = [robot.range(joint) for joint in self.joints]
        return CommandLayout(
            Field("joint_target", len(self.joints), "rad", "joint", self.joints),
            scale=self.scale * len(self.names),
            offset=self.standing,
            low=[low for low, _ in ranges],
            high=[high for _, high in ranges],
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
            Field("power", 1, "W", "", (), "sum over the joints of |torque times velocity|"),
            Field("action_change", 1, "-", "", (), "sum of squares of the change of the action"),
            Field("gait_clock", 2, "-", "clock", ("sin", "cos")),
            Field("velocity_command", 1, "m/s", "base"),
            Field("yaw_rate_command", 1, "rad/s", "base"),
            Field("command_age", 1, "s", "", (), "since the command was given"),
        )
