"""Soft actor-critic that remembers: a recurrent layer before the actor's hidden layers (`recurrent`).

Critics that see a privileged observation need no memory. Others have a recurrent layer of their own, which all of them
share, beside what they see: apart from the actor's, as Ni et al. 2022 found necessary (arXiv 2110.05038).

A batch is of sequences of control steps. Each goes on from the hidden state that there was when it was acted on, though
the weights have changed since; the first `burn_in` steps of each are not learned from, so that it has come up to date
(Kapturowski et al. 2019, R2D2, sec. 3). Gradients go back through time to the sequence's first step. What a step led to
is seen with what was remembered then, one step on.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simtoreal.policies.actors import SquashedGaussianActor
from simtoreal.policies.adam import Adam
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.backprop import Trace
from simtoreal.policies.neural import finite_action
from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.off_policy import Follower, Turn
from simtoreal.policies.recurrent import RecurrentLayers, Steps, Unrolled, one_step, through_time, unroll
from simtoreal.policies.replay import Batch
from simtoreal.policies.sac import SAC


class RecurrentSAC(SAC):
    """Soft actor-critic with a recurrent layer, over raw observations. Its batches are a `SequenceReplay`'s.

    A hidden state [E, w] is the actor's and behind it, where they have one, the critics'; 0 at an episode's start.
    """

    remembers = True

    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        config = self.config
        self.hidden_state_size = config.recurrent if privileged_size else 2 * config.recurrent
        super()._build(observation_size, privileged_size, choices)
        self.memory: nn.GRUCell | None = None
        if not privileged_size:
            self.memory = RecurrentLayers(observation_size, config.recurrent, config.hidden, "relu").gru.to(self.device)
            self.target_memory = copy.deepcopy(self.memory).requires_grad_(False)
            self._followers.append(Follower(self.target_memory, self.memory, config.tau))
            learned = [*self.critics.parameters(), *self.memory.parameters()]
            self.optimizers["critic"] = Adam(learned, config.critic_lr)

    def _state_size(self, observation_size: int, privileged_size: int) -> int:
        return super()._state_size(observation_size, privileged_size) + (
            0 if privileged_size else self.config.recurrent
        )

    def _make_policy(self, observation_size: int) -> SquashedGaussianActor:
        config = self.config
        return SquashedGaussianActor(observation_size, self.action_size, config.hidden, config.recurrent)

    def _recurrent(self) -> int:
        return self.config.recurrent

    def _networks(self) -> dict[str, nn.Module]:
        if self.memory is None:
            return super()._networks()
        return super()._networks() | {"memory": self.memory, "target_memory": self.target_memory}

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, m] float32 in [-1, 1] as at an episode's start: exploring, or the (averaged) policy's own. Raises
        NonFiniteError."""
        n = len(split_observation(obs)[0])
        start = torch.zeros(n, self.hidden_state_size, device=self.device)
        if explore:
            return self.try_out(obs, start)[0]
        with torch.inference_mode():
            steps = one_step(self._seen(obs), start[:, : self.config.recurrent])
            return finite_action(self.average.trace(steps)[0][:, : self.action_size].tanh())

    def try_out(self, obs: Observation, hidden_state: Tensor) -> tuple[np.ndarray, Tensor]:
        """Actions [E, m] in [-1, 1] to explore with, and the next hidden state [E, w]. Raises NonFiniteError."""
        with torch.inference_mode():
            x, (mine, theirs) = self._seen(obs), self._parts(hidden_state)
            drawn = self.policy.draw(one_step(x, mine), self._exploration(len(x)))
            following = [drawn.trace.unrolled.after[0]]
            if self.memory is not None:
                following.append(self.memory(x, theirs))
            if not (hidden_state := torch.cat(following, dim=1)).isfinite().all():
                raise NonFiniteError("what the policy remembers is not finite")
            return finite_action(drawn.action), hidden_state

    def _parts(self, hidden_state: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's part and the critics', if they have one, of a hidden state [B, w]."""
        width = self.config.recurrent
        return hidden_state[:, :width], hidden_state[:, width:]

    @torch.no_grad()
    def _update(self, batch: Batch, turn: Turn) -> dict[str, Tensor]:
        sequences = batch.sequences
        if sequences is None:
            raise ValueError("a recurrent learner needs the batches of a SequenceReplay")
        learned = sequences.valid.clone()
        learned[: self.config.burn_in * sequences.envs] = False
        obs, privileged = self._inputs(batch.obs, batch.privileged)
        rows = _taken(batch, learned)
        next_obs, next_state = self._inputs(rows.next_obs, rows.next_privileged)
        mine, theirs = self._parts(sequences.hidden_state[: sequences.envs])
        inputs, begins = obs.unflatten(0, (-1, sequences.envs)), sequences.begins.view(-1, sequences.envs)

        drawn = self.policy.draw(Steps(inputs, mine, begins, learned), self.policy.noise(len(rows.reward), self.rng))
        remembered = drawn.trace.unrolled.after.flatten(0, 1)[learned]
        next_drawn = self.policy.draw(one_step(next_obs, remembered), self.policy.noise(len(next_obs), self.rng))
        following = next_drawn.action, next_drawn.log_prob
        if self.memory is None:
            of_weights = self.critics.weight_gradients
            return self._learn(rows, privileged[learned], next_state, drawn, following, of_weights, turn)

        seen = Steps(inputs, theirs, begins, learned)
        unrolled = unroll(self.memory, seen)
        state = torch.cat([unrolled.after.flatten(0, 1)[learned], obs[learned]], dim=1)
        later = unroll(self.target_memory, seen).after.flatten(0, 1)[learned]
        next_state = torch.cat([self.target_memory(next_obs, later), next_obs], dim=1)
        of_critics = partial(self._of_critics, self.memory, unrolled)
        return self._learn(rows, state, next_state, drawn, following, of_critics, turn)

    def _of_critics(self, memory: nn.GRUCell, unrolled: Unrolled, traces: list[Trace], to_q: Tensor) -> list[Tensor]:
        """Gradients of the critics' weights and of their memory's, from those to Q [C, B]."""
        gradients, to_remembered = self.critics.gradients(traces, to_q, memory.hidden_size)
        assert to_remembered is not None
        to_after = torch.zeros_like(unrolled.after)
        to_after.flatten(0, 1)[unrolled.steps.valid] = to_remembered
        return [*gradients, *through_time(memory, unrolled, to_after)]


def _taken(batch: Batch, rows: Tensor) -> Batch:
    """Some of its transitions."""
    names = [f.name for f in fields(Batch) if f.name != "sequences" and getattr(batch, f.name) is not None]
    columns: dict[str, Any] = {name: getattr(batch, name)[rows] for name in names}
    return Batch(**columns)
