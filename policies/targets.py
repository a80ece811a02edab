"""Regression targets as pure functions of tensors."""

from __future__ import annotations

from torch import Tensor


def clipped_target(reward: Tensor, terminated: Tensor, next_q: Tensor, *, gamma: Tensor | float) -> Tensor:
    """y = r + gamma (1 - terminated) min_i Q_i [B]; Fujimoto et al. 2018, eq. 10. A truncated step still bootstraps.

    `next_q` [n_critics, B], the rest [B]; `gamma` may differ [B].
    """
    return reward + gamma * (1 - terminated) * next_q.amin(dim=0)


def soft_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    next_log_prob: Tensor,
    *,
    alpha: Tensor | float,
    gamma: Tensor | float,
) -> Tensor:
    """y = r + gamma (1 - terminated) (min_i Q_i - alpha log pi) [B]; Haarnoja et al. 2018b, eq. 5.

    `next_q` [n_critics, B], the rest [B]. A truncated step still bootstraps.
    """
    return reward + gamma * (1 - terminated) * (next_q.amin(dim=0) - alpha * next_log_prob)
