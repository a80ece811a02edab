"""Masses that can move: how an engine without a setter for the centre of mass gets one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from simtoreal.robots.model import Inertial, ModelError, Vector3

SHARES = (0.4, 0.25, 0.25)
"""Of a link's mass, the part that sits on the x, y and z axis through its centre of mass; the rest is its core."""

AXES = "xyz"


@dataclass(frozen=True)
class MovableMass:
    """A link of `mass` [kg] split into a core and six point masses, two on each axis through its centre of mass.

    A pair holds `share * mass` together and sits at +-`distance` [m]. Moving mass from one of a pair to the other moves
    the centre of mass along that axis by up to `reach` = share * distance, and leaves the inertia about the *nominal*
    centre of mass as it was: every setting is a body that could be built.
    """

    body: Inertial
    reach: Vector3

    @cached_property
    def distance(self) -> Vector3:
        """Of the point masses from the nominal centre of mass along x, y, z [m]."""
        x, y, z = (reach / share for reach, share in zip(self.reach, SHARES, strict=True))
        return x, y, z

    @property
    def core(self) -> Inertial:
        """What is left of the body when the point masses are taken out.

        Raises:
            ModelError: the reach is more than the body's inertia allows.
        """
        spread = [self.body.mass * s * d * d for s, d in zip(SHARES, self.distance, strict=True)]
        xx, yy, zz, xy, xz, yz = self.body.inertia
        core = (xx - spread[1] - spread[2], yy - spread[0] - spread[2], zz - spread[0] - spread[1])
        if min(core) <= 0.0 or 2.0 * max(core) >= sum(core):
            moments, reach = (", ".join(f"{x:.4g}" for x in numbers) for numbers in ((xx, yy, zz), self.reach))
            raise ModelError(f"a body of inertia {moments} kg m^2 cannot move its centre of mass by {reach} m")
        return Inertial((1.0 - sum(SHARES)) * self.body.mass, self.body.com, (*core, xy, xz, yz))

    def points(self) -> dict[str, Vector3]:
        """Where the point masses are [m, link frame], by the suffix of their name (`x+`, `x-`, ...)."""
        out = {}
        for axis, name in enumerate(AXES):
            for sign, mark in ((1.0, "+"), (-1.0, "-")):
                place = list(self.body.com)
                place[axis] += sign * self.distance[axis]
                out[name + mark] = (place[0], place[1], place[2])
        return out

    def masses(self, mass: float, shift: Vector3) -> dict[str, float]:
        """Each point's mass [kg] for a link of `mass` whose centre of mass is moved by `shift` [m]."""
        out = {}
        for share, reach, moved, name in zip(SHARES, self.reach, shift, AXES, strict=True):
            half, part = 0.5 * share * mass, moved / reach
            out[f"{name}+"], out[f"{name}-"] = half * (1.0 + part), half * (1.0 - part)
        return out

    def shift(self, masses: dict[str, float]) -> Vector3:
        """The inverse of `masses`: where the centre of mass has moved to [m]."""
        x, y, z = (
            reach * (masses[f"{n}+"] - masses[f"{n}-"]) / (masses[f"{n}+"] + masses[f"{n}-"])
            for reach, n in zip(self.reach, AXES, strict=True)
        )
        return x, y, z
