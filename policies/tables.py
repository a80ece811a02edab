"""Tables of what is known of each state, and how an observation tells its state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

MAX_TABLE = 50_000_000  # numbers: 400 MB as float64


class States(nn.Module):
    """Raw observations [B, n] -> the number of their states [B], from 0 to `count` - 1.

    A state's number has one digit for each of `bins`, the last counting fastest. With n `bins` each number of the
    observation is cut: its digit is how many of its `edges` it has reached, so the outer bins are open and a number on
    an edge is in the upper one. Otherwise the observation is one-hots of so many places in a row, and a digit is the
    place of the largest number. `edges` [sum of bins - 1] float32 are those of one number after the other. Raises
    ValueError for bins that are neither.
    """

    edges: Tensor
    column: Tensor  # of the observation, for each edge
    place: Tensor  # what its digit counts

    def __init__(self, observation_size: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins, self.count = tuple(bins), math.prod(bins)
        self.cuts = len(self.bins) == observation_size
        if not self.cuts and sum(self.bins) != observation_size:
            raise ValueError(
                f"bins must be one for each of the {observation_size} numbers of an observation, or the places of its "
                f"one-hots, got {list(self.bins)}"
            )
        self.places = [math.prod(self.bins[i + 1 :]) for i in range(len(self.bins))]
        inner = torch.tensor([size - 1 if self.cuts else 0 for size in self.bins])
        self.register_buffer("edges", torch.zeros(int(inner.sum())))
        self.register_buffer("column", torch.arange(len(inner)).repeat_interleave(inner), persistent=False)
        self.register_buffer("place", torch.tensor(self.places).repeat_interleave(inner), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        if self.cuts:
            return ((obs[:, self.column] >= self.edges) * self.place).sum(dim=-1)
        if len(self.bins) == 1:
            return obs.argmax(dim=-1)
        digits = [part.argmax(dim=-1) for part in obs.split(list(self.bins), dim=-1)]
        return torch.stack([digit * place for digit, place in zip(digits, self.places, strict=True)]).sum(dim=0)


class StateTable(nn.Module):
    """Raw observations [B, n] -> the rows [B, K] of a table of K numbers a state, float32."""

    table: Tensor

    def __init__(self, observation_size: int, bins: Sequence[int], choices: int) -> None:
        super().__init__()
        check_table(bins, choices)
        self.states = States(observation_size, bins)
        self.register_buffer("table", torch.zeros(self.states.count, choices))

    def forward(self, obs: Tensor) -> Tensor:
        return self.table[self.states(obs)]


def check_table(bins: Sequence[int], choices: int) -> None:
    """Raises ValueError for a table too large to hold."""
    states = math.prod(bins)
    if states * choices > MAX_TABLE:
        raise ValueError(
            f"a table may have {MAX_TABLE} numbers at most, got {states} states of {choices} choices; use fewer bins"
        )


def equal_edges(bins: Sequence[int], low: Sequence[float], high: Sequence[float]) -> Tensor:
    """The `edges` of `States` between so many equal bins from `low` to `high` of each number."""
    cuts = [np.linspace(a, b, size + 1)[1:-1] for a, b, size in zip(low, high, bins, strict=True)]
    return torch.from_numpy(np.concatenate(cuts).astype(np.float32))
