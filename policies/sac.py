"""Soft actor-critic (Haarnoja et al. 2018b, arXiv 1812.05905).

    y       = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')),   a' ~ pi(s')
    J_Q     = 1/2 sum_i mean (Q_i(s, a) - y)^2
    J_pi    = mean (alpha log pi(a|s) - min_i Q_i(s, a)),                               a ~ pi(s)
    J_alpha = -log(alpha) mean (log pi(a|s) + target_entropy)

Deviations from the paper: J_alpha is written in log(alpha), as in the authors' code and in Stable-Baselines3; the
actor's loss is taken after the critics' step, with alpha from before its own. The correction of the tanh is exact,
where SB3 adds 1e-6 inside the logarithm. Options beyond the paper: see `actor_critic`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from simtoreal.policies.actor_critic import OffPolicyAgent, OffPolicyConfig
from simtoreal.policies.actors import Drawn, SquashedGaussianActor, StateDependentTanhActor, StochasticTanhActor
from simtoreal.policies.adam import Adam
from simtoreal.policies.backprop import Trace
from simtoreal.policies.branches import alongside
from simtoreal.policies.off_policy import Turn
from simtoreal.policies.recurrent import WITH_IT, recurrent_checks
from simtoreal.policies.replay import Batch
from simtoreal.policies.targets import soft_target


@dataclass(frozen=True, kw_only=True)
class SACConfig(OffPolicyConfig):
    """Settings of SAC, besides the shared ones; a value out of range raises ValueError.

    `target_entropy` None means -m for m actions; `alpha_lr` 0 keeps the temperature at `initial_alpha`. With `sde` it
    explores state-dependently (gSDE) from a first log standard deviation `log_std`, drawn anew after `sde_every`
    control steps. `recurrent` is the units of a recurrent layer (`recurrent_sac`), 0: none; it learns from sequences of
    `sequence_length` control steps, the first `burn_in` of which only bring up what is remembered.
    """

    alpha_lr: float = 3e-4
    target_entropy: float | None = None
    initial_alpha: float = 1.0
    sde: bool = False
    sde_every: int = 8
    log_std: float = -3.0
    recurrent: int = 0
    sequence_length: int = 32
    burn_in: int = 0

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        length = self.sequence_length
        of_sequences = recurrent_checks(self.recurrent, length, self.history, self.batch_size)
        if self.recurrent:
            of_sequences |= {
                "teacher_inputs": (not self.teacher_inputs, f"0 {WITH_IT}"),
                "n_step": (self.n_step == 1, f"1 {WITH_IT}"),
                "smoothness": (self.smoothness == 0, f"0 {WITH_IT}"),
                "sde": (not self.sde, f"false {WITH_IT}"),
                "compile": (not self.compile, f"false {WITH_IT}"),
            }
        return super().checks() | {
            "burn_in": (0 <= self.burn_in < max(length, 1), f"at least 0 and below sequence_length {length}"),
            "alpha_lr": (0 <= self.alpha_lr <= 1, "from 0 to 1"),
            "initial_alpha": (self.initial_alpha > 0, "above 0"),
            "sde_every": (self.sde_every >= 1, "at least 1"),
            "log_std": (-20 <= self.log_std <= 2, "from -20 to 2"),
            **of_sequences,
        }


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, mean over the batch, sum over critics; `q` [C, B], `target` [B]."""
    return 0.5 * (q - target).square().mean(dim=1).sum()


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor | float) -> Tensor:
    """mean (alpha log pi - min_i Q_i); `q` [C, B], `log_prob` [B]."""
    return (alpha * log_prob - q.amin(dim=0)).mean()


