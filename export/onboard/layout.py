"""What a policy reads and writes: fields of a vector, an image, and the map from its action to a command."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .checks import SpecError, items, numbers_of, text


@dataclass(frozen=True)
class Field:
    """One named quantity of a layout: `size` consecutive floats in `unit`, in `frame`, each with its label or none."""

    name: str
    size: int
    unit: str
    frame: str = ""
    labels: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        text(self.name, "a field's name", empty=False)
        if isinstance(self.size, bool) or not isinstance(self.size, numbers.Integral) or self.size < 1:
            raise SpecError(f'field "{self.name}": size must be a whole number of at least 1, got {self.size!r}')
        for key in ("unit", "frame", "description"):
            text(getattr(self, key), f'field "{self.name}": {key}')
        labels = tuple(text(label, f'field "{self.name}": a label') for label in items(self.labels, "labels"))
        if labels and len(labels) != self.size:
            raise SpecError(f'field "{self.name}" has size {self.size} but {len(labels)} labels')
        object.__setattr__(self, "size", int(self.size))
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True)
class Image:
    """What the policy sees in place of a vector: one image of `shape`, its axes as `layout` says, "CHW" or "HWC".

    C are channels, H rows from the top, W columns from the left. Each number is a `dtype` from `low` to `high`, as a
    camera gives it; the policy itself scales them.
    """

    shape: tuple[int, int, int]
    layout: str
    dtype: str = "uint8"
    low: int = 0
    high: int = 255

    def __post_init__(self) -> None:
        shape = items(self.shape, "image.shape")
        if len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
            raise SpecError(f"image.shape must be three whole numbers from 1, got {list(shape)}")
        if self.layout not in ("CHW", "HWC"):
            raise SpecError(f'image.layout must be "CHW" or "HWC", got {self.layout!r}')
        if (self.dtype, self.low, self.high) != ("uint8", 0, 255):
            raise SpecError(f"image must be uint8 from 0 to 255, got {self.dtype} from {self.low} to {self.high}")
        object.__setattr__(self, "shape", shape)


@dataclass(frozen=True)
class CommandMap:
    """From the action a in [-1, 1]^m to the command in SI: clip(offset + scale * a + observed, low, high), each [m].

    `observed` is the sum of the observation fields named in `relative_to` (none: an absolute command): laid end to end
    they are a whole number of times as long as the command, and each m elements are one summand.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    relative_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("offset", "scale", "low", "high"):
            object.__setattr__(self, key, numbers_of(getattr(self, key), f"command_map.{key}"))
            if len(getattr(self, key)) != len(self.offset):
                found = len(getattr(self, key))
                raise SpecError(f"command_map.{key} has {found} values, offset has {len(self.offset)}")
        for index, low in enumerate(self.low):
            high = self.high[index]
            if not low < high:
                raise SpecError(f"command_map: low[{index}] = {low} must be below high[{index}] = {high}")
        names = items(self.relative_to, "command_map.relative_to")
        object.__setattr__(self, "relative_to", tuple(text(name, "command_map.relative_to") for name in names))


def checked_layout(entries: Any, where: str, empty: bool) -> tuple[Field, ...]:
    """A list of fields, each with a name of its own; not the empty list unless `empty`."""
    layout = items(entries, where)
    for entry in layout:
        if not isinstance(entry, Field):
            raise SpecError(f"{where} must hold fields, got {entry!r}")
    names = [entry.name for entry in layout]
    if len(set(names)) != len(names):
        raise SpecError(f"{where}: a field's name occurs twice in {', '.join(names)}")
    if not (names or empty):
        raise SpecError(f"{where} has no fields")
    return layout


def summands(names: Iterable[str], layout: Iterable[Field], size: int) -> list[list[slice]]:
    """Where what a command of `size` elements counts from lies in the observation: for each summand the places of the
    fields that make it, end to end. SpecError for an unknown field, and for fields that do not fit the command."""
    where, found, missing = slices(layout), list[list[slice]](), 0
    for name in names:
        if name not in where:
            raise SpecError(f'command_map.relative_to: no observation field "{name}"; fields: {", ".join(where)}')
        width = where[name].stop - where[name].start
        if not missing:
            found.append([])
            missing = size
        if width > missing:
            before = f", of which {missing} are left" if missing < size else ""
            raise SpecError(f'command_map.relative_to: field "{name}" has size {width}, the command {size}{before}')
        found[-1].append(where[name])
        missing -= width
    if missing:
        left = f"{missing} of the {size} numbers of the command count from nothing"
        raise SpecError(f'command_map.relative_to: after field "{name}" {left}')
    return found


def slices(layout: Iterable[Field]) -> dict[str, slice]:
    """Where each field of a layout lies in the flat vector, by name and in order."""
    found, start = {}, 0
    for entry in layout:
        found[entry.name] = slice(start, start + entry.size)
        start += entry.size
    return found
