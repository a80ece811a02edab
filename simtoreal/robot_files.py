"""Your own robot: a `robot.yaml` beside its URDF makes it a task of a family, without Python.

    robot: spirit
    urdf: spirit40.urdf                 # a path from this file
    joints:                             # those that are driven, with their position at the start of an episode [rad]
      hip: 0.0                          # or {at: 0.0, kp: 60, kd: 2, effort: 40, velocity: 20, range: [-1, 1]}
    drive: {kp: 60, kd: 2}              # of every joint that says nothing else
    walk: {legs: {FR: toe0, FL: toe1}, other_side: {FR: FL}, together: [FR]}    # or reach: {tool: hand, ...}

A task of it is called `FILE:Walk`, wherever a task is named; `--robot FILE` before a family says the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simtoreal.randomization.messages import nearest
from simtoreal.randomization.yaml_files import YamlFile, read_yaml
from simtoreal.robot_schema import RobotEntry, WalkEntry
from simtoreal.robots.catalog import Drag, Robot
from simtoreal.robots.inspection import inspect_robot
from simtoreal.robots.legs import Legs, find_sides
from simtoreal.robots.model import MOVING, Inertial, ModelError, RobotModel, possible, with_rotor
from simtoreal.robots.shapes import ball_radius
from simtoreal.robots.task import Task
from simtoreal.robots.world import GRAVITY

GROUP = "simtoreal.robots"  # of entry points: name -> a robot file's path, or a function that returns it
SUFFIXES = (".yaml", ".yml")
HIP_SHARE = 0.5  # of the other joints' scale, where a leg's first joint moves it sideways
WALK_SCALE = 0.3  # [rad]
FALLEN = 0.58  # of the height at which it stands
TRANSPORT = 2.4  # cost of transport at 0.5 m/s that a walk may have
WALK_SPEED = 0.5  # [m/s]


def find_robot_file(name: str) -> Path:
    """The file a user means: a path (it has a separator or ends in .yaml), else the name of an installed robot.

    Raises:
        FileNotFoundError: no such file or robot.
    """
    if "/" in name or name.endswith((*SUFFIXES, ".urdf")):
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such robot file")
        if path.suffix not in SUFFIXES:
            raise FileNotFoundError(f"{path}: not a robot file (.yaml); simtoreal inspect URDF --write makes one")
        return path.absolute()
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name not in installed:
        known = nearest(name, installed) if installed else "none is installed"
        raise FileNotFoundError(f"no robot {name!r}, and no path of a .yaml file; {known}")
    found = installed[name].load()
    return Path(found() if callable(found) else found).absolute()


def task_of_file(path: Path, family: str) -> type[Task]:
    """The task of a robot file, the same as long as the file is; `family` is one of `FAMILIES`.

    Raises:
        ConfigFileError: the file is not as above, or the robot is none of the family; with the file and line.
        ModelError: its URDF cannot be used.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such robot file; where it lies elsewhere now, name it with --robot FILE")
    return _made(path, family, path.stat().st_mtime_ns)


@lru_cache
def _made(path: Path, family: str, version: int) -> type[Task]:
    file = read_yaml(path)
    try:
        entry = RobotEntry.model_validate(file.mapping())
    except ValidationError as error:
        first = error.errors()[0]
        where = [part for part in first["loc"] if not str(part).endswith(("Entry", "float"))]
        what = "is missing" if first["type"] == "missing" else f"{first['msg']}, got {first['input']!r}"
        known = where[:-1] if first["type"] in ("missing", "extra_forbidden") else where
        raise file.error(f"{'.'.join(map(str, where))}: {what}", *_within(file, known)) from None
    if getattr(entry, family.lower()) is None:
        raise file.error(f"this robot is no {family}: there is no section {family.lower()}")
    return FAMILIES[family](_Robot(file, path, entry))


def _within(file: YamlFile, where: list[Any]) -> list[Any]:
    """As much of a place as the file has."""
    found: list[Any] = []
    data: Any = file.mapping()
    for part in where:
        if not (isinstance(data, Mapping) and part in data):
            break
        found.append(part)
        data = data[part]
    return found


