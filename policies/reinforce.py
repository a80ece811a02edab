"""REINFORCE (Williams 1992), with or without a learned baseline.

    G_t  = r_t + gamma G_{t+1}
    J_pi = -mean log pi(a_t|s_t) (G_t - b(s_t))
    J_b  = mean (b(s_t) - G_t)^2

One step for each batch of whole episodes, one of every environment. An episode that is truncated goes on, for the
baseline, where it was cut: G bootstraps from b of its last observation; without a baseline nothing is known of what
follows, so it counts as 0.

Deviation: a step is not weighed by gamma^t, as in practice everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.products import arithmetic
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.stochastic import StochasticAgent, StochasticConfig


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(StochasticConfig):
    """Settings of REINFORCE, besides those of any stochastic policy; a value out of range raises ValueError.

    `baseline` off compares with 0; `normalize_advantage` scales a batch's G - b to mean 0 and standard deviation 1.
    """

    learning_rate: float = 1e-3
    baseline: bool = True
    baseline_weight: float = 0.5
    entropy_weight: float = 0.0
    normalize_advantage: bool = True

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return super().checks() | {
            "baseline_weight": (self.baseline_weight >= 0, "at least 0"),
            "entropy_weight": (self.entropy_weight >= 0, "at least 0"),
        }


class Reinforce(StochasticAgent[ReinforceConfig]):
    """REINFORCE over raw observations."""

    config_class = ReinforceConfig

    def values(self, obs: Tensor, privileged: Tensor | None, hidden_state: Tensor | None = None) -> Tensor:
        """The baseline [B] of raw observations; 0 without one."""
        if not self.config.baseline:
            return torch.zeros(len(obs), device=self.device)
        return super().values(obs, privileged, hidden_state)

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """One step on whole episodes; metrics under SB3's names, none where no transition is left. Raises
        NonFiniteError."""
        config = self.config
        if not len(rollout.returns):
            return {}
        with arithmetic(config.matmul_precision, self.device):
            x, state = self._inputs(rollout.obs, rollout.privileged)
            log_prob, entropy = self.policy.evaluate(x, rollout.action)
            advantage = rollout.advantage
            if config.normalize_advantage and len(advantage) > 1:
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            policy_loss = -(log_prob * advantage).mean()
            loss = policy_loss - config.entropy_weight * entropy
            value_loss = torch.zeros((), device=self.device)
            if config.baseline:
                value_loss = F.mse_loss(self.value(state)[:, 0], rollout.returns)
                loss = loss + config.baseline_weight * value_loss
            if not math.isfinite(loss.item()):
                raise NonFiniteError(f"the loss is {loss.item()}")
            parameters = self.optimizers["all"].parameters
            self.optimizers["all"].step(torch.autograd.grad(loss, parameters, materialize_grads=True))
        return {
            "policy_gradient_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy_loss": -entropy.detach(),
            "std": self.policy.head.spread(),
        }
