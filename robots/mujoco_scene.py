"""What a MuJoCo world is compiled from: the robot, what is around it, and what of it touches what."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if "DISPLAY" not in os.environ:
    os.environ.setdefault("MUJOCO_GL", "egl")  # else it looks for a window; read at import

import mujoco

from simtoreal.robots.catalog import Box, Robot
from simtoreal.robots.mesh_files import PLAIN, as_one_object, as_stl
from simtoreal.robots.model import ModelError
from simtoreal.robots.patterns import BARE, SIDE, Texture, brightened, pixels
from simtoreal.robots.terrain import CELL, GREATEST, MIDDLE, SHAPE
from simtoreal.robots.world import (
    OBJECT,
    OBJECT_COLOUR,
    TABLE_HALF,
    TABLE_PLACE,
    UNPAINTED,
    WALL_COLOUR,
    WALL_HALF,
    WALL_PLACE,
    Light,
    Looks,
    Paint,
)

COMPILER = (
    '<mujoco><compiler strippath="false" fusestatic="false" balanceinertia="false" discardvisual="{discard}"/></mujoco>'
)
GROUND, FIELD, MARKER = "ground", "field", "marker"  # table or plane; heights where it is not flat; where to look
WALL, TEXTURE = "wall", "texture of "
UNSAID = (0.5, 0.5, 0.5, 1.0)  # the colour of a shape that says none, in whose place its material's is seen
VISUAL, HIDDEN = 1, 3  # groups of what a URDF gives for looks alone, and of what no camera sees
TOUCHES_ROBOT, TOUCHES_OBJECT = 1, 2  # bits of what may touch table or ground
TEXELS = 4  # a side of each pixel of a texture: between them it is blurred
BASE = 0.1  # [m] thickness of a field of heights below its lowest


class Meshes:
    """The meshes of a URDF by the names that MuJoCo reads them under; `files` holds those of a kind it does not read,
    made into one that it does."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def name(self, path: Path) -> str:
        """Raises ModelError where it cannot be read."""
        version = path.stat().st_mtime_ns
        made: bytes | None
        if path.suffix.lower() not in PLAIN:
            kind, made = "stl", as_stl(path, version)
        elif path.suffix.lower() == ".obj":
            kind, made = "obj", as_one_object(path, version)
        else:
            made = None
        if made is None:
            return str(path)
        self.files[f"{path}.{kind}"] = made
        return f"{path}.{kind}"


def compiled_twice(robot: Robot, urdf: str, files: Mapping[str, bytes], *, rendering: bool) -> tuple[Any, Any]:
    """Two `mujoco.MjModel` of a robot, whose resolved URDF is given with its converted meshes, and what is around it.

    Raises:
        ModelError: MuJoCo refuses it.
    """
    text = urdf.replace("</robot>", COMPILER.format(discard=str(not rendering).lower()) + "</robot>")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of textures that meshes lack
            spec = mujoco.MjSpec.from_string(text, assets=dict(files))
            _furnish(spec, robot)
            if rendering:
                _decorate(spec, robot)
            return spec.compile(), spec.compile()
    except ValueError as error:
        raise ModelError(f"{robot.urdf}: MuJoCo: {error}") from None


