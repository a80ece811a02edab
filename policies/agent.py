"""What a learner offers the loops, and the helpers every learner shares to store itself as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.observations import Observation
from simtoreal.policies.replay import Batch


class NonFiniteError(ArithmeticError):
    """A loss, weight or action became NaN or infinite: training stops and nothing of it is saved."""


class Agent(Protocol):
    """A learner. It sees raw SI observations and acts in [-1, 1]^m."""

    device: torch.device

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, m] float32 in [-1, 1]; deterministic unless `explore`."""
        ...

    def observe(self, obs: Observation) -> None:
        """Add observations to the normalizer's statistics."""
        ...

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on raw transitions; returns scalar metrics. Raises NonFiniteError."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit: weights, optimizers, statistics, random state."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError when names or shapes differ from this agent's own."""
        ...

    def actor(self) -> DeterministicActor:
        """Deterministic raw observation [B, k n] -> action [B, m], normalizer inside, detached from training."""
        ...


def tensor_of(rows: np.ndarray, device: torch.device) -> Tensor:
    """Observations as a tensor: float32, but pixels stay uint8."""
    return torch.as_tensor(rows, dtype=None if rows.dtype == np.uint8 else torch.float32, device=device)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every name as `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix.`, without it."""
    start = prefix + "."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def load_module(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy `prefix.*` into `module`. Raises ValueError naming what is missing, unknown or of another shape."""
    mine, given = module.state_dict(), under(prefix, tensors)
    missing, unknown = sorted(mine.keys() - given.keys()), sorted(given.keys() - mine.keys())
    if missing or unknown:
        raise ValueError(f"{prefix}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    for name, tensor in given.items():
        if tensor.shape != mine[name].shape:
            raise ValueError(f"{prefix}.{name}: shape {list(tensor.shape)}, expected {list(mine[name].shape)}")
    module.load_state_dict(given)
