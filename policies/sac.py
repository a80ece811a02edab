"""Soft actor-critic (Haarnoja et al. 2018b, arXiv 1812.05905), with an optional privileged critic.

    y       = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')),   a' ~ pi(s')
    J_Q     = 1/2 sum_i mean (Q_i(s, a) - y)^2
    J_pi    = mean (alpha log pi(a|s) - min_i Q_i(s, a)),                               a ~ pi(s)
    J_alpha = -log(alpha) mean (log pi(a|s) + target_entropy)
    J_pi   += smoothness mean |tanh(mu(s)) - tanh(mu(s'))|^2,                           where it is asked for

Deviations from the paper: J_alpha is written in log(alpha), as in the authors' code and in Stable-Baselines3; the
actor's loss is taken after the critics' step, with alpha from before its own. The correction of the tanh is exact,
where SB3 adds 1e-6 inside the logarithm. Options beyond the paper: LayerNorm in the critics; observations
normalized by running statistics; critics that also see a privileged observation (Pinto et al. 2017, arXiv
1710.06542); an exponential average of the actor's weights as the policy to deploy; a penalty on how much the mean
action differs between a state and the next (CAPS, Mysore et al. 2021, arXiv 2012.06644, eq. 2, with the square of the
distance), so that noise in the observation is not passed on to the motors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
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
from simtoreal.policies.networks import (
    HIDDEN,
    MAX_BATCH,
    MAX_CRITICS,
    MAX_HISTORY,
    DeterministicActor,
    SquashedGaussianActor,
    StackedCritics,
    is_hidden,
    squash,
)
from simtoreal.policies.normalizer import Normalizer
from simtoreal.policies.replay import Batch
from simtoreal.policies.targets import soft_target


@dataclass(frozen=True)
class SACConfig:
    """Settings of SAC; a value out of range raises ValueError.

    `updates_per_step` is gradient steps per environment step; `target_entropy` None means -m for m actions;
    `alpha_lr` 0 keeps the temperature at `initial_alpha`; `actor_average` is the rate of the deployed average of
    the actor's weights, 0 = off; `smoothness` is the weight of the penalty on the mean action's change from a state to
    the next, 0 = off; `critic_inputs` "privileged" leaves critics that have a privileged observation that alone, "both"
    the policy's newest too; `history` is how many of the last observations the actor sees, and critics that have no
    privileged one; `matmul_precision` "medium" lets float32 products use bf16 (CPU) or tf32 (GPU)
    inside `update`.
    """

    gamma: float = 0.99
    tau: float = 0.005
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    alpha_lr: float = 3e-4
    batch_size: int = 256
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    n_critics: int = 2
    buffer_size: int = 1_000_000
    learning_starts: int = 1_000
    updates_per_step: float = 1.0
    target_entropy: float | None = None
    initial_alpha: float = 1.0
    normalize_observations: bool = True
    actor_average: float = 0.0
    smoothness: float = 0.0
    critic_inputs: str = "both"
    history: int = 1
    matmul_precision: str = "highest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        numbers = {f.name: getattr(self, f.name) for f in fields(self)} | {"target_entropy": self.target_entropy or 0.0}
        for name, value in numbers.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        checks = {
            "gamma": (0 <= self.gamma <= 1, "from 0 to 1"),
            "tau": (0 < self.tau <= 1, "above 0 and at most 1"),
            "actor_lr": (self.actor_lr > 0, "above 0"),
            "critic_lr": (self.critic_lr > 0, "above 0"),
            "alpha_lr": (self.alpha_lr >= 0, "at least 0"),
            "batch_size": (1 <= self.batch_size <= MAX_BATCH, f"from 1 to {MAX_BATCH}"),
            "buffer_size": (self.buffer_size >= self.batch_size, f"at least batch_size {self.batch_size}"),
            "hidden": (is_hidden(self.hidden), HIDDEN),
            "n_critics": (1 <= self.n_critics <= MAX_CRITICS, f"from 1 to {MAX_CRITICS}"),
            "learning_starts": (self.learning_starts >= 0, "at least 0"),
            "updates_per_step": (self.updates_per_step > 0, "above 0"),
            "initial_alpha": (self.initial_alpha > 0, "above 0"),
            "actor_average": (0 <= self.actor_average < 1, "at least 0 and below 1"),
            "smoothness": (self.smoothness >= 0, "at least 0"),
            "critic_inputs": (self.critic_inputs in ("both", "privileged"), "both or privileged"),
            "history": (1 <= self.history <= MAX_HISTORY, f"from 1 to {MAX_HISTORY}"),
            "matmul_precision": (self.matmul_precision in ("highest", "high", "medium"), "highest, high or medium"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, mean over the batch, sum over critics; `q` [C, B], `target` [B]."""
    return 0.5 * (q - target).square().mean(dim=1).sum()


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor | float) -> Tensor:
    """mean (alpha log pi - min_i Q_i); `q` [C, B], `log_prob` [B]."""
    return (alpha * log_prob - q.min(dim=0).values).mean()


