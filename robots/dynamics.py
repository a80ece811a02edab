"""What a robot's joints have to move, from its links alone: mass matrix and gravity, no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.model import Inertial, RobotModel
from simtoreal.robots.world import GRAVITY

STRIDE = 1e-3  # [rad] of the differences that gravity's stiffness is taken from


def _bodies(model: RobotModel, other: Mapping[str, Inertial]) -> dict[str, Inertial]:
    """The inertial of every link with a mass, `other` instead of the file's where it has one; without one its inertia
    counts for nothing, as in the engines."""
    own = {link.name: model.inertial(link.name) for link in model.links.values() if link.has_inertial}
    return {name: body for name, body in (own | dict(other)).items() if body.mass > 0.0}


def mass_matrix(
    model: RobotModel, joints: Sequence[str], q: Sequence[float], inertials: Mapping[str, Inertial] | None = None
) -> NDArray[np.float64]:
    """M [n, n] of the robot's `joints` at positions `q` [n], its root fixed and its other joints at zero.

    The sum over links of J_v^T m J_v + J_w^T I J_w (Siciliano et al., Robotics, 2009, eq. 7.32), in kg, kg m or kg m^2
    as the joints slide or turn. `inertials` are instead of the file's.
    """
    out = np.zeros((len(joints), len(joints)))
    for link, body in _bodies(model, inertials or {}).items():
        motion = model.chain(link, joints).motion(q)
        turn, columns = np.reshape(motion.turn, (3, 3)), np.array(motion.columns)
        spin = columns[:, 3:]
        speed = columns[:, :3] + np.cross(spin, turn @ body.com)
        xx, yy, zz, xy, xz, yz = body.inertia
        inertia = turn @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ turn.T
        out += body.mass * speed @ speed.T + spin @ inertia @ spin.T
    return out


def falling(model: RobotModel, joints: Sequence[str], q: Sequence[float], joint: int) -> float:
    """How hard gravity pulls a joint [N m/rad] away from where it is balanced: less than 0 where it pulls it back."""

    def height(lean: float) -> float:
        at = [x + (lean if i == joint else 0.0) for i, x in enumerate(q)]
        total = 0.0
        for link, body in _bodies(model, {}).items():
            place, turn, _ = model.chain(link, joints).motion(at)
            total += body.mass * float(place[2] + np.reshape(turn, (3, 3))[2] @ body.com)
        return total

    return GRAVITY * (2.0 * height(0.0) - height(STRIDE) - height(-STRIDE)) / STRIDE**2


def holding(
    model: RobotModel, joints: tuple[str, str], q: Sequence[float], inertials: Mapping[str, Inertial] | None = None
) -> float:
    """What a robot's first joint must give for each radian [N/rad or N m/rad] by which the pole on its second leans
    away from upright, at positions `q` [2], to keep it from leaning farther; 0 where the first joint does not move it.

    The pole stays as it leans while the first joint speeds up at g sin(lean) over its lever: by the rows of M q'' = tau
    + G, tau = M_00 G_1 / M_01, and for a cart (m + M) g lean.
    """
    (own, coupling), _ = mass_matrix(model, joints, q, inertials)
    return abs(float(own / coupling)) * falling(model, joints, q, 1) if abs(coupling) > 1e-9 else 0.0
