"""Named, sized, unit-carrying fields: one layout builds the space and goes into the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
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

    def space(self) -> Space[Any]:
        """The unbounded float32 box of this layout."""
        return Box(-np.inf, np.inf, (self.size,), np.float32)

    def pack(self, values: Mapping[str, Any]) -> NDArray[Any]:
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
        relative_to: observation fields that are added to the command, e.g. the last target: laid end to end, as long as
            the command or a whole number of times so long; each m elements are one summand.
        last: the observation fields that show the last command, one of its size for each field of the command; None for
            those with `last_` before the names.
    """

    def __init__(
        self,
        *fields: Field,
        scale: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        offset: Sequence[float] | None = None,
        relative_to: Sequence[str] = (),
        last: Sequence[str] | None = None,
    ) -> None:
        super().__init__(*fields)
        self.scale = np.asarray(scale, float)
        self.low = np.asarray(low, float)
        self.high = np.asarray(high, float)
        self.offset = np.zeros(self.size) if offset is None else np.asarray(offset, float)
        self.relative_to = tuple(relative_to)
        self.last = tuple(f"last_{field.name}" for field in fields) if last is None else tuple(last)
        self._least, self._most = -np.ones(self.size), np.ones(self.size)
        for name in ("scale", "low", "high", "offset"):
            if getattr(self, name).shape != (self.size,):
                raise ValueError(f"command {name} must have {self.size} elements")
        if (self.scale <= 0).any():
            raise ValueError(f"command scale must be positive, got {self.scale.tolist()}")

    def space(self) -> Space[Any]:
        """Policies act in [-1, 1]."""
        return Box(-1.0, 1.0, (self.size,), np.float32)

    def numbers(self, action: Any) -> NDArray[np.float64]:
        """An action of `space` as numbers [m], of which [-1, 1] counts. Raises ValueError for one of another shape."""
        found = np.asarray(action, float)
        if found.shape != (self.size,):
            raise ValueError(f"action must have shape ({self.size},), got {found.shape}")
        return found

    def reference(self, observation: FloatArray, layout: Layout) -> FloatArray:
        """The part [m] of the command that the observation brings along."""
        total, at = self.offset, 0
        if self.relative_to:
            total = total.copy()
        for name in self.relative_to:
            seen = observation[layout.slices[name]]
            total[at : at + len(seen)] += seen
            at = (at + len(seen)) % self.size
        return total

    def command(self, action: FloatArray, observation: FloatArray, layout: Layout) -> FloatArray:
        """SI command [m] of an action [m] in [-1, 1], given the observation it answers."""
        command = self.reference(observation, layout) + self.scale * _clip(action, self._least, self._most)
        return _clip(command, self.low, self.high)

    def changing(self, most: Sequence[float], layout: Layout) -> CommandLayout:
        """The same command, counted from the last one: 1 adds `most` [m] > 0 times what it adds here.

        Raises ValueError where an observation of `layout` does not show the last command.
        """
        sizes = {field.name: field.size for field in layout.fields}
        for name, field in zip(self.last, self.fields, strict=True):
            if sizes.get(name) != field.size:
                raise ValueError(f"the observation does not show the last command: it has no {name} [{field.size}]")
        scale = np.multiply(self.scale, most).tolist()
        low, high = self.low.tolist(), self.high.tolist()
        return CommandLayout(*self.fields, scale=scale, low=low, high=high, relative_to=self.last)

    def action(self, command: FloatArray, observation: FloatArray, layout: Layout) -> FloatArray:
        """The action [m] that stands for an SI command [m]: the inverse of `command`."""
        clipped = _clip(command, self.low, self.high)
        return _clip((clipped - self.reference(observation, layout)) / self.scale, self._least, self._most)


class ChoiceLayout(CommandLayout):
    """A command [1] that is one of several: an action is the number of one, 0 for the least.

    Where actions are numbers in [-1, 1], to learners and in a bundle's command map, -1 is the first and 1 the last.

    Args:
        field: of size 1; its description becomes the choices.
        commands: in the field's unit, rising in even steps.
    """

    def __init__(self, field: Field, commands: Sequence[float]) -> None:
        self.commands = tuple(map(float, commands))
        steps = np.diff(self.commands)
        if len(self.commands) < 2 or steps[0] <= 0 or not np.allclose(steps, steps[0]):
            raise ValueError(f"{field.name}: choices must be two or more that rise in even steps, got {commands}")
        low, high = self.commands[0], self.commands[-1]
        told = replace(field, description=f"one of {', '.join(f'{c:g}' for c in self.commands)}; else the nearest")
        super().__init__(told, scale=[(high - low) / 2], offset=[(high + low) / 2], low=[low], high=[high])

    def space(self) -> Discrete:
        """Policies choose."""
        return Discrete(len(self.commands))

    def numbers(self, action: Any) -> NDArray[np.float64]:
        """As the base's. NaN, which is no choice, stays so; raises ValueError for any other number that is none."""
        choice, last = np.asarray(action, float), len(self.commands) - 1
        if choice.shape != ():
            raise ValueError(f"action must have shape (), got {choice.shape}: it is the number of a choice")
        if np.isfinite(choice) and choice not in range(last + 1):
            raise ValueError(f"action must be a whole number from 0 to {last}, got {action}")
        return 2.0 * choice.reshape(1) / last - 1.0

    def command(self, action: FloatArray, observation: FloatArray, layout: Layout) -> FloatArray:
        """The SI command [1] that is nearest to an action [1] in [-1, 1]."""
        return np.array([self.commands[nearest_choice(float(action[0]), len(self.commands))]])


def nearest_choice(action: float, choices: int) -> int:
    """The number of the choice that is nearest to `action`, -1 for the first to 1 for the last."""
    share = (min(max(action, -1.0), 1.0) + 1.0) / 2.0
    return round(share * (choices - 1))


class ImageLayout(Layout):
    """An observation that is one image, or a stack of some, uint8 [C, H, W].

    Args:
        name, frame, description: of its only field, whose numbers are the image's, in 1/255 of full scale.
    """

    def __init__(self, name: str, shape: tuple[int, int, int], frame: str, description: str) -> None:
        super().__init__(Field(name, int(np.prod(shape)), "1/255", frame, description=description))
        self.shape = shape

    def space(self) -> Box:
        """Every image of this shape."""
        return Box(0, 255, self.shape, np.uint8)

    def pack(self, values: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The image under its name. Raises ValueError for one of another shape or type."""
        image = np.asarray(values[self.fields[0].name])
        if (image.shape, image.dtype) != (self.shape, np.uint8):
            raise ValueError(f"an image must be uint8 {list(self.shape)}, got {image.dtype} {list(image.shape)}")
        return image


def _clip(x: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """`np.clip` at a third of its cost on a few numbers, and a fifth with arrays as bounds."""
    clipped: FloatArray = np.minimum(np.maximum(x, low), high)
    return clipped