def _furnish(spec: Any, robot: Robot) -> None:
    if robot.floating:
        spec.body(robot.model.root).add_freejoint()
    for geom in spec.geoms:
        geom.contype, geom.conaffinity, geom.priority = int(geom.group != VISUAL), 0, 1
    ground: dict[str, Any] = {"contype": 0, "conaffinity": TOUCHES_ROBOT, "rgba": [0.75, 0.72, 0.68, 1.0]}
    if robot.floating:
        spec.worldbody.add_geom(name=GROUND, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], **ground)
    elif robot.table:
        spec.worldbody.add_geom(name=GROUND, type=mujoco.mjtGeom.mjGEOM_BOX, size=TABLE_HALF, pos=TABLE_PLACE, **ground)
    if robot.grounded:
        columns, rows = SHAPE
        size = [*((n - 1) * CELL / 2 for n in SHAPE), 2.0 * GREATEST, BASE]
        spec.add_hfield(name=FIELD, nrow=rows, ncol=columns, size=size, userdata=np.zeros(rows * columns))
        # something may touch it, else it is taken for looks; the world says whether anything does
        field = {"type": mujoco.mjtGeom.mjGEOM_HFIELD, "hfieldname": FIELD, "pos": (*MIDDLE, -GREATEST)}
        spec.worldbody.add_geom(name=FIELD, **field, **ground)
    if robot.object is not None:
        _lay(spec, robot.object)


def _lay(spec: Any, thing: Box) -> None:
    """The object: against the table a geom of its own, against each part of the robot a pair, as whose coefficient a
    product can be set."""
    spec.geom(GROUND).conaffinity = TOUCHES_ROBOT | TOUCHES_OBJECT
    of_robot = [geom for geom in spec.geoms if geom.contype == TOUCHES_ROBOT]
    body = spec.worldbody.add_body(name=OBJECT, mass=thing.mass, inertia=thing.inertia(thing.mass))
    body.explicitinertial = True
    body.add_freejoint()
    half = [length / 2 for length in thing.size]
    look = {"type": mujoco.mjtGeom.mjGEOM_BOX, "size": half, "rgba": OBJECT_COLOUR}
    body.add_geom(name=OBJECT, contype=TOUCHES_OBJECT, conaffinity=0, priority=1, **look)
    for number, geom in enumerate(of_robot):
        geom.name = geom.name or f"robot geom {number}"
        spec.add_pair(geomname1=geom.name, geomname2=OBJECT)


def _decorate(spec: Any, robot: Robot) -> None:
    """What only a camera sees."""
    seen = {geom.parent.name for geom in spec.geoms if geom.group == VISUAL}
    for geom in spec.geoms:
        if geom.group != VISUAL and geom.parent.name in seen:
            geom.group = HIDDEN  # what touches, behind what is seen
    sky, tiles = mujoco.mjtTexture.mjTEXTURE_SKYBOX, mujoco.mjtTexture.mjTEXTURE_2D
    flat, checker = mujoco.mjtBuiltin.mjBUILTIN_FLAT, mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    spec.add_texture(name="sky", type=sky, builtin=flat, rgb1=[1, 1, 1], width=8, height=8)
    colours = {"rgb1": [0.72, 0.77, 0.96], "rgb2": [0.94, 0.94, 0.94]}
    spec.add_texture(name="tiles", type=tiles, builtin=checker, **colours, width=256, height=256)
    if robot.floating:
        material = spec.add_material(name="tiles", texrepeat=[0.5, 0.5], texuniform=True)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
        for ground in [geom for geom in spec.geoms if geom.name in (GROUND, FIELD)]:
            ground.material, ground.rgba = "tiles", [1.0, 1.0, 1.0, 1.0]
    if robot.wall:
        spec.add_material(name="matte", rgba=WALL_COLOUR, specular=0.0)
        wall = {"type": mujoco.mjtGeom.mjGEOM_BOX, "size": WALL_HALF, "pos": WALL_PLACE, "material": "matte"}
        spec.worldbody.add_geom(name=WALL, contype=0, conaffinity=0, **wall)
    _make_textures(spec)
    # anywhere but in the middle: a site that is where its body is stays there
    marker = {"type": mujoco.mjtGeom.mjGEOM_SPHERE, "rgba": [0.1, 0.7, 0.25, 0.0], "pos": [1.0, 1.0, 1.0]}
    spec.worldbody.add_site(name=MARKER, **marker)
    # as bright together as to leave what is white a little below it, or a white robot is not seen before a white sky
    sun = {"pos": [0, 0, 4], "dir": [0.3, 0.3, -1], "diffuse": [0.4] * 3, "specular": [0.0] * 3}
    spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, **sun)
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.25] * 3, [0.25] * 3
    spec.visual.headlight.specular = [0.0] * 3


