"""A robot file looked through: its links and joints as people read them, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.progress import console as make_console
from simtoreal.proposals import propose
from simtoreal.randomization.yaml_files import write_yaml
from simtoreal.robot_files import SUFFIXES
from simtoreal.robot_making import FAMILIES
from simtoreal.robots.dynamics import holding
from simtoreal.robots.inspection import Inspection, inspect_robot
from simtoreal.robots.model import MOVING, Joint, RobotModel
from simtoreal.robots.tasks.balance import UPRIGHT, Pole

TRIAL = 2.0  # [s]
MARGIN = 0.8  # of a joint's effort that holding still may take


def inspect(urdf: str | os.PathLike[str]) -> Inspection:
    """Links, joints, meshes and problems of a URDF, each problem with its element; `usable` where none is an error.

    Nothing is loaded into an engine, and no reference in the file is followed beyond the folder it lies in.

    Raises:
        ModelError: no such file, no URDF, or no tree of links and joints.
        ConfigError: a robot file.
    """
    if Path(urdf).suffix in SUFFIXES and Path(urdf).is_file():
        raise ConfigError(f"{urdf} is no URDF; of a robot file there are tasks to inspect: {urdf}:{'|'.join(FAMILIES)}")
    return inspect_robot(Path(urdf))


def write_robot_file(
    urdf: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False
) -> dict[str, Any]:
    """Propose a robot file (`robot_files`) for a URDF; what is written.

    Raises:
        ModelError: no usable URDF, or neither legs nor an arm; nothing is written then.
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
    write_yaml(path, data, header)
    family = next(name for name in FAMILIES if name.lower() in data)
    return data | {"trial": trial(f"{path.absolute()}:{family}")}


def trial(task: str) -> str:
    """What the robot does for a while when its policy does nothing, in words."""
    env = build.make_env(task)
    try:
        env.reset(seed=0)
        still = np.zeros(env.action_space.shape or (1,), np.float32)
        limits, torques = np.array(env.get_wrapper_attr("limits")["effort"]), []
        for step in range(round(TRIAL / env.get_wrapper_attr("control_dt"))):
            _, _, terminated, truncated, info = env.step(still)
            seconds = (step + 1) * env.get_wrapper_attr("control_dt")
            if info.get("physics_fault"):
                return f"physics broke after {seconds:.2f} s: lower kd, or raise drive.rotor"
            if terminated and isinstance(env.unwrapped, Pole):
                return _pole(type(env.unwrapped), seconds)
            if terminated:
                return f"it fell after {seconds:.2f} s: look at the joints' positions, kp and kd"
            if truncated:
                break
            torques.append(np.array(env.get_wrapper_attr("torque")) / limits)
        said = f"it holds its pose for {seconds:.1f} s, with {{:.0%}} of a joint's effort at most"
        return _held(np.array(torques), env.get_wrapper_attr("commanded_joints"), said)
    finally:
        env.close()


def _pole(task: type[Pole], seconds: float) -> str:
    """What happens to a pole that nobody holds, and what would hold it."""
    model, balancer, unit = RobotModel(task.robot.urdf), task.balancer, task.balancer.command.unit
    names, places = (balancer.driven, balancer.pole), (balancer.middle, balancer.upright)
    hold = UPRIGHT * holding(model, names, places, task.robot.inertials)
    said = f"let go, its pole falls in {seconds:.2f} s; at 12 degrees {hold:.2g} {unit} holds it"
    return f"{said}, and the drive gives up to {balancer.effort:.2g} {unit}"


def _held(shares: NDArray[np.float64], joints: Sequence[str], said: str) -> str:
    """What holding still took: `shares` [steps, joints] of each joint's effort."""
    most = np.abs(shares).max(axis=0)
    said, hard = said.format(most.max()), np.flatnonzero(most > MARGIN)
    if not hard.size:
        return said
    swings = np.abs(shares[len(shares) // 2 :].mean(axis=0))[hard] < 0.5 * most[hard]
    cure = (
        "which swings: lower its kd and kp, or raise drive.rotor" if swings.any() else "which is weak: see its effort"
    )
    return f"{said}: look at {', '.join(joints[i] for i in hard.tolist())}, {cure}"


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
