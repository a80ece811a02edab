"""Twin delayed deterministic policy gradient (Fujimoto et al. 2018, arXiv 1802.09477, algorithm 1).

    y    = r + gamma (1 - terminated) min_i Q'_i(s', a'),     a' = clip(pi'(s') + clip(eps, -c, c), -1, 1)
    J_Q  = sum_i mean (Q_i(s, a) - y)^2
    J_pi = -mean Q_1(s, pi(s)),                               every `policy_delay` updates, as the targets' step

eps is normal with standard deviation `target_noise`, c is `target_noise_clip`. It explores with pi(s) plus normal noise
of `exploration_noise`, clipped to [-1, 1]. Losses and order of steps are those of the authors' code and of
Stable-Baselines3. Options beyond the paper: see `actor_critic`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simtoreal.policies.actor_critic import OffPolicyAgent, OffPolicyConfig
from simtoreal.policies.actors import TanhActor
from simtoreal.policies.backprop import Trace, tanh_backward
from simtoreal.policies.branches import alongside
from simtoreal.policies.off_policy import Follower, Turn
from simtoreal.policies.replay import Batch
from simtoreal.policies.settings import DEVIATION, is_deviation
from simtoreal.policies.targets import clipped_target


@dataclass(frozen=True, kw_only=True)
class TD3Config(OffPolicyConfig):
    """Settings of TD3, besides the shared ones; a value out of range raises ValueError.

    Noise is a standard deviation in the units of the action, [-1, 1]; the targets step with the actor.
    """

    policy_delay: int = 2
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    exploration_noise: float = 0.1

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return super().checks() | {
            "target_noise": (is_deviation(self.target_noise), DEVIATION),
            "target_noise_clip": (self.target_noise_clip >= 0, "at least 0"),
            "exploration_noise": (is_deviation(self.exploration_noise), DEVIATION),
        }


class TD3(OffPolicyAgent[TD3Config, TanhActor]):
    """Twin delayed deterministic policy gradient over raw observations."""

    config_class = TD3Config

    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        super()._build(observation_size, privileged_size, choices)
        self.target_policy = copy.deepcopy(self.policy).requires_grad_(False)
        self._followers.append(Follower(self.target_policy, self.policy, self.config.tau))
        self._last_actor_loss = torch.zeros((), device=self.device)

    def _make_policy(self, observation_size: int) -> TanhActor:
        return TanhActor(observation_size, self.action_size, self.config.hidden)

    def _explore(self, x: Tensor) -> Tensor:
        noise = self.config.exploration_noise * self._noise(len(x))
        return (self.policy.mean(x).tanh() + noise).clamp(-1.0, 1.0)

    @torch.no_grad()
    def _update(self, batch: Batch, turn: Turn) -> dict[str, Tensor]:
        config = self.config
        obs, state = self._inputs(batch.obs, batch.privileged)
        next_obs, next_state = self._inputs(batch.next_obs, batch.next_privileged)

        noise = (config.target_noise * self._noise(len(obs))).clamp(-config.target_noise_clip, config.target_noise_clip)

        def later() -> tuple[Tensor, list[Trace]]:
            next_action = (self.target_policy.mean(next_obs).tanh() + noise).clamp(-1.0, 1.0)
            return self._q(self.target_critics, next_state, next_action)

        def now() -> tuple[Tensor, list[Trace]]:
            return self._q(self.critics, state, batch.action)

        (next_q, _), (q, traces) = alongside(self.device, [later, now])
        target = clipped_target(batch.reward, batch.terminated, next_q, gamma=self.config.discount(batch))
        loss_q = (q - target).square().mean(dim=1).sum()
        self._step("critic", loss_q, self.critics.weight_gradients(traces, 2 * (q - target) / len(target)), turn)

        if turn.actor_learns:
            self._last_actor_loss.copy_(self._improve(obs, state, next_obs, turn))
            self._follow()
        return {
            "critic_loss": loss_q,
            "actor_loss": self._last_actor_loss.clone(),
            "target_mean": target.mean(),
        }

    def _improve(self, obs: Tensor, state: Tensor, next_obs: Tensor, turn: Turn) -> Tensor:
        """One step of the actor; its loss."""
        n = len(obs)
        mean, trace = self.policy.trace(torch.cat([obs, next_obs]) if self.config.smoothness else obs)
        action = mean[:n].tanh()
        q, traces = self._q(self.critics, state, action, count=1)
        loss = -q.mean()
        to_mean = tanh_backward(self.critics.min_gradient(q, traces, self.action_size) / -n, action)
        if self.config.smoothness:
            roughness, of_roughness = self._roughness(mean)
            loss = loss + roughness
            of_roughness[:n] += to_mean
            to_mean = of_roughness
        self._step("actor", loss, self.policy.weight_gradients(trace, to_mean), turn)
        return loss

    def _tensors(self) -> dict[str, Tensor]:
        return {"updates": self.updates, "actor_loss": self._last_actor_loss}

    def _networks(self) -> dict[str, nn.Module]:
        return super()._networks() | {"target_policy": self.target_policy}
