"""Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347), as Stable-Baselines3 does it.

    A_t     = sum_k (gamma lambda)^k delta_{t+k},  delta_t = r_t + gamma V(s_{t+1}) - V(s_t)   (GAE, arXiv 1506.02438)
    L_pi    = -mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A),   ratio = pi(a|s) / pi_old(a|s)
    L       = L_pi + value_weight mean (V - (A + V_old))^2 - entropy_weight mean H(pi)

A truncated episode bootstraps from its last observation. A is normalized in each minibatch. With `target_kl`, an update
ends before the step at which mean (ratio - 1 - log ratio) exceeds 1.5 times it. Gradients are clipped to a norm.

The action is a Gaussian with a state-independent standard deviation, clipped to [-1, 1], or with `squashed` its tanh;
of that one the entropy is estimated from the samples. Options beyond the paper: observations normalized by running
statistics; values that also see a privileged observation (Pinto et al. 2017, arXiv 1710.06542); a history of
observations; layers that actor and value share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.agent import (
    NonFiniteError,
    Observation,
    load_module,
    load_optimizer,
    matmul_precision,
    optimizer_tensors,
    prefixed,
    split_observation,
)
from simtoreal.policies.networks import ACTIVATIONS, HIDDEN, MAX_BATCH, MAX_HISTORY, DeterministicActor, is_hidden, mlp
from simtoreal.policies.normalizer import Normalizer
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.settings import check_finite, check_ranges

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Settings of PPO; a value out of range raises ValueError.

    `rollout` is control steps of each environment between updates; `clip_value`, if above 0, bounds how far a value may
    move in an update; `target_kl` 0 never stops early; `log_std` is the first log standard deviation; `shared` gives
    actor and value the same hidden layers, so the value sees what the actor sees; `history` is how many of the last
    observations the actor sees, and a value that has no privileged one.
    """

    gamma: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: float = 3e-4
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
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    squashed: bool = False
    shared: bool = False
    log_std: float = 0.0
    normalize_observations: bool = True
    history: int = 1
    matmul_precision: str = "highest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_finite(self)
        checks = {
            "gamma": (0 <= self.gamma <= 1, "from 0 to 1"),
            "gae_lambda": (0 <= self.gae_lambda <= 1, "from 0 to 1"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "rollout": (self.rollout >= 1, "at least 1"),
            "batch_size": (2 <= self.batch_size <= MAX_BATCH, f"from 2 to {MAX_BATCH}"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "clip": (self.clip > 0, "above 0"),
            "clip_value": (self.clip_value >= 0, "at least 0"),
            "entropy_weight": (self.entropy_weight >= 0, "at least 0"),
            "value_weight": (self.value_weight >= 0, "at least 0"),
            "max_gradient": (self.max_gradient > 0, "above 0"),
            "target_kl": (self.target_kl >= 0, "at least 0"),
            "hidden": (is_hidden(self.hidden), HIDDEN),
            "activation": (self.activation in ACTIVATIONS, ", ".join(sorted(ACTIVATIONS))),
            "log_std": (-20 <= self.log_std <= 2, "from -20 to 2"),
            "history": (1 <= self.history <= MAX_HISTORY, f"from 1 to {MAX_HISTORY}"),
            "matmul_precision": (self.matmul_precision in ("highest", "high", "medium"), "highest, high or medium"),
        }
        check_ranges(self, checks)


class GaussianPolicy(nn.Module):
    """Mean of a Gaussian over m actions from normalized observations [B, n], and its log standard deviation [m]."""

    def __init__(self, body: nn.Sequential, width: int, action_size: int, log_std: float) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, action_size)
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x))
        return found


