"""What a floating robot stands on in PyBullet."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.engine_fields import GroundFields
from simtoreal.robots.quiet import quiet
from simtoreal.robots.terrain import CELL, DEEP, GREATEST, MIDDLE, SHAPE, Terrain

with quiet():
    import pybullet as bullet

LEVEL = (0.0, 0.0, 0.0, 1.0)
STATIC = 2, -3  # Bullet's group of what never moves, and its mask: everything else
QUARTER = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))  # of a turn about z


class PyBulletGround:
    """A plane at z = 0; where the ground is not flat a field of heights, and the plane below it.

    Attributes:
        bodies: what a robot can touch of it.
    """

    def __init__(self, client: int) -> None:
        self._client = client
        self._set: dict[str, float] = {}
        self._springs: tuple[float, float] | None = None  # stiffness [N/m] and damping [N s/m]
        self._terrain: Terrain | None = None
        self._make()

    def _make(self) -> None:
        shape = bullet.createCollisionShape(bullet.GEOM_PLANE, physicsClientId=self._client)
        self._plane: int = bullet.createMultiBody(0, shape, -1, physicsClientId=self._client)
        self._field: tuple[int, int] | None = None  # its body and shape, once it was asked for
        self.bodies = [self._plane]

    def set(self, what: str, value: float) -> None:
        """Of `changeDynamics`."""
        if what == "contactProcessingThreshold" and self._set.get(what, value) != value:
            self._forget_contacts()
        self._set[what] = value
        for body in self._laid():
            bullet.changeDynamics(body, -1, **{what: value}, physicsClientId=self._client)

    def give_way(self, compliance: float, damping: float) -> None:
        """Let each contact point be a spring of so many m/N with a damper [N s/m] beside it; 0 for hard ground.

        Bullet does not take springs away again, so hard ground is made anew where it had some.
        """
        if compliance:
            self._springs = 1.0 / compliance, damping
            for body in self._laid():
                self._put_springs(body)
        elif self._springs is not None:
            self._springs = None
            for body in self._laid():
                bullet.removeBody(body, physicsClientId=self._client)
            self._make()
            for what, value in self._set.items():
                bullet.changeDynamics(self._plane, -1, **{what: value}, physicsClientId=self._client)
            self.lay_out(self._terrain)

    def _put_springs(self, body: int) -> None:
        if self._springs is not None:
            stiffness, damping = self._springs
            bullet.changeDynamics(
                body, -1, contactStiffness=stiffness, contactDamping=damping, physicsClientId=self._client
            )

    def _laid(self) -> list[int]:
        """All bodies that the ground ever is, wanted now or not."""
        return [self._plane] if self._field is None else [self._plane, self._field[0]]

    def _forget_contacts(self) -> None:
        """What touches the ground already would keep to its threshold, into other episodes too: take the ground out of
        the pairs that may touch and put it back."""
        for body in self._laid():
            for group, mask in ((0, 0), STATIC):
                bullet.setCollisionFilterGroupMask(body, -1, group, mask, physicsClientId=self._client)

    def held(self) -> GroundFields:
        """As the engine has them."""
        info = bullet.getDynamicsInfo(self._plane, -1, physicsClientId=self._client)
        return GroundFields(friction=info[1], restitution=info[5], spinning=info[7], rolling=info[6])

    def lay_out(self, terrain: Terrain | None) -> None:
        """Let these be its heights."""
        self._terrain = terrain
        self.bodies = [self._plane]
        self._move(self._plane, (0.0, 0.0, terrain.base if terrain else 0.0), LEVEL)
        if terrain is None:
            if self._field is not None:
                self._move(self._field[0], (0.0, 0.0, -DEEP), QUARTER)
            return
        body, shape = self._field or self._make_field()
        # along the body's x lies the ground's y, and along its y the ground's x backwards: Bullet's triangles are cut
        # from corner to corner as MuJoCo's then
        self._heights(terrain.heights.T[::-1], replaceHeightfieldIndex=shape)
        self._move(body, (*MIDDLE, 0.0), QUARTER)
        self.bodies.append(body)

    def _make_field(self) -> tuple[int, int]:
        # what reaches highest and lowest is fixed when the shape is made, and its origin between them
        reach = np.zeros(SHAPE)
        reach[0, 0], reach[-1, -1] = GREATEST, -GREATEST
        shape = self._heights(reach)
        body: int = bullet.createMultiBody(0, shape, -1, physicsClientId=self._client)
        self._field = body, shape
        for what, value in self._set.items():
            self.set(what, value)
        self._put_springs(body)
        return self._field

    def _heights(self, heights: NDArray[np.float64], **options: int) -> int:
        rows, columns = heights.shape
        shape: int = bullet.createCollisionShape(
            bullet.GEOM_HEIGHTFIELD,
            meshScale=(CELL, CELL, 1.0),
            heightfieldData=heights.ravel().tolist(),
            numHeightfieldRows=columns,  # as Bullet calls them
            numHeightfieldColumns=rows,
            physicsClientId=self._client,
            **options,
        )
        return shape

    def _move(self, body: int, place: tuple[float, ...], turn: tuple[float, ...]) -> None:
        bullet.resetBasePositionAndOrientation(body, place, turn, physicsClientId=self._client)

    def touching(self, robot: int) -> Iterator[int]:
        """The links of a body that touch it; of several contacts several times."""
        for body in self.bodies:
            for point in bullet.getContactPoints(robot, body, physicsClientId=self._client):
                if point[8] <= 0.0:
                    yield point[3]
