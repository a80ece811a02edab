"""What a robot file says of a robot, and what in it is no real body, no usable joint, or not there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simtoreal.robots.mesh_files import PLAIN, surfaces
from simtoreal.robots.model import MOVING, Inertial, Joint, ModelError, RobotModel
from simtoreal.robots.shapes import Mesh, faults, meshes, reach

ALIKE = 3  # links with the very same inertia: a placeholder
LARGEST_GYRATION = 1.5  # radius of gyration over the farthest point of the shape, which may be simpler than the body
LEAST_GYRATION = 0.03
RATIO = 1_000.0  # of masses of links that a joint connects
PHYSICS_DT = 0.002  # [s] the step at which a joint's own damping is judged


@dataclass(frozen=True)
class Problem:
    """What is wrong with an element of the file. With an "error" the robot cannot be used as it is; with a "warning" it
    can, and will not be what one expects."""

    severity: Literal["error", "warning"]
    element: str
    text: str
    repairable: bool = False  # by `model.possible`


@dataclass(frozen=True)
class LinkFacts:
    """Of a link: mass [kg], centre of mass [m, link frame], principal moments of inertia [kg m^2], and what touches."""

    name: str
    mass: float
    com: tuple[float, float, float]
    principal: tuple[float, float, float]
    collisions: int


@dataclass(frozen=True)
class Inspection:
    """A robot file: its tree, and what is wrong with it."""

    path: Path
    root: str
    links: tuple[LinkFacts, ...]
    joints: tuple[Joint, ...]
    meshes: tuple[Mesh, ...]
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Is there no error?"""
        return all(problem.severity != "error" for problem in self.problems)

    @property
    def mass(self) -> float:
        """Of all links [kg]."""
        return math.fsum(link.mass for link in self.links)

    def to_json(self) -> dict[str, Any]:
        """As plain data, in SI units."""
        joints = [asdict(joint) | {"origin": joint.origin.tolist()} for joint in self.joints]
        meshes = [asdict(mesh) | {"path": None if mesh.path is None else str(mesh.path)} for mesh in self.meshes]
        return {
            "path": str(self.path),
            "root": self.root,
            "mass": self.mass,
            "usable": self.usable,
            "problems": [asdict(problem) for problem in self.problems],
            "joints": joints,
            "links": [asdict(link) for link in self.links],
            "meshes": meshes,
        }


def inspect_robot(path: Path) -> Inspection:
    """Read a URDF and look it through. Raises ModelError where it is no tree of links and joints at all."""
    model = RobotModel(path)
    inertials = {name: model.inertial(name) for name in model.links if model.links[name].has_inertial}
    links = tuple(_facts(model, name, inertials.get(name)) for name in model.links)
    files = tuple(meshes(model))
    problems = [
        *_of_links(model, inertials),
        *_of_placeholders(inertials),
        *_of_joints(model, inertials),
        *_of_meshes(files),
    ]
    problems.sort(key=lambda problem: problem.severity != "error")
    return Inspection(path, model.root, links, tuple(model.joints.values()), files, tuple(problems))


def _facts(model: RobotModel, name: str, inertial: Inertial | None) -> LinkFacts:
    collisions = model.links[name].collisions
    if inertial is None:
        return LinkFacts(name, 0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), collisions)
    return LinkFacts(name, inertial.mass, inertial.com, principal_moments(inertial), collisions)


def principal_moments(inertial: Inertial) -> tuple[float, float, float]:
    """[kg m^2], the smallest first."""
    xx, yy, zz, xy, xz, yz = inertial.inertia
    a, b, c = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]).tolist()
    return a, b, c


def _of_links(model: RobotModel, inertials: dict[str, Inertial]) -> Iterator[Problem]:
    moved = {joint.child for joint in model.joints.values() if joint.kind in MOVING}
    for name in model.links:
        element, inertial = f"link {name}", inertials.get(name)
        for text, loads in faults(model, name):
            yield Problem("warning" if loads else "error", element, text)
        if inertial is None:
            if name in moved:
                text = "moves, and has no inertial; PyBullet would take 1 kg and the inertia of its shape"
                yield Problem("error", element, text)
            continue
        if inertial.mass == 0.0:
            if name in moved and not _carries_mass(model, name):
                yield Problem("error", element, "moves, and neither it nor what is fixed to it has a mass")
            continue
        yield from _of_inertia(element, inertial, reach(model, name, inertial.com))


def _carries_mass(model: RobotModel, name: str) -> bool:
    """Has something that is fixed to a link a mass?"""
    fixed = [joint.child for joint in model.joints.values() if joint.parent == name and joint.kind == "fixed"]
    return any(model.links[child].mass > 0.0 or _carries_mass(model, child) for child in fixed)


