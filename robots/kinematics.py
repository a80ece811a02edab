"""Where a tool is, how it moves with its joints, and which joint positions put it somewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simtoreal.robots import rotation

if TYPE_CHECKING:
    from simtoreal.robots.model import Joint, Vector3

IDENTITY: rotation.Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
EXACT = 1e-6  # [m, rad] of an inverse's error
STRIDE = 0.1  # [m, rad] that one iteration goes at most: a longer one may end at another answer
ITERATIONS = 30


class Motion(NamedTuple):
    """A link's place [m], its turn (to the root's axes) and its geometric Jacobian: for each joint the velocity of its
    origin [m/s] and its angular velocity [rad/s], in the root's axes, at 1 rad/s or m/s."""

    position: Vector3
    turn: rotation.Matrix
    columns: list[tuple[float, ...]]  # [joints][6]


class Chain:
    """Where a link's origin is, from joint positions alone, in plain Python (about 8 us for 7 joints)."""

    def __init__(self, tip_to_root: Sequence[Joint], joints: list[str]) -> None:
        self._steps = [
            (
                joints.index(joint.name) if joint.name in joints else -1,
                joint.kind == "prismatic",
                joint.axis,
                joint.origin[:3, :3].tolist(),
                joint.origin[:3, 3].tolist(),
            )
            for joint in tip_to_root
        ]
        self._outwards = _merged(reversed(self._steps))

    def position(self, q: Sequence[float]) -> Vector3:
        """Position [m] of the link's origin in the root's frame; `q` in the order given to `RobotModel.chain`."""
        x = y = z = 0.0
        for index, prismatic, (kx, ky, kz), rows, offset in self._steps:
            if index >= 0:
                angle = q[index]
                if prismatic:
                    x, y, z = x + kx * angle, y + ky * angle, z + kz * angle
                else:
                    c, s = math.cos(angle), math.sin(angle)
                    d = (kx * x + ky * y + kz * z) * (1.0 - c)
                    x, y, z = (
                        x * c + (ky * z - kz * y) * s + kx * d,
                        y * c + (kz * x - kx * z) * s + ky * d,
                        z * c + (kx * y - ky * x) * s + kz * d,
                    )
            (a, b, c_), (d_, e, f), (g, h, i) = rows
            x, y, z = (
                a * x + b * y + c_ * z + offset[0],
                d_ * x + e * y + f * z + offset[1],
                g * x + h * y + i * z + offset[2],
            )
        return x, y, z

    def motion(self, q: Sequence[float]) -> Motion:
        """The link's place and turn, and how both change with each joint."""
        turn, at = IDENTITY, (0.0, 0.0, 0.0)
        axes: list[tuple[int, bool, Vector3, Vector3]] = []
        for index, prismatic, axis, origin, offset in self._outwards:
            x, y, z = rotation.apply(turn, offset)
            at = (at[0] + x, at[1] + y, at[2] + z)
            turn = rotation.product(turn, origin)
            if index < 0:
                continue
            along = rotation.apply(turn, axis)
            axes.append((index, prismatic, along, at))
            if prismatic:
                at = (at[0] + along[0] * q[index], at[1] + along[1] * q[index], at[2] + along[2] * q[index])
            else:
                turn = rotation.product(turn, rotation.about(axis, q[index]))
        columns: list[tuple[float, ...]] = [(0.0,) * 6] * len(q)
        for index, prismatic, along, (x, y, z) in axes:
            lever = at[0] - x, at[1] - y, at[2] - z
            linear, angular = (along, (0.0, 0.0, 0.0)) if prismatic else (rotation.cross(along, lever), along)
            columns[index] = (*linear, *angular)
        return Motion(at, turn, columns)


Step = tuple[int, bool, "Vector3", rotation.Matrix, "Vector3"]


def _merged(steps: Iterable[tuple[int, bool, Vector3, list[list[float]], list[float]]]) -> list[Step]:
    """Steps from root to tip, those of joints that do not move as one with the next."""
    out: list[Step] = []
    for index, prismatic, axis, rows, (x, y, z) in steps:
        origin, offset = tuple(number for row in rows for number in row), (x, y, z)
        if out and out[-1][0] < 0:
            *_, before, start = out.pop()
            a, b, c = rotation.apply(before, offset)
            origin, offset = rotation.product(before, origin), (start[0] + a, start[1] + b, start[2] + c)
        out.append((index, prismatic, axis, origin, offset))
    return out


class Plane:
    """The joint positions at which a tool is at a place [2] m of a level plane, turned as it is at `home`.

    Newton's method on place and turn in the six joints that are not `held` at home (Siciliano et al., Robotics, 2009,
    section 3.7), which has one answer in the neighbourhood of home. A search begins where the last one ended.

    Raises:
        ValueError: the joints that move are not six.
    """

    def __init__(self, chain: Chain, home: Sequence[float], held: Sequence[int] = ()) -> None:
        self._chain, self._home = chain, list(home)
        self._moving = [i for i in range(len(home)) if i not in held]
        if len(self._moving) != 6:
            raise ValueError(f"a tool's place and turn take six joints, got {len(self._moving)}")
        self._at_home = chain.motion(home)
        self.rest()

    def rest(self) -> None:
        """Begin the next search at home."""
        self._q, self._motion = self._home, self._at_home

    def joints(self, place: Sequence[float]) -> list[float]:
        """Joint positions [n] rad of a place. Raises ValueError where none were found."""
        q, (at, turn, columns) = list(self._q), self._motion
        x, y, z = *place, self._at_home.position[2]
        for _ in range(ITERATIONS):
            wrong = (x - at[0], y - at[1], z - at[2], *_between(turn, self._at_home.turn))
            size = math.hypot(*wrong)
            if size < EXACT:
                self._q, self._motion = q, Motion(at, turn, columns)
                return list(q)
            jacobian = np.array([columns[i] for i in self._moving]).T
            part = min(1.0, STRIDE / size)
            for i, change in zip(self._moving, np.linalg.solve(jacobian, wrong).tolist(), strict=True):
                q[i] += part * change
            at, turn, columns = self._chain.motion(q)
        raise ValueError(f"the tool cannot be at {x:g}, {y:g} m, {z:g} m high, turned as at home")


def _between(turn: rotation.Matrix, wanted: rotation.Matrix) -> Vector3:
    """Half the sum of the cross products of their axes: for small angles, the rotation vector [rad] from one turn to
    the other."""
    x, y, z = 0.0, 0.0, 0.0
    for j in range(3):
        a, b, c = rotation.cross(turn[j::3], wanted[j::3])
        x, y, z = x + a / 2, y + b / 2, z + c / 2
    return x, y, z
