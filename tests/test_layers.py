"""The house: four islands, one bridge. Every import in the code is walked, those inside functions too."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ISLANDS = ("robots", "randomization", "policies", "export")
FOLDERS = (*ISLANDS, "simtoreal")
OWNERS = {
    "pybullet": ("robots/pybullet_world.py", "robots/pybullet_ground.py", "robots/pybullet_scene.py"),
    "mujoco": ("robots/mujoco_world.py", "robots/mujoco_scene.py"),
    "stable_baselines3": ("policies/baselines.py",),
    "onnx": ("export/onnx.py",),
    "torch.onnx": ("export/onnx.py",),
    "viser": ("simtoreal/live_viewer.py",),
    "trimesh": ("simtoreal/live_scene.py", "robots/mesh_files.py"),
    "onnxruntime": ("export/onboard/runtime.py",),
    "ale_py": ("simtoreal/games.py",),
    "minatar": ("simtoreal/games.py",),
}
ONBOARD = {"numpy", "onnxruntime", *sys.stdlib_module_names}


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of the modules a file of `package` imports, with those it names for a lazy import.

    `from a import b` gives `a.b`: whether b is a module or not, it comes from a.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"simtoreal(\.\w+)+(:\w+)?", node.value):
                yield node.value.partition(":")[0]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            yield f"torch.{node.attr}"


def room(name: str) -> str | None:
    """The room an imported name lies in: an island, "simtoreal" for the bridge, None for other people's code."""
    parts = name.split(".")
    if parts[0] != "simtoreal":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ISLANDS else "simtoreal"


def faults(path: Path, source: str) -> list[str]:
    """What a file, given relative to the root, imports and must not."""
    folder = path.parts[0]
    inside = [part for part in path.parent.parts if part != "simtoreal"]
    tree = ast.parse(source)
    found = []
    for name in imported(tree, ".".join(["simtoreal", *inside])):
        top = name.split(".")[0]
        if top == "tests":
            found.append(f"{path} imports {name}: nobody imports tests")
        if top in ISLANDS:
            found.append(f"{path} imports {name}: the full name is simtoreal.{name}")
        if folder in ISLANDS and room(name) not in (None, folder):
            found.append(f"{path} imports {name}: islands know neither each other nor the bridge")
        for module, owners in OWNERS.items():
            if (name == module or name.startswith(f"{module}.")) and str(path) not in owners:
                found.append(f"{path} imports {name}: that is for {' and '.join(owners)}")
    onboard = path.parts[:2] == ("export", "onboard")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and (not onboard or node.level > 1):
            found.append(f"{path}:{node.lineno}: a relative import")
        if onboard and isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            strange = [name for name in names if name.split(".")[0] not in ONBOARD]
            found += [f"{path}:{node.lineno}: {name} is not on a robot" for name in strange]
    return found


FILES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_what_its_room_may(path):
    assert faults(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_heavy_import_has_its_owner():
    for module, owners in OWNERS.items():
        for owner in owners:
            tree = ast.parse((ROOT / owner).read_text(encoding="utf-8"))
            assert any(name == module or name.startswith(f"{module}.") for name in imported(tree, "")), (module, owner)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("robots/x.py", "from simtoreal.policies.sac import SAC"),
        ("robots/x.py", "import simtoreal"),
        ("robots/x.py", "from simtoreal import config"),
        ("robots/tasks/x.py", "def f():\n    import simtoreal.train"),
        ("robots/x.py", "import importlib\nimportlib.import_module('simtoreal.export.bundle')"),
        ("robots/x.py", "from .world import World"),
        ("robots/x.py", "from policies.sac import SAC"),
        ("policies/x.py", "import pybullet as p"),
        ("robots/x.py", "from pybullet import connect"),
        ("simtoreal/x.py", "from stable_baselines3.common import logger"),
        ("simtoreal/x.py", "import onnx"),
        ("export/bundle.py", "import torch\ntorch.onnx.export"),
        ("simtoreal/x.py", "from tests.conftest import fixture"),
        ("export/onboard/x.py", "from simtoreal.export.onboard.spec import Spec"),
        ("export/onboard/x.py", "from ..onnx import PolicyGraph"),
        ("export/onboard/x.py", "import torch"),
    ],
)
def test_the_walk_sees_each_kind_of_trespass(path, source):
    assert faults(Path(path), source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("robots/x.py", "from simtoreal.robots.world import World\nimport numpy, simtoreal.robots.model"),
        ("robots/pybullet_world.py", "import pybullet"),
        ("export/onboard/x.py", "from .spec import Spec\nfrom . import checks\nimport json, numpy"),
        ("simtoreal/x.py", "from simtoreal.policies.sac import SAC\nfrom simtoreal import build"),
    ],
)
def test_the_walk_lets_the_rest_pass(path, source):
    assert faults(Path(path), source) == []