class _Robot:
    """A robot file with its URDF; everything that does not fit is refused with the line it stands on."""

    def __init__(self, file: YamlFile, path: Path, entry: RobotEntry) -> None:
        self.file, self.entry = file, entry
        if not re.fullmatch(r"[A-Za-z0-9_-]+", entry.robot):
            raise file.error(f"robot: a name of letters, digits, _ and -, got {entry.robot!r}", "robot")
        self.urdf = Path(os.path.normpath(path.parent / entry.urdf))
        if "\0" in entry.urdf or not self.urdf.is_file():
            raise file.error(f"urdf: no such file: {str(self.urdf)!r}", "urdf")
        self.model = model = RobotModel(self.urdf)
        self.joints = entry.driven()
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
        self._check_bodies()

    def check_link(self, link: str, *where: str) -> None:
        """Is there such a link?"""
        if link not in self.model.links:
            raise self.file.error(f"{where[0]}: no link {link!r}; {nearest(link, self.model.links)}", *where)

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

    def range(self, joint: str) -> tuple[float, float]:
        """Of positions."""
        found, own = self.model.joints[joint], self.joints[joint].range
        low, high = own or (found.lower, found.upper)
        if low >= high:
            raise self.file.error(
                f"joint {joint}: positions from {low:g} to {high:g} are none; give range here", "joints", joint
            )
        if not low <= self.joints[joint].at <= high:
            raise self.file.error(
                f"joint {joint} starts at {self.joints[joint].at:g}, outside {low:g} to {high:g}", "joints", joint
            )
        return low, high

    def robot(self, **options: Any) -> Robot:
        """For the worlds."""
        entry = self.entry
        return Robot(
            name=entry.robot,
            urdf=self.urdf,
            drag={joint: self._drag(joint) for joint in self.joints},
            locked=entry.lock,
            inertials=self._inertials(),
            payload={entry.payload.link: entry.payload.point} if entry.payload else {},
            max_payload=entry.payload.most if entry.payload else 0.0,
            com_reach={entry.com.link: entry.com.reach} if entry.com else {},
            ranges={joint: self.range(joint) for joint in self.joints},
            efforts={joint: self.limit(joint, "effort") for joint in self.joints},
            velocities={joint: self.limit(joint, "velocity") for joint in self.joints},
            joints=tuple(self.joints),
            **options,
        )

    def _drag(self, joint: str) -> Drag:
        found = self.model.joints[joint]
        damping, friction = self.entry.drive.damping, 0.1 * self.limit(joint, "effort")
        most = max(1.0, 4.0 * damping, friction / 10)
        return Drag(damping, most, 0.0, friction, found.damping_unit, found.force_unit)


def _check_legs(of: _Robot, entry: WalkEntry) -> int:
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


def _walk(of: _Robot) -> type[Task]:
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
    mass = sum(link.mass for link in model.links.values())
    kp, kd = of.entry.gains()
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
    body = {"robot": robot, "legs": legs, "__doc__": f"{name} walks forward and turns as commanded."}
    return type(f"{name}Walk", (Walk,), body)


def _reach(of: _Robot) -> type[Task]:
    from simtoreal.robots.tasks.reach import Arm, Reach

    entry, file = of.entry.reach, of.file
    assert entry is not None
    of.check_link(entry.tool, "reach", "tool")
    if idle := [name for name in of.joints if name not in of.model.way(entry.tool)]:
        raise file.error(f"reach: joint {idle[0]} does not move the tool {entry.tool}: lock it", "reach", "tool")
    if not all(low < high for low, high in zip(entry.low, entry.high, strict=True)):
        raise file.error(f"reach: the goals' box from {entry.low} to {entry.high} is empty", "reach")
    kp, kd = of.entry.gains()
    home = tuple(joint.at for joint in of.joints.values())
    arm = Arm(tuple(of.joints), entry.tool, home, kp, kd, entry.low, entry.high)
    name = of.entry.robot
    document = f"{name} on a table brings its tool to a goal and keeps it there."
    return type(f"{name}Reach", (Reach,), {"robot": of.robot(table=True), "arm": arm, "__doc__": document})


FAMILIES: dict[str, Callable[[_Robot], type[Task]]] = {"Walk": _walk, "Reach": _reach}
"""What a robot file can make of a robot."""


def split_task(task: str) -> tuple[Path, str] | None:
    """The robot file and the family of a task that is called `FILE:Family`; None for any other task."""
    file, colon, family = task.rpartition(":")
    return (Path(file), family) if colon and file.endswith(SUFFIXES) else None


def name_task(task: str, robot: str | None) -> str:
    """The full name of a task that may be a family of a robot file.

    Raises:
        FileNotFoundError: no such robot file; ValueError: a family without a robot, or a robot for no family.
    """
    if robot is not None:
        family = split_task(task)[1] if split_task(task) else task  # type: ignore[index]
        if family not in FAMILIES:
            raise ValueError(f"--robot makes a robot file a {' or a '.join(FAMILIES)}, not a {task}")
        return f"{find_robot_file(robot)}:{family}"
    if (found := split_task(task)) is not None:
        if found[1] not in FAMILIES:
            raise ValueError(f"{task}: no family {found[1]!r}; {nearest(found[1], FAMILIES)}")
        return f"{found[0].absolute()}:{found[1]}"
    if task in FAMILIES:
        raise ValueError(f"{task} is what a robot file makes of a robot: name one with --robot FILE")
    return task


def fingerprint(task: str) -> dict[str, str]:
    """What tells a robot file's robot from a later version of it: sha256 of the file and of its URDF; empty for any
    other task."""
    found = split_task(task)
    if found is None:
        return {}
    made = task_of_file(*found)
    return {
        kind: sha256(path.read_bytes()).hexdigest() for kind, path in (("file", found[0]), ("urdf", made.robot.urdf))
    }


def check_version(task: str, trained: Mapping[str, str] | None, run: Path) -> None:
    """Raises ValueError where a run's robot is no longer the one it was trained on."""
    if trained is not None and trained != fingerprint(task):
        raise ValueError(f"{run} was trained on another version of {task.rpartition(':')[0]} or of its URDF")


def installed_robots() -> Iterator[str]:
    """Names of robots that other packages install."""
    yield from sorted(point.name for point in entry_points(group=GROUP))
