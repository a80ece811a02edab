"""The suites of a task: those that are shipped, else those that follow from its preset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simtoreal.config import ConfigError
from simtoreal.randomization.messages import nearest, shown
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.shipped import find_suite, is_path, preset_paths, suite_paths
from simtoreal.randomization.suites import Ranges, Suite, heldout, nominal, severity, train
from simtoreal.randomization.yaml_files import parse_yaml, read_yaml


def default_suites(task: str) -> list[str]:
    """All there are, in the order in which they are read."""
    order = {"nominal": 0, "train": 1, "heldout": 2}
    shipped = sorted(suite_paths(task), key=lambda name: (order.get(name, 3), name))
    return shipped or (list(order) if task in preset_paths() else ["nominal"])


def load_suite(task: str, name: str, table: Mapping[str, Any]) -> Suite:
    """A suite by name or file. Raises FileNotFoundError; ConfigFileError, also of another task's; ConfigError of a
    name."""
    if not suite_paths(task) and (made := _made_suite(task, name, table)) is not None:
        return Suite.parse(parse_yaml(json.dumps(made), name), table)
    if not suite_paths(task) and not is_path(name):
        raise ConfigError(
            f"no suite of {task} named {shown(name)}; {nearest(name, default_suites(task))}, or a .yaml file"
        )
    file = read_yaml(find_suite(task, name))
    suite = Suite.parse(file, table)
    if suite.task.rpartition(":")[2] != task:
        raise file.error(f"a suite for {suite.task}, not for {task}", "task")
    return suite


def _made_suite(task: str, name: str, table: Mapping[str, Any]) -> dict[str, Any] | None:
    """A suite of a task that none is shipped for: from its preset, where there is one."""
    if name == "nominal":
        return nominal(task)
    if task not in preset_paths() or name not in ("train", "heldout"):
        return None
    preset = Preset.load(preset_paths()[task])
    return train(preset) if name == "train" else heldout(preset, table)


def reference_ranges(task: str, table: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The ranges from which severity is measured: the task's shipped preset, the same for every policy."""
    shipped = preset_paths()
    return Randomizer(Preset.load(shipped[task]), table).ranges if task in shipped and table else {}


def severity_of(values: Mapping[str, float], training: Ranges, reference: Ranges, table: Mapping[str, Any]) -> float:
    """How far a case lies outside `reference`, or where a task ships no preset outside the policy's `training` ranges;
    0 where nothing has a name."""
    return severity(values, reference or training, table) if table else 0.0
