"""Rotations as nine plain floats, row by row: numpy costs more than the arithmetic at this size."""

from __future__ import annotations

import math
from collections.abc import Sequence

Matrix = tuple[float, ...]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


def from_quaternion(q: Sequence[float]) -> Matrix:
    """Body to world of a quaternion (x, y, z, w) of any length but zero."""
    x, y, z, w = q
    s = 2.0 / (x * x + y * y + z * z + w * w)
    xx, yy, zz, xy, xz, yz = s * x * x, s * y * y, s * z * z, s * x * y, s * x * z, s * y * z
    wx, wy, wz = s * w * x, s * w * y, s * w * z
    return (1.0 - yy - zz, xy - wz, xz + wy, xy + wz, 1.0 - xx - zz, yz - wx, xz - wy, yz + wx, 1.0 - xx - yy)


def apply(m: Matrix, v: Sequence[float]) -> Vector:
    """m v."""
    x, y, z = v
    a, b, c, d, e, f, g, h, i = m
    return a * x + b * y + c * z, d * x + e * y + f * z, g * x + h * y + i * z


def apply_inverse(m: Matrix, v: Sequence[float]) -> Vector:
    """m^T v."""
    x, y, z = v
    a, b, c, d, e, f, g, h, i = m
    return a * x + d * y + g * z, b * x + e * y + h * z, c * x + f * y + i * z


def product(m: Matrix, n: Matrix) -> Matrix:
    """m n."""
    (a, b, c, d, e, f, g, h, i), (p, q, r, s, t, u, v, w, x) = m, n
    return (
        *(a * p + b * s + c * v, a * q + b * t + c * w, a * r + b * u + c * x),
        *(d * p + e * s + f * v, d * q + e * t + f * w, d * r + e * u + f * x),
        *(g * p + h * s + i * v, g * q + h * t + i * w, g * r + h * u + i * x),
    )


def heading(q: Sequence[float], forward: Sequence[float] = (1.0, 0.0, 0.0)) -> float:
    """Direction on the ground [rad], from its x towards its y, of the body's `forward` under a quaternion (xyzw)."""
    x, y, _ = apply(from_quaternion(q), forward)
    return math.atan2(y, x)


def level(v: Sequence[float], heading: float) -> Vector:
    """A vector of the ground's axes in those of a frame that is turned by `heading` [rad] about z."""
    (x, y, z), c, s = v, math.cos(heading), math.sin(heading)
    return c * x + s * y, c * y - s * x, z


def from_heading_and_lean(heading: float, lean: float, towards: float) -> Quaternion:
    """Quaternion (xyzw) of a body turned by `heading` about z and then leant over by `lean` in the direction `towards`
    on the ground [rad]."""
    c, s = math.cos(lean / 2), math.sin(lean / 2)
    a, b = math.cos(heading / 2), math.sin(heading / 2)
    x, y = -s * math.sin(towards), s * math.cos(towards)
    return x * a + y * b, y * a - x * b, c * b, c * a


def about(axis: Sequence[float], angle: float) -> Matrix:
    """By `angle` [rad] about a unit axis."""
    (x, y, z), c, s = axis, math.cos(angle), math.sin(angle)
    d = 1.0 - c
    return (
        *(c + d * x * x, d * x * y - s * z, d * x * z + s * y),
        *(d * x * y + s * z, c + d * y * y, d * y * z - s * x),
        *(d * x * z - s * y, d * y * z + s * x, c + d * z * z),
    )


def roll_pitch(roll: float, pitch: float) -> Matrix:
    """First roll about x, then pitch about the fixed y [rad], as URDF's rpy."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    return (cp, sp * sr, sp * cr, 0.0, cr, -sr, -sp, cp * sr, cp * cr)


def cross(v: Sequence[float], w: Sequence[float]) -> Vector:
    """v x w."""
    (a, b, c), (d, e, f) = v, w
    return b * f - c * e, c * d - a * f, a * e - b * d
