"""Your own robot: a `robot.yaml` beside its URDF makes it a task of a family, without Python.

    robot: spirit
    urdf: spirit40.urdf                 # a path from this file
    joints:                             # those that are driven, with their position at the start of an episode [rad]
      hip: 0.0                          # or {at: 0.0, kp: 60, kd: 2, effort: 40, velocity: 20, range: [-1, 1]}
    drive: {kp: 60, kd: 2}              # of every joint that says nothing else
    walk: {legs: {FR: toe0, FL: toe1}, other_side: {FR: FL}, together: [FR]}    # or reach: {...}, or balance: {...}

A task of it is called `FILE:Walk`, wherever a task is named; `--robot FILE` before a family says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simtoreal.randomization.messages import nearest
from simtoreal.randomization.yaml_files import read_yaml
from simtoreal.robot_making import FAMILIES, DescribedRobot, sources_of
from simtoreal.robot_schema import RobotEntry
from simtoreal.robots.catalog import ASSETS
from simtoreal.robots.task import Task
from simtoreal.schema_messages import first_fault

GROUP = "simtoreal.robots"  # of entry points: name -> a robot file's path, or a function that returns it
SUFFIXES = (".yaml", ".yml")
PARTS = {"file": "the robot file", "urdf": "the URDF", "network": "the actuator's network"}  # of a fingerprint


def find_robot_file(name: str) -> Path:
    """The file a user means: a path (it has a separator or ends in .yaml), else the name of a robot of ours or of an
    installed one.

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
    ours, installed = _ours(), {point.name: point for point in entry_points(group=GROUP)}
    if name in ours:
        return ours[name]
    if name not in installed:
        known = nearest(name, {**ours, **installed})
        raise FileNotFoundError(f"no robot {name!r}, and no path of a .yaml file; {known}")
    found = installed[name].load()
    return Path(found() if callable(found) else found).absolute()


def families(path: Path) -> list[str]:
    """What a robot file makes of its robot, by its sections.

    Raises:
        ConfigFileError: no YAML, or none of these sections.
    """
    file = read_yaml(path)
    if not (found := [family for family in FAMILIES if family.lower() in file.mapping()]):
        raise file.error(f"a robot file has one of the sections {', '.join(FAMILIES).lower()}")
    return found


def task_of_file(path: Path, family: str) -> type[Task]:
    """The task of a robot file, the same as long as the file is; `family` is one of `FAMILIES`.

    Raises:
        ConfigFileError: the file is not as above, or the robot is none of the family; with the file and line.
        ModelError: its URDF cannot be used.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such robot file; where it lies elsewhere now, name it with --robot FILE")
    made, sources = _made(path, family, _version([path]))
    version, others = sources
    if version != _version(others):  # the URDF was edited, the robot file was not
        _made.cache_clear()
        made, _ = _made(path, family, _version([path]))
    return made


def _version(paths: Sequence[Path]) -> tuple[int, ...]:
    return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in paths)


@lru_cache
def _made(path: Path, family: str, version: tuple[int, ...]) -> tuple[type[Task], tuple[tuple[int, ...], list[Path]]]:
    """The task, and the version of what else it was made of, and where that is."""
    file = read_yaml(path)
    try:
        entry = RobotEntry.model_validate(file.mapping())
    except ValidationError as error:
        where, what = first_fault(error, RobotEntry)
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
        raise file.error(f"{place}: {what}", *where) from None
    if getattr(entry, family.lower()) is None:
        raise file.error(f"this robot is no {family}: there is no section {family.lower()}")
    made = FAMILIES[family](DescribedRobot(file, path, entry))
    others = list(sources_of(made.robot).values())
    return made, (_version(others), others)


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
            raise ValueError(f"--robot makes a robot file a {' or a '.join(FAMILIES)}, not {task}{_meant(task)}")
        return f"{find_robot_file(robot)}:{family}"
    if (found := split_task(task)) is not None:
        if found[1] not in FAMILIES:
            raise ValueError(f"{task}: no family {found[1]!r}; {nearest(found[1], FAMILIES)}")
        return f"{found[0].absolute()}:{found[1]}"
    if task in FAMILIES:
        raise ValueError(f"{task} is what a robot file makes of a robot: name one with --robot FILE")
    return task


def _meant(task: str) -> str:
    """The family that a misspelt one may be, for the end of a message."""
    close = next((family for family in FAMILIES if nearest(task.lower(), [family.lower()]).startswith("did")), None)
    return "" if close is None else f"; did you mean {close}?"


def fingerprint(task: str) -> dict[str, str]:
    """What tells a robot file's robot from a later version of it: sha256 of the file, of its URDF and of the actuator
    network that it may have; empty for any other task."""
    found = split_task(task)
    if found is None:
        return {}
    sources = {"file": found[0], **sources_of(task_of_file(*found).robot)}
    return {kind: sha256(path.read_bytes()).hexdigest() for kind, path in sources.items()}


def changed(before: Any, now: Mapping[str, str]) -> str:
    """What differs between a recorded fingerprint and one of now, in words; empty where nothing does."""
    then = before if isinstance(before, Mapping) else {}
    found = [what for kind, what in PARTS.items() if then.get(kind) != now.get(kind)]
    return f"{' and '.join(found)} differ{'s' if len(found) == 1 else ''}" if found else ""


def check_version(task: str, before: Any, made: str) -> None:
    """Raises ValueError where the robot of a task is not the one that something was `made` on; None: nobody knows."""
    if before is not None and (found := changed(before, fingerprint(task))):
        raise ValueError(f"{made} another version of {task.rpartition(':')[0]}: {found}")


def same_task(one: str, other: str) -> bool:
    """Are they the same, or one family of two robot files, which may be the same robot's?"""
    files = split_task(one), split_task(other)
    return one == other or (files[0] is not None and files[1] is not None and files[0][1] == files[1][1])


def moved(task: str, now: str) -> str:
    """`now`, where that is what `task` may be called since its robot file lies elsewhere; else `task`."""
    return now if same_task(task, now) else task


def known_robots() -> list[str]:
    """Names of the robots that are robot files: ours, and those that other packages install."""
    return sorted({*_ours(), *(point.name for point in entry_points(group=GROUP))})


def _ours() -> dict[str, Path]:
    return {path.stem: path for path in sorted(ASSETS.glob("*.yaml"))}
