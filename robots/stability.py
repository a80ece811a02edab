"""How much viscous damping the engines' integrators bear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from simtoreal.robots.dynamics import mass_matrix
from simtoreal.robots.task import Task

Ranges = Mapping[str, tuple[float, float]]
"""Parameter -> its least and greatest value."""


class Overload(NamedTuple):
    """A joint whose viscous damping may come to `share` of what a physics step bears; it bears `most`."""

    joint: str
    share: float
    most: float


def hardest(task: Task, ranges: Ranges) -> Overload | None:
    """The joint that comes nearest to what the engine bears of damping c, or goes farthest beyond; None without joints.

    Both engines make a joint's new velocity from a damping torque at the old one: v' = (1 - c dt / I) v. Above 1 it
    changes its sign in every step, above 2 it grows without end; what the drive gives is no part of it, since that has
    a limit. I is what the joint has to move at the pose of a reset, all others free, with the lightest links of the
    ranges, and 1 is what counts as borne, since at other poses it may have half as much to move.
    """
    damped = {
        name.removeprefix("joint.").removesuffix(".damping"): ranges.get(name, (parameter.nominal,) * 2)[1]
        for name, parameter in task.parameters.items()
        if name.startswith("joint.") and name.endswith(".damping")
    }
    if not damped:
        return None
    moved = _moved(type(task), tuple(damped), _lightest(task, ranges))
    found = [
        Overload(joint, damping * task.physics_dt / inertia, inertia / task.physics_dt)
        for (joint, damping), inertia in zip(damped.items(), moved, strict=True)
    ]
    return max(found, key=lambda each: each.share)


def _lightest(task: Task, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Of each link that may be lighter: by which factors its mass and its inertia."""
    out = {}
    for name, parameter in task.parameters.items():
        part, _, what = name.rpartition(".")
        if part.startswith("link.") and what == "mass":
            mass = ranges.get(name, (parameter.nominal,))[0] / parameter.nominal
            inertia = mass * ranges.get(f"{part}.inertia", (1.0,))[0]
            if (mass, inertia) != (1.0, 1.0):
                out[part.removeprefix("link.")] = (mass, inertia)
    return out


def _moved(task: type[Task], joints: Sequence[str], lighter: Mapping[str, tuple[float, float]]) -> list[float]:
    """The inertia [kg m^2 or kg] that each joint has to move, all others free."""
    robot, bodies = task.robot, dict(task.robot.inertials)
    for link, (mass, inertia) in lighter.items():
        body = bodies.get(link) or robot.model.inertial(link)
        xx, yy, zz, xy, xz, yz = (inertia * moment for moment in body.inertia)
        bodies[link] = replace(body, mass=mass * body.mass, inertia=(xx, yy, zz, xy, xz, yz))
    places = _pose(task)
    matrix = mass_matrix(robot.model, joints, [places[joint] for joint in joints], bodies)
    found: list[float] = (1.0 / np.diag(np.linalg.inv(matrix))).tolist()
    return found


_poses: dict[type[Task], dict[str, float]] = {}


def _pose(task: type[Task]) -> dict[str, float]:
    """Of each joint after a reset; found once."""
    if task not in _poses:
        env = task()
        try:
            env.reset(seed=0)
            _poses[task] = dict(zip(env.world.joints, env.world.state()[0], strict=True))
        finally:
            env.close()
    return _poses[task]
