"""What off-policy actor-critics share: networks, normalizers, inputs, optimizer steps, and their state as tensors.

Options beyond the papers, for any of them: LayerNorm and dropout in the critics (DroQ, Hiraoka et al. 2022, arXiv
2110.02034); targets that sum the rewards of several steps (n-step, uncorrected for the policy's change); observations
normalized by running statistics; critics that also see a privileged observation (Pinto et al. 2017, arXiv 1710.06542);
an exponential average of the actor's weights as the policy to deploy; a penalty on how much the deterministic action
differs between a state and the next (CAPS, Mysore et al. 2021, arXiv 2012.06644, eq. 2, with the square of the
distance), so that noise in the observation is not passed on to the motors:

    J_pi += smoothness mean |pi(s) - pi(s')|^2
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from simtoreal.policies.actors import Actor
from simtoreal.policies.adam import Adam
from simtoreal.policies.backprop import Trace, tanh_backward
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.images import Shape
from simtoreal.policies.networks import MAX_CRITICS, Critics
from simtoreal.policies.neural import NeuralAgent, finite_action
from simtoreal.policies.normalizer import FrozenNormalizer
from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.off_policy import Follower, ReplayConfig, Turn
from simtoreal.policies.products import arithmetic
from simtoreal.policies.replay import Batch
from simtoreal.policies.settings import RATE, is_rate


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(ReplayConfig):
    """Settings of an off-policy actor-critic, besides those of any learner from a replay; a value out of range raises
    ValueError.

    `smoothness` is the weight of the penalty on the deterministic action's change from a state to the next, 0 = off;
    `critic_inputs` "privileged" leaves critics that have a privileged observation that alone, "both" the policy's
    newest too; `dropout` is the share of the critics' units that drop out of an update (DroQ: 0.01 with `layer_norm`
    and 20 `updates_per_step`); `policy_delay` is critics' steps to one of the actor; `teacher_inputs` is how many of
    the last numbers of the privileged observation the actor sees too: it is a teacher's then, and cannot leave.
    """

    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    layer_norm: bool = False
    n_critics: int = 2
    smoothness: float = 0.0
    critic_inputs: str = "both"
    dropout: float = 0.0
    policy_delay: int = 1
    teacher_inputs: int = 0

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return super().checks() | {
            "actor_lr": (is_rate(self.actor_lr), RATE),
            "critic_lr": (is_rate(self.critic_lr), RATE),
            "n_critics": (1 <= self.n_critics <= MAX_CRITICS, f"from 1 to {MAX_CRITICS}"),
            "smoothness": (self.smoothness >= 0, "at least 0"),
            "critic_inputs": (self.critic_inputs in ("both", "privileged"), "both or privileged"),
            "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
            "policy_delay": (self.policy_delay >= 1, "at least 1"),
            "teacher_inputs": (self.teacher_inputs >= 0 and (self.history == 1 or not self.teacher_inputs), TEACHER),
        }


TEACHER = "at least 0, and 0 with a history: a teacher has no need to remember"
Config = TypeVar("Config", bound=OffPolicyConfig)
Policy = TypeVar("Policy", bound=Actor)


class OffPolicyAgent(NeuralAgent[Config], Generic[Config, Policy]):
    """An off-policy actor-critic over raw observations."""

    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        if choices:
            raise ValueError(f"{type(self).__name__} needs continuous actions, these are one of {choices} choices")
        config = self.config
        if config.teacher_inputs > privileged_size:
            raise ValueError(f"teacher_inputs: the privileged observation has {privileged_size} numbers")
        self.policy = self._make_policy(config.history * self._actor_size()).to(self.device)
        width = self._state_size(observation_size, privileged_size) + self.action_size
        critics = Critics(width, config.hidden, config.n_critics, config.layer_norm, config.dropout)
        self.critics = critics.to(self.device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self._followers = [Follower(self.target_critics, self.critics, config.tau)]
        self.updates = torch.zeros((), dtype=torch.int64)
        self.average = self.policy
        if config.actor_average:
            self.average = copy.deepcopy(self.policy).requires_grad_(False)
            self._followers.append(Follower(self.average, self.policy, config.actor_average))
        self.optimizers |= {
            "actor": Adam(self.policy.parameters(), config.actor_lr),
            "critic": Adam(self.critics.parameters(), config.critic_lr),
        }

    def _check_image(self, image: Shape, privileged_size: int) -> None:
        raise ValueError(f"{type(self).__name__} takes no images, got some of shape {list(image)}")

    def _state_size(self, observation_size: int, privileged_size: int) -> int:
        """Of what the critics see beside the action."""
        if not privileged_size:
            return self.config.history * observation_size
        return privileged_size + (0 if self.config.critic_inputs == "privileged" else observation_size)

    def _actor_size(self) -> int:
        return self.observation_size + self.config.teacher_inputs

    def _carry(self, normalizer: FrozenNormalizer) -> None:
        if not self.config.teacher_inputs or self.privileged_normalizer is None:
            super()._carry(normalizer)
            return
        for name in ("shift", "scale"):
            own, theirs = (getattr(each, name) for each in (self.normalizer, self.privileged_normalizer))
            getattr(normalizer, name).copy_(torch.cat([own, theirs[-self.config.teacher_inputs :]]))

    def _seen(self, obs: Observation) -> Tensor:
        x, privileged = super()._seen(obs), split_observation(obs)[1]
        if not self.config.teacher_inputs or self.privileged_normalizer is None or privileged is None:
            return x
        return self._taught(x, self.privileged_normalizer(self._tensor(privileged)))

    def _taught(self, x: Tensor, state: Tensor) -> Tensor:
        """What a teacher's actor sees, normalized; any other's is `x`."""
        count = self.config.teacher_inputs
        return torch.cat([x, state[:, -count:]], dim=-1) if count else x

    @abstractmethod
    def _make_policy(self, observation_size: int) -> Policy:
        """The actor to train, of a stack."""

    @abstractmethod
    def _explore(self, x: Tensor) -> Tensor:
        """Actions [E, m] in [-1, 1] to explore with, of normalized observations."""

    @abstractmethod
    def _update(self, batch: Batch, turn: Turn) -> dict[str, Tensor]:
        """One gradient step; metrics under SB3's names."""

    @property
    def actor_learns(self) -> bool:
        """Does the actor learn in the next gradient step, as the critics always do?"""
        return (int(self.updates) + 1) % self.config.policy_delay == 0

    def count(self) -> None:
        """A gradient step was made."""
        self.updates += 1

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, m] float32 in [-1, 1]: exploring, or the (averaged) policy's own. Raises NonFiniteError."""
        with torch.inference_mode():
            x = self._seen(obs)
            return finite_action(self._explore(x) if explore else self.average.mean(x).tanh())

    def update(self, batch: Batch, turn: Turn | None = None) -> dict[str, Tensor]:
        """One gradient step on raw transitions; metrics under SB3's names. Raises NonFiniteError. Who gives the
        `turn` counts the steps himself."""
        with arithmetic(self.config.matmul_precision, self.device):
            found = self._update(batch, turn or Turn(self.actor_learns))
        if turn is None:
            self.count()
        return found

    def actor(self) -> DeterministicActor:
        """A copy of the (averaged) policy with the normalizer inside: raw [B, k n] -> [B, m]."""
        head, m = self.average.head, self.action_size
        return self._copied(self.average.body, head.weight[:m], head.bias[:m], recurrent=self._recurrent())

    def _recurrent(self) -> int:
        """Units of a recurrent layer before the actor's hidden ones; 0 where there is none."""
        return 0

    def _networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {
            "policy": self.policy,
            "critics": self.critics,
            "target_critics": self.target_critics,
        }
        return networks | ({"average": self.average} if self.config.actor_average else {})

    def _q(
        self, critics: Critics, state: Tensor, action: Tensor, count: int | None = None
    ) -> tuple[Tensor, list[Trace]]:
        """As `Critics.trace`, of what they see and an action."""
        return critics.trace(torch.cat([state, action], dim=-1), count, self.rng if self.config.dropout else None)

    def _inputs(self, obs: Tensor, privileged: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the actor sees and what the critics see, normalized: of a stack, critics that see the true state are
        shown the newest frame only."""
        x = self.normalizer(obs)
        if self.privileged_normalizer is None or privileged is None:
            return x, x
        state = self.privileged_normalizer(privileged)
        seen = self._taught(x, state)
        return seen, state if self.config.critic_inputs == "privileged" else torch.cat([self._newest(x), state], dim=-1)

    def _roughness(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty on the change from pi(s) to pi(s'), of `mean` [2 B, m] before its tanh, that of all s first; and
        its gradient to `mean`."""
        action = mean.tanh()
        now, later = action.chunk(2)
        change = now - later
        penalty = self.config.smoothness * change.square().sum(-1).mean()
        slope = change * (2 * self.config.smoothness / len(change))
        return penalty, tanh_backward(torch.cat([slope, -slope]), action)

    def _step(self, name: str, loss: Tensor, gradients: Sequence[Tensor], turn: Turn) -> None:
        """As `turn` has it, if the loss that the gradients are of is finite."""
        turn.step(self.optimizers[name], name, loss, gradients)

    def _follow(self) -> None:
        """Let what follows the trained networks take its step."""
        for follower in self._followers:
            follower.step()
