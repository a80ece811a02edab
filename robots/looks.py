"""What a robot looks like: the visual shapes of its file, as data for a viewer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.model import ModelError, RobotModel, numbers, transform

Kind = Literal["box", "cylinder", "sphere", "capsule", "mesh"]
SIZES: dict[Kind, tuple[tuple[str, str], ...]] = {
    "box": (("size", "0 0 0"),),
    "cylinder": (("radius", "0"), ("length", "0")),
    "sphere": (("radius", "0"),),
    "capsule": (("radius", "0"), ("length", "0")),
    "mesh": (("scale", "1 1 1"),),
}


@dataclass(frozen=True)
class Look:
    """One visual shape of a link.

    Attributes:
        place: [4, 4] of its middle in the link's frame; round shapes stand along z.
        size: of a box its lengths along x, y and z [m]; of a cylinder and a capsule radius and length [m], the latter
            without the caps; of a sphere its radius [m]; of a mesh its scale along x, y and z.
        mesh: the file of a mesh.
        colour: red, green, blue and opacity from 0 to 1; None where the robot's file gives none.
    """

    link: str
    kind: Kind
    place: NDArray[np.float64]
    size: tuple[float, ...]
    mesh: Path | None
    colour: tuple[float, ...] | None


def looks(model: RobotModel) -> Iterator[Look]:
    """Every visual shape of a robot, link by link.

    Raises:
        ModelError: a shape without a known geometry, or a mesh that is not there.
    """
    for link in model.links:
        where = f"{model.path}: link {link}"
        for visual in model.element(link).findall("visual"):
            geometry = visual.find("geometry")
            shape = None if geometry is None else next(iter(geometry), None)
            kind = next((kind for kind in get_args(Kind) if shape is not None and shape.tag == kind), None)
            if shape is None or kind is None:
                raise ModelError(f"{where}: a visual needs a geometry: {', '.join(get_args(Kind))}")
            size = [number for key, default in SIZES[kind] for number in numbers(shape, key, default, where)]
            mesh = model.mesh_path(shape.get("filename", "")) if kind == "mesh" else None
            material = visual.find("material")
            name = "" if material is None else material.get("name", "")
            own = None if material is None else material.find("color")
            colour = model.colours.get(name) if own is None else tuple(numbers(own, "rgba", "0 0 0 1", where))
            yield Look(link, kind, transform(visual.find("origin"), where), tuple(size), mesh, colour)
