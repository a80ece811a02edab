"""Meshes of every kind that robots come with, for engines that read fewer."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from defusedxml import ElementTree as SafeET

from simtoreal.robots.model import ModelError

if TYPE_CHECKING:
    import trimesh

PLAIN = (".obj", ".stl")  # read by every engine
COLLADA = ".dae"  # by PyBullet alone
READABLE = (*PLAIN, COLLADA)


def surfaces(path: Path) -> list[trimesh.Trimesh]:
    """What a mesh's file holds, each of one material [m]. A Collada file's axes are taken as they are, as Bullet and
    ROS do, its unit is heeded.

    Raises:
        ModelError: it is of another kind, or cannot be read.
    """
    import trimesh  # takes half a second, and most robots need it for the viewer alone

    if path.suffix.lower() not in READABLE:
        raise ModelError(f"{path}: of a kind that no engine reads: use {', '.join(READABLE)}")
    try:
        if path.suffix.lower() == COLLADA:
            SafeET.parse(path, forbid_dtd=True)
        scene = trimesh.load_scene(path)
        number, _, unit = (scene.units or "").partition(" * ")
        if unit == "meters":
            scene = scene.scaled(float(number))
        found = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except Exception as error:  # a parser's own, of which there are many
        raise ModelError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not found:
        raise ModelError(f"{path}: holds no surface")
    return found


@lru_cache(maxsize=64)
def as_one_object(path: Path, version: int) -> bytes | None:
    """An .obj whose objects are made one, their shape alone; None where there is but one. MuJoCo reads no other."""
    lines = path.read_text(errors="replace").splitlines()
    if sum(line.startswith(("o ", "g ", "usemtl ")) for line in lines) < 2:
        return None
    faces = (" ".join(corner.partition("/")[0] for corner in line.split()) for line in lines if line.startswith("f "))
    return "\n".join([*(line for line in lines if line.startswith("v ")), *faces]).encode()


@lru_cache(maxsize=64)
def as_stl(path: Path, version: int) -> bytes:
    """A mesh's shape in a kind that every engine reads; `version` tells the file from what it was before.

    Raises:
        ModelError: it cannot be read.
    """
    import trimesh

    found: bytes = trimesh.exchange.stl.export_stl(trimesh.util.concatenate(surfaces(path)))
    return found
