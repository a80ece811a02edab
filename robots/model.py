"""A robot's URDF as data: links, joints, forward kinematics, and the resolved file that an engine loads."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from defusedxml import ElementTree as SafeET
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from simtoreal.robots.kinematics import Chain
from simtoreal.robots.packages import find_mesh

Vector3 = tuple[float, float, float]
MOVING = ("revolute", "continuous", "prismatic")


class ModelError(ValueError):
    """A robot file that cannot be used, with the element at fault."""


@dataclass(frozen=True)
class Inertial:
    """Mass [kg], centre of mass [m, link frame] and inertia about it (xx, yy, zz, xy, xz, yz) [kg m^2]."""

    mass: float
    com: Vector3
    inertia: tuple[float, float, float, float, float, float]

    def about(self, axis: Vector3) -> float:
        """The moment of inertia [kg m^2] about an axis through the link's origin."""
        xx, yy, zz, xy, xz, yz = self.inertia
        own = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        return float(axis @ own @ np.asarray(axis) + self.mass * np.square(np.cross(axis, self.com)).sum())

    @property
    def spread(self) -> Vector3:
        """How far from its centre its mass lies along x, y, z [m], root mean square: sqrt((Iyy + Izz - Ixx) / 2m)."""
        half = sum(self.inertia[:3]) / 2.0
        x, y, z = (math.sqrt(max(half - own, 0.0) / self.mass) for own in self.inertia[:3])
        return x, y, z


def possible(body: Inertial) -> Inertial:
    """A body whose largest principal moment is no more than the sum of the others, as that of any real one."""
    xx, yy, zz, xy, xz, yz = body.inertia
    moments, axes = np.linalg.eigh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    moments[2] = min(moments[2], (1.0 - 1e-6) * (moments[0] + moments[1]))
    m = (axes * moments) @ axes.T
    return replace(body, inertia=_moments(m))


def with_rotor(body: Inertial, rotor: float, axis: Vector3 = (0.0, 0.0, 1.0)) -> Inertial:
    """A body with the disc of a motor [kg m^2 about the unit `axis`] that turns with it."""
    xx, yy, zz, xy, xz, yz = body.inertia
    x, y, z = axis
    half = rotor / 2
    moments = (xx + half * (1 + x * x), yy + half * (1 + y * y), zz + half * (1 + z * z))
    return replace(body, inertia=(*moments, xy + half * x * y, xz + half * x * z, yz + half * y * z))


