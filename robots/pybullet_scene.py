"""What stands around a robot in PyBullet, and what a camera sees of it all."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from simtoreal.robots.catalog import Box
from simtoreal.robots.patterns import BARE, Texture, brightened, pixels
from simtoreal.robots.quiet import quiet
from simtoreal.robots.world import (
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

with quiet():
    import pybullet as bullet

TABLE_FRICTION = 1.0  # [-] with 1 here, a link's number is the pair's
TABLE_COLOUR = (0.75, 0.72, 0.68, 1.0)
ALOFT = 10.0  # [m] above any contact
SUN = (-50.0, 30.0, 100.0)  # towards the light, and how much of it: as PyBullet has them if nothing is said
AMBIENT, DIFFUSE = 0.6, 0.35
TILES = 4  # a side of a texture: a box shows on each of its sides a sixteenth


def make_table(client: int, *, rendering: bool) -> int:
    """What a robot with a fixed base stands on; its body."""
    shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=TABLE_HALF, physicsClientId=client)
    look = _box(client, TABLE_HALF, TABLE_COLOUR) if rendering else -1
    table: int = bullet.createMultiBody(0, shape, look, TABLE_PLACE, physicsClientId=client)
    bullet.changeDynamics(table, -1, lateralFriction=TABLE_FRICTION, physicsClientId=client)
    return table


def make_object(client: int, thing: Box, *, rendering: bool) -> int:
    """The object, somewhere: a reset says where."""
    half = tuple(length / 2 for length in thing.size)
    shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half, physicsClientId=client)
    look = _box(client, half, OBJECT_COLOUR) if rendering else -1
    body: int = bullet.createMultiBody(thing.mass, shape, look, (0, 0, ALOFT), physicsClientId=client)
    return body


def make_wall(client: int) -> int:
    """Behind the robot, for cameras alone."""
    body: int = bullet.createMultiBody(0, -1, _box(client, WALL_HALF, WALL_COLOUR), WALL_PLACE, physicsClientId=client)
    return body


def _box(client: int, half: tuple[float, ...], colour: tuple[float, ...]) -> int:
    look: int = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=half, rgbaColor=colour, physicsClientId=client)
    return look


def _load(client: int, texture: Texture) -> int:
    """A texture as PyBullet's renderer knows it, which takes files alone."""
    tiles = np.tile(pixels(texture), (TILES, TILES))
    header = struct.pack("<3B5x4x2H2B", 0, 0, 3, *tiles.shape, 8, 0)  # of a TGA: grey
    with tempfile.NamedTemporaryFile(suffix=".tga") as file:
        file.write(header + tiles.tobytes())
        file.flush()
        number: int = bullet.loadTexture(file.name, physicsClientId=client)
    return number


class PyBulletLooks(Looks):
    """Colours and light of what a camera sees.

    Args:
        links: the robot's body and its links' names by their index.
        things: other bodies by name.
    """

    def __init__(self, client: int, robot: int, links: Mapping[int, str], things: Mapping[str, int]) -> None:
        self._client, self._light = client, Light()
        names = {(robot, index): f"link.{name}" for index, name in links.items()}
        names |= {(body, -1): name for name, body in things.items()}
        self._shapes: dict[str, list[tuple[int, int, int, int, tuple[float, ...]]]] = {}  # and its own texture, colour
        for body in (robot, *things.values()):
            for data in bullet.getVisualShapeData(body, bullet.VISUAL_SHAPE_DATA_TEXTURE_UNIQUE_IDS, client):
                found = self._shapes.setdefault(names[body, data[1]], [])
                found.append((body, data[1], len(found), data[8], data[7]))
        self.names = tuple(self._shapes)
        self._painted: dict[str, Paint] = dict.fromkeys(self._shapes, UNPAINTED)
        self._loaded: dict[Texture, int] = {}  # PyBullet gives no texture back, so each is loaded once

    def paint(self, name: str, offset: tuple[float, float, float], texture: Texture = BARE) -> None:
        if self._painted[name] == (offset, texture):
            return
        if texture != BARE and texture not in self._loaded:
            self._loaded[texture] = _load(self._client, texture)
        for body, link, shape, own, (*colour, opacity) in self._shapes[name]:
            mixed = [min(max(a + b, 0.0), 1.0) for a, b in zip(colour, offset, strict=True)]
            look = {"shapeIndex": shape, "rgbaColor": [*brightened(mixed, texture), opacity]}
            bullet.changeVisualShape(
                body, link, **look, textureUniqueId=self._loaded.get(texture, own), physicsClientId=self._client
            )
        self._painted[name] = offset, texture

    def illuminate(self, light: Light) -> None:
        self._light = light

    def frame(self, width: int, height: int, view: Any, lens: Any) -> Any:
        """The pixels of a camera, red, green, blue and opacity."""
        return bullet.getCameraImage(
            width,
            height,
            view,
            lens,
            renderer=bullet.ER_TINY_RENDERER,
            lightDirection=self._light.turned(SUN),
            lightAmbientCoeff=AMBIENT * self._light.ambient,
            lightDiffuseCoeff=DIFFUSE * self._light.diffuse,
            physicsClientId=self._client,
        )[2]
