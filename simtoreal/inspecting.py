"""A robot file looked through: its links and joints as people read them, and what is wrong with them."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from simtoreal.config import ConfigError
from simtoreal.progress import console as make_console
from simtoreal.proposals import propose
from simtoreal.randomization.yaml_files import write_yaml
from simtoreal.robot_files import SUFFIXES, families
from simtoreal.robot_making import FAMILIES
from simtoreal.robots.inspection import Inspection, inspect_robot
from simtoreal.robots.model import MOVING, Joint
from simtoreal.trial import trial


def inspect(urdf: str | os.PathLike[str]) -> Inspection:
    """Links, joints, meshes and problems of a URDF, each problem with its element; `usable` where none is an error.

    Nothing is loaded into an engine, and no reference in the file is followed beyond the folder it lies in.

    Raises:
        ModelError: no such file, no URDF, or no tree of links and joints.
        ConfigError: a robot file.
    """
    if Path(urdf).suffix in SUFFIXES and Path(urdf).is_file():
        tasks = [f"simtoreal inspect {urdf}:{family}" for family in families(Path(urdf))]
        raise ConfigError(f"{urdf} is no URDF; of a robot file there are tasks to inspect: {' or '.join(tasks)}")
    return inspect_robot(Path(urdf))


def write_robot_file(
    urdf: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False
) -> dict[str, Any]:
    """Propose a robot file (`robot_files`) for a URDF; what is written, and as `trial` how its robot holds its pose.

    Raises:
        ModelError, ConfigFileError: no usable URDF, neither legs nor an arm, or a proposal that cannot be used (its
            file and line); nothing is written then.
        FileExistsError: there is one already, and no `force`; ConfigError: not a .yaml.
    """
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a robot file ends in .yaml")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: no place for a file")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already; --force replaces it")
    data, header = propose(Path(urdf), path)
    family = next(name for name in FAMILIES if name.lower() in data)
    before = path.read_bytes() if path.exists() else None
    write_yaml(path, data, header)
    try:
        tried = trial(f"{path.absolute()}:{family}")
    except BaseException:  # what cannot be used is not left behind
        path.unlink() if before is None else path.write_bytes(before)
        raise
    return data | {"trial": asdict(tried)}


def print_inspection(found: Inspection) -> None:
    """As tables on stdout."""
    console = make_console()
    moving = [joint for joint in found.joints if joint.kind in MOVING]
    console.print(
        f"{found.path}: {len(found.links)} links of {found.mass:.4g} kg from root {found.root}, "
        f"{len(moving)} moving joints, {len(found.meshes)} meshes"
    )
    table = Table(title="joints that move", title_justify="left")
    for column in ("joint", "kind", "moves", "axis", "from", "to", "effort", "speed"):
        table.add_column(column)
    for joint in moving:
        table.add_row(*_joint_row(joint))
    console.print(table)
    table = Table(title="links with mass", title_justify="left")
    for column in ("link", "mass", "centre of mass", "principal inertia", "shapes that touch"):
        table.add_column(column)
    for link in found.links:
        if link.mass > 0.0:
            place, moments = (" ".join(f"{x:.4g}" for x in v) for v in (link.com, link.principal))
            table.add_row(link.name, f"{link.mass:.4g} kg", f"{place} m", f"{moments} kg m²", str(link.collisions))
    console.print(table)
    for problem in found.problems:
        console.print(f"{problem.severity}: {problem.element}: {problem.text}", soft_wrap=True, markup=False)
    if not found.problems:
        console.print("no problems found")


def _joint_row(joint: Joint) -> list[str]:
    unit, free = joint.unit, joint.kind == "continuous"
    ends = ["–", "–"] if free else [f"{joint.lower:.4g} {unit}", f"{joint.upper:.4g} {unit}"]
    axis = " ".join(f"{x:.3g}" for x in joint.axis)
    limits = [f"{joint.effort:.4g} {joint.force_unit}", f"{joint.velocity:.4g} {unit}/s"]
    return [joint.name, joint.kind, joint.child, axis, *ends, *limits]