def _moments(tensor: NDArray[np.float64]) -> tuple[float, float, float, float, float, float]:
    xx, yy, zz, xy, xz, yz = (float(tensor[i]) for i in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
    return xx, yy, zz, xy, xz, yz


@dataclass(frozen=True)
class Link:
    """A link; `mass` in kg, 0 where the file gives none; `friction` of its surface, None where the file gives none."""

    name: str
    mass: float
    collisions: int  # shapes that touch
    friction: float | None = None
    has_inertial: bool = True

    @property
    def has_collision(self) -> bool:
        return self.collisions > 0


@dataclass(frozen=True)
class Joint:
    """A joint; `origin` [4, 4] places the child at zero, the unit `axis` is in the child's frame.

    `lower` and `upper` in rad or m, `effort` in N m or N, `velocity` in rad/s or m/s; 0 where the file gives none.
    """

    name: str
    kind: str
    parent: str
    child: str
    origin: NDArray[np.float64]
    axis: Vector3
    lower: float
    upper: float
    effort: float
    velocity: float
    damping: float = 0.0  # the file's own, which a world does not use [N m s/rad or N s/m]
    mimics: str = ""

    @property
    def unit(self) -> str:
        """Of its position."""
        return "m" if self.kind == "prismatic" else "rad"

    @property
    def force_unit(self) -> str:
        return "N" if self.kind == "prismatic" else "N m"

    @property
    def damping_unit(self) -> str:
        return "N s/m" if self.kind == "prismatic" else "N m s/rad"


def numbers(element: ET.Element | None, key: str, default: str, where: str) -> list[float]:
    """An attribute as so many numbers as the default has. Raises ModelError naming `where`."""
    text = default if element is None else element.get(key, default)
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        xacro = " but xacro: expand it first (xacro FILE > URDF)" if "$(" in text or "${" in text else ""
        raise ModelError(f"{where}: {key}={text!r} is not a list of numbers{xacro}") from None
    if len(values) != len(default.split()):
        raise ModelError(f"{where}: {key}={text!r} should be {len(default.split())} numbers")
    if not all(map(math.isfinite, values)):
        raise ModelError(f"{where}: {key}={text!r} is not finite")
    return values


def rotation_rpy(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of URDF's fixed-axis roll, pitch, yaw [rad]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def transform(element: ET.Element | None, where: str) -> NDArray[np.float64]:
    """An `origin` as a matrix [4, 4]. Raises ModelError naming `where`."""
    out = np.eye(4)
    out[:3, 3] = numbers(element, "xyz", "0 0 0", where)
    out[:3, :3] = rotation_rpy(*numbers(element, "rpy", "0 0 0", where))
    return out


class RobotModel:
    """The parsed tree of one URDF.

    Args:
        path: the URDF; read with defusedxml, so no entity, DTD or external reference is ever followed.

    Raises:
        ModelError: not XML, no root, two roots, a loop, a joint between unknown links, a negative or non-finite mass.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ModelError(f"{path}: Is a directory" if path.is_dir() else f"{path}: no regular file")
        try:
            self._root: ET.Element = SafeET.fromstring(path.read_bytes())
        except FileNotFoundError:
            raise ModelError(f"{path}: no such robot file") from None
        except (ET.ParseError, DefusedXmlException) as error:
            raise ModelError(f"{path}: not a usable URDF: {error}") from None
        for kind in ("link", "joint"):
            names = [element.get("name", "") for element in self._root.findall(kind)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ModelError(f"{path}: {kind} {twice[0]} is there {names.count(twice[0])} times")
        self.links = {link.name: link for link in map(self._link, self._root.findall("link"))}
        self.joints = {joint.name: joint for joint in map(self._joint, self._root.findall("joint"))}
        self._parent_joint: dict[str, Joint] = {}
        for joint in self.joints.values():
            other = self._parent_joint.setdefault(joint.child, joint)
            if other is not joint:
                raise ModelError(f"{path}: link {joint.child} has two parents: joints {other.name} and {joint.name}")
        roots = [name for name in self.links if name not in self._parent_joint]
        if len(roots) != 1:
            raise ModelError(f"{path}: a robot has one root link, this has {len(roots)}: {', '.join(roots)}")
        self.root = roots[0]
        tree = {*roots}
        while grown := {joint.child for joint in self.joints.values() if joint.parent in tree} - tree:
            tree |= grown
        if loop := sorted(set(self.links) - tree):
            raise ModelError(f"{path}: links in a loop, apart from root {roots[0]}: {', '.join(loop)}")

    def _link(self, element: ET.Element) -> Link:
        name = element.get("name", "")
        where = f"{self.path}: link {name}"
        mass = numbers(element.find("inertial/mass"), "value", "0", where)[0]
        if mass < 0:
            raise ModelError(f"{where}: mass {mass} kg is negative")
        surface = element.find("contact/lateral_friction")
        friction = None if surface is None else numbers(surface, "value", "0", where)[0]
        inertial = element.find("inertial") is not None
        return Link(name, mass, len(element.findall("collision")), friction, inertial)

    @property
    def mass(self) -> float:
        """Of all links [kg], as the file has them."""
        return sum(link.mass for link in self.links.values())

    def element(self, link: str) -> ET.Element:
        """A link as the file has it."""
        return next(e for e in self._root.findall("link") if e.get("name") == link)

    @cached_property
    def colours(self) -> dict[str, tuple[float, ...]]:
        """Of the file's named materials: red, green, blue and opacity, from 0 to 1."""
        found: dict[str, tuple[float, ...]] = {}
        for material in self._root.iter("material"):
            colour, name = material.find("color"), material.get("name", "")
            if colour is not None and name not in found:
                found[name] = tuple(numbers(colour, "rgba", "0 0 0 1", f"{self.path}: material {name}"))
        return found

    def inertial(self, link: str) -> Inertial:
        """The inertial of a link as the file has it, in the link's axes.

        Raises:
            ModelError: the file gives none.
        """
        element = self.element(link).find("inertial")
        where = f"{self.path}: link {link}"
        if element is None:
            raise ModelError(f"{where}: no inertial")
        place = transform(element.find("origin"), where)
        found = element.find("inertia")
        xx, yy, zz, xy, xz, yz = (numbers(found, k, "0", where)[0] for k in ("ixx", "iyy", "izz", "ixy", "ixz", "iyz"))
        turn = place[:3, :3]
        tensor = turn @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ turn.T
        x, y, z = place[:3, 3].tolist()
        return Inertial(self.links[link].mass, (x, y, z), _moments(tensor))

    def _joint(self, element: ET.Element) -> Joint:
        name = element.get("name", "")
        where = f"{self.path}: joint {name}"
        limit = element.find("limit")
        ends = []
        for end in ("parent", "child"):
            found = element.find(end)
            link = "" if found is None else found.get("link", "")
            if link not in self.links:
                raise ModelError(f"{where}: {end} link {link!r} is not in the file")
            ends.append(link)
        kind = element.get("type", "fixed")
        axis = np.array(numbers(element.find("axis"), "xyz", "1 0 0", where))
        length = float(np.linalg.norm(axis))
        if length == 0.0 and kind in MOVING:
            raise ModelError(f"{where}: axis is zero")
        axis = axis / (length or 1.0)
        mimic = element.find("mimic")
        lower, upper, effort, velocity = (
            numbers(limit, key, default, where)[0]
            for key, default in (("lower", "0"), ("upper", "0"), ("effort", "0"), ("velocity", "0"))
        )
        return Joint(
            name,
            kind,
            ends[0],
            ends[1],
            transform(element.find("origin"), where),
            (float(axis[0]), float(axis[1]), float(axis[2])),
            lower,
            upper,
            effort,
            velocity,
            numbers(element.find("dynamics"), "damping", "0", where)[0],
            "" if mimic is None else mimic.get("joint", ""),
        )

    def mesh_path(self, name: str) -> Path:
        """The file that a mesh's name means, see `find_mesh`. Raises ModelError where there is none."""
        try:
            return find_mesh(name, self.path.parent)
        except FileNotFoundError as error:
            raise ModelError(f"{self.path}: mesh {name!r} {error}") from None

    def resolved(
        self,
        *,
        lock: Sequence[str] = (),
        inertials: Mapping[str, Inertial] | None = None,
        ballast: Mapping[str, tuple[str, Vector3]] | None = None,
        visuals: bool = True,
        mesh_name: Callable[[Path], str] = str,
    ) -> str:
        """The URDF text an engine loads.

        Args:
            lock: moving joints held fixed at zero.
            inertials: replaces a link's inertial, e.g. where the file's is a placeholder.
            ballast: name -> (link, point [m, link frame]): massless links fixed there, so that mass can be put there
                later on engines that cannot move a centre of mass.
            visuals: False drops what only a camera sees.
            mesh_name: what the engine is to call a mesh's file.
        """
        root = ET.fromstring(ET.tostring(self._root))
        paths = {name: self.mesh_path(name) for name in (mesh.get("filename", "") for mesh in root.iter("mesh"))}
        for joint in root.iter("joint"):
            name = joint.get("name", "")
            if name in lock:
                joint.set("type", "fixed")
            axis = joint.find("axis")
            if axis is not None:
                axis.set("xyz", " ".join(map(repr, self.joints[name].axis)))  # Bullet measures along axes as written
        for link in root.findall("link"):
            name = link.get("name", "")
            inertial = (inertials or {}).get(name)
            if inertial is None and self.links[name].mass == 0.0:
                inertial = Inertial(0.0, (0.0, 0.0, 0.0), (0.0,) * 6)
            if inertial is not None:
                for old in link.findall("inertial"):
                    link.remove(old)
                link.append(_inertial_element(inertial))
            if not visuals:
                for visual in link.findall("visual"):
                    link.remove(visual)
            for contact in link.findall("contact"):
                for extension in [child for child in contact if child.tag != "lateral_friction"]:
                    contact.remove(extension)  # stiffness, anchors, spinning friction, which PyBullet alone would have
            for mesh in link.iter("mesh"):
                mesh.set("filename", mesh_name(paths[mesh.get("filename", "")]))
        for name, (parent, point) in (ballast or {}).items():
            child = ET.SubElement(root, "link", name=name)
            child.append(_inertial_element(Inertial(0.0, (0.0, 0.0, 0.0), (0.0,) * 6)))
            joint = ET.SubElement(root, "joint", name=f"{name}_joint", type="fixed")
            ET.SubElement(joint, "parent", link=parent)
            ET.SubElement(joint, "child", link=name)
            ET.SubElement(joint, "origin", xyz=" ".join(map(repr, point)), rpy="0 0 0")
        ET.indent(root)  # PyBullet reads a line of more than 8 KB as several, and numbers cut in two
        return ET.tostring(root, encoding="unicode")

    def standing(self, locked: Sequence[str] = ()) -> set[str]:
        """The links that nothing moves where the root is fixed to the world."""
        found = {self.root}
        joints = [joint for joint in self.joints.values() if joint.kind not in MOVING or joint.name in locked]
        while more := {joint.child for joint in joints if joint.parent in found} - found:
            found |= more
        return found

    def way(self, link: str) -> list[str]:
        """The names of the joints from the root to a link."""
        out: list[str] = []
        while link in self._parent_joint:
            out.append(self._parent_joint[link].name)
            link = self._parent_joint[link].parent
        return out[::-1]

    def axis(self, joint: str) -> Vector3:
        """The unit axis of a joint in the root's frame, all joints at zero."""
        found: Joint | None = self.joints[joint]
        out = np.asarray(self.joints[joint].axis)
        while found is not None:
            out = found.origin[:3, :3] @ out
            found = self._parent_joint.get(found.parent)
        x, y, z = out.tolist()
        return x, y, z

    def reach(self, link: str) -> tuple[Vector3, float]:
        """Where the first moving joint on the way to `link` is, in the root's frame, and how far the link can be from
        it at most [m]: the way along all joints after it."""
        way = [self.joints[name] for name in self.way(link)]
        first = next((i for i, joint in enumerate(way) if joint.kind in MOVING), len(way))
        place = np.eye(4)
        for joint in way[: first + 1]:
            place = place @ joint.origin
        slides = sum(max(abs(j.lower), abs(j.upper)) for j in way[first:] if j.kind == "prismatic")
        x, y, z = place[:3, 3].tolist()
        return (x, y, z), slides + sum(float(np.linalg.norm(joint.origin[:3, 3])) for joint in way[first + 1 :])

    def chain(self, link: str, joints: Sequence[str]) -> Chain:
        """Forward kinematics from the root to `link`; `joints` gives the order of the position vector.

        Raises:
            ModelError: no such link.
        """
        if link not in self.links:
            raise ModelError(f"no link {link!r}; links: {', '.join(self.links)}")
        path: list[Joint] = []
        while link in self._parent_joint:
            joint = self._parent_joint[link]
            path.append(joint)
            link = joint.parent
        return Chain(path, list(joints))


def _inertial_element(inertial: Inertial) -> ET.Element:
    element = ET.Element("inertial")
    ET.SubElement(element, "origin", xyz=" ".join(map(repr, inertial.com)), rpy="0 0 0")
    ET.SubElement(element, "mass", value=repr(inertial.mass))
    keys = ("ixx", "iyy", "izz", "ixy", "ixz", "iyz")
    ET.SubElement(element, "inertia", {key: repr(v) for key, v in zip(keys, inertial.inertia, strict=True)})
    return element