class SAC(OffPolicyAgent[SACConfig, StochasticTanhActor]):
    """Soft actor-critic over raw observations."""

    config_class = SACConfig
    remembers: ClassVar[bool] = False  # does it take a recurrent layer?

    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        if bool(self.config.recurrent) != self.remembers:
            raise ValueError("recurrent: RecurrentSAC learns with such a layer, SAC without")
        super()._build(observation_size, privileged_size, choices)
        config = self.config
        self.target_entropy = float(-self.action_size if config.target_entropy is None else config.target_entropy)
        self.log_alpha = torch.tensor(math.log(config.initial_alpha), device=self.device, requires_grad=True)
        self.optimizers["alpha"] = Adam([self.log_alpha], config.alpha_lr)
        self._last = torch.zeros(3, device=self.device)  # the actor's and the temperature's losses, and the entropy
        self._explored = torch.tensor([self.rng.initial_seed(), 0])  # from which seed, for how many control steps

    def _make_policy(self, observation_size: int) -> StochasticTanhActor:
        config = self.config
        if config.sde:
            return StateDependentTanhActor(observation_size, self.action_size, config.hidden, config.log_std)
        return SquashedGaussianActor(observation_size, self.action_size, config.hidden)

    def _explore(self, x: Tensor) -> Tensor:
        return self.policy.sample(x, self._exploration(len(x)))

    def _exploration(self, n: int) -> Tensor:
        """Noise for `n` environments; state-dependent exploration has a matrix for each, which follows from the seed
        and from how often it was drawn, so that a resumed run goes on with the same."""
        if not self.config.sde:
            return self.policy.noise(n, self.rng)
        seed, steps = self._explored.tolist()
        self._explored[1] += 1
        key = (seed * 1_000_003 + steps // self.config.sde_every) % 2**63
        rng = torch.Generator(self.device).manual_seed(key)
        return torch.stack([self.policy.noise(1, rng) for _ in range(n)])

    @torch.no_grad()
    def _update(self, batch: Batch, turn: Turn) -> dict[str, Tensor]:
        n = len(batch.reward)
        obs, state = self._inputs(batch.obs, batch.privileged)
        next_obs, next_state = self._inputs(batch.next_obs, batch.next_privileged)

        # the critics' step between the draws for the actor and for the target does not change the policy
        shown = torch.cat([obs, next_obs]) if turn.actor_learns else next_obs
        drawn = self.policy.draw(shown, self.policy.noise(len(shown), self.rng))
        following = drawn.action.detach()[-n:], drawn.log_prob.detach()[-n:]
        return self._learn(batch, state, next_state, drawn, following, self.critics.weight_gradients, turn)

    def _learn(
        self,
        batch: Batch,
        state: Tensor,
        next_state: Tensor,
        drawn: Drawn,
        following: tuple[Tensor, Tensor],
        of_critics: Callable[[list[Trace], Tensor], list[Tensor]],
        turn: Turn,
    ) -> dict[str, Tensor]:
        """A step of all networks on transitions between states as the critics see them: of the critics, whose weights'
        gradients `of_critics` knows from those to Q, towards the values of the `following` actions, of which log pi is
        the second; and of the actor, if it learns, with what was `drawn`, actions for each `state` first."""
        alpha, (next_action, next_log_prob) = self.log_alpha.detach().exp(), following
        now = partial(self._q, self.critics, state, batch.action)
        later = partial(self._q, self.target_critics, next_state, next_action)
        (q, traces), (next_q, _) = alongside(self.device, [now, later])
        target = soft_target(
            batch.reward, batch.terminated, next_q, next_log_prob, alpha=alpha, gamma=self.config.discount(batch)
        )
        loss_q = critic_loss(q, target)
        self._step("critic", loss_q, of_critics(traces, (q - target) / len(target)), turn)

        if turn.actor_learns:
            loss_pi, loss_alpha, entropy = found = self._improve(state, drawn, alpha, turn)
            if self.config.policy_delay > 1:
                self._last.copy_(torch.stack(found))
        else:
            loss_pi, loss_alpha, entropy = self._last.clone()
        self._follow()
        return {
            "critic_loss": loss_q,
            "actor_loss": loss_pi,
            "ent_coef": alpha,
            "ent_coef_loss": loss_alpha,
            "entropy": entropy,
            "target_mean": target.mean(),
        }

    def _improve(self, state: Tensor, drawn: Drawn, alpha: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the actor and of the temperature, from actions for `state` that were drawn first; both losses and
        the entropy."""
        config, n = self.config, len(state)
        action, log_prob = drawn.action.detach()[:n], drawn.log_prob.detach()[:n]
        q, traces = self._q(self.critics, state, action)
        loss_pi = actor_loss(q, log_prob, alpha)
        # the loss reaches the actor's weights through log pi, by alpha / B, and through the action, by -dQ/da / B
        to_action = self.critics.min_gradient(q, traces, self.action_size) / -n
        to_mean = None
        if config.smoothness:
            roughness, to_mean = self._roughness(drawn.mean.detach())
            loss_pi = loss_pi + roughness
        to_log_prob = (alpha / n).expand(n)
        self._step("actor", loss_pi, self.policy.gradients(drawn, to_action, to_log_prob, to_mean), turn)

        slope = -(log_prob.mean() + self.target_entropy)
        loss_alpha = self.log_alpha * slope
        if config.alpha_lr:
            self._step("alpha", loss_alpha, [slope], turn)
        return loss_pi, loss_alpha, -log_prob.mean()

    def _tensors(self) -> dict[str, Tensor]:
        explored = {"explored": self._explored} if self.config.sde else {}
        late = {"updates": self.updates, "last": self._last} if self.config.policy_delay > 1 else {}
        return {"log_alpha": self.log_alpha} | explored | late
