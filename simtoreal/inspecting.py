"""A robot file looked through: its links and joints as people read them, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table

from simtoreal.progress import console as make_console
from simtoreal.robots.inspection import Inspection, inspect_robot
from simtoreal.robots.model import MOVING, Joint


def inspect(urdf: str | os.PathLike[str]) -> Inspection:
    """Links, joints, meshes and problems of a URDF, each problem with its element; `usable` where none is an error.

    Nothing is loaded into an engine, and no reference in the file is followed beyond the folder it lies in.

    Raises:
        ModelError: no such file, no URDF, or no tree of links and joints.
    """
    return inspect_robot(Path(urdf))


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
