"""Replay memory of raw transitions, preallocated on the learner's device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simtoreal.policies.recurrent import Sequences

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Batch:
    """B transitions of raw observations: obs and next_obs [B, n], action [B, m], reward and terminated [B],
    privileged [B, p], and what a bootstrap is worth, discount [B], where that is not the same for all; how many times
    likelier each was to be drawn than by pure chance, likelihood [B], where that is not 1; of a recurrent learner what
    makes sequences of them.

    `terminated` is 1 where the next state has no value; a truncated step is 0 and its `next_obs` the episode's last.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    privileged: Tensor | None = None
    next_privileged: Tensor | None = None
    discount: Tensor | None = None
    likelihood: Tensor | None = None
    sequences: Sequences | None = None


def joined(parts: Sequence[Batch]) -> Batch:
    """The transitions of all `parts`, in their order."""
    names = [f.name for f in fields(Batch) if getattr(parts[0], f.name) is not None]
    columns: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Batch(**columns)


class Replay:
    """A ring of the last `capacity` transitions, float32, one a row of a table. Sampling is uniform with replacement.

    Transitions are numbered from 0 in the order in which they were added: number k lies in slot k mod capacity.
    """

    stays = True  # all tensors where they are, so that a captured step may read them

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        privileged_size: int = 0,
        device: str | torch.device = "cpu",
        discounted: bool = False,
        more: Mapping[str, int] | None = None,
    ) -> None:
        """`more` is the widths of further columns, 0 of a number a row."""
        if capacity < 1:
            raise ValueError(f"replay capacity must be at least 1, got {capacity}")
        self.capacity, self.device = capacity, torch.device(device)
        self.added = self.size = 0
        widths = {
            "obs": observation_size,
            "action": action_size,
            "next_obs": observation_size,
            "reward": 0,
            "terminated": 0,
        }
        if privileged_size:
            widths |= {"privileged": privileged_size, "next_privileged": privileged_size}
        if discounted:
            widths |= {"discount": 0}
        widths |= more or {}
        self._widths = {name: max(width, 1) for name, width in widths.items()}
        self._shapes = {name: (width,) if width else () for name, width in widths.items()}
        self._table = torch.zeros(capacity, sum(self._widths.values()), device=self.device)
        self.held = torch.zeros((), dtype=torch.float64, device=self.device)  # `size`, for `draw`
        self._array = self._table.numpy() if self.device.type == "cpu" else None

    def __len__(self) -> int:
        return self.size

    def add(
        self,
        obs: Array,
        action: Array,
        reward: Array,
        next_obs: Array,
        terminated: Array,
        privileged: Array | None = None,
        next_privileged: Array | None = None,
        discount: Array | None = None,
        **more: Array,
    ) -> None:
        """Store E transitions, oldest overwritten first.

        Raises ValueError, with nothing stored, on a wrong shape, a missing or unexpected part, or NaN or
        infinity.
        """
        given = {
            "obs": obs,
            "action": action,
            "reward": reward,
            "next_obs": next_obs,
            "terminated": terminated,
            "privileged": privileged,
            "next_privileged": next_privileged,
            "discount": discount,
            **more,
        }
        rows = {name: _as_rows(value) for name, value in given.items() if value is not None}
        if rows.keys() != self._shapes.keys():
            raise ValueError(f"a transition has {sorted(rows)}, this replay holds {sorted(self._shapes)}")
        n = len(rows["reward"])
        for name, row in rows.items():
            expected = (n, *self._shapes[name])
            if row.shape != expected:
                raise ValueError(f"{name} has shape {list(row.shape)}, expected {list(expected)}")
            if not np.isfinite(row).all():
                raise ValueError(f"{name} is not finite; such a transition cannot be stored")
        if n > self.capacity:
            raise ValueError(f"{n} transitions at once do not fit a replay of {self.capacity}")
        table = np.concatenate([rows[name].reshape(n, width) for name, width in self._widths.items()], axis=1)
        cursor = self.added % self.capacity
        first = min(n, self.capacity - cursor)
        self._write(cursor, table[:first])
        if first < n:
            self._write(0, table[first:])
        self.added += n
        if self.size < self.capacity:
            self.size = min(self.size + n, self.capacity)
            self.held.fill_(self.size)

    def _write(self, at: int, rows: np.ndarray) -> None:
        """`rows` from slot `at` on; on the CPU by numpy, whose assignment costs a tenth of torch's."""
        if self._array is not None:
            self._array[at : at + len(rows)] = rows
        else:
            self._table[at : at + len(rows)] = torch.from_numpy(rows)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """`n` transitions; `generator` is on the CPU on every device. Raises ValueError when empty."""
        if self.size == 0:
            raise ValueError("an empty replay cannot be sampled")
        return self.at(torch.randint(self.size, (n,), generator=generator).to(self.device))

    def at(self, slots: Tensor) -> Batch:
        """The transitions in `slots` [B]."""
        return self.batch(self._table.index_select(0, slots))

    def room(self, n: int) -> Any:
        """Where `draw` puts `n` transitions, and `batch` finds them."""
        return self._table.new_zeros(n, self._table.shape[1])

    def draw(self, room: Any, generator: torch.Generator) -> None:
        """As `sample`, as many as there is `room` for, by a generator on the replay's device, which nothing here waits
        for; zeros when empty."""
        at = torch.rand(len(room), generator=generator, dtype=torch.float64, device=self.device) * self.held
        self.take(at.long(), room)

    def take(self, slots: Tensor, room: Any) -> None:
        """As `draw`, those in `slots` [B]."""
        torch.index_select(self._table, 0, slots, out=room)

    def batch(self, rows: Any) -> Batch:
        """Rows of the table, or what a room holds, as what they are."""
        columns: dict[str, Any] = self._columns(rows)
        return Batch(**columns)

    def _columns(self, rows: Tensor) -> dict[str, Tensor]:
        parts = rows.split(list(self._widths.values()), dim=1)
        shapes = self._shapes.items()
        return {name: part if shape else part[:, 0] for (name, shape), part in zip(shapes, parts, strict=True)}

    @property
    def oldest(self) -> int:
        """The number of the oldest transition held."""
        return self.added - self.size

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """Transitions number `first` to `last` - 1 on the CPU, under the names of `add`. Raises IndexError."""
        if not self.oldest <= first <= last <= self.added:
            raise IndexError(f"transitions {first} to {last} were asked for, {self.oldest} to {self.added} are held")
        slots = torch.arange(first, last, device=self.device) % self.capacity
        columns = self._columns(self._table.index_select(0, slots))
        return {name: column.cpu().contiguous() for name, column in columns.items()}

    def restore(self, first: int, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """Hold what another replay of these widths held: `parts` under the names of `add`, from number `first` on.

        Raises ValueError when a part has other names or widths, or when the parts are not all that was held.
        """
        self.added, self.size = first, 0
        self.held.zero_()
        for part in parts:
            self.add(**part)
        if self.size < self.capacity and first > 0:
            raise ValueError(f"the stored replay of {self.size} begins at {first} and does not fill {self.capacity}")


class Latest(Replay):
    """Transitions that are sampled once: all there are, in the order in which they were added, and are then gone."""

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """All of them, however many are asked for."""
        rows = self._table[: self.size].clone()
        self.added = self.size = 0
        return self.batch(rows)


def _as_rows(value: Array) -> np.ndarray:
    return np.asarray(value.cpu() if isinstance(value, Tensor) else value, dtype=np.float32)
