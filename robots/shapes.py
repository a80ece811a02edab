"""The shapes of a robot file's links: how far they reach, and the files of their meshes."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.mesh_files import PLAIN, surfaces
from simtoreal.robots.model import ModelError, RobotModel, numbers, transform
from simtoreal.robots.packages import find_mesh

STL_HEADER, STL_FACET = 84, 50  # [bytes]


@dataclass(frozen=True)
class Mesh:
    """A mesh that a link names; `path` is None where there is no such file, `fault` says where it was looked for."""

    link: str
    name: str
    path: Path | None
    visual: bool
    fault: str = ""


def meshes(model: RobotModel) -> Iterator[Mesh]:
    """Of every link, what touches first."""
    for link in model.links:
        for kind in ("collision", "visual"):
            for mesh in model.element(link).iterfind(f"{kind}/geometry/mesh"):
                name, seen = mesh.get("filename", ""), kind == "visual"
                try:
                    yield Mesh(link, name, find_mesh(name, model.path.parent), seen)
                except FileNotFoundError as error:
                    yield Mesh(link, name, None, seen, str(error))


SIZES = {  # what a shape needs to have a size
    "box": ("size",),
    "sphere": ("radius",),
    "cylinder": ("radius", "length"),
    "capsule": ("radius", "length"),
    "mesh": (),
}


def faults(model: RobotModel, link: str) -> Iterator[tuple[str, bool]]:
    """What is wrong with a link's shapes, and whether an engine could still load what is seen of it."""
    where = f"{model.path}: link {link}"
    for part in ("collision", "visual"):
        for shape in model.element(link).findall(part):
            kinds = list(shape.find("geometry") or ())
            if not kinds:
                yield f"its {part} has no shape", False
                continue
            if kinds[1:]:
                yield f"its {part} has {len(kinds)} shapes, of which engines take the first", True
            kind = kinds[0]
            if kind.tag not in SIZES:
                yield f"its {part} is a {kind.tag}, which is none of {', '.join(SIZES)}", False
                continue
            if missing := [key for key in SIZES[kind.tag] if not kind.get(key)]:
                yield f"the {kind.tag} of its {part} has no {missing[0]}", False
                continue
            for key in SIZES[kind.tag] or ("scale",):
                size = numbers(kind, key, "1 1 1" if key in ("size", "scale") else "1", where)
                nothing = part == "collision" and min(map(abs, size)) == 0.0  # what is not to be seen may be of no size
                if nothing or (key != "scale" and min(size) < 0.0):
                    said = " ".join(f"{number:g}" for number in size)
                    yield f"the {kind.tag} of its {part} has a {key} of {said}", part == "visual"


def reach(model: RobotModel, link: str, point: Sequence[float]) -> float | None:
    """How far a link's shape ends from a point [m, link frame]; None where it has none, or one that is not read here.

    Of what touches; where nothing does, of what is seen. A round side counts as its square hull.
    """
    element, where = model.element(link), f"{model.path}: link {link}"
    shapes = element.findall("collision") or element.findall("visual")
    ends = [_points(model, shape, where) for shape in shapes]
    if not ends or any(end is None for end in ends):
        return None
    return max(float(np.linalg.norm(end - np.asarray(point), axis=1).max()) for end in ends if end is not None)


def ball_radius(model: RobotModel, link: str) -> float | None:
    """The radius [m] of the ball that a link touches with; None where that is no ball."""
    ball = model.element(link).find("collision/geometry/sphere")
    return None if ball is None else numbers(ball, "radius", "0", f"{model.path}: link {link}")[0]


def _points(model: RobotModel, shape: ET.Element, where: str) -> NDArray[np.float64] | None:
    """Corners of a shape [n, 3], link frame."""
    geometry = shape.find("geometry")
    kind = None if geometry is None else next(iter(geometry), None)
    if kind is None:
        return None
    if kind.tag == "box":
        half = np.divide(numbers(kind, "size", "0 0 0", where), 2.0)
    elif kind.tag == "sphere":
        half = np.full(3, numbers(kind, "radius", "0", where)[0])
    elif kind.tag in ("cylinder", "capsule"):
        (radius,), (length,) = numbers(kind, "radius", "0", where), numbers(kind, "length", "0", where)
        half = np.array([radius, radius, length / 2.0 + (radius if kind.tag == "capsule" else 0.0)])
    else:
        path = _found(model, kind.get("filename", ""))
        vertices = None if path is None else _vertices(path)
        if vertices is None:
            return None
        place = transform(shape.find("origin"), where)
        scaled: NDArray[np.float64] = vertices * numbers(kind, "scale", "1 1 1", where)
        return scaled @ place[:3, :3].T + place[:3, 3]
    place = transform(shape.find("origin"), where)
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3))) * half
    moved: NDArray[np.float64] = corners @ place[:3, :3].T + place[:3, 3]
    return moved


def _found(model: RobotModel, name: str) -> Path | None:
    try:
        return model.mesh_path(name)
    except ModelError:
        return None


def _vertices(path: Path) -> NDArray[np.float64] | None:
    """[n, 3] of an .obj, a binary .stl or a .dae; None of anything else, or of one without any."""
    if path.suffix.lower() not in PLAIN:
        try:
            return np.concatenate([np.asarray(part.vertices) for part in surfaces(path)])
        except ModelError:
            return None
    data = path.read_bytes()
    if path.suffix.lower() == ".obj":
        words = [line.split()[1:4] for line in data.decode(errors="replace").splitlines() if line.startswith("v ")]
        try:
            found = np.array(words, float).reshape(-1, 3)
        except ValueError:
            return None
        return found if len(found) else None
    count = (len(data) - STL_HEADER) // STL_FACET
    whole = path.suffix.lower() == ".stl" and count > 0 and len(data) == STL_HEADER + count * STL_FACET
    if not whole:
        return None
    facet = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
    corners: NDArray[np.float64] = np.frombuffer(data, facet, count, STL_HEADER)["corners"].reshape(-1, 3).astype(float)
    return corners if np.isfinite(corners).all() else None
