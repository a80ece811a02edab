"""The presets and suites that come with the package: presets/<Task>.yaml and suites/<Task>/<name>.yaml."""

from __future__ import annotations

import os
from pathlib import Path

from simtoreal.randomization.messages import nearest, shown
from simtoreal.randomization.randomizer import Preset, Table
from simtoreal.randomization.suites import heldout, nominal, train, write_suite

FOLDER = Path(__file__).parent


def preset_paths() -> dict[str, Path]:
    """The shipped presets by task."""
    return {path.stem: path for path in sorted((FOLDER / "presets").glob("*.yaml"))}


def suite_paths(task: str) -> dict[str, Path]:
    """The shipped suites of a task by name."""
    return {path.stem: path for path in sorted((FOLDER / "suites").glob("*/*.yaml")) if path.parent.name == task}


def find_preset(name: str) -> Path:
    """The file a user means by `name`: a path (it has a separator or ends in .yaml), else a shipped preset.

    Raises FileNotFoundError naming the choices; a path is returned as it is.
    """
    return _find("preset", name, preset_paths())


def find_suite(task: str, name: str) -> Path:
    """The file a user means by `name`: a path (it has a separator or ends in .yaml), else a shipped suite of `task`."""
    return _find(f"suite of {task}", name, suite_paths(task))


def write_suites(preset: Preset, table: Table, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write the suites nominal, train and heldout of a preset into `folder` (by default where shipped ones lie).

    Raises ValueError, with nothing written, when the preset does not fit `table` or leaves nothing to hold out.
    """
    folder = FOLDER / "suites" / preset.task if folder is None else Path(folder)
    made = {"nominal": nominal(preset.task), "train": train(preset), "heldout": heldout(preset, table)}
    headers = {
        "nominal": "The robot as modelled.",
        "train": f"The training ranges of the preset {preset.task}, version {preset.version}.",
        "heldout": f"One width beyond each range of the preset {preset.task}, version {preset.version},\n"
        "within the valid bounds: each entry alone, then all at once.",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in made.items():
        write_suite(folder / f"{name}.yaml", data, headers[name])
    return [folder / f"{name}.yaml" for name in made]


def is_path(name: str) -> bool:
    """Does it have a separator or end in .yaml, as no shipped name does?"""
    return os.sep in name or name.endswith((".yaml", ".yml"))


def _find(what: str, name: str, shipped: dict[str, Path]) -> Path:
    if is_path(name):
        return Path(name)
    if name not in shipped:
        raise FileNotFoundError(f"no {what} named {shown(name)}, and no path of a .yaml file; {nearest(name, shipped)}")
    return shipped[name]
