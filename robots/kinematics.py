"""Where links are, from joint positions alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simtoreal.robots.model import Joint, Vector3


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

    def position(self, q: Sequence[float]) -> Vector3:
        """Position [m] of the link's origin in the root's frame; `q` in the order given to `RobotModel.chain`."""
        x = y = z = 0.0
        for index, prismatic, (kx, ky, kz), rotation, offset in self._steps:
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
            (a, b, c_), (d_, e, f), (g, h, i) = rotation
            x, y, z = (
                a * x + b * y + c_ * z + offset[0],
                d_ * x + e * y + f * z + offset[1],
                g * x + h * y + i * z + offset[2],
            )
        return x, y, z
