"""Replay memory of a recurrent learner: sequences of control steps that follow on each other."""

from __future__ import annotations

import torch

from simtoreal.policies.recurrent import Sequences
from simtoreal.policies.replay import Batch, Replay


class SequenceReplay(Replay):
    """A ring of the last vector steps of `envs` environments, `envs` rows each, which are always added together. Of
    each also: "hidden_state" [E, w], that before the step; "begins" [E], whether an episode begins with it; "valid"
    [E], whether it may be learned from.

    A sequence is `length` steps of one environment, from episode to episode. All that the ring holds are equally
    likely.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        privileged_size: int = 0,
        device: str | torch.device = "cpu",
        *,
        envs: int,
        length: int,
        hidden_state_size: int,
    ) -> None:
        """Raises ValueError when there is no room for a sequence."""
        if capacity < envs * length:
            raise ValueError(
                f"replay capacity must be at least {envs * length}, {length} steps of {envs} environments, got "
                f"{capacity}"
            )
        more = {"hidden_state": hidden_state_size, "begins": 0, "valid": 0}
        whole = capacity - capacity % envs
        super().__init__(whole, observation_size, action_size, privileged_size, device, more=more)
        self.envs, self.length = envs, length

    def __len__(self) -> int:
        """How many sequences it holds."""
        return max(0, self.size // self.envs - self.length + 1) * self.envs

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """`n` rows, a multiple of the sequences' length: one step of all sequences after the other. Raises ValueError
        when there are none."""
        if not len(self):
            raise ValueError(f"the replay has fewer than {self.length} steps, and so no sequence")
        which = torch.randint(len(self), (n // self.length,), generator=generator)
        steps = self.envs * torch.arange(self.length)[:, None]
        slots = (self.oldest + which + steps).flatten() % self.capacity
        return self.batch(self._table.index_select(0, slots.to(self.device)))

    def batch(self, rows: torch.Tensor) -> Batch:
        """Rows of the table as what they are."""
        columns = self._columns(rows)
        hidden_state, begins, valid = (columns.pop(name) for name in ("hidden_state", "begins", "valid"))
        sequences = Sequences(len(rows) // self.length, hidden_state, begins > 0, valid > 0)
        return Batch(**columns, sequences=sequences)
