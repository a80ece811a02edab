"""What a robot file says, checked against its URDF and made into a task of a family."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from simtoreal.randomization.messages import nearest
from simtoreal.randomization.yaml_files import YamlFile
from simtoreal.robot_schema import RobotEntry, WalkEntry
from simtoreal.robots.ballast import MovableMass
from simtoreal.robots.catalog import Drag, Robot
from simtoreal.robots.inspection import inspect_robot
from simtoreal.robots.legs import Legs, find_sides
from simtoreal.robots.model import MOVING, Inertial, ModelError, RobotModel, possible, with_rotor
from simtoreal.robots.motors import ActuatorNetwork, DCMotor
from simtoreal.robots.packages import find_urdf
from simtoreal.robots.sensors import Accelerometer, ChannelSensor, ContactSensor, TorqueSensor, motion_capture
from simtoreal.robots.shapes import ball_radius
from simtoreal.robots.task import Task
from simtoreal.robots.world import GRAVITY

HIP_SHARE = 0.5  # of the other joints' scale, where a leg's first joint moves it sideways
WALK_SCALE = 0.3  # [rad]
FALLEN = 0.58  # of the height at which it stands
TRANSPORT = 2.4  # cost of transport at 0.5 m/s that a walk may have
WALK_SPEED = 0.5  # [m/s]
VIEW = 2.0  # from how many times its arm and pole together a camera looks at a balancer
MOST_PAYLOAD = 2.0  # of the robot's own mass: more was meant to be in grams
NOISE_SHARE = 0.1  # of the largest effort, that a torque reading may be off
ENCODERS = ("joint_position", "joint_velocity")
IDEAL = (0.0, 0.0)  # latency and period [s] of a reading


class DescribedRobot:
    """A robot file with its URDF; everything that does not fit is refused with the line it stands on."""

    def __init__(self, file: YamlFile, path: Path, entry: RobotEntry) -> None:
        self.file, self.path, self.entry = file, path, entry
        if not re.fullmatch(r"[A-Za-z0-9_-]+", entry.robot):
            raise file.error(f"robot: a name of letters, digits, _ and -, got {entry.robot!r}", "robot")
        try:
            self.urdf = find_urdf(entry.urdf, path.parent)
        except FileNotFoundError as error:
            raise file.error(f"urdf: {error}", "urdf") from None
        self.model = model = RobotModel(self.urdf)
        self.joints = entry.joints
        if both := sorted({*self.joints} & {*entry.lock}):
            raise file.error(f"joint {both[0]} is in joints and in lock", "lock")
        for name in (*self.joints, *entry.lock):
            section = "joints" if name in self.joints else "lock"
            if name not in model.joints:
                raise file.error(f"{section}: no joint {name!r}; {nearest(name, model.joints)}", section)
            if model.joints[name].kind not in MOVING:
                raise file.error(f"{section}: joint {name} is {model.joints[name].kind}: it does not move", section)
        for name, joint in model.joints.items():
            if joint.kind in MOVING and name not in self.joints and name not in entry.lock:
                raise file.error(f"joint {name} moves, and is neither in joints nor in lock", "joints")
        for section in ("inertials", "payload", "com"):
            given = getattr(entry, section)
            for link in given if isinstance(given, Mapping) else [] if given is None else [given.link]:
                self.check_link(link, section)
        if entry.payload and entry.payload.most > MOST_PAYLOAD * model.mass:
            most = f"{MOST_PAYLOAD:g} times the robot's {model.mass:.3g} kg at most, got {entry.payload.most:g}"
            raise file.error(f"payload: most: {most}", "payload", "most")
        self._check_bodies()

    def check_link(self, link: str, *where: str) -> None:
        """Is there such a link?"""
        if link not in self.model.links:
            raise self.file.error(f"{where[0]}: no link {link!r}; {nearest(link, self.model.links)}", *where)

    def check_control(self, why: str) -> None:
        """Velocities are not what a family's drives follow."""
        if self.entry.drive.control == "velocity":
            raise self.file.error(f"drive: control: velocity is for reach alone: {why}", "drive", "control")

    def _check_bodies(self) -> None:
        for problem in inspect_robot(self.urdf).problems:
            mended = (problem.repairable and self.entry.repair_inertias) or any(
                problem.element == f"link {link}" for link in self.entry.inertials
            )
            if problem.severity == "error" and not mended:
                cure = "repair_inertias: true makes it the nearest possible one" if problem.repairable else ""
                cure = cure or "the robot file can give it under inertials, or lock the joint"
                raise ModelError(f"{self.urdf}: {problem.element}: {problem.text} ({cure}; see simtoreal inspect)")

    def _inertials(self) -> dict[str, Inertial]:
        out = {link: Inertial(e.mass, e.com, e.inertia) for link, e in self.entry.inertials.items()}
        if self.entry.repair_inertias:
            for link in self.model.links.values():
                if link.name not in out and link.has_inertial and link.mass > 0.0:
                    out[link.name] = possible(self.model.inertial(link.name))
        if self.entry.drive.rotor:
            for name in self.joints:
                joint = self.model.joints[name]
                body = out.get(joint.child) or self.model.inertial(joint.child)
                out[joint.child] = with_rotor(body, self.entry.drive.rotor, joint.axis)
        return out

    def limit(self, joint: str, what: str) -> float:
        """Effort or velocity: what the file says of the joint, then the URDF, then of all joints."""
        own = getattr(self.joints[joint], what)
        found = own or getattr(self.model.joints[joint], what) or getattr(self.entry.drive, what)
        if not found:
            raise self.file.error(
                f"joint {joint}: the URDF has no {what} limit, so give {what} here or in drive", "joints", joint
            )
        return float(found)

    def gains(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """kp and kd of each joint; 0 of what its drive does not need."""
        drive, found = self.entry.drive, []
        needed = () if drive.network else ("kd",) if drive.control == "velocity" else ("kp", "kd")
        idle = "a network drives the joints" if drive.network else "velocities are followed by kd alone"
        for place, entry in (("drive",), drive), *((("joints", name), joint) for name, joint in self.joints.items()):
            if extra := [what for what in ("kp", "kd") if what not in needed and getattr(entry, what) is not None]:
                raise self.file.error(f"{'.'.join(place)}.{extra[0]}: {idle}, so leave it out", *place, extra[0])
        for name, joint in self.joints.items():
            gains = {"kp": joint.kp or drive.kp, "kd": drive.kd if joint.kd is None else joint.kd}
            if missing := [what for what in needed if gains[what] is None]:
                place = ("drive",) if "drive" in self.file.mapping() else ("joints", name)
                why = f"drive.{missing[0]}: is missing, and joint {name} has none of its own"
                raise self.file.error(why, *place)
            found.append((gains["kp"] or 0.0, gains["kd"] or 0.0))
        kps, kds = zip(*found, strict=True)
        return kps, kds

    def range(self, joint: str) -> tuple[float, float]:
        """Of positions."""
        found, own = self.model.joints[joint], self.joints[joint].range
        low, high = own or (found.lower, found.upper)
        ended = found.kind != "continuous" and found.lower < found.upper
        if ended and not (found.lower <= low and high <= found.upper):
            ends = f"{found.lower:g} to {found.upper:g}"
            raise self.file.error(
                f"joints.{joint}.range: from {low:g} to {high:g} leaves the URDF's, {ends}", "joints", joint, "range"
            )
        if low >= high:
            raise self.file.error(
                f"joint {joint}: positions from {low:g} to {high:g} are none; give range here", "joints", joint
            )
        if not low <= self.joints[joint].at <= high:
            raise self.file.error(
                f"joint {joint} starts at {self.joints[joint].at:g}, outside {low:g} to {high:g}", "joints", joint
            )
        return low, high

    def robot(self, *, passive: Sequence[str] = (), **options: Any) -> Robot:
        """For the worlds; nothing drives its `passive` joints, so nothing limits them."""
        entry, inertials = self.entry, self._inertials()
        driven = [joint for joint in self.joints if joint not in passive]
        if entry.com:
            if not any(entry.com.reach):
                raise self.file.error("com: a reach of 0 along each axis moves nothing: leave com out", "com", "reach")
            body = inertials.get(entry.com.link) or self.model.inertial(entry.com.link)
            try:
                MovableMass(body, entry.com.reach).core  # noqa: B018 (is there one?)
            except ModelError as error:
                raise self.file.error(f"com: {error}", "com", "reach") from None
        return Robot(
            name=entry.robot,
            urdf=self.urdf,
            drag={joint: self._drag(joint, passive) for joint in self.joints},
            locked=entry.lock,
            inertials=inertials,
            payload={entry.payload.link: entry.payload.point} if entry.payload else {},
            max_payload=entry.payload.most if entry.payload else 0.0,
            com_reach={entry.com.link: entry.com.reach} if entry.com else {},
            ranges={joint: self.range(joint) for joint in driven},
            efforts={joint: self.limit(joint, "effort") for joint in driven},
            velocities={joint: self.limit(joint, "velocity") for joint in driven},
            joints=tuple(self.joints),
            actuator=self._actuator(),
            **options,
        )

    def _actuator(self) -> DCMotor | ActuatorNetwork | None:
        motor, network, n = self.entry.drive.motor, self.entry.drive.network, len(self.joints)
        if motor and network:
            raise self.file.error("drive: a motor or a network, not both", "drive")
        if self.entry.drive.control == "velocity" and (motor or network):
            raise self.file.error(
                f"drive: a {'motor' if motor else 'network'} follows positions: control: velocity is without it",
                *("drive", "control"),
            )
        if network:
            from simtoreal.actuator_files import load_actuator  # brings onnxruntime along

            try:
                return load_actuator(self.path.parent / network.file, network.lags, n)
            except ValueError as error:
                raise self.file.error(f"drive.network: {error}", "drive", "network") from None
        return DCMotor((motor.stall,) * n, (motor.speed,) * n, motor.voltage) if motor else None

    def sensors(
        self, more: Mapping[str, Sequence[ChannelSensor]], needed: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """What the file says of the robot's sensors, as attributes of a task.

        Args:
            more: kinds that may be observed besides what all of the family are.
            needed: kinds that all have to have, and what is observed of each.
        """
        given = self.entry.sensors
        if given is None:
            return {}
        for kind, fields in needed.items():
            if kind not in given:
                raise self.file.error(
                    f"sensors: no sensor of this robot gives {' and '.join(fields)}, which is observed: add {kind}",
                    "sensors",
                )
        if strange := [kind for kind in given if kind not in needed and kind not in more]:
            choices = ", ".join([*needed, *more])
            raise self.file.error(f"sensors: {strange[0]} is none of {choices}", "sensors", strange[0])
        own = {"encoders": dict.fromkeys(needed["encoders"], IDEAL), "imu": {"imu": IDEAL}}
        own |= {kind: {part.name: (part.latency, part.period) for part in parts} for kind, parts in more.items()}
        timings = {name: entry.timing(*at) for kind, entry in given.items() if entry for name, at in own[kind].items()}
        seen = tuple(part for kind, parts in more.items() if kind in given for part in parts)
        return {"more_sensors": seen, "timings": timings}

    def torque_sensor(self) -> TorqueSensor:
        """Of all driven joints."""
        most = max(self.limit(joint, "effort") for joint in self.joints)
        return TorqueSensor(tuple(self.joints), NOISE_SHARE * most, NOISE_SHARE * most)

    def _drag(self, joint: str, passive: Sequence[str]) -> Drag:
        found = self.model.joints[joint]
        mover = joint if joint not in passive else next(name for name in self.joints if name not in passive)
        damping, friction = self.entry.drive.damping, 0.1 * self.limit(mover, "effort")
        most = max(1.0, 4.0 * damping, friction / 10)
        return Drag(damping, most, 0.0, friction, found.damping_unit, found.force_unit)


def sources_of(robot: Robot) -> dict[str, Path]:
    """The files that a robot is made of, beside the robot file."""
    learned = isinstance(robot.actuator, ActuatorNetwork) and robot.actuator.source
    return {"urdf": robot.urdf, **({"network": learned} if learned else {})}


def _check_legs(of: DescribedRobot, entry: WalkEntry) -> int:
    """Is each leg a chain of so many of the joints, in their order, from the root to its foot? How many that are."""
    file, model, joints = of.file, of.model, list(of.joints)
    for leg, foot in entry.legs.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", leg) or leg in ("x", "y", "z", *model.joints, *model.links):
            raise file.error(f"walk: a leg needs a name of its own, of letters and digits, not {leg!r}", "walk", "legs")
        of.check_link(foot, "walk", "legs", leg)
    for leg in (*entry.other_side, *entry.other_side.values(), *entry.together):
        if leg not in entry.legs:
            raise file.error(f"walk: no leg {leg!r}; {nearest(leg, entry.legs)}", "walk")
    per_leg, rest = divmod(len(joints), len(entry.legs))
    if rest:
        raise file.error(f"walk: {len(joints)} joints are not as many for each of {len(entry.legs)} legs", "walk")
    for i, (leg, foot) in enumerate(entry.legs.items()):
        mine, way = joints[i * per_leg : (i + 1) * per_leg], [name for name in model.way(foot) if name in joints]
        if mine != way:
            raise file.error(
                f"walk: by the order of joints leg {leg} has {', '.join(mine)}, but on the way to {foot} are "
                f"{', '.join(way) or 'none'}",
                *("walk", "legs", leg),
            )
    if entry.scale is not None and len(entry.scale) != per_leg:
        raise file.error(f"walk: scale is of one leg's {per_leg} joints, got {len(entry.scale)}", "walk", "scale")
    for leg, other in entry.other_side.items():
        if (leg in entry.together) == (other in entry.together):
            raise file.error(f"walk: of {leg} and {other} one must be in together: they take turns", "walk", "together")
    return per_leg


def _walk(of: DescribedRobot) -> type[Task]:
    from simtoreal.robots.tasks.walk import Walk

    entry, file, model = of.entry.walk, of.file, of.model
    assert entry is not None
    per_leg = _check_legs(of, entry)
    feet = tuple(entry.legs.values())
    joints, at = tuple(of.joints), tuple(joint.at for joint in of.joints.values())
    scale = entry.scale or tuple(WALK_SCALE * (HIP_SHARE if i == 0 else 1.0) for i in range(per_leg))
    radius = entry.foot_radius or ball_radius(model, feet[0])
    if not radius:
        raise file.error(f"walk: link {feet[0]} has no ball to stand on, so give foot_radius", "walk")
    height = entry.height or radius - min(model.chain(foot, joints).position(at)[2] for foot in feet)
    fallen = entry.fallen or FALLEN * height
    if not max(fallen, radius) < height:
        raise file.error(
            f"walk: fallen ({fallen:.3g}) and foot_radius ({radius:.3g}) must be below the height, {height:.3g} m",
            "walk",
        )
    mass = model.mass
    kp, kd = of.gains()
    robot = of.robot(floating=True, feet=feet)
    try:
        legs = Legs(
            names=tuple(entry.legs),
            joints=joints,
            stand=at,
            scale=scale * len(feet),
            other_side=entry.other_side | {other: leg for leg, other in entry.other_side.items()},
            phase=tuple(1.0 if leg in entry.together else -1.0 for leg in entry.legs),
            kp=kp,
            kd=kd,
            torque=tuple(robot.effort(joint) for joint in joints),
            height=height,
            fallen=fallen,
            foot_radius=radius,
            power=entry.power or TRANSPORT * mass * GRAVITY * WALK_SPEED,
        )
        find_sides(model, legs)
    except ValueError as error:
        raise file.error(f"walk: {error}", "walk") from None
    name = of.entry.robot
    of.check_control("a walker's joints follow positions")
    more = {
        "foot_contact": (ContactSensor(tuple(entry.legs)),),
        "accelerometer": (Accelerometer(),),
        "joint_torque": (of.torque_sensor(),),
        "motion_capture": motion_capture(),
    }
    needed = {"encoders": ENCODERS, "imu": ("gravity", "angular_velocity")}
    body = {
        "robot": robot,
        "legs": legs,
        **of.sensors(more, needed),
        "__doc__": f"{name} walks forward and turns as commanded.",
    }
    return type(f"{name}Walk", (Walk,), body)


def _reach(of: DescribedRobot) -> type[Task]:
    from simtoreal.robots.tasks.reach import Arm, Reach

    entry, file = of.entry.reach, of.file
    assert entry is not None
    of.check_link(entry.tool, "reach", "tool")
    if idle := [name for name in of.joints if name not in of.model.way(entry.tool)]:
        raise file.error(f"reach: joint {idle[0]} does not move the tool {entry.tool}: lock it", "reach", "tool")
    if not all(low < high for low, high in zip(entry.low, entry.high, strict=True)):
        raise file.error(f"reach: the goals' box from {entry.low} to {entry.high} is empty", "reach")
    kp, kd = of.gains()
    shoulder, most = of.model.reach(entry.tool)
    for corner in product(*zip(entry.low, entry.high, strict=True)):
        if (far := math.dist(corner, shoulder)) > most:
            where = f"the goals' corner {list(corner)} is {far:.3g} m from joint {next(iter(of.joints))}"
            raise file.error(f"reach: {where}, the tool never more than {most:.3g} m", "reach")
    home = tuple(joint.at for joint in of.joints.values())
    arm = Arm(tuple(of.joints), entry.tool, home, kp, kd, entry.low, entry.high, of.entry.drive.control)
    name = of.entry.robot
    document = f"{name} on a table brings its tool to a goal and keeps it there."
    seen = of.sensors({"joint_torque": (of.torque_sensor(),)}, {"encoders": ENCODERS})
    return type(f"{name}Reach", (Reach,), {"robot": of.robot(table=True), "arm": arm, **seen, "__doc__": document})


def _balance(of: DescribedRobot) -> type[Task]:
    from simtoreal.robots.tasks.balance import Balance, Balancer
    from simtoreal.robots.tasks.cartpole import CART

    entry, file, model = of.entry.balance, of.file, of.model
    assert entry is not None
    for what in ("driven", "pole"):
        name = getattr(entry, what)
        if name not in of.joints:
            raise file.error(f"balance: no joint {name!r} in joints; {nearest(name, of.joints)}", "balance", what)
    if {entry.driven, entry.pole} != {*of.joints}:
        idle = next(name for name in of.joints if name not in (entry.driven, entry.pole))
        raise file.error(f"balance: joint {idle} is neither driven nor the pole's: lock it", "balance")
    if entry.driven not in model.way(model.joints[entry.pole].child)[:-1]:
        raise file.error(f"balance: {entry.pole} does not hang on {entry.driven}", "balance", "pole")
    if model.joints[entry.pole].kind == "prismatic":
        raise file.error(f"balance: {entry.pole} slides: a pole swings", "balance", "pole")
    of.check_control("a balancer's joint is driven by force or torque")
    driven, name = of.joints[entry.driven], of.entry.robot
    low, high = of.range(entry.driven)
    if not low <= driven.at - entry.room < driven.at + entry.room <= high:
        ends = f"from {low:g} to {high:g}"
        raise file.error(
            f"balance: room {entry.room:g} beside {driven.at:g} leaves joint {entry.driven}'s range, {ends}",
            "balance",
            "room",
        )
    balancer = Balancer(
        entry.driven,
        entry.pole,
        effort=of.limit(entry.driven, "effort"),
        room=entry.room,
        middle=driven.at,
        upright=of.joints[entry.pole].at,
        linear=model.joints[entry.driven].kind == "prismatic",
    )
    seen = of.sensors({}, {"encoders": [sensor.name for sensor in balancer.sensors()]})
    pole = model.joints[entry.pole].child
    x, y, z = model.chain(pole, list(of.joints)).position([joint.at for joint in of.joints.values()])
    size = model.reach(pole)[1] + 2.0 * math.hypot(*model.inertial(pole).com)
    far = max(VIEW * size, Balance.camera.distance / CART.room * entry.room if balancer.linear else 0.0)
    camera = replace(Balance.camera, target=(x, y, z), distance=far)
    body = {"robot": of.robot(passive=(entry.pole,)), "balancer": balancer, "camera": camera, **seen}
    return type(f"{name}Balance", (Balance,), body | {"__doc__": f"{name} holds a pole up, near the middle."})


FAMILIES: dict[str, Callable[[DescribedRobot], type[Task]]] = {"Walk": _walk, "Reach": _reach, "Balance": _balance}
"""What a robot file can make of a robot."""
