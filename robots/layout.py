"""Named, sized, unit-carrying fields: one layout builds the space and goes into the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Field:
    """A named run of `size` numbers of one unit; `frame` says in which frame, `labels` names each element."""

    name: str
    size: int
    unit: str
    frame: str = ""
    labels: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"field {self.name!r} must have at least one element, got {self.size}")
        if self.labels and len(self.labels) != self.size:
            raise ValueError(f"field {self.name!r} has {self.size} elements but {len(self.labels)} labels")


class Layout:
    """An ordered set of fields, packed into one vector."""

    def __init__(self, *fields: Field) -> None:
        self.fields = fields
        self.slices: dict[str, slice] = {}
        start = 0
        for field in fields:
            if field.name in self.slices:
                raise ValueError(f"field {field.name!r} appears twice in a layout")
            self.slices[field.name] = slice(start, start + field.size)
            start += field.size
        self.size = start

    def element_names(self) -> list[str]:
        """`field.label` of each element, `field` where there are no labels."""
        return [
            name
            for field in self.fields
            for name in ([f"{field.name}.{label}" for label in field.labels] or [field.name] * field.size)
        ]

    def table(self, indent: str = "") -> str:
        """Its fields as a table in Markdown: index, field, unit, frame."""
        rows = ["| index | field | unit | frame |", "|---|---|---|---|"]
        for field in self.fields:
            first, after = self.slices[field.name].start, self.slices[field.name].stop
            span = str(first) if field.size == 1 else f"{first}-{after - 1}"
            what = f" ({field.description})" if field.description else ""
            rows.append(f"| {span} | {field.name}{what} | {field.unit} | {field.frame} |")
        return "\n".join(indent + row for row in rows)

    def space(self) -> Box:
        """The unbounded float32 box of this layout."""
        return Box(-np.inf, np.inf, (self.size,), np.float32)

    def pack(self, values: Mapping[str, Sequence[float] | FloatArray]) -> NDArray[np.float32]:
        """One float32 vector [size] from a value sequence for each field name.

        Raises:
            ValueError: the sequences do not have `size` elements together.
        """
        numbers: list[float] = []
        for name in self.slices:
            numbers.extend(values[name])
        if len(numbers) != self.size:
            raise ValueError(f"a layout of {self.size} elements got {len(numbers)}: fields {', '.join(self.slices)}")
        return np.array(numbers, np.float32)


class CommandLayout(Layout):
    """What a policy commands: SI command = clip(offset + scale a + sum of observation fields, low, high).

    Args:
        fields: the command's fields; together m elements.
        scale, low, high: [m] each, in the fields' units; `offset` [m] or None for zeros.
        relative_to: observation fields of size m that are added to the command, e.g. the last target.
    """

    def __init__(
        self,
        *fields: Field,
        scale: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        offset: Sequence[float] | None = None,
        relative_to: Sequence[str] = (),
    ) -> None:
        super().__init__(*fields)
        self.scale = np.asarray(scale, float)
        self.low = np.asarray(low, float)
        self.high = np.asarray(high, float)
        self.offset = np.zeros(self.size) if offset is None else np.asarray(offset, float)
        self.relative_to = tuple(relative_to)
        self._least, self._most = -np.ones(self.size), np.ones(self.size)
        for name in ("scale", "low", "high", "offset"):
            if getattr(self, name).shape != (self.size,):
                raise ValueError(f"command {name} must have {self.size} elements")
        if (self.scale <= 0).any():
            raise ValueError(f"command scale must be positive, got {self.scale.tolist()}")

    def space(self) -> Box:
        """Policies act in [-1, 1]."""
        return Box(-1.0, 1.0, (self.size,), np.float32)

    def reference(self, observation: FloatArray, layout: Layout) -> FloatArray:
        """The part [m] of the command that the observation brings along."""
        total = self.offset
        for name in self.relative_to:
            total = total + observation[layout.slices[name]].astype(float)
        return total

    def command(self, action: FloatArray, observation: FloatArray, layout: Layout) -> FloatArray:
        """SI command [m] of an action [m] in [-1, 1], given the observation it answers."""
        command = self.reference(observation, layout) + self.scale * _clip(action, self._least, self._most)
        return _clip(command, self.low, self.high)

    def action(self, command: FloatArray, observation: FloatArray, layout: Layout) -> FloatArray:
        """The action [m] that stands for an SI command [m]: the inverse of `command`."""
        clipped = _clip(command, self.low, self.high)
        return _clip((clipped - self.reference(observation, layout)) / self.scale, self._least, self._most)


def _clip(x: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """`np.clip` at a third of its cost on a few numbers, and a fifth with arrays as bounds."""
    clipped: FloatArray = np.minimum(np.maximum(x, low), high)
    return clipped
