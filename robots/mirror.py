"""Left as right: the mirror image of named numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.layout import CommandLayout, Layout

SIDES = {"left": "right", "right": "left"}

Mirror = tuple[NDArray[np.intp], NDArray[np.float32]]
"""order [n] and sign [n]: the image of x [..., n] is x[..., order] * sign."""

SIDED = (
    r"(?<!angular_velocity)\.y(\+[0-9.]+s)?$(?<!gyro\.bias\.y)(?<!rates\.y)",  # a vector's part across the mirror
    r"(angular_velocity|body_rates)\.[xz]$",  # a rotation's parts, but that about the axis across it
    r"heading(\.sin|\.bias)?$",
    r"gyro\.bias\.[xz]$",
    r"yaw_rate(_command|\.bias)?$",
    r"(steering_angle|steering\.trim|cross_track_error|heading_error)$",
    r"curvature_ahead\.",
    r"gait_clock\.\w+$",  # half a period later the other pair of legs stands
    r"(slope|tilt)\.roll$",
    r"ground\.variant$",
)


def make_mirror(names: Sequence[str], swap: Mapping[str, str], turned: Sequence[str]) -> Mirror:
    """The mirror of numbers called `names`.

    Args:
        swap: a leg's, joint's or link's name -> that of the one on the other side.
        turned: joints whose angle changes sign; a name that ends in one of them is such a joint's angle or speed.

    Raises:
        ValueError: a name's image is not among the names.
    """
    words = sorted(map(re.escape, swap), key=len, reverse=True)
    sides = re.compile(rf"(?:(?<=\.)|^)({'|'.join(words)})(?=\.|$)")
    sided = re.compile("|".join([*SIDED, *(rf"\.{re.escape(joint)}$" for joint in turned)]))
    place = {name: i for i, name in enumerate(names)}
    images = [sides.sub(lambda match: swap[match[1]], name) for name in names]
    if missing := [image for image in images if image not in place]:
        raise ValueError(f"{missing[0]} is the mirror image of a name, but not among them")
    signs = [-1.0 if sided.search(name) else 1.0 for name in names]
    return np.array([place[image] for image in images]), np.array(signs, np.float32)


def mirrored(
    rows: Mapping[str, NDArray[Any]], *, seen: Mirror, privileged: Mirror, action: Mirror
) -> dict[str, NDArray[Any]]:
    """The mirror image of transitions under the names obs, action, next_obs and, where observed, privileged and
    next_privileged; rewards and ends are the same on both sides. What is k times as wide as its mirror is a stack of k
    frames, each of which is mirrored."""
    mirrors = {
        "obs": seen,
        "next_obs": seen,
        "action": action,
        "privileged": privileged,
        "next_privileged": privileged,
    }
    out = dict(rows)
    for name, (order, sign) in mirrors.items():
        if name in rows:
            n, width = rows[name].shape
            frames = rows[name].reshape(n, width // len(order), len(order))
            out[name] = (frames[..., order] * sign).reshape(rows[name].shape)
    return out


class LeftAndRight:
    """Of a task whose robot's left and right are alike, and whose parts are called so unless `sides` says otherwise."""

    mirrors: ClassVar[bool] = True
    turned: ClassVar[Sequence[str]] = ()  # joints whose angle changes sign
    observation_layout: Layout
    privileged_layout: Layout
    command_layout: CommandLayout

    def sides(self) -> tuple[Mapping[str, str], Sequence[str]]:
        """Which name is whose on the other side, and the joints whose angle changes sign there: as of `make_mirror`."""
        return SIDES, self.turned

    @cached_property
    def _mirrors(self) -> tuple[Mirror, Mirror, Mirror]:
        """Of observations, privileged observations and actions."""
        swap, turned = self.sides()
        privileged = [name.removeprefix("parameters.") for name in self.privileged_layout.element_names()]
        seen, true, action = (
            make_mirror(names, swap, turned)
            for names in (self.observation_layout.element_names(), privileged, self.command_layout.element_names())
        )
        return seen, true, action

    def augment(
        self,
        rows: Mapping[str, NDArray[Any]],
        signals: Sequence[Mapping[str, Sequence[float]]],
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """`mirror_image`."""
        return self.mirror_image(rows)

    def mirror_image(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same motions seen in a mirror: left is right. `rows` as of `mirrored`."""
        seen, true, action = self._mirrors
        return mirrored(rows, seen=seen, privileged=true, action=action)