def _make_textures(spec: Any) -> None:
    """A material of each body that is seen, to lie on every side of a shape; what it shows is drawn later."""
    for body in {geom.parent.name: None for geom in spec.geoms if geom.group != HIDDEN}:
        name = TEXTURE + body
        side, cube, flat = TEXELS * SIDE, mujoco.mjtTexture.mjTEXTURE_CUBE, mujoco.mjtBuiltin.mjBUILTIN_FLAT
        spec.add_texture(name=name, type=cube, builtin=flat, width=side, height=side)
        material = spec.add_material(name=name)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


class MuJoCoLooks(Looks):
    """Colours and light of what a camera sees of a model.

    Args:
        bodies: names of the robot's links by their number.
    """

    def __init__(self, model: Any, bodies: Mapping[int, str]) -> None:
        self._model = model
        self._shapes: dict[str, list[tuple[int, int, NDArray[np.float64]]]] = {}  # geom, its own material, colour
        self._materials: dict[str, Any] = {}  # with its texture
        self.redrawn: set[int] = set()  # textures that are not yet shown
        for geom in range(model.ngeom):
            link = bodies.get(int(model.geom_bodyid[geom]))
            name = WALL if model.geom(geom).name == WALL else link and f"link.{link}"
            if not name or model.geom_group[geom] == HIDDEN:
                continue
            material, own = int(model.geom_matid[geom]), model.geom_rgba[geom]
            seen = model.mat_rgba[material] if material >= 0 and (own == UNSAID).all() else own
            self._shapes.setdefault(name, []).append((geom, material, seen[:3].copy()))
            self._materials[name] = model.material(TEXTURE + model.body(model.geom_bodyid[geom]).name)
        self.names = tuple(self._shapes)
        self._painted: dict[str, Paint] = dict.fromkeys(self._shapes, UNPAINTED)
        head = model.vis.headlight
        self._sun, self._diffuse = -model.light_dir[0], model.light_diffuse[0].copy()
        self._ambient, self._ahead = np.array(head.ambient), np.array(head.diffuse)

    def paint(self, name: str, offset: tuple[float, float, float], texture: Texture = BARE) -> None:
        if self._painted[name] == (offset, texture):
            return
        patterned = self._materials[name]
        if texture not in (BARE, self._painted[name][1]):
            self._draw(int(patterned.texid[mujoco.mjtTextureRole.mjTEXROLE_RGB]), texture)
        for geom, material, colour in self._shapes[name]:
            mixed = np.clip(colour + offset, 0.0, 1.0).tolist()
            self._model.geom_rgba[geom, :3] = brightened(mixed, texture)
            if (self._model.geom_rgba[geom] == UNSAID).all():
                self._model.geom_rgba[geom, 0] += 1e-6
            self._model.geom_matid[geom] = material if texture == BARE else patterned.id
        self._painted[name] = offset, texture

    def _draw(self, number: int, texture: Texture) -> None:
        found = self._model.tex(number)
        shown = np.kron(pixels(texture)[..., None], np.ones((TEXELS, TEXELS, int(found.nchannel[0])), np.uint8))
        first = int(found.adr[0])
        self._model.tex_data[first : first + 6 * shown.size] = np.tile(shown.ravel(), 6)  # the sides of a cube
        self.redrawn.add(number)

    def illuminate(self, light: Light) -> None:
        x, y, z = self._sun.tolist()
        head = self._model.vis.headlight
        self._model.light_dir[0] = np.negative(light.turned((x, y, z)))
        self._model.light_diffuse[0] = light.diffuse * self._diffuse
        head.ambient[:], head.diffuse[:] = light.ambient * self._ambient, light.diffuse * self._ahead
