"""The physics engines a robot can be put into."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simtoreal.robots.catalog import Robot
    from simtoreal.robots.world import World

ENGINES = ("pybullet", "mujoco", "mujoco-shipped")
"""MuJoCo's contacts are as hard as PyBullet's, or as MuJoCo ships them."""
MUJOCO_ALONE = ("joint.*.armature", "link.*.payload.?", "link.*.com.?")  # parameters that PyBullet cannot set (of all)
PYBULLET_ALONE = ("ground.compliance", "ground.damping")  # and that MuJoCo cannot: its contacts know no N/m


def one_engines(name: str) -> bool:
    """Is it a parameter that one engine alone can set?"""
    return any(fnmatchcase(name, pattern) for pattern in (*MUJOCO_ALONE, *PYBULLET_ALONE))


DEFAULT_ENGINE = ENGINES[0]


def make_world(engine: str, robot: Robot, physics_dt: float, *, rendering: bool = False, gui: bool = False) -> World:
    """One robot in an engine, which is imported here for the first time.

    Raises:
        ValueError: no such engine, or a window of one that has none.
    """
    if engine == "pybullet":
        from simtoreal.robots.pybullet_world import PyBulletWorld

        return PyBulletWorld(robot, physics_dt, rendering=rendering, gui=gui)
    if engine not in ENGINES:
        raise ValueError(f"no engine {engine!r}; engines: {', '.join(ENGINES)}")
    if gui:
        raise ValueError("render_mode 'human' is PyBullet's window; with MuJoCo use 'rgb_array' or --video FILE")
    from simtoreal.robots.mujoco_world import MuJoCoWorld

    contacts = "matched" if engine == "mujoco" else "shipped"
    return MuJoCoWorld(robot, physics_dt, contacts=contacts, rendering=rendering)
