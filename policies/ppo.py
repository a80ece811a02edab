"""Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347), as Stable-Baselines3 does it.

    A_t     = sum_k (gamma lambda)^k delta_{t+k},  delta_t = r_t + gamma V(s_{t+1}) - V(s_t)   (GAE, arXiv 1506.02438)
    L_pi    = -mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A),   ratio = pi(a|s) / pi_old(a|s)
    L       = L_pi + value_weight mean (V - (A + V_old))^2 - entropy_weight mean H(pi)

A truncated episode bootstraps from its last observation. A is normalized in each minibatch. With `target_kl`, an update
ends before the step at which mean (ratio - 1 - log ratio) exceeds 1.5 times it. Gradients are clipped to a norm.

The action is a Gaussian, clipped to [-1, 1], or its tanh, or a choice (`distributions`). Options beyond the paper:
observations normalized by running statistics; values that also see a privileged observation (Pinto et al. 2017, arXiv
1710.06542); a history of observations; layers that actor and value share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.agent import NonFiniteError, matmul_precision
from simtoreal.policies.networks import MAX_BATCH
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.stochastic import StochasticAgent, StochasticConfig


@dataclass(frozen=True, kw_only=True)
class PPOConfig(StochasticConfig):
    """Settings of PPO, besides those of any stochastic policy; a value out of range raises ValueError.

    `rollout` is control steps of each environment between updates; `clip_value`, if above 0, bounds how far a value may
    move in an update; `target_kl` 0 never stops early.
    """

    gae_lambda: float = 0.95
    rollout: int = 2048
    batch_size: int = 64
    epochs: int = 10
    clip: float = 0.2
    clip_value: float = 0.0
    entropy_weight: float = 0.0
    value_weight: float = 0.5
    max_gradient: float = 0.5
    target_kl: float = 0.0
    normalize_advantage: bool = True

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return super().checks() | {
            "gae_lambda": (0 <= self.gae_lambda <= 1, "from 0 to 1"),
            "rollout": (self.rollout >= 1, "at least 1"),
            "batch_size": (2 <= self.batch_size <= MAX_BATCH, f"from 2 to {MAX_BATCH}"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "clip": (self.clip > 0, "above 0"),
            "clip_value": (self.clip_value >= 0, "at least 0"),
            "entropy_weight": (self.entropy_weight >= 0, "at least 0"),
            "value_weight": (self.value_weight >= 0, "at least 0"),
            "max_gradient": (self.max_gradient > 0, "above 0"),
            "target_kl": (self.target_kl >= 0, "at least 0"),
        }


def clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-mean min(ratio A, clip(ratio) A), eq. 7; `ratio`, `advantage` [B]."""
    return -torch.min(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


class PPO(StochasticAgent[PPOConfig]):
    """Proximal policy optimization over raw observations."""

    config_class = PPOConfig

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """All epochs over one rollout; the means of its metrics, under SB3's names. Raises NonFiniteError."""
        with matmul_precision(self.config.matmul_precision):
            return self._update(rollout)

    def _update(self, rollout: Rollout) -> dict[str, Tensor]:
        config = self.config
        x, state = self._inputs(rollout.obs, rollout.privileged)
        sums: dict[str, Tensor] = {}
        count, stopped = 0, False
        for _ in range(config.epochs):
            for rows in self._minibatches(len(x)):
                loss, metrics = self.loss(x[rows], state[rows], rollout, rows)
                if config.target_kl and metrics["approx_kl"] > 1.5 * config.target_kl:
                    stopped = True
                    break
                self._step(loss)
                count += 1
                for name, value in metrics.items():
                    sums[name] = sums[name] + value if name in sums else value
            if stopped:
                break
        means = {name: value / count for name, value in sums.items()}
        return means | {"std": self.policy.head.spread()}

    def loss(self, x: Tensor, state: Tensor, rollout: Rollout, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss of a minibatch, normalized inputs `x` and `state`, and its parts."""
        config = self.config
        log_prob, entropy = self.policy.evaluate(x, rollout.action[rows])
        advantage = rollout.advantage[rows]
        if config.normalize_advantage and len(rows) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_ratio = log_prob - rollout.log_prob[rows]
        ratio = log_ratio.exp()
        policy_loss = clipped_loss(ratio, advantage, config.clip)
        value, old = self.value(state)[:, 0], rollout.value[rows]
        if config.clip_value:
            value = old + (value - old).clamp(-config.clip_value, config.clip_value)
        value_loss = F.mse_loss(value, rollout.returns[rows])
        loss = policy_loss - config.entropy_weight * entropy + config.value_weight * value_loss
        with torch.no_grad():
            metrics = {
                "policy_gradient_loss": policy_loss.detach(),
                "value_loss": value_loss.detach(),
                "entropy_loss": -entropy.detach(),
                "approx_kl": ((ratio - 1.0) - log_ratio).mean(),
                "clip_fraction": ((ratio - 1.0).abs() > config.clip).float().mean(),
            }
        return loss, metrics

    def _minibatches(self, n: int) -> Iterator[Tensor]:
        order = torch.randperm(n, generator=self.rng, device=self.device)
        return iter(order.split(self.config.batch_size))

    def _step(self, loss: Tensor) -> None:
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"the loss is {value}")
        self.optimizers["all"].zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.max_gradient, foreach=True)
        if not math.isfinite(norm.item()):
            raise NonFiniteError(f"the gradient's norm is {norm.item()}")
        self.optimizers["all"].step()
