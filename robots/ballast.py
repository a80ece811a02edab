"""Masses that can move: how an engine without a setter for the centre of mass gets one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from simtoreal.robots.model import Inertial, ModelError, Vector3

SHARES = (0.4, 0.25, 0.25)
"""Of a link's mass, the part that sits on the x, y and z axis through its centre of mass, where that can move along it;
the rest is its core."""

AXES = "xyz"


@dataclass(frozen=True)
class MovableMass:
    """A link of `mass` [kg] split into a core and two point masses on each axis through its centre of mass that has a
    `reach`.

    A pair holds `share * mass` together and sits at +-`distance` [m]. Moving mass from one of a pair to the other moves
    the centre of mass along that axis by up to `reach` = share * distance, and leaves the inertia about the *nominal*
    centre of mass as it was: every setting is a body that could be built.

    Attributes:
        reach: along x, y and z [m]; 0 where it stays.
    """

    body: Inertial
    reach: Vector3

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """Those along which the centre of mass can move."""
        return tuple(axis for axis, reach in enumerate(self.reach) if reach)

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
        rest = 1.0 - sum(SHARES[axis] for axis in self.axes)
        return Inertial(rest * self.body.mass, self.body.com, (*core, xy, xz, yz))

    def points(self) -> dict[str, Vector3]:
        """Where the point masses are [m, link frame], by the suffix of their name (`x+`, `x-`, ...)."""
        out = {}
        for axis in self.axes:
            for sign, mark in ((1.0, "+"), (-1.0, "-")):
                place = list(self.body.com)
                place[axis] += sign * self.distance[axis]
                out[AXES[axis] + mark] = (place[0], place[1], place[2])
        return out

    def masses(self, mass: float, shift: Sequence[float]) -> dict[str, float]:
        """Each point's mass [kg] for a link of `mass` whose centre of mass is moved by `shift` [m] along its `axes`."""
        out = {}
        for axis, moved in zip(self.axes, shift, strict=True):
            half, part = 0.5 * SHARES[axis] * mass, moved / self.reach[axis]
            name = AXES[axis]
            out[f"{name}+"], out[f"{name}-"] = half * (1.0 + part), half * (1.0 - part)
        return out

    def shift(self, masses: dict[str, float]) -> list[float]:
        """The inverse of `masses`: where the centre of mass has moved to [m] along its `axes`."""
        pairs = [(self.reach[axis], masses[f"{AXES[axis]}+"], masses[f"{AXES[axis]}-"]) for axis in self.axes]
        return [reach * (more - less) / (more + less) for reach, more, less in pairs]
