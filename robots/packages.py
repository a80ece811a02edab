"""Where a robot's files lie: beside each other, or in its package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

SCHEME = "package://"
MARK = "package.xml"  # in the folder of a ROS package
WITHIN = ("urdf", "xacro", "robots", "description")  # folders of a package that hold URDFs, beside its meshes
ABOVE = 3  # so many folders above a URDF may be its package by their name alone


def package_root(folder: Path) -> Path:
    """The folder in which all files of a robot lie, whose URDF lies in `folder`: the ROS package around it, the folder
    above one that is called `urdf` or alike, else this one."""
    for above in (folder, *folder.parents):
        if (above / MARK).is_file():
            return above
    return folder.parent if folder.name in WITHIN else folder


def find_mesh(name: str, folder: Path) -> Path:
    """The file that a mesh's `name` means in a URDF in `folder`: a path from there, or `package://NAME/path`.

    A package is a folder above the URDF that is called so, one on ROS_PACKAGE_PATH, or one of share/ on
    AMENT_PREFIX_PATH; a package that is none of these is taken for a folder beside the URDF.

    Raises:
        FileNotFoundError: there is none, or it lies outside the robot's folder or the package; where it was looked for.
    """
    folder = folder.resolve()
    if not name.startswith(SCHEME):
        root = package_root(folder)
        if not _lies_in(root, found := (folder / name).resolve()):
            raise FileNotFoundError(f"is not a file in {root}")
        return found
    package, _, rest = name.removeprefix(SCHEME).partition("/")
    homes = list(_packages(package, folder))
    for root, path in [*((home, home / rest) for home in homes), (folder, folder / package / rest)]:
        if _lies_in(root, found := path.resolve()):
            return found
    if not homes:
        raise FileNotFoundError(f"is in no folder {package} above or beside the URDF, nor on ROS_PACKAGE_PATH")
    raise FileNotFoundError(f"is not a file in {homes[0]}")


def find_urdf(name: str, folder: Path) -> Path:
    """The file that a robot file in `folder` means: a path from there, or `package://NAME/path`, where a Python package
    that is installed serves too.

    Raises:
        FileNotFoundError: there is none; where it was looked for.
    """
    if not name.startswith(SCHEME):
        found = Path(os.path.normpath(folder / name))
        if "\0" in name or not found.is_file():
            raise FileNotFoundError(f"no such file: {str(found)!r}")
        return found
    package, _, rest = name.removeprefix(SCHEME).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    homes = [*_packages(package, folder), *map(Path, (spec and spec.submodule_search_locations) or ())]
    if not homes:
        raise FileNotFoundError(f"{name}: {package} is no folder above, none on ROS_PACKAGE_PATH, no Python package")
    for home in homes:
        if _lies_in(home, found := (home / rest).resolve()):
            return found
    raise FileNotFoundError(f"{name} is not a file in {homes[0]}")


def _packages(name: str, folder: Path) -> Iterator[Path]:
    """The folders that may be the package of this name, nearest first."""
    if not name or name in (".", ".."):
        return
    for level, above in enumerate((folder, *folder.parents)):
        if above.name == name and (level <= ABOVE or (above / MARK).is_file()):
            yield above
    for variable, share in (("ROS_PACKAGE_PATH", ""), ("AMENT_PREFIX_PATH", "share")):
        for place in os.environ.get(variable, "").split(os.pathsep):
            home = Path(place) / share
            if place and not share and home.name == name and (home / MARK).is_file():
                yield home.resolve()
            elif place and (home / name).is_dir():
                yield (home / name).resolve()


def _lies_in(root: Path, path: Path) -> bool:
    try:
        return path.is_relative_to(root) and path.is_file()
    except OSError:  # a name that no file can have
        return False
