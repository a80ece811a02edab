"""Transitions over several steps: the rewards of n steps summed, the state reached after them.

    R_t = r_t + gamma r_{t+1} + ... + gamma^(k-1) r_{t+k-1},   y_t = R_t + gamma^k (1 - terminated) V(s_{t+k})

k is n, or fewer where the episode ends first; a truncated episode bootstraps from its last observation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

MAX_N_STEP = 64
KEPT = ("obs", "action", "reward", "privileged")  # of the step at which a transition begins


class NStep:
    """Transitions of E environments that wait for their last step. Of each environment none waits longer than n steps.

    `waiting` has the oldest first: rows [E, ...] under the names of `Replay.add`, and how many rewards of each are
    summed, `age` [E], 0 where nothing waits.
    """

    def __init__(self, n: int, gamma: float) -> None:
        self.n, self.gamma = n, gamma
        self.waiting: list[dict[str, np.ndarray]] = []

    def push(self, rows: Mapping[str, np.ndarray], valid: np.ndarray, ended: np.ndarray) -> dict[str, np.ndarray]:
        """Rows [E, ...] of one vector step; the transitions [..., ] that it completes, with their `discount` gamma^k.

        Where a row is not `valid` [E] what waits of that environment is dropped: what followed is not known. Nothing of
        such a row is kept, which may not be finite.
        """
        for entry in self.waiting:
            goes_on = (entry["age"] > 0) & valid
            entry["reward"] = entry["reward"] + np.where(goes_on, self.gamma ** entry["age"] * rows["reward"], 0.0)
            entry["age"] = np.where(goes_on, entry["age"] + 1, 0)
        first = {name: np.array(rows[name]) for name in KEPT if name in rows}
        first["reward"] = first["reward"].astype(float)
        for value in first.values():
            value[~valid] = 0
        self.waiting.append(first | {"age": np.where(valid, 1, 0)})
        parts = []
        for entry in self.waiting:
            done = (entry["age"] > 0) & (ended | (entry["age"] == self.n))
            found = {name: entry[name][done] for name in first}
            found |= {name: rows[name][done] for name in rows if name not in first}
            parts.append(found | {"discount": self.gamma ** entry["age"][done].astype(float)})
            entry["age"] = np.where(done, 0, entry["age"])
        self.waiting = [entry for entry in self.waiting if entry["age"].any()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def state_dict(self) -> dict[str, Tensor]:
        """What waits, as `number.name`."""
        return {
            f"{i}.{name}": torch.from_numpy(np.array(value))
            for i, entry in enumerate(self.waiting)
            for name, value in entry.items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError for a name that is none of `state_dict`'s."""
        entries: dict[int, dict[str, np.ndarray]] = {}
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            if not number.isdigit() or name not in (*KEPT, "age"):
                raise ValueError(f"n-step state: unknown {key!r}")
            entries.setdefault(int(number), {})[name] = tensor.cpu().numpy().copy()
        self.waiting = [entries[number] for number in sorted(entries)]
