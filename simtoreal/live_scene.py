"""A robot, what it stands on and its goal as nodes of a viewer's scene: drawn once, then moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from simtoreal.live_session import Snapshot
from simtoreal.robots.catalog import Robot
from simtoreal.robots.looks import Look, looks
from simtoreal.robots.mesh_files import COLLADA, surfaces
from simtoreal.robots.terrain import Terrain
from simtoreal.robots.world import FIELD_OF_VIEW, OBJECT, OBJECT_COLOUR, TABLE_HALF, TABLE_PLACE, Camera

TABLE, GOAL, PLAIN = (191, 184, 173), (26, 178, 64), (0.75, 0.75, 0.75, 1.0)  # as the engines' own cameras see them
THING = tuple(round(255 * c) for c in OBJECT_COLOUR[:3])
SHARP = 0.5  # [rad] between facets: an edge, no bend
CELL = 0.5  # [m] of the ground's grid


class Scene:
    """Everything lies under the node `/world`, which is moved where the view follows the robot (the camera is the
    reader's), and tilted where the ground slopes, for which an engine tilts gravity.

    Args:
        scene: viser's `SceneApi`.
    """

    def __init__(self, scene: Any, robot: Robot) -> None:
        self._scene, self._robot = scene, robot
        self._world = scene.add_frame("/world", show_axes=False)
        self._links = {name: scene.add_frame(f"/world/{name}", show_axes=False) for name in robot.model.links}
        shapes: dict[Path, list[trimesh.Trimesh]] = {}
        for number, look in enumerate(looks(robot.model)):
            _draw(scene, f"/world/{look.link}/{number}", look, shapes)
        if robot.table:
            scene.add_box(
                "/world/table", color=TABLE, dimensions=tuple(2 * h for h in TABLE_HALF), position=TABLE_PLACE
            )
        else:
            height = 0.0 if robot.floating else -1.2
            self._grid = scene.add_grid(
                "/world/ground",
                infinite_grid=True,
                cell_size=CELL,
                section_size=2 * CELL,
                fade_distance=15.0,
                plane_opacity=0.0,
                shadow_opacity=0.25,
                position=(0.0, 0.0, height),
            )
        self._terrain: Terrain | None = None
        self._field: Any = None  # its node
        self._object = None
        if robot.object is not None:
            self._object = scene.add_box("/world/object", color=THING, dimensions=robot.object.size)
        self._goal = scene.add_icosphere("/world/goal", radius=1.0, color=GOAL, visible=False, cast_shadow=False)

    def show(self, snapshot: Snapshot, *, follow: bool) -> None:
        """Move everything to where it is; with `follow` a floating robot stays in the middle and the ground moves."""
        for name, node in self._links.items():
            place, (x, y, z, w) = snapshot.poses[name]
            node.position, node.wxyz = place, (w, x, y, z)
        if self._object is not None:
            place, (x, y, z, w) = snapshot.poses[OBJECT]
            self._object.position, self._object.wxyz = place, (w, x, y, z)
        if snapshot.terrain is not self._terrain:
            self._lay_out(snapshot.terrain)
        upright = _upright(snapshot.down)
        self._world.wxyz = upright
        x, y, _ = snapshot.poses[self._robot.model.root].position
        if follow and self._robot.floating:
            self._world.position = trimesh.transformations.quaternion_matrix(upright)[:3, :3] @ (-x, -y, 0.0)
        else:
            self._world.position = (0.0, 0.0, 0.0)
        self._goal.visible = snapshot.marker is not None
        if snapshot.marker is not None:
            self._goal.position, self._goal.radius = tuple(snapshot.marker[0]), snapshot.marker[1]

    def _lay_out(self, terrain: Terrain | None) -> None:
        """Draw ground that is not flat, or take it away."""
        self._terrain = terrain
        if self._field is not None:
            self._field.remove()
            self._field = None
        if terrain is not None:
            self._field = self._scene.add_mesh_simple(
                "/world/field", *terrain.triangles(), color=TABLE, flat_shading=True, side="double"
            )
        self._grid.position = (0.0, 0.0, terrain.base if terrain else 0.0)


def aim(initial: Any, camera: Camera) -> None:
    """Let a new view begin as a task's camera has it; `initial` is viser's."""
    yaw, pitch = np.radians([camera.yaw - 90.0, camera.pitch])  # of the engines' cameras, yaw 0 looks along y
    back = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    initial.look_at = camera.target
    initial.position = np.array(camera.target) + camera.distance * back
    initial.fov = float(np.radians(FIELD_OF_VIEW))


def _upright(down: Sequence[float]) -> NDArray[np.float64]:
    """The shortest turn (w, x, y, z) that takes the unit vector `down` to -z."""
    x, y, z = down
    turn = np.array([1.0 - z, -y, x, 0.0])  # 1 + a.b and a x b, for b = -z
    return turn / np.linalg.norm(turn)


def _draw(scene: Any, name: str, look: Look, shapes: dict[Path, list[trimesh.Trimesh]]) -> None:
    """One shape of a link."""
    colour = look.colour or PLAIN
    paint: dict[str, Any] = {"color": tuple(round(255 * c) for c in colour[:3])}
    if colour[3] < 1.0:
        paint["opacity"] = colour[3]
    where = {"position": look.place[:3, 3], "wxyz": _turn(look.place[:3, :3])}
    if look.kind == "box":
        scene.add_box(name, dimensions=look.size, **paint, **where)
    elif look.kind == "sphere":
        scene.add_icosphere(name, radius=look.size[0], **paint, **where)
    elif look.kind == "cylinder":
        scene.add_cylinder(name, *look.size, **paint, **where)
    elif look.kind == "capsule":
        radius, length = look.size
        shape = trimesh.creation.capsule(height=length, radius=radius)
        scene.add_mesh_simple(name, shape.vertices, shape.faces, **paint, **where)
    else:
        assert look.mesh is not None
        parts = shapes.setdefault(look.mesh, surfaces(look.mesh))
        coloured = look.colour is None and look.mesh.suffix.lower() == COLLADA
        own = coloured or any(
            getattr(getattr(part.visual, "material", None), "image", None) is not None for part in parts
        )
        for number, part in enumerate(parts):
            if own:
                scene.add_mesh_trimesh(f"{name}/{number}", part, scale=look.size, **where)
            else:
                smooth = part.smooth_shaded
                scene.add_mesh_simple(
                    f"{name}/{number}", smooth.vertices, smooth.faces, scale=look.size, **paint, **where
                )


def _turn(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation matrix [3, 3] as w, x, y, z."""
    homogeneous = np.eye(4)
    homogeneous[:3, :3] = rotation
    found: NDArray[np.float64] = trimesh.transformations.quaternion_from_matrix(homogeneous)
    return found