class SAC:
    """Soft actor-critic over raw observations. Initial weights and all later noise follow from `seed`.

    `observation_size` n is that of one observation; with a history of k, act, observe and update take stacks [B, k n].
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        privileged_size: int = 0,
        config: SACConfig | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config = config = config or SACConfig()
        self.device = torch.device(device)
        self.action_size = action_size
        self.target_entropy = float(-action_size if config.target_entropy is None else config.target_entropy)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stack = config.history * observation_size
            policy = SquashedGaussianActor(stack, action_size, config.hidden)
            also = 0 if config.critic_inputs == "privileged" else observation_size
            state = privileged_size + also if privileged_size else stack
            critics = StackedCritics(state + action_size, config.hidden, config.n_critics, config.layer_norm)
        self.policy = policy.to(self.device)
        self.critics = critics.to(self.device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.average = copy.deepcopy(self.policy).requires_grad_(False) if config.actor_average else self.policy
        self.log_alpha = torch.tensor(math.log(config.initial_alpha), device=self.device, requires_grad=True)
        self.normalizer = Normalizer(observation_size).to(self.device)
        self.privileged_normalizer = Normalizer(privileged_size).to(self.device) if privileged_size else None
        self.rng = torch.Generator(self.device).manual_seed(seed)
        self.optimizers = {
            "actor": torch.optim.Adam(self.policy.parameters(), lr=config.actor_lr, fused=True),
            "critic": torch.optim.Adam(self.critics.parameters(), lr=config.critic_lr, fused=True),
            "alpha": torch.optim.Adam([self.log_alpha], lr=config.alpha_lr, fused=True),
        }

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, m] float32 in [-1, 1]: a sample, or the (averaged) policy's mean. Raises NonFiniteError."""
        with torch.inference_mode():
            x = self.normalizer(self._tensor(split_observation(obs)[0]))
            if explore:
                mean, log_std = self.policy(x)
                action = (mean + log_std.exp() * self._noise(len(x))).tanh()
            else:
                action = self.average(x)[0].tanh()
            result: np.ndarray = action.cpu().numpy()
        if not np.isfinite(result).all():
            raise NonFiniteError("the policy's action is not finite")
        return result

    def observe(self, obs: Observation) -> None:
        """Add raw observations [E, n], of a stack the newest, to the running statistics; nothing when
        `normalize_observations` is off."""
        if not self.config.normalize_observations:
            return
        policy, privileged = split_observation(obs)
        self.normalizer.update(self._newest(self._tensor(policy)))
        if self.privileged_normalizer is not None and privileged is not None:
            self.privileged_normalizer.update(self._tensor(privileged))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of critics, actor and temperature; metrics under SB3's names. Raises NonFiniteError."""
        with matmul_precision(self.config.matmul_precision):
            return self._update(batch)

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        obs, state = self._inputs(batch.obs, batch.privileged)
        next_obs, next_state = self._inputs(batch.next_obs, batch.next_privileged)
        alpha = self.log_alpha.detach().exp()

        with torch.no_grad():
            next_action, next_log_prob = self.policy.sample(next_obs, self._noise(len(obs)))
            next_q = self.target_critics(torch.cat([next_state, next_action], dim=-1))
            target = soft_target(batch.reward, batch.terminated, next_q, next_log_prob, alpha=alpha, gamma=config.gamma)
            q, layers = self.critics.trace(torch.cat([state, batch.action], dim=-1))
            loss_q = critic_loss(q, target)
        self._step("critic", loss_q, self.critics.weight_gradients(layers, (q - target) / len(target)))

        mean, log_std = self.policy(obs)
        action, log_prob = squash(mean, log_std, self._noise(len(obs)))
        with torch.no_grad():
            q, layers = self.critics.trace(torch.cat([state, action], dim=-1))
            loss_pi = actor_loss(q, log_prob, alpha)
        # the loss reaches the actor's weights through log pi, by alpha / B, and through the action, by -dQ/da / B
        parts = [log_prob, action]
        through = [
            torch.full_like(log_prob, 1 / len(obs)) * alpha,
            self.critics.min_gradient(q, layers, self.action_size) / -len(obs),
        ]
        if config.smoothness:
            roughness = config.smoothness * (mean.tanh() - self.policy(next_obs)[0].tanh()).square().sum(-1).mean()
            loss_pi = loss_pi + roughness.detach()
            parts.append(roughness)
            through.append(torch.ones_like(roughness))
        self._step("actor", loss_pi, torch.autograd.grad(parts, list(self.policy.parameters()), through))
        with torch.no_grad():
            slope = -(log_prob.mean() + self.target_entropy)
            loss_alpha = self.log_alpha * slope
        if config.alpha_lr:
            self._step("alpha", loss_alpha, [slope])

        move(self.target_critics, self.critics, config.tau)
        if config.actor_average:
            move(self.average, self.policy, config.actor_average)
        return {
            "critic_loss": loss_q.detach(),
            "actor_loss": loss_pi.detach(),
            "ent_coef": alpha,
            "ent_coef_loss": loss_alpha.detach(),
            "entropy": -log_prob.detach().mean(),
            "target_mean": target.mean(),
        }

    def actor(self) -> DeterministicActor:
        """A copy of the (averaged) policy's mean with the normalizer inside: raw [B, k n] -> [B, m]."""
        config = self.config
        actor = DeterministicActor(len(self.normalizer.mean), self.action_size, config.hidden, history=config.history)
        actor.normalizer.copy_from(self.normalizer)
        actor.body.load_state_dict(self.average.body.state_dict())
        with torch.no_grad():
            actor.head.weight.copy_(self.average.head.weight[: self.action_size])
            actor.head.bias.copy_(self.average.head.bias[: self.action_size])
        return actor.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors to go on bit for bit, cloned."""
        state = {"log_alpha": self.log_alpha.detach().clone(), "rng": self.rng.get_state()}
        for name, module in self._modules().items():
            state |= prefixed(name, {key: value.clone() for key, value in module.state_dict().items()})
        for name, optimizer in self.optimizers.items():
            state |= optimizer_tensors(f"optimizer.{name}", optimizer)
        return state

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError when a network, statistic or optimizer has another shape or is missing."""
        known = (
            "log_alpha",
            "rng",
            *(f"{name}." for name in self._modules()),
            *(f"optimizer.{n}." for n in self.optimizers),
        )
        unknown = sorted(name for name in tensors if not name.startswith(known))
        missing = sorted({"log_alpha", "rng"} - tensors.keys())
        if unknown or missing:
            raise ValueError(f"agent state: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
        for name, module in self._modules().items():
            load_module(module, name, tensors)
        for name, optimizer in self.optimizers.items():
            load_optimizer(f"optimizer.{name}", optimizer, tensors)
        with torch.no_grad():
            self.log_alpha.copy_(tensors["log_alpha"])
        self.rng.set_state(tensors["rng"].cpu())

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {
            "policy": self.policy,
            "critics": self.critics,
            "target_critics": self.target_critics,
            "normalizer": self.normalizer,
        }
        if self.config.actor_average:
            modules["average"] = self.average
        if self.privileged_normalizer is not None:
            modules["privileged_normalizer"] = self.privileged_normalizer
        return modules

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=self.device)

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.action_size, generator=self.rng, device=self.device)

    def _inputs(self, obs: Tensor, privileged: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the actor sees and what the critics see, normalized: of a stack, critics that see the true state are
        shown the newest frame only."""
        x = self.normalizer(obs)
        if self.privileged_normalizer is None or privileged is None:
            return x, x
        state = self.privileged_normalizer(privileged)
        return x, state if self.config.critic_inputs == "privileged" else torch.cat([self._newest(x), state], dim=-1)

    def _newest(self, stack: Tensor) -> Tensor:
        """The newest frame [B, n] of each stack [B, k n]."""
        return stack[:, -len(self.normalizer.mean) :]

    def _step(self, name: str, loss: Tensor, gradients: Sequence[Tensor]) -> None:
        """One optimizer step along `gradients`, if the loss they are of is finite."""
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"{name} loss is {value}")
        optimizer = self.optimizers[name]
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()


@torch.no_grad()
def move(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """slow += rate (fast - slow), all parameters at once."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)