def gaussian_log_prob(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(u; mean, std) [B], summed over the m actions."""
    return (-0.5 * ((u - mean) * (-log_std).exp()).square() - log_std - 0.5 * LOG_2PI).sum(-1)


def clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-mean min(ratio A, clip(ratio) A), eq. 7; `ratio`, `advantage` [B]."""
    return -torch.min(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


class PPO:
    """Proximal policy optimization over raw observations. Initial weights and all later noise follow from `seed`."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        privileged_size: int = 0,
        config: PPOConfig | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config = config = config or PPOConfig()
        self.device = torch.device(device)
        self.action_size = action_size
        stack = config.history * observation_size
        self._sees_state = privileged_size > 0 and not config.shared
        state = privileged_size + observation_size if self._sees_state else stack
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = mlp([stack, *config.hidden], config.activation)
            self.policy = GaussianPolicy(body, config.hidden[-1], action_size, config.log_std)
            value_body = body if config.shared else mlp([state, *config.hidden], config.activation)
            self.value = nn.Sequential(value_body, nn.Linear(config.hidden[-1], 1))
            for module, gain in ((body, math.sqrt(2)), (value_body, math.sqrt(2)), (self.policy.head, 0.01)):
                _orthogonal(module, gain)
            _orthogonal(self.value[1], 1.0)
        self.policy.to(self.device)
        self.value.to(self.device)
        self.normalizer = Normalizer(observation_size).to(self.device)
        self.privileged_normalizer = Normalizer(privileged_size).to(self.device) if privileged_size else None
        self.rng = torch.Generator(self.device).manual_seed(seed)
        self._parameters = list(dict.fromkeys([*self.policy.parameters(), *self.value.parameters()]))
        self.optimizer = torch.optim.Adam(self._parameters, lr=config.learning_rate, eps=1e-5, fused=True)

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, m] float32 in [-1, 1]: a sample, or the policy's mean. Raises NonFiniteError."""
        with torch.inference_mode():
            x = self.normalizer(self._tensor(split_observation(obs)[0]))
            u = self._sample(x)[0] if explore else self.policy(x)
        return self.bounded(u)

    def try_out(self, obs: Observation) -> tuple[np.ndarray, Tensor, Tensor]:
        """Actions [E, m] in [-1, 1] to explore with, what they were before they were bounded, and its log pi [E]."""
        with torch.inference_mode():
            u, log_prob = self._sample(self.normalizer(self._tensor(split_observation(obs)[0])))
        return self.bounded(u), u, log_prob

    def bounded(self, u: Tensor) -> np.ndarray:
        """What the environment gets of an action."""
        action: np.ndarray = (u.tanh() if self.config.squashed else u.clamp(-1.0, 1.0)).cpu().numpy()
        if not np.isfinite(action).all():
            raise NonFiniteError("the policy's action is not finite")
        return action

    def _sample(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.policy(x), self.policy.log_std
        noise = self._noise(len(x))
        return mean + log_std.exp() * noise, (-0.5 * noise.square() - log_std - 0.5 * LOG_2PI).sum(-1)

    def observe(self, obs: Observation) -> None:
        """Add raw observations [E, n], of a stack the newest, to the running statistics; nothing when
        `normalize_observations` is off."""
        if not self.config.normalize_observations:
            return
        policy, privileged = split_observation(obs)
        self.normalizer.update(self._tensor(policy)[:, -len(self.normalizer.mean) :])
        if self.privileged_normalizer is not None and privileged is not None:
            self.privileged_normalizer.update(self._tensor(privileged))

    def values(self, obs: Tensor, privileged: Tensor | None) -> Tensor:
        """V [B] of raw observations."""
        with torch.inference_mode():
            found: Tensor = self.value(self._inputs(obs, privileged)[1])[:, 0]
        return found

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
        return means | {"std": self.policy.log_std.detach().exp().mean()}

    def loss(self, x: Tensor, state: Tensor, rollout: Rollout, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss of a minibatch, normalized inputs `x` and `state`, and its parts."""
        config = self.config
        mean, log_std = self.policy(x), self.policy.log_std
        u = rollout.action[rows]
        log_prob = gaussian_log_prob(u, mean, log_std)
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
        if config.squashed:  # log |d tanh| does not depend on the weights at a given u, but the entropy does
            correction = (2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))).sum(-1)
            entropy = -(log_prob - correction).mean()
        else:
            entropy = (log_std + 0.5 * (1.0 + LOG_2PI)).sum()
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
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.max_gradient, foreach=True)
        if not math.isfinite(norm.item()):
            raise NonFiniteError(f"the gradient's norm is {norm.item()}")
        self.optimizer.step()

    def actor(self) -> DeterministicActor:
        """A copy of the policy's mean with the normalizer inside: raw [B, k n] -> [B, m]."""
        config = self.config
        output = "tanh" if config.squashed else "clip"
        actor = DeterministicActor(
            len(self.normalizer.mean), self.action_size, config.hidden, config.activation, output, config.history
        )
        actor.normalizer.copy_from(self.normalizer)
        actor.body.load_state_dict(self.policy.body.state_dict())
        actor.head.load_state_dict(self.policy.head.state_dict())
        return actor.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors to go on bit for bit, cloned."""
        state = {"rng": self.rng.get_state()}
        for name, module in self._modules().items():
            state |= prefixed(name, {key: value.clone() for key, value in module.state_dict().items()})
        return state | optimizer_tensors("optimizer", self.optimizer)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError when a network, statistic or optimizer has another shape or is missing."""
        starts = ("optimizer.", *(f"{name}." for name in self._modules()))
        unknown = sorted(name for name in tensors if name != "rng" and not name.startswith(starts))
        if unknown or "rng" not in tensors:
            missing = "nothing" if "rng" in tensors else "rng"
            raise ValueError(f"agent state: missing {missing}, unknown {unknown or 'nothing'}")
        for name, module in self._modules().items():
            load_module(module, name, tensors)
        load_optimizer("optimizer", self.optimizer, tensors)
        self.rng.set_state(tensors["rng"].cpu())

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"policy": self.policy, "value": self.value, "normalizer": self.normalizer}
        if self.privileged_normalizer is not None:
            modules["privileged_normalizer"] = self.privileged_normalizer
        return modules

    def _inputs(self, obs: Tensor, privileged: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the actor sees and what the value sees, normalized."""
        x = self.normalizer(obs)
        if not self._sees_state or privileged is None or self.privileged_normalizer is None:
            return x, x
        newest = x[:, -len(self.normalizer.mean) :]
        return x, torch.cat([newest, self.privileged_normalizer(privileged)], dim=-1)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=self.device)

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.action_size, generator=self.rng, device=self.device)


def _orthogonal(module: nn.Module, gain: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
