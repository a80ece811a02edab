"""Evaluation suites: fixed, versioned conditions that are the same for every policy, and what counts as held out.

A suite file:

    task: A1Walk
    name: heldout
    version: 1
    held_out: true            # its figure counts only cases outside the policy's own training ranges
    conditions:
      payload: {link.trunk.payload: {uniform: [3.0, 6.0]}}
      ice:     {ground.friction: 0.2, ground.restitution: {uniform: [0.0, 0.4]}}
      nominal: {}

The entries of a condition are those of a preset. A draw is keyed by (seed, condition, k), so other conditions, more
episodes and other workers change nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simtoreal.randomization.distributions import Intervals
from simtoreal.randomization.forms import to_data
from simtoreal.randomization.messages import nearest, shown
from simtoreal.randomization.philox import episode_seed, name_key
from simtoreal.randomization.randomizer import (
    Entry,
    Preset,
    Randomizer,
    Table,
    assign,
    is_pattern,
    read_entries,
    read_header,
)
from simtoreal.randomization.schedules import Schedule
from simtoreal.randomization.yaml_files import ConfigFileError, YamlFile, parse_yaml, read_yaml, write_yaml

Ranges = Mapping[str, tuple[float, float]]
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ROUNDING = 1e-6  # of a range's width: what an engine's read-back may lose, far below what a policy can feel


class NothingHeldOutError(ValueError):
    """A held-out suite without one case outside the ranges a policy was trained on."""


@dataclass(frozen=True)
class Case:
    """One episode of a suite: what to reset with. `name` ("payload/17") is unique within the suite."""

    condition: str
    k: int
    seed: int
    parameters: dict[str, float]
    schedule: Schedule | None = None

    @property
    def name(self) -> str:
        return f"{self.condition}/{self.k}"


class Condition:
    """One condition of a suite, matched to a parameter table."""

    def __init__(self, name: str, entries: tuple[Entry, ...], task: str, table: Table) -> None:
        self.name = name
        self.entries = entries
        self._randomizer = Randomizer(Preset(task, 1, entries), table)
        self._key = name_key(name) & 0xFFFFFFFF | 0x80000000  # above any index of a training environment

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and greatest value of each name the condition sets, in its unit."""
        return self._randomizer.ranges

    def draw(self, seed: int, k: int) -> dict[str, float]:
        """The parameters of episode `k` of this condition under evaluation seed `seed`."""
        return self._randomizer.draw(seed, self._key, k)

    def reset_seed(self, seed: int, k: int) -> int:
        """The seed for `env.reset` of episode `k`, in [0, 2^31)."""
        return episode_seed(seed, self._key, k)

    def case(self, seed: int, k: int) -> Case:
        """Episode `k` with its reset seed and its parameters."""
        schedule = self._randomizer.schedule(seed, self._key, k)
        return Case(self.name, k, self.reset_seed(seed, k), self.draw(seed, k), schedule)


@dataclass(frozen=True)
class Suite:
    """The conditions a policy of `task` is judged under."""

    task: str
    name: str
    version: int
    conditions: dict[str, Condition]
    held_out: bool = False
    path: Path | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], table: Table) -> Suite:
        """Read a suite file. Raises FileNotFoundError, or ConfigFileError naming file and line."""
        return cls.parse(read_yaml(path), table)

    @classmethod
    def loads(cls, text: str, table: Table, path: str | os.PathLike[str] = "<text>") -> Suite:
        """Read a suite from text; `path` is only named in messages."""
        return cls.parse(parse_yaml(text, path), table)

    @classmethod
    def parse(cls, file: YamlFile, table: Table) -> Suite:
        """The suite in a file already read."""
        required = ("task", "name", "version", "conditions")
        data = file.mapping(allowed=(*required, "held_out"), required=required)
        task, version = read_header(file, data)
        held_out = data.get("held_out", False)
        if not isinstance(held_out, bool):
            raise file.error(f"held_out must be true or false, got {shown(held_out)}", "held_out")
        if not isinstance(data["name"], str) or not _NAME.fullmatch(data["name"]):
            raise file.error(f"name must be letters, digits, _ . -, got {shown(data['name'])}", "name")
        conditions = {}
        for name in file.mapping("conditions"):
            if not _NAME.fullmatch(name):
                raise file.error(
                    f"a condition's name must be letters, digits, _ . -, got {shown(name)}", "conditions", name
                )
            conditions[name] = Condition(name, tuple(read_entries(file, "conditions", name)), task, table)
        if not conditions:
            raise file.error("conditions is empty: a suite needs at least one", "conditions")
        return cls(task, data["name"], version, conditions, held_out, file.path)

    def cases(self, seed: int, episodes: int) -> Iterator[Case]:
        """Every case: `episodes` for each condition, in the file's order."""
        for condition in self.conditions.values():
            for k in range(episodes):
                yield condition.case(seed, k)

    def case(self, name: str, seed: int) -> Case:
        """One case by its name ("payload/17"). Raises ValueError when there is none."""
        condition, _, k = name.rpartition("/")
        if condition not in self.conditions:
            raise ValueError(
                f"no condition {shown(condition)} in suite {self.name}; {nearest(condition, self.conditions)}"
            )
        if not re.fullmatch(r"[0-9]{1,9}", k):
            raise ValueError(f"a case is condition/number, got {shown(name)}")
        return self.conditions[condition].case(seed, int(k))

    def held_out_cases(self, seed: int, episodes: int, training_ranges: Ranges, table: Table) -> dict[str, bool]:
        """Whether each case (by name) is held out for a policy trained on `training_ranges`.

        Raises NothingHeldOutError when a suite marked `held_out` has none.
        """
        labels = {
            case.name: is_held_out(case.parameters, training_ranges, table) for case in self.cases(seed, episodes)
        }
        if self.held_out and not any(labels.values()):
            raise NothingHeldOutError(
                f"suite {self.name}: none of its {len(labels)} cases lies outside the training ranges, "
                "so it cannot say how the policy does on what it has not seen"
            )
        return labels


