"""Presets (names -> distributions, from YAML) and the randomizer that draws from them.

A preset file:

    task: A1Walk
    version: 1
    entries:
      link.trunk.mass:    {scale: {uniform: [0.8, 1.2]}, source: Tan et al. 2018}      # times nominal
      link.*.com.x:       {offset: {uniform: [-0.01, 0.01]}, source: ...}              # plus nominal, one draw a match
      joint.*.damping:    {scale: {uniform: [0.5, 1.5]}, shared: true, source: ...}    # one draw for all matches
      link.*.payload:     {span: {uniform: [0.0, 0.3]}, optional: true, source: ...}   # shares of the way to its bound
      ground.friction:    {uniform: [0.5, 1.25], source: ...}                          # absolute
      actuator.strength:  {uniform: [0.8, 1.2], every: 0.5, schedule: random_walk, step: 0.1}  # see `Pace`
      actuator.latency:   0.01                                                         # a constant

An exact name wins over a pattern (`*`, `?`, `[...]`, as in a shell). What no entry names stays at nominal. An entry
that names nothing is an error, unless it is `optional`: in a preset of many robots, not all of which carry something.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from simtoreal.randomization.distributions import Affine, Constant, Distribution, line
from simtoreal.randomization.forms import KINDS, from_data, to_data
from simtoreal.randomization.messages import nearest, shown
from simtoreal.randomization.philox import uniforms
from simtoreal.randomization.schedules import SCHEDULES, Moving, Pace, Schedule
from simtoreal.randomization.yaml_files import ConfigFileError, YamlFile, parse_yaml, read_yaml

How = Literal["absolute", "scale", "offset", "span"]
PACE = ("every", "schedule", "step")  # of an entry
RELATIVE = ("scale", "offset", "span")
_SLACK = 1e-9  # relative room for rounding when a range ends exactly on a bound


class Parameter(Protocol):
    """What the randomizer needs to know of a physical parameter: one float in `unit`, in [low, high]. Where it also has
    a true `fixed`, it does not change within an episode; where a `step` above 0, its nearest multiple applies."""

    @property
    def unit(self) -> str: ...
    @property
    def nominal(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


Table = Mapping[str, Parameter]


@dataclass(frozen=True)
class Entry:
    """One line of a preset or of a suite's condition: which names, what is drawn, and how it applies.

    `shared` is the name of the random number that all matches share ("" draws one for each match). What is `optional`
    may match nothing. With a `pace` the value changes within an episode.
    """

    pattern: str
    distribution: Distribution
    how: How = "absolute"
    shared: str = ""
    source: str = ""
    optional: bool = False
    pace: Pace | None = None
    place: str = field(default="", compare=False)  # file:line

    def error(self, message: str) -> ConfigFileError:
        """The error to raise about this entry: `file:line: pattern: message`."""
        return ConfigFileError(": ".join(part for part in (self.place, self.pattern, message) if part))

    def matches(self, table: Table) -> list[str]:
        """The names of `table` this entry means; ConfigFileError when there are none, unless it is optional."""
        names = [self.pattern] if self.pattern in table else [n for n in table if fnmatchcase(n, self.pattern)]
        if not names and not self.optional:
            if not is_pattern(self.pattern):
                raise self.error(f"no such parameter; {nearest(self.pattern, table)}")
            begun = re.split(r"[*?[]", self.pattern)[0]
            alike = [name for name in table if name.startswith(begun)]
            raise self.error(f"pattern matches no parameter; {nearest(self.pattern, alike or table)}")
        return names

    def resolve(self, name: str, parameter: Parameter) -> Distribution:
        """The distribution of parameter `name` in its own unit; ConfigFileError when it leaves the valid bounds."""
        resolved = self.distribution
        if self.how == "scale":
            if parameter.nominal == 0:
                raise self.error(f"scale of {name}, whose nominal is 0, changes nothing; use offset or absolute values")
            resolved = Affine(resolved, scale=parameter.nominal)
        elif self.how == "offset":
            resolved = Affine(resolved, offset=parameter.nominal)
        elif self.how == "span":
            far = max(parameter.high - parameter.nominal, parameter.nominal - parameter.low)
            resolved = Affine(resolved, scale=far, offset=parameter.nominal)
        low, high = resolved.bounds
        slack = _SLACK * max(abs(low), abs(high))
        if not (low >= parameter.low - slack and high <= parameter.high + slack):
            unit = "" if parameter.unit in ("", "-") else f" {parameter.unit}"
            raise self.error(
                f"range [{low:.6g}, {high:.6g}]{unit} of {name} leaves its valid bounds "
                f"[{parameter.low:.6g}, {parameter.high:.6g}] (nominal {parameter.nominal:.6g})"
            )
        return resolved

    def to_data(self) -> dict[str, Any]:
        """This entry as a preset file holds it."""
        draw = to_data(self.distribution)
        data: dict[str, Any] = draw if self.how == "absolute" else {self.how: draw}
        if self.pace is not None:
            data |= self.pace.to_data()
        if self.shared:
            data["shared"] = True if self.shared == self.pattern else self.shared
        if self.optional:
            data["optional"] = True
        if self.source:
            data["source"] = self.source
        return data


@dataclass(frozen=True)
class Preset:
    """What a task randomizes: a name and a draw for each entry; absent means off."""

    task: str
    version: int
    entries: tuple[Entry, ...]
    path: Path | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Preset:
        """Read a preset file. Raises FileNotFoundError, or ConfigFileError naming file and line."""
        return cls.parse(read_yaml(path))

    @classmethod
    def loads(cls, text: str, path: str | os.PathLike[str] = "<text>") -> Preset:
        """Read a preset from text; `path` is only named in messages."""
        return cls.parse(parse_yaml(text, path))

    @classmethod
    def parse(cls, file: YamlFile) -> Preset:
        """The preset in a file already read."""
        keys = ("task", "version", "entries")
        data = file.mapping(allowed=keys, required=keys)
        task, version = read_header(file, data)
        return cls(task, version, tuple(read_entries(file, "entries")), file.path)

    @classmethod
    def none(cls, task: str) -> Preset:
        """The preset that randomizes nothing."""
        return cls(task, 1, ())

    def to_data(self) -> dict[str, Any]:
        """This preset as its file holds it."""
        entries = {entry.pattern: entry.to_data() for entry in self.entries}
        return {"task": self.task, "version": self.version, "entries": entries}


class Randomizer:
    """Draws a value for each randomized name of a parameter table; the same for the same (seed, env, episode)."""

    def __init__(self, preset: Preset, table: Table) -> None:
        """Match every entry of `preset` to `table`. Raises ConfigFileError for what does not fit."""
        self.preset = preset
        self._bounds = {name: (parameter.low, parameter.high) for name, parameter in table.items()}
        for name, parameter in table.items():
            if not (parameter.low <= parameter.nominal <= parameter.high and math.isfinite(parameter.nominal)):
                bounds = f"[{parameter.low}, {parameter.high}]"
                raise ValueError(f"parameter {name}: nominal {parameter.nominal} lies outside its bounds {bounds}")
        chosen = assign(preset.entries, table)
        self.distributions: dict[str, Distribution] = {}
        self._paces: dict[str, Pace] = {}
        streams: dict[str, Entry] = {}  # the first that draws by it
        for name, entry in chosen.items():
            self.distributions[name] = entry.resolve(name, table[name])
            _check_shared(entry, streams.setdefault(entry.shared or name, entry))
            if entry.pace is not None:
                if getattr(table[name], "fixed", False):
                    raise entry.error(f"{name} is set at a reset alone: its environment has no set_parameters")
                self._paces[name] = entry.pace
        _check_company(preset.entries)
        self._streams = tuple(entry.shared or name for name, entry in chosen.items())
        self._nominal = np.array([table[name].nominal for name in self.distributions])
        self._prepare()

    def _prepare(self) -> None:
        """Make of the distributions what draws quickly."""
        rows = list(zip(self.distributions.items(), self._streams, self._nominal.tolist(), strict=True))
        self._moving = tuple(
            Moving(name, stream, distribution, *self._clip(name, *distribution.bounds), nominal, self._paces[name])
            for (name, distribution), stream, nominal in rows
            if name in self._paces
        )
        lines = [line(distribution) for distribution in self.distributions.values()]
        self._begin, end = np.array([ends or (0.0, 0.0) for ends in lines]).reshape(-1, 2).T
        self._span = end - self._begin
        self._curves = [
            (i, distribution.ppf)
            for i, (ends, distribution) in enumerate(zip(lines, self.distributions.values(), strict=True))
            if ends is None
        ]
        self._low, self._high = np.array(list(self.ranges.values())).reshape(-1, 2).T
        lines_of = [f"{name} {stream} {distribution!r}" for (name, distribution), stream, _ in rows]
        text = "\n".join(sorted([*lines_of, *(f"{each.name} {each.pace!r}" for each in self._moving)]))
        self._version = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def replaced(self, distributions: Mapping[str, Distribution]) -> Randomizer:
        """The same with other distributions for some of its names, which stay clipped to the parameters' bounds."""
        other = copy.copy(self)
        other.distributions = {name: distributions.get(name, own) for name, own in self.distributions.items()}
        other._prepare()
        return other

    @property
    def task(self) -> str:
        return self.preset.task

    @property
    def names(self) -> tuple[str, ...]:
        """The randomized names, in the table's order."""
        return tuple(self.distributions)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and greatest value of each randomized name, in its unit."""
        return {name: self._clip(name, *distribution.bounds) for name, distribution in self.distributions.items()}

    @property
    def version(self) -> str:
        """A hash of all that decides the draws: names, distributions and shared streams (16 hex digits)."""
        return self._version

    def draw(self, seed: int, env: int, episode: int, width: float = 1.0) -> dict[str, float]:
        """The value of each randomized name, in its unit, in episode `episode` of environment `env`; of a `width` below
        1 that share of the way to it from nominal."""
        if not self._streams:
            return {}
        u = uniforms(seed, env, episode, self._streams)
        values = self._begin + u * self._span  # what is a line, all at once
        for i, ppf in self._curves:
            values[i] = ppf(float(u[i]))
        values = np.clip(values, self._low, self._high)
        if width < 1.0:
            values = self._nominal + width * (values - self._nominal)
        return dict(zip(self.distributions, values.tolist(), strict=True))

    def schedule(self, seed: int, env: int, episode: int, width: float = 1.0) -> Schedule | None:
        """What changes within an episode, beginning at its `draw`; None where nothing does."""
        return Schedule(seed, env, episode, self._moving, width) if self._moving else None

    def _clip(self, name: str, low: float, high: float) -> tuple[float, float]:
        least, greatest = self._bounds[name]
        return max(low, least), min(high, greatest)


def _check_company(entries: Iterable[Entry]) -> None:
    """Refuse a random number that is shared, by its name, with nothing."""
    named = Counter(entry.shared for entry in entries)
    for entry in entries:
        if entry.shared and named[entry.shared] == 1 and not is_pattern(entry.pattern):
            raise entry.error(f"shares {entry.shared} with no other parameter")


def _check_shared(entry: Entry, first: Entry) -> None:
    """Refuse an entry that cannot share the random number of another."""
    place = f"{first.pattern} ({first.place or 'above'})"
    if bool(entry.shared) != bool(first.shared):
        raise entry.error(f"{entry.shared or first.shared} is shared and a parameter drawn by itself, see {place}")
    if entry.pace != first.pace:
        raise entry.error(f"shares {entry.shared} with {place}: every, schedule and step must be alike")


def is_pattern(name: str) -> bool:
    """Whether `name` may mean several parameters."""
    return any(c in name for c in "*?[")


def read_header(file: YamlFile, data: Mapping[str, Any]) -> tuple[str, int]:
    """`task` and `version` of a preset or suite."""
    task, version = data["task"], data["version"]
    if not isinstance(task, str) or not task:
        raise file.error(f"task must be a name, got {shown(task)}", "task")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise file.error(f"version must be a whole number from 1, got {shown(version)}", "version")
    return task, version


def read_entries(file: YamlFile, *keys: str) -> Iterator[Entry]:
    """The entries (pattern -> draw) of the mapping at `keys` of a file."""
    for pattern, data in file.mapping(*keys).items():
        entry = _read_entry(file, (*keys, pattern), data)
        yield replace(entry, place=f"{file.path}:{file.line(*keys, pattern)}")


def _read_entry(file: YamlFile, keys: tuple[str, ...], data: Any) -> Entry:
    pattern = keys[-1]
    if is_number(data):
        return Entry(pattern, Constant(float(data)))
    if not isinstance(data, dict):
        raise file.error(f"{pattern} must be a number or a draw, {{uniform: [low, high]}}, got {shown(data)}", *keys)
    kinds = (*KINDS, *RELATIVE)
    file.mapping(*keys, allowed=(*kinds, "shared", "optional", "source", *PACE))
    given = [key for key in data if key in kinds]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise file.error(f"{pattern} needs exactly one of {', '.join(kinds)}; got {got}", *keys)
    kind, draw, how = given[0], data[given[0]], "absolute"
    if kind in RELATIVE:
        how = kind
        if is_number(draw):
            kind = "constant"
        else:
            draw = file.mapping(*keys, kind, allowed=KINDS)
            if len(draw) != 1:
                got = " and ".join(draw) or "none"
                raise file.error(f"{how} of {pattern} needs exactly one of {', '.join(KINDS)}; got {got}", *keys, how)
            kind, draw = next(iter(draw.items()))
    try:
        distribution = from_data(kind, draw)
    except ValueError as error:
        raise file.error(f"{pattern}: {error}", *keys, given[0]) from None
    shared, source = data.get("shared", False), data.get("source", "")
    if not isinstance(shared, bool) and not (isinstance(shared, str) and shared):
        raise file.error(f"shared of {pattern} must be true, false or a name, got {shown(shared)}", *keys, "shared")
    if not isinstance(source, str):
        raise file.error(f"source of {pattern} must be text, got {shown(source)}", *keys, "source")
    optional = data.get("optional", False)
    if not isinstance(optional, bool):
        raise file.error(f"optional of {pattern} must be true or false, got {shown(optional)}", *keys, "optional")
    stream = pattern if shared is True else shared or ""
    pace = _read_pace(file, keys, data)
    if pace is not None and isinstance(distribution, Constant):
        raise file.error(f"every of {pattern} is for what is drawn; a constant does not change", *keys, "every")
    return Entry(pattern, distribution, how, stream, source, optional, pace)  # type: ignore[arg-type]


def _read_pace(file: YamlFile, keys: tuple[str, ...], data: Mapping[str, Any]) -> Pace | None:
    given = {key: data[key] for key in PACE if key in data}
    if not given:
        return None
    if "every" not in given:
        raise file.error(f"{next(iter(given))} of {keys[-1]} is for what changes: say every how many seconds", *keys)
    if "step" in given and given.get("schedule", SCHEDULES[0]) == SCHEDULES[0]:
        named = ", ".join(SCHEDULES[1:])
        raise file.error(f"step of {keys[-1]} is of a schedule that moves by steps: {named}", *keys, "step")
    for key in ("every", "step"):
        if key in given and not is_number(given[key]):
            raise file.error(f"{key} of {keys[-1]} must be a number, got {shown(given[key])}", *keys, key)
    try:
        return Pace(**given)
    except ValueError as error:
        raise file.error(f"{keys[-1]}: {error}", *keys) from None


def assign(entries: tuple[Entry, ...], table: Table) -> dict[str, Entry]:
    """The entry of each randomized name, in the table's order: the exact one, else the only pattern that matches."""
    matched: dict[str, Entry] = {}
    claims = [(entry, entry.matches(table)) for entry in entries]
    exact = {entry.pattern: entry for entry, _ in claims if entry.pattern in table}
    for entry, names in claims:
        for name in names:
            if name in exact:
                continue
            if name in matched:
                other = matched[name]
                raise entry.error(
                    f"{name} is matched by {other.pattern} too ({other.place or 'above'}); give it an entry of its own"
                )
            matched[name] = entry
    chosen = exact | matched
    return {name: chosen[name] for name in table if name in chosen}


def is_number(value: object) -> bool:
    """Is it one, whatever its type? A truth value is none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
