"""From a robot's parameters to PyBullet's fields and back. Pure: it is told what the engine holds, and asks nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from simtoreal.robots import rotation
from simtoreal.robots.ballast import AXES, MovableMass
from simtoreal.robots.catalog import Robot
from simtoreal.robots.model import Vector3
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.terrain import MAX_ROUGHNESS, MAX_STEP, PARAMETERS, shape
from simtoreal.robots.world import GRAVITY, OBJECT

GROUND_FRICTION = 0.8  # [-] of a floating robot's ground; its links have 1, and Bullet multiplies the two
FOOT_FRICTION = 1.0  # [-] of a floating robot's links, so that the ground's number is the pair's
ARM_FRICTION = 0.5  # [-] of a fixed robot's links, against a table of 1: what PyBullet gives a link
MAX_VARIANT = 999.0
SAME = 1e-9  # what an engine says that it holds, against what was written
MAX_SLOPE = 0.35  # [rad]
LEAST_GRAVITY, MAX_GRAVITY = 1.0, 12.0  # [m/s^2]: the Moon's is 1.6
MAX_SPINNING, MAX_ROLLING = 0.05, 0.02  # [m]
MAX_PLACE = 0.15  # [m] of a payload, from where it nominally is
MAX_SHIFT = 0.1  # [m] of a centre of mass that the engine can move
LEAST_SHARE = 0.01  # of the robot's mass, of a link whose centre of mass can move
ALONG = 1e-6  # sine of the angle between axes that count as parallel
MAX_COMPLIANCE = 5e-4  # [m/N]
CONTACT_DAMPING, MAX_CONTACT_DAMPING = 100.0, 2_000.0  # [N s/m] of ground that gives way
LEAST_INERTIA, MAX_INERTIA = 0.3, 3.0  # of nominal
MAX_ARMATURE = 2.0  # of the largest principal moment of the link that the joint moves

Dynamics = tuple[float, float, Vector3]
"""Of a link, as the engine has them: mass [kg], lateral friction [-], principal inertia [kg m^2]."""

EngineField = tuple[str, int, tuple[float, ...]]
"""What is written, of which link, and its numbers: a "mass" has its principal inertia with it, a "massAndDamping" its
joint's damping too, an "objectMass" likewise; "gravity", "force", "place" and "centre" are vectors, "terrain" a shape,
all others one number."""


class GroundFields(NamedTuple):
    """Of a floating robot's ground, as the engine has them: Coulomb friction and restitution [-], how its friction
    resists turning about the normal and rolling [m]."""

    friction: float
    restitution: float
    spinning: float
    rolling: float


def ballast(robot: Robot, movable: Mapping[str, MovableMass]) -> dict[str, tuple[str, Vector3]]:
    """The links to add to the robot for what PyBullet cannot set: name -> link it hangs on, point [m, link frame]."""
    added = {_payload(link): (link, point) for link, point in robot.payload.items()}
    for link, mass in movable.items():
        added |= {_point(link, mark): (link, point) for mark, point in mass.points().items()}
    return added


def movable_masses(robot: Robot) -> dict[str, MovableMass]:
    """The links whose centre of mass can move."""
    return {
        link: MovableMass(robot.inertials.get(link) or robot.model.inertial(link), reach)
        for link, reach in robot.com_reach.items()
    }


def loaded_urdf(
    robot: Robot, movable: Mapping[str, MovableMass], *, visuals: bool, mesh_name: Callable[[Path], str] = str
) -> str:
    """What every engine loads of a robot."""
    return robot.model.resolved(
        lock=robot.locked,
        inertials=dict(robot.inertials) | {link: mass.core for link, mass in movable.items()},
        ballast=ballast(robot, movable),
        visuals=visuals,
        mesh_name=mesh_name,
    )


def _payload(link: str) -> str:
    return f"{link}_ballast"


def _point(link: str, mark: str) -> str:
    return f"{link}_com_{mark}"


class Fields:
    """Which engine field follows from which parameters: worked out once, since every reset goes through it.

    Args:
        robot: what was loaded, with its `ballast`.
        movable: those of its links whose centre of mass can move.
        links: of each link its index, -1 of the base.
        joints: of each moving joint its index, which is that of the link it moves.
        nominal: of each link what the engine made of it.
        armature: can the engine add inertia to a joint?
        places: can payloads, and centres of mass, be elsewhere?
        springs: can its ground give way, as springs and dampers do that are told in N/m?
    """

    def __init__(
        self,
        robot: Robot,
        movable: Mapping[str, MovableMass],
        links: Mapping[str, int],
        joints: Mapping[str, int],
        nominal: Mapping[str, Dynamics],
        *,
        armature: bool = False,
        places: bool = False,
        springs: bool = False,
    ) -> None:
        self._springs = springs and robot.grounded
        self._robot, self._movable, self._joints, self._nominal = robot, movable, tuple(joints), nominal
        still = set() if robot.floating else robot.model.standing(robot.locked)
        self._massive = [name for name, (mass, *_) in nominal.items() if name not in still and mass > 0.0]
        model = robot.model.links
        self._turning = {
            name
            for name in self._massive
            if robot.floating
            or any(
                robot.model.joints[joint].kind != "prismatic" and joint in robot.drag for joint in robot.model.way(name)
            )
        }
        self._gripping = [
            name
            for name in self._massive
            if not robot.flying and (name in robot.feet if robot.feet else model[name].has_collision)
        ]
        dampings = {index: f"joint.{joint}.damping" for joint, index in joints.items()}
        self._masses = [
            (
                links[name],
                f"link.{name}.mass",
                nominal[name][0],
                nominal[name][2],
                f"link.{name}.inertia" if name in self._turning else None,
                self._whole(name),
                dampings.pop(links[name], None),
            )
            for name in self._massive
        ]
        self._frictions = [(links[name], f"link.{name}.friction") for name in self._gripping]
        self._centres = [
            (
                mass,
                f"link.{link}.mass",
                [f"link.{link}.com.{AXES[axis]}" for axis in mass.axes],
                {mark: links[_point(link, mark)] for mark in mass.points()},
            )
            for link, mass in movable.items()
        ]
        self._payloads = [(links[_payload(link)], f"link.{link}.payload") for link in robot.payload]
        self._places = [(index, tuple(f"{name}.{axis}" for axis in AXES)) for index, name in self._payloads if places]
        self._shifts = [
            (links[name], tuple(f"link.{name}.com.{axis}" for axis in AXES), reach)
            for name in self._massive
            if places and name in self._turning and name not in movable and any(reach := self._reach(name))
        ]
        self._dampings = list(dampings.items())  # of joints whose link has no mass of its own
        self._drags = [(index, f"joint.{joint}.friction") for joint, index in joints.items()]
        inertia = {links[name]: max(moments) for name, (_, _, moments) in nominal.items()}
        self._armatures = {
            f"joint.{joint}.armature": (index, MAX_ARMATURE * inertia[index])
            for joint, index in joints.items()
            if armature and inertia[index] > 0.0
        }
        self._forces = {f"link.{link}.force": links[link] for link in robot.payload}
        base = "ground.slope" if robot.grounded else "" if robot.floating else "mount"
        self._slopes = (f"{base}.pitch", f"{base}.roll") if base else ()

    def _whole(self, link: str) -> float:
        """The nominal mass [kg] of a link, of a movable one with its points."""
        return self._movable[link].body.mass if link in self._movable else self._nominal[link][0]

    def _reach(self, link: str) -> Vector3:
        """How far the centre of mass of a link may be moved along its axes [m]: as far as its mass is spread along
        them, and at most `MAX_SHIFT`. 0 of a floating base, whose pose is that of its centre, of a link that is light
        beside the robot, and along an axis about which alone a link turns."""
        robot = self._robot
        if link == robot.model.root or self._whole(link) < LEAST_SHARE * sum(map(self._whole, self._massive)):
            return 0.0, 0.0, 0.0
        body = robot.inertials.get(link) or robot.model.inertial(link)
        spread = [min(along, MAX_SHIFT) for along in body.spread]
        motion = robot.model.chain(link, self._joints).motion([0.0] * len(self._joints))
        axes = [column[3:] for column in motion.columns if any(column[3:])]
        for k in range(3):
            along = motion.turn[k::3]
            if not robot.floating and all(math.hypot(*rotation.cross(axis, along)) < ALONG for axis in axes):
                spread[k] = 0.0
        x, y, z = spread
        return x, y, z

    def parameters(self) -> Iterator[Parameter]:
        """What can be set of this robot; what PyBullet cannot do is absent."""
        robot = self._robot
        for name in self._massive:
            whole = self._whole(name)
            yield Parameter(f"link.{name}.mass", "kg", whole, 0.3 * whole, 3.0 * whole, "inertia follows")
            if name in self._turning:
                what = "factor on the inertia that its mass brings about"
                yield Parameter(f"link.{name}.inertia", "-", 1.0, LEAST_INERTIA, MAX_INERTIA, what)
            if name in self._gripping:
                what = "Coulomb friction; the ground's multiplies it" if robot.floating else "against the table"
                yield Parameter(f"link.{name}.friction", "-", self._nominal[name][1], 0.0, 2.0, what)
        ballasted = [(names, [0.98 * mass.reach[axis] for axis in mass.axes]) for mass, _, names, _ in self._centres]
        for names, reach in (*ballasted, *((names, reach) for _, names, reach in self._shifts)):
            for name, most in zip(names, reach, strict=True):
                if most:
                    yield Parameter(name, "m", 0.0, -most, most, f"centre of mass moved along the link's {name[-1]}")
        for link in robot.payload:
            yield Parameter(f"link.{link}.payload", "kg", 0.0, 0.0, robot.max_payload, "a point mass it carries")
        for _, names in self._places:
            what = "where the payload is, from its nominal place along the link's axes"
            yield from (Parameter(name, "m", 0.0, -MAX_PLACE, MAX_PLACE, what) for name in names)
        most, what = GRAVITY * robot.max_payload, "constant force at its centre of mass, along the ground's"
        for name in self._forces:
            yield from (Parameter(f"{name}.{axis}", "N", 0.0, -most, most, f"{what} {axis}") for axis in AXES)
        for joint in self._joints:
            drag = robot.drag[joint]
            yield Parameter(f"joint.{joint}.damping", drag.damping_unit, drag.damping, 0.0, drag.max_damping, "viscous")
            yield Parameter(
                f"joint.{joint}.friction", drag.friction_unit, drag.friction, 0.0, drag.max_friction, "Coulomb"
            )
            if (name := f"joint.{joint}.armature") in self._armatures:
                unit = "kg" if robot.model.joints[joint].kind == "prismatic" else "kg m^2"
                yield Parameter(name, unit, 0.0, 0.0, self._armatures[name][1], "inertia of its motor's rotor")
        what = "of the world; controllers compensate the nominal one"
        yield Parameter("gravity", "m/s^2", GRAVITY, LEAST_GRAVITY, MAX_GRAVITY, what)
        if not robot.floating:
            yield Parameter("mount.pitch", "rad", 0.0, -MAX_SLOPE, MAX_SLOPE, "what it stands on rises along x")
            yield Parameter("mount.roll", "rad", 0.0, -MAX_SLOPE, MAX_SLOPE, "what it stands on rises along y")
        if robot.grounded:
            yield Parameter(
                "ground.friction", "-", GROUND_FRICTION, 0.05, 2.0, "Coulomb friction; a foot's multiplies it"
            )
            what = "torque over normal force, of a contact that {}; a foot's friction multiplies it"
            yield Parameter("ground.spinning_friction", "m", 0.0, 0.0, MAX_SPINNING, what.format("spins"))
            yield Parameter("ground.rolling_friction", "m", 0.0, 0.0, MAX_ROLLING, what.format("rolls"))
            yield Parameter("ground.restitution", "-", 0.0, 0.0, 0.9, "speed after a bounce over the speed before")
            if self._springs:
                what = "of each contact point: how far the ground gives way for a force"
                yield Parameter("ground.compliance", "m/N", 0.0, 0.0, MAX_COMPLIANCE, what)
                what = "of each contact point of ground that gives way"
                yield Parameter("ground.damping", "N s/m", CONTACT_DAMPING, 1.0, MAX_CONTACT_DAMPING, what)
            yield Parameter("ground.slope.pitch", "rad", 0.0, -MAX_SLOPE, MAX_SLOPE, "uphill along x, by gravity")
            yield Parameter("ground.slope.roll", "rad", 0.0, -MAX_SLOPE, MAX_SLOPE, "uphill along y, by gravity")
            yield Parameter("ground.roughness", "m", 0.0, 0.0, MAX_ROUGHNESS, "bumps, up or down at most")
            yield Parameter("ground.step_height", "m", 0.0, 0.0, MAX_STEP, "of stairs all around, three up, three down")
            yield Parameter(
                "ground.variant", "-", 0.0, -MAX_VARIANT, MAX_VARIANT, "whole part: which bumps; -k mirrors k"
            )
        if robot.object is not None:
            mass, what = robot.object.mass, "Coulomb friction against the table; a link's multiplies it"
            yield Parameter(f"{OBJECT}.mass", "kg", mass, 0.3 * mass, 3.0 * mass, "inertia follows")
            yield Parameter(f"{OBJECT}.friction", "-", robot.object.friction, 0.05, 2.0, what)

    def of(self, values: Mapping[str, float]) -> Iterator[EngineField]:
        """Every engine field that follows from the complete vector."""
        for index, name, own, (xx, yy, zz), turning, whole, damping in self._masses:
            ratio = values[name] / whole
            inertia = ratio * values[turning] if turning else ratio
            inertial = (ratio * own, inertia * xx, inertia * yy, inertia * zz)
            if damping:
                yield "massAndDamping", index, (*inertial, values[damping])
            else:
                yield "mass", index, inertial
        for index, name in self._frictions:
            yield "lateralFriction", index, (values[name],)
        for movable, name, centre, marks in self._centres:
            for mark, mass in movable.masses(values[name], [values[along] for along in centre]).items():
                yield "mass", marks[mark], (mass, 0.0, 0.0, 0.0)
        for index, name in self._payloads:
            yield "mass", index, (values[name], 0.0, 0.0, 0.0)
        for index, names in self._places:
            yield "place", index, tuple(values[name] for name in names)
        for index, names, reach in self._shifts:
            yield "centre", index, tuple(values[name] if most else 0.0 for name, most in zip(names, reach, strict=True))
        for index, name in self._dampings:
            yield "jointDamping", index, (values[name],)
        for index, name in self._drags:
            yield "jointFriction", index, (values[name],)
        for name, (index, _) in self._armatures.items():
            yield "armature", index, (values[name],)
        for name, index in self._forces.items():
            yield "force", index, (values[f"{name}.x"], values[f"{name}.y"], values[f"{name}.z"])
        pitch, roll = (values[name] for name in self._slopes) if self._slopes else (0.0, 0.0)
        yield "gravity", -1, gravity_on_slope(pitch, roll, values["gravity"])
        if self._robot.grounded:
            yield "groundFriction", -1, (values["ground.friction"],)
            yield "groundSpinning", -1, (values["ground.spinning_friction"],)
            yield "groundRolling", -1, (values["ground.rolling_friction"],)
            yield "groundRestitution", -1, (values["ground.restitution"],)
            yield "terrain", -1, shape(*(values[name] for name in PARAMETERS))
            if self._springs:
                compliance = values["ground.compliance"]
                yield "groundSprings", -1, (compliance, values["ground.damping"] if compliance else 0.0)
        if self._robot.object is not None:
            mass = values[f"{OBJECT}.mass"]
            yield "objectMass", -1, (mass, *self._robot.object.inertia(mass))
            yield "objectFriction", -1, (values[f"{OBJECT}.friction"],)

    def held(
        self,
        links: Mapping[int, Dynamics],
        gravity: Vector3,
        ground: GroundFields | None,
        thing: tuple[float, float] | None = None,
    ) -> dict[str, float]:
        """The inverse of `of`, for those parameters that the engine can be asked for.

        `links`: of each index what the engine holds; `gravity` [m/s^2]; `thing`: of a robot's object its mass [kg] and
        friction [-].
        """
        out = {name: links[index][0] for index, name, *_ in self._masses}
        for index, _, own, moments, turning, *_ in self._masses:
            if turning:
                mass, _, held = links[index]
                out[turning] = max(held) * own / (mass * max(moments))
        out |= {name: links[index][1] for index, name in self._frictions}
        out |= {name: links[index][0] for index, name in self._payloads}
        for movable, name, centre, marks in self._centres:
            points = {mark: links[index][0] for mark, index in marks.items()}
            out[name] += sum(points.values())
            out |= zip(centre, movable.shift(points), strict=True)
        x, y, z = gravity
        out["gravity"] = math.hypot(x, y, z)
        if self._slopes:
            pitch, roll = self._slopes
            out[pitch], out[roll] = math.atan2(-x, -z), math.asin(-y / out["gravity"])
        if ground is not None and self._robot.grounded:
            out["ground.friction"], out["ground.restitution"] = ground.friction, ground.restitution
            out["ground.spinning_friction"], out["ground.rolling_friction"] = ground.spinning, ground.rolling
        if thing is not None:
            out[f"{OBJECT}.mass"], out[f"{OBJECT}.friction"] = thing
        return out

    def shifted(self, moved: Mapping[int, Sequence[float]]) -> dict[str, float]:
        """Likewise of centres of mass, from how far [3] each link's was moved [m]."""
        return {
            name: moved[index][k] for index, names, reach in self._shifts for k, name in enumerate(names) if reach[k]
        }


def gravity_on_slope(pitch: float, roll: float, gravity: float = GRAVITY) -> Vector3:
    """Gravity [m/s^2] in the axes of ground that rises by `pitch` [rad] along its x and by `roll` along its y."""
    return (
        -gravity * math.sin(pitch) * math.cos(roll),
        -gravity * math.sin(roll),
        -gravity * math.cos(pitch) * math.cos(roll),
    )


def recalled(written: Mapping[str, float], held: Mapping[str, float]) -> dict[str, float]:
    """What was written, where the engine holds it to rounding, else what it holds."""
    out = dict(written)
    for name, value in held.items():
        if value != out[name] and not math.isclose(out[name], value, rel_tol=SAME, abs_tol=SAME):
            out[name] = value
    return out
