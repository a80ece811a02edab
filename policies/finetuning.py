"""Fine-tuning of a deterministic actor on few transitions of another robot, near to where it starts.

    y      = r + gamma (1 - terminated) min_i Q'_i(s', d, pi(s') + clip(eps))
    J_Q    = 1/2 sum_i mean (Q_i(s, d, a) - y)^2
    J_pi   = mean ((-Q(s, d, pi(s)) + smoothness |pi(s) - pi(s')|^2) / scale
                   + beta (|pi(s) - pi_0(s)|^2 / m - radius^2)),                            Q = min_i Q_i
    J_beta = -log(beta) mean (|pi(s) - pi_0(s)|^2 / m - radius^2)

Parts and their sources: old and new data mixed in every batch, LayerNorm in the critics, many updates a step (RLPD,
Ball et al. 2023, arXiv 2302.02948); a deterministic actor with smoothed targets (TD3, Fujimoto et al. 2018, arXiv
1802.09477) and Q scaled by its mean size (TD3+BC, Fujimoto and Gu 2021, arXiv 2106.06860), whose fixed pull towards
the data is here a bound on the root mean square distance from the first actor pi_0, held by a multiplier.

Deviations: the critics are told in one number d whether a transition comes from the old robot (0) or the new one (1),
as the same observation and action are worth something else on each; the actor, who is not told, learns on the new
robot's states alone. Networks, replay and targets are those of SAC.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simtoreal.policies.adam import Adam
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.history import Driver
from simtoreal.policies.memory import keep_freed_memory
from simtoreal.policies.networks import (
    HIDDEN,
    MAX_BATCH,
    MAX_CRITICS,
    Critics,
    is_hidden,
)
from simtoreal.policies.off_policy import Follower
from simtoreal.policies.replay import Batch, Replay, joined
from simtoreal.policies.sac import critic_loss
from simtoreal.policies.settings import DEVIATION, RATE, check_ranges, is_deviation, is_rate
from simtoreal.policies.targets import soft_target

OLD, NEW = 0.0, 1.0
SMOOTHING, SMOOTHING_CLIP = 0.1, 0.25  # of the target's action, in [-1, 1]


@dataclass(frozen=True)
class FineTuningConfig:
    """Settings of the learner; a value out of range raises ValueError.

    `old_share` is the part of a batch that comes from the old robot; `first_radius` and `max_radius` bound the root
    mean square distance an element of the action, in [-1, 1], may move away from the first actor's; `noise` is the
    standard deviation of exploration; `actor_every` the critics' steps to one of the actor; `actor_average` the rate of
    the average of its weights that is the candidate; `smoothness` the weight of the action's change from a state to
    the next, as in SAC (CAPS, Mysore et al. 2021, arXiv 2012.06644); `slack` how far below the base's worst return, as
    a share of its size, a rollout is not yet bad: noise alone costs a base of steady returns some of them.
    """

    gamma: float = 0.99
    tau: float = 0.02
    actor_lr: float = 3e-4
    critic_lr: float = 1e-3
    beta_lr: float = 1e-2
    batch_size: int = 256
    hidden: tuple[int, ...] = (128, 128)
    n_critics: int = 2
    old_share: float = 0.5
    first_radius: float = 0.05
    max_radius: float = 0.3
    noise: float = 0.1
    actor_every: int = 2
    actor_average: float = 0.005
    smoothness: float = 0.0
    slack: float = 0.0

    def __post_init__(self) -> None:
        checks = {
            "gamma": (0 <= self.gamma < 1, "at least 0 and below 1"),
            "tau": (0 < self.tau <= 1, "above 0 and at most 1"),
            "actor_lr": (is_rate(self.actor_lr), RATE),
            "critic_lr": (is_rate(self.critic_lr), RATE),
            "beta_lr": (is_rate(self.beta_lr), RATE),
            "batch_size": (2 <= self.batch_size <= MAX_BATCH, f"from 2 to {MAX_BATCH}"),
            "hidden": (is_hidden(self.hidden), HIDDEN),
            "n_critics": (1 <= self.n_critics <= MAX_CRITICS, f"from 1 to {MAX_CRITICS}"),
            "old_share": (0 <= self.old_share < 1, "at least 0 and below 1"),
            "first_radius": (0 < self.first_radius <= self.max_radius, f"above 0 and at most {self.max_radius}"),
            "max_radius": (0 < self.max_radius <= 2, "above 0 and at most 2, the width of an action"),
            "noise": (is_deviation(self.noise), DEVIATION),
            "actor_every": (self.actor_every >= 1, "at least 1"),
            "actor_average": (0 < self.actor_average <= 1, "above 0 and at most 1"),
            "smoothness": (0 <= self.smoothness < math.inf, "at least 0"),
            "slack": (0 <= self.slack <= 1, "from 0 to 1"),
        }
        check_ranges(self, checks)


class FineTuner:
    """Learns from `old` and `new` transitions; `actor` explores, `average` is the candidate. All noise follows `seed`.

    Args:
        base: the first actor; it is copied and never changed.
        old, new: how many transitions of each robot are kept.
    """

    def __init__(self, base: DeterministicActor, config: FineTuningConfig, *, old: int, new: int, seed: int) -> None:
        keep_freed_memory()
        self.config = config
        self.base = copy.deepcopy(base).requires_grad_(False)
        self.actor = copy.deepcopy(base).requires_grad_(True)
        self.average = copy.deepcopy(base).requires_grad_(False)
        size, m = base.history * base.observation_size, base.action_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critics = Critics(size + 1 + m, config.hidden, config.n_critics, layer_norm=True)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self._target = Follower(self.target_critics, self.critics, config.tau)
        self._candidate = Follower(self.average, self.actor, config.actor_average)
        self.log_beta = torch.zeros((), requires_grad=True)
        self.rng = torch.Generator().manual_seed(seed)
        self.old, self.new = Replay(old, size, m, 1), Replay(new, size, m, 1)
        self._critic_optimizer = Adam(self.critics.parameters(), config.critic_lr)
        self._beta_optimizer = Adam([self.log_beta], config.beta_lr)
        self.radius = config.first_radius
        self._steps = 0
        self._forget_actor_moments()

    def act(self, driver: Driver, obs: np.ndarray, noise: float) -> np.ndarray:
        """The action [m] in [-1, 1] of whom `driver` drives (`base`, `actor` or `average`) for one raw observation [n],
        with normal noise of that standard deviation. Raises NonFiniteError."""
        action = driver.act(obs)
        if not np.isfinite(action).all():
            raise NonFiniteError("the policy's action is not finite")
        if noise:
            action = action + noise * torch.randn(len(action), generator=self.rng).numpy()
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def add(self, rows: Mapping[str, np.ndarray], *, robot: float) -> None:
        """Store transitions (obs, action, reward, next_obs, terminated) of the OLD or the NEW robot; obs and next_obs
        are what an actor sees, [E, k n] with a history of k."""
        flag = np.full((len(rows["reward"]), 1), robot, np.float32)
        (self.new if robot == NEW else self.old).add(**rows, privileged=flag, next_privileged=flag)

    def update(self, steps: int, *, move_actor: bool) -> dict[str, float]:
        """`steps` steps of the critics and, if it may move, one in `actor_every` of the actor; means of the metrics.

        Raises NonFiniteError on a loss that is not finite.
        """
        sums: dict[str, list[float]] = {}
        for _ in range(steps):
            self._steps += 1
            batch = self._batch()
            metrics = self._critic_step(batch)
            if move_actor and self._steps % self.config.actor_every == 0:
                metrics |= self._actor_step(batch)
            for name, value in metrics.items():
                sums.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def candidate(self) -> DeterministicActor:
        """A copy of the averaged actor, as it would be exported."""
        return copy.deepcopy(self.average).eval()

    def widen(self, factor: float) -> None:
        """Multiply the radius within which the actor may move, up to the greatest that is allowed."""
        self.radius = min(self.radius * factor, self.config.max_radius)

    def snapshot(self) -> dict[str, Tensor]:
        """The weights of the actor and of its average, cloned."""
        modules = {"actor": self.actor, "average": self.average}
        return {
            f"{k}.{name}": value.clone() for k, module in modules.items() for name, value in module.state_dict().items()
        }

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Back to a snapshot; the critics keep what they have learned since."""
        for key, module in (("actor", self.actor), ("average", self.average)):
            module.load_state_dict({name: weights[f"{key}.{name}"] for name in module.state_dict()})
        self._forget_actor_moments()

    @torch.no_grad()
    def distance(self, obs: Tensor) -> float:
        """Root mean square distance of the candidate's actions from the first actor's over `obs` [B, k n]."""
        return float((self.average(obs) - self.base(obs)).square().mean().sqrt())

    def _forget_actor_moments(self) -> None:
        self._actor_optimizer = Adam(self.actor.parameters(), self.config.actor_lr)

    def _batch(self) -> Batch:
        """Old and new transitions, the new ones last."""
        share = self.config.old_share if len(self.new) else 1.0
        old = round(self.config.batch_size * share) if len(self.old) else 0
        self._from_new = self.config.batch_size - old
        parts = [replay.sample(n, self.rng) for replay, n in ((self.old, old), (self.new, self._from_new)) if n]
        return parts[0] if len(parts) == 1 else joined(parts)

    def _state(self, obs: Tensor, flag: Tensor | None) -> Tensor:
        assert flag is not None
        return torch.cat([self.base.normalizer(obs), flag], dim=-1)

    def _critic_step(self, batch: Batch) -> dict[str, float]:
        config = self.config
        with torch.no_grad():
            next_action = self.actor(batch.next_obs)
            noise = SMOOTHING * torch.randn(next_action.shape, generator=self.rng)
            next_action = (next_action + noise.clamp(-SMOOTHING_CLIP, SMOOTHING_CLIP)).clamp(-1.0, 1.0)
            next_q = self.target_critics(
                torch.cat([self._state(batch.next_obs, batch.next_privileged), next_action], -1)
            )
            none = torch.zeros(len(batch.reward))
            target = soft_target(batch.reward, batch.terminated, next_q, none, alpha=0.0, gamma=config.gamma)
            q, traces = self.critics.trace(torch.cat([self._state(batch.obs, batch.privileged), batch.action], -1))
            loss = critic_loss(q, target)
        value = _finite(loss, "critic")
        gradients = self.critics.weight_gradients(traces, (q - target) / len(target))
        self._critic_optimizer.step(gradients)
        self._target.step()
        return {
            "critic_loss": value,
            "q_mean": float(q[:, -self._from_new :].mean()) if self._from_new else float(q.mean()),
        }

    def _actor_step(self, batch: Batch) -> dict[str, float]:
        if not self._from_new:
            raise ValueError("the actor learns on the new robot's states, and there are none yet")
        obs = batch.obs[-self._from_new :]
        assert batch.privileged is not None
        state = self._state(obs, batch.privileged[-self._from_new :])
        action = self.actor(obs)
        q = self.critics(torch.cat([state, action], dim=-1)).min(dim=0).values
        with torch.no_grad():
            start = self.base(obs)
        moved = (action - start).square().mean()
        excess = moved - self.radius**2
        beta = self.log_beta.detach().exp()
        gain = -q.mean()
        if self.config.smoothness:
            change = action - self.actor(batch.next_obs[-self._from_new :])
            gain = gain + self.config.smoothness * change.square().sum(-1).mean()
        loss = gain / (q.detach().abs().mean() + 1e-6) + beta * excess
        value = _finite(loss, "actor")
        self._actor_optimizer.step(torch.autograd.grad(loss, self._actor_optimizer.parameters))
        self._beta_optimizer.step([-excess.detach()])
        with torch.no_grad():
            self.log_beta.clamp_(-5.0, 5.0)
        self._candidate.step()
        return {
            "actor_loss": value,
            "distance": math.sqrt(moved.detach().item()),
            "beta": float(beta),
            "radius": self.radius,
        }


def _finite(loss: Tensor, name: str) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError(f"{name} loss is {value}")
    return value