def is_held_out(values: Mapping[str, float], training_ranges: Ranges, table: Table) -> bool:
    """Whether at least one parameter lies outside the ranges a policy was trained on.

    A parameter absent from `training_ranges` was fixed at nominal in training; one absent from `values` is at nominal
    now. Raises ValueError for a name that `table` lacks.
    """
    _check_names(values, table)
    _check_names(training_ranges, table)
    for name, parameter in table.items():
        value = values.get(name, parameter.nominal)
        low, high = training_ranges.get(name, (parameter.nominal, parameter.nominal))
        if max(low - value, value - high) > _ROUNDING * _width(name, low, high, table):
            return True
    return False


def severity(values: Mapping[str, float], ranges: Ranges, table: Table | None = None) -> float:
    """How far `values` lie outside `ranges`: the greatest distance of any parameter, in widths of its range; 0 inside.

    With `table`, a parameter absent from `ranges` is taken as fixed at nominal, and one without a width is measured in
    widths of its valid bounds; without `table` both are left out.
    """
    fixed: dict[str, tuple[float, float]] = {}
    if table is not None:
        _check_names(values, table)
        _check_names(ranges, table)
        fixed = {name: (parameter.nominal, parameter.nominal) for name, parameter in table.items()}
    worst = 0.0
    for name, (low, high) in (fixed | dict(ranges)).items():
        if name not in values or (table is None and low == high):
            continue
        distance = max(low - values[name], values[name] - high, 0.0)
        width = high - low if table is None else _width(name, low, high, table)
        if distance > _ROUNDING * width:
            worst = max(worst, distance / width)
    return worst


def heldout(preset: Preset, table: Table) -> dict[str, Any]:
    """The held-out suite of a preset, as data for `write_suite`.

    One condition for each entry alone and `all` at once. Each tail spans one full width of the entry's range beyond its
    edge, clipped at the valid bounds, and is left out on a side where nominal is a bound; of a parameter with a `step`
    it begins where the nearest multiple is one that the range does not come to, and spans a step at least. Raises
    ValueError when no entry leaves room.
    """
    conditions: dict[str, dict[str, Any]] = {}
    everything: dict[str, Any] = {}
    groups: dict[Entry, dict[str, Any]] = {}
    for name, entry in assign(preset.entries, table).items():
        tails = _tails(entry, name, table)
        if tails is not None:
            row = to_data(tails)
            if entry.pace is not None:
                row |= entry.pace.to_data()
            if entry.shared:
                row["shared"] = entry.shared
            groups.setdefault(entry, {})[name] = row
            everything[name] = row
    for entry, rows in groups.items():
        conditions[_condition_name(entry.pattern, taken={*conditions, "all"})] = rows
    if not conditions:
        raise ValueError(f"the preset of {preset.task} leaves no room outside its ranges: nothing to hold out")
    conditions["all"] = everything
    header = {"task": preset.task, "name": "heldout", "version": preset.version, "held_out": True}
    return {**header, "conditions": conditions}


def train(preset: Preset) -> dict[str, Any]:
    """The suite of the training ranges themselves, as data for `write_suite`."""
    entries = {entry.pattern: entry.to_data() for entry in preset.entries}
    return {"task": preset.task, "name": "train", "version": preset.version, "conditions": {"train": entries}}


def nominal(task: str) -> dict[str, Any]:
    """The suite of the nominal robot, as data for `write_suite`."""
    return {"task": task, "name": "nominal", "version": 1, "conditions": {"nominal": {}}}


def write_suite(path: str | os.PathLike[str], data: Mapping[str, Any], header: str = "") -> None:
    """Write a suite file in one step; `header` becomes comment lines."""
    write_yaml(path, data, header)


def _tails(entry: Entry, name: str, table: Table) -> Intervals | None:
    parameter = table[name]
    low, high = entry.resolve(name, parameter).bounds
    width = high - low
    if step := getattr(parameter, "step", 0.0):
        width = max(width, step)
        low, high = (round(low / step) - 0.5) * step, (round(high / step) + 0.5) * step
    pieces = []
    if parameter.nominal > parameter.low:
        pieces.append((max(parameter.low, low - width), low))
    if parameter.nominal < parameter.high:
        pieces.append((high, min(parameter.high, high + width)))
    pieces = [(_rounded(a), _rounded(b)) for a, b in pieces if b - a > 1e-3 * width]
    return Intervals(tuple(pieces)) if pieces else None


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")


def _condition_name(pattern: str, taken: set[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", pattern.replace("*", "each")) if is_pattern(pattern) else pattern
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    free = (candidate for i in range(len(taken) + 1) if (candidate := f"{name}_{i + 1}" if i else name) not in taken)
    return next(free)


def _width(name: str, low: float, high: float, table: Table) -> float:
    """The width of [low, high]; that of the parameter's valid bounds when it has none."""
    parameter = table[name]
    for width in (high - low, parameter.high - parameter.low):
        if 0 < width < math.inf:
            return width
    return max(abs(parameter.nominal), 1.0)


def _check_names(names: Mapping[str, Any], table: Table) -> None:
    for name in names:
        if name not in table:
            raise ConfigFileError(f"no parameter {shown(name)}; {nearest(name, table)}")
