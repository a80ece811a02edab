"""Replay memory of raw transitions, preallocated on the learner's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Batch:
    """B transitions of raw observations: obs and next_obs [B, n], action [B, m], reward and terminated [B],
    privileged [B, p].

    `terminated` is 1 where the next state has no value; a truncated step is 0 and its `next_obs` the episode's last.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    privileged: Tensor | None = None
    next_privileged: Tensor | None = None


class Replay:
    """A ring of the last `capacity` transitions, float32. Sampling is uniform with replacement."""

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        privileged_size: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if capacity < 1:
            raise ValueError(f"replay capacity must be at least 1, got {capacity}")
        self.capacity, self.device = capacity, torch.device(device)
        self.size = 0
        self._cursor = 0
        widths = {
            "obs": observation_size,
            "action": action_size,
            "next_obs": observation_size,
            "reward": 0,
            "terminated": 0,
        }
        if privileged_size:
            widths |= {"privileged": privileged_size, "next_privileged": privileged_size}
        self._store = {
            name: torch.zeros((capacity, width) if width else (capacity,), device=self.device)
            for name, width in widths.items()
        }

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
    ) -> None:
        """Store E transitions, oldest overwritten first.

        Raises ValueError, with nothing stored, on a wrong shape, a missing or unexpected privileged part, or NaN or
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
        }
        rows = {name: torch.as_tensor(value).float() for name, value in given.items() if value is not None}
        if rows.keys() != self._store.keys():
            raise ValueError(f"a transition has {sorted(rows)}, this replay holds {sorted(self._store)}")
        n = len(rows["reward"])
        for name, row in rows.items():
            expected = (n, *self._store[name].shape[1:])
            if tuple(row.shape) != expected:
                raise ValueError(f"{name} has shape {list(row.shape)}, expected {list(expected)}")
            if not bool(torch.isfinite(row).all()):
                raise ValueError(f"{name} is not finite; such a transition cannot be stored")
        if n > self.capacity:
            raise ValueError(f"{n} transitions at once do not fit a replay of {self.capacity}")
        first = min(n, self.capacity - self._cursor)
        for name, row in rows.items():
            self._store[name][self._cursor : self._cursor + first] = row[:first]
            if first < n:
                self._store[name][: n - first] = row[first:]
        self._cursor = (self._cursor + n) % self.capacity
        self.size = min(self.size + n, self.capacity)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """`n` transitions; `generator` is on the CPU on every device. Raises ValueError when empty."""
        if self.size == 0:
            raise ValueError("an empty replay cannot be sampled")
        index = torch.randint(self.size, (n,), generator=generator).to(self.device)
        return Batch(**{name: store.index_select(0, index) for name, store in self._store.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """The filled part and the ring's cursor."""
        state = {name: store[: self.size].clone() for name, store in self._store.items()}
        return state | {"cursor": torch.tensor(self._cursor)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError when the contents have other names or shapes, or do not fit."""
        if tensors.keys() != {*self._store, "cursor"}:
            raise ValueError(f"stored replay has {sorted(tensors)}, expected {sorted([*self._store, 'cursor'])}")
        size, cursor = len(tensors["reward"]), int(tensors["cursor"])
        if size > self.capacity or not 0 <= cursor < self.capacity or (size < self.capacity and cursor != size):
            raise ValueError(
                f"stored replay of {size} transitions, cursor {cursor}, does not fit a capacity of {self.capacity}"
            )
        for name, store in self._store.items():
            if tensors[name].shape != (size, *store.shape[1:]):
                raise ValueError(
                    f"stored {name} has shape {list(tensors[name].shape)}, expected {[size, *store.shape[1:]]}"
                )
        for name, store in self._store.items():
            store[:size] = tensors[name]
        self.size, self._cursor = size, cursor