def _of_inertia(element: str, inertial: Inertial, extent: float | None) -> Iterator[Problem]:
    least, middle, most = principal_moments(inertial)
    found = f"principal moments {least:.4g}, {middle:.4g}, {most:.4g} kg m^2"
    if least <= 0.0:
        yield Problem("error", element, f"inertia is not positive: {found}")
        return
    if most > (least + middle) * (1.0 + 1e-6):
        text = f"inertia of no real body: the largest of {found} is above the sum of the others"
        yield Problem("error", element, f"{text}; Bullet would set it to zero", repairable=True)
        return
    if extent:
        radius = math.sqrt(most / inertial.mass)
        if radius > LARGEST_GYRATION * extent:
            text = f"{found} of {inertial.mass:.4g} kg lie {radius:.3g} m away, its shape ends at {extent:.3g} m"
            yield Problem("warning", element, f"inertia too large for its shape: {text}")
        elif radius < LEAST_GYRATION * extent:
            text = f"{found} of {inertial.mass:.4g} kg lie within {radius:.3g} m, its shape ends at {extent:.3g} m"
            yield Problem("warning", element, f"inertia too small for its shape: {text}")


def _of_placeholders(inertials: dict[str, Inertial]) -> Iterator[Problem]:
    same: dict[tuple[float, ...], list[str]] = {}
    for name, inertial in inertials.items():
        if inertial.mass > 0.0:
            same.setdefault(inertial.inertia, []).append(name)
    for names in same.values():
        masses = {inertials[name].mass for name in names}
        if len(names) >= ALIKE and len(masses) >= ALIKE:  # legs are alike, in their mass too
            text = f"{len(names)} links of different mass have the very same inertia: a placeholder"
            yield Problem("warning", f"links {', '.join(names)}", text)


def _of_joints(model: RobotModel, inertials: dict[str, Inertial]) -> Iterator[Problem]:
    for joint in model.joints.values():
        element = f"joint {joint.name}"
        if joint.mimics and joint.mimics not in model.joints:
            yield Problem("error", element, f"mimics {joint.mimics}, and there is no such joint")
        elif joint.mimics:
            yield Problem("warning", element, f"mimics {joint.mimics}; here it is a joint of its own: lock it")
        if joint.kind == "fixed":
            continue
        if joint.kind not in MOVING:
            yield Problem("error", element, f"of type {joint.kind}; usable are {', '.join(MOVING)} and fixed")
            continue
        if joint.kind != "continuous" and joint.lower >= joint.upper:
            limits = f"from {joint.lower:g} to {joint.upper:g}"
            yield Problem("error", element, f"has no room to move: its limits are {limits} {joint.unit}")
        for what, value in (("effort", joint.effort), ("velocity", joint.velocity)):
            if value <= 0.0:
                text = f"{what} limit is {value:g}: as an actuator it cannot be used until the robot file gives one"
                yield Problem("warning", element, text)
        masses = [inertials[link].mass for link in (joint.parent, joint.child) if link in inertials]
        if len(masses) == 2 and min(masses) > 0.0 and max(masses) / min(masses) > RATIO:
            text = f"connects {masses[0]:g} kg with {masses[1]:g} kg: solvers of contacts lose their footing there"
            yield Problem("warning", element, text)
        yield from _of_damping(element, joint, inertials.get(joint.child))


def load(joint: Joint, inertial: Inertial) -> float:
    """What of its link alone a joint has to move: the mass [kg], or the moment of inertia about its axis [kg m^2]."""
    return inertial.mass if joint.kind == "prismatic" else inertial.about(joint.axis)


def _of_damping(element: str, joint: Joint, inertial: Inertial | None) -> Iterator[Problem]:
    if joint.damping <= 0.0 or inertial is None or inertial.mass <= 0.0:
        return
    moved = load(joint, inertial)
    factor = joint.damping * PHYSICS_DT / moved if moved > 0.0 else math.inf
    if factor > 1.0:
        of = f"damping {joint.damping:g} {joint.damping_unit} is {factor:.3g} times"
        text = f"{of} what its link alone bears in a step of {PHYSICS_DT:g} s: explicit damping explodes"
        yield Problem("warning", element, text)


def _of_meshes(files: tuple[Mesh, ...]) -> Iterator[Problem]:
    for mesh in files:
        element = f"link {mesh.link}"
        if mesh.path is None:
            yield Problem("error", element, f"mesh {mesh.name!r} {mesh.fault}")
        elif mesh.path.suffix.lower() not in PLAIN:
            try:
                surfaces(mesh.path)
            except ModelError as error:
                yield Problem("error", element, f"mesh {error}")
