"""What an on-policy learner learns from: some control steps of every environment, with advantages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simtoreal.policies.recurrent import Sequences


@dataclass(frozen=True)
class Rollout:
    """N transitions as tensors: raw observations, the action before it was bounded, log pi and V of when it was taken,
    the advantage, and what V should have been."""

    obs: Tensor  # [N, k n], or images uint8 [N, C, H, W] or [N, H, W, C]
    privileged: Tensor | None  # [N, p]
    action: Tensor  # [N, m]
    log_prob: Tensor  # [N]
    value: Tensor  # [N]
    advantage: Tensor  # [N]
    returns: Tensor  # [N]
    sequences: Sequences | None = None  # of a recurrent learner


def joined(one: Rollout, other: Rollout) -> Rollout:
    """The transitions of both."""
    found: dict[str, Any] = {}
    for name in (f.name for f in fields(Rollout) if f.name != "sequences"):
        parts = getattr(one, name), getattr(other, name)
        found[name] = None if parts[0] is None else torch.cat(parts)
    return Rollout(**found)


def advantages(
    reward: NDArray[np.floating],
    value: NDArray[np.floating],
    next_value: NDArray[np.floating],
    ended: NDArray[np.bool_],
    *,
    gamma: float,
    gae_lambda: float,
) -> NDArray[np.float64]:
    """Generalized advantage estimates (Schulman et al. 2016, arXiv 1506.02438, eq. 16), all [T, E].

    `next_value` is V of what the step led to: of an episode's last observation where it was truncated, 0 where it
    terminated. Where a step `ended` the episode nothing of the next one counts.
    """
    delta = np.asarray(reward, float) + gamma * next_value - value
    out, following = np.empty_like(delta), np.zeros(delta.shape[1])
    for t in reversed(range(len(delta))):
        following = delta[t] + gamma * gae_lambda * np.where(ended[t], 0.0, following)
        out[t] = following
    return out
