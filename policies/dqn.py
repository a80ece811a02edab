"""Deep Q-learning (Mnih et al. 2015, doi 10.1038/nature14236) and, by switches, all that makes Rainbow of it.

    y    = r + gamma (1 - terminated) max_a Q'(s', a)
    loss = mean w huber(Q(s, a) - y)

    double       y = r + gamma (1 - terminated) Q'(s', argmax_a Q(s', a)) (van Hasselt et al., arXiv 1509.06461)
    n_step       r is the sum of n rewards, gamma its n-th power (`n_step`)
    prioritized  what was told wrong is drawn more often, w makes up for it (`prioritized`)
    dueling      Q is a value and advantages; noisy: layers explore instead of epsilon (`q_networks`)
    categorical  Q is the mean of a distribution over `atoms` returns, and the loss its cross-entropy with the target's,
                 r + gamma (1 - terminated) z as near as atoms tell it (C51, Bellemare et al. 2017, arXiv 1707.06887)

`RainbowConfig` is all of them (Hessel et al. 2018, arXiv 1710.02298). Q' follows Q every `target_every` gradient steps:
it becomes Q (`tau` 1), or moves towards it. Without switches losses and order of steps are Stable-Baselines3's, which
clips the gradient's norm. Of noisy layers Q(s), the choice of a next action and Q' draw noise of their own. A
distribution's priority is its divergence from the target. A truncated episode bootstraps from its last observation.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.adam import Adam, gradient_norm, shrinkage
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.branches import alongside
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.distributions import chosen_action, chosen_number
from simtoreal.policies.neural import NeuralAgent
from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.off_policy import Follower, ReplayConfig, Turn
from simtoreal.policies.products import arithmetic
from simtoreal.policies.q_networks import MOST_ATOMS, Atoms, QNetwork, expected, projected
from simtoreal.policies.replay import Batch
from simtoreal.policies.settings import RATE, is_rate

LEAST_EPS, MOST_DEVIATION, MOST_VALUE = 1e-30, 1e3, 1e30  # with which float32 can still reckon


@dataclass(frozen=True, kw_only=True)
class DQNConfig(ReplayConfig):
    """Settings of DQN, besides those of any learner from a replay; a value out of range raises ValueError.

    `epsilon_start` falls to `epsilon_end` over so many environment steps after `learning_starts`, and likewise the
    weight `beta` of what `prioritized` draws rises to 1 over `beta_steps`; `priority_exponent` is its alpha. `atoms`
    are from `value_low` to `value_high`, returns; `deviation` is the first noise of noisy layers. `max_gradient` is the
    norm that a gradient is clipped to.
    """

    learning_rate: float = 5e-4
    batch_size: int = 64
    tau: float = 1.0
    target_every: int = 250
    updates_per_step: float = 0.25
    max_gradient: float = 10.0
    adam_eps: float = 1e-8
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_steps: int = 10_000
    double: bool = False
    dueling: bool = False
    noisy: bool = False
    deviation: float = 0.5
    prioritized: bool = False
    priority_exponent: float = 0.6
    beta: float = 0.4
    beta_steps: int = 100_000
    categorical: bool = False
    atoms: int = 51
    value_low: float = -10.0
    value_high: float = 10.0

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return super().checks() | {
            "learning_rate": (is_rate(self.learning_rate), RATE),
            "target_every": (self.target_every >= 1, "at least 1"),
            "max_gradient": (self.max_gradient > 0, "above 0"),
            "adam_eps": (LEAST_EPS <= self.adam_eps <= 1, f"from {LEAST_EPS:g} to 1"),
            "epsilon_start": (0 <= self.epsilon_start <= 1, "from 0 to 1"),
            "epsilon_end": (0 <= self.epsilon_end <= 1, "from 0 to 1"),
            "epsilon_steps": (self.epsilon_steps >= 1, "at least 1"),
            "deviation": (0 < self.deviation <= MOST_DEVIATION, f"above 0 and at most {MOST_DEVIATION:g}"),
            "priority_exponent": (0 <= self.priority_exponent <= 1, "from 0 to 1"),
            "beta": (0 <= self.beta <= 1, "from 0 to 1"),
            "beta_steps": (self.beta_steps >= 1, "at least 1"),
            "atoms": (2 <= self.atoms <= MOST_ATOMS, f"from 2 to {MOST_ATOMS}"),
            "value_low": (abs(self.value_low) <= MOST_VALUE, f"from -{MOST_VALUE:g} to {MOST_VALUE:g}"),
            "value_high": (
                self.value_low < self.value_high <= MOST_VALUE,
                f"above value_low {self.value_low} and at most {MOST_VALUE:g}",
            ),
        }


@dataclass(frozen=True, kw_only=True)
class RainbowConfig(DQNConfig):
    """Settings of DQN with all that makes it Rainbow, as its authors set them where they are not a game's."""

    n_step: int = 3
    adam_eps: float = 1.5e-4
    double: bool = True
    dueling: bool = True
    noisy: bool = True
    prioritized: bool = True
    priority_exponent: float = 0.5
    categorical: bool = True


class DQN(NeuralAgent[DQNConfig]):
    """Deep Q-learning over raw observations, of environments that take one of several choices."""

    config_class = DQNConfig
    actor_learns = True  # in every gradient step

    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        if not choices:
            raise ValueError("DQN takes one of several choices, these actions are continuous")
        if privileged_size:
            raise ValueError("DQN judges by what its policy sees alone; set privileged to false")
        config = self.config
        self.choices = choices
        self.atoms = Atoms(config.atoms, config.value_low, config.value_high) if config.categorical else None
        self.support = None if self.atoms is None else self.atoms.values().to(self.device)
        self.network = QNetwork(
            config.history * observation_size,
            config.hidden,
            choices,
            config.atoms if config.categorical else 1,
            config.dueling,
            config.deviation if config.noisy else 0.0,
            self.image,
        ).to(self.device)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self._follower = Follower(self.target, self.network, config.tau)
        self.average, self._averager = self.network, None
        if config.actor_average:
            self.average = copy.deepcopy(self.target)
            self._averager = Follower(self.average, self.network, config.actor_average)
        self.optimizers["q"] = Adam(self.network.parameters(), config.learning_rate, config.adam_eps)
        self.updates, self.explored = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        self.errors = torch.zeros(config.batch_size, device=self.device)  # of the last batch, for priorities
        self._rates = torch.tensor([self.epsilon, config.beta], device=self.device)  # and the weight of priorities
        self._told: tuple[float, float] | None = None  # what they were set to last

    @property
    def epsilon(self) -> float:
        """The chance that the next choice is drawn at random."""
        config = self.config
        if config.noisy:
            return 0.0
        done = min(int(self.explored) / config.epsilon_steps, 1.0)
        return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * done

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, 1] float32 of the best choices, as -1 for the first to 1 for the last; exploring by noise of the
        layers, or with epsilon any choice instead; else those of the averaged network. Raises NonFiniteError."""
        if not explore:
            return self._actions(self._best(self.average, obs))
        n, epsilon = len(split_observation(obs)[0]), self.epsilon
        self.explored += n
        if not epsilon:
            return self._actions(self._best(self.network, obs, self.network.head.draw(self.rng)))
        u = torch.rand(2, n, generator=self.rng, device=self.device).cpu().numpy()
        drawn, choice = u[0] < epsilon, (u[1] * self.choices).astype(np.int64)
        if not drawn.all():
            choice = np.where(drawn, choice, self._best(self.network, obs))
        return self._actions(choice)

    def _best(self, network: QNetwork, obs: Observation, noise: Tensor | None = None) -> np.ndarray:
        """The numbers [E] of the best choices, of equal ones the first. Raises NonFiniteError."""
        with torch.inference_mode():
            values: np.ndarray = self._values(network.trace(self._seen(obs), noise)[0]).cpu().numpy()
        if not np.isfinite(values).all():
            raise NonFiniteError("the value of a choice is not finite")
        return values.argmax(axis=1)

    def _actions(self, choice: np.ndarray) -> np.ndarray:
        return chosen_action(choice[:, None].astype(np.float32), self.choices)

    def update(self, batch: Batch, turn: Turn | None = None) -> dict[str, Tensor]:
        """One gradient step on raw transitions; metrics under SB3's names. Raises NonFiniteError. Who gives the
        `turn` counts the steps himself."""
        with arithmetic(self.config.matmul_precision, self.device):
            found = self._update(batch, turn or Turn(True))
        if turn is None:
            self.count()
        return found

    def count(self) -> None:
        """A gradient step was made: what follows it, and the rates of the next."""
        self.updates += 1
        done = min(int(self.explored) / self.config.beta_steps, 1.0)
        rates = self.epsilon, self.config.beta + (1.0 - self.config.beta) * done
        if rates != self._told:  # which takes its time
            self._rates.copy_(torch.tensor(rates))
            self._told = rates
        if int(self.updates) % self.config.target_every == 0:
            self._follower.step()
        if self._averager is not None:
            self._averager.step()

    @torch.no_grad()
    def _update(self, batch: Batch, turn: Turn) -> dict[str, Tensor]:
        config, head, n = self.config, self.network.head, len(batch.reward)
        obs, next_obs = self.normalizer(batch.obs), self.normalizer(batch.next_obs)
        works = [(self.network, obs, head.draw(self.rng)), (self.target, next_obs, head.draw(self.rng))]
        if config.double:
            works.append((self.network, next_obs, head.draw(self.rng)))
        (outputs, trace), (later, _), *chooser = alongside(
            self.device, [partial(network.trace, x, noise) for network, x, noise in works]
        )
        best = self._values(chooser[0][0] if chooser else later).argmax(dim=1)
        choice = chosen_number(batch.action[:, 0], self.choices)
        discount = (1.0 - batch.terminated) * config.discount(batch)
        losses, slopes, errors = self._judged(self._of(outputs, choice), self._of(later, best), batch.reward, discount)
        weights = torch.full_like(losses, 1.0 / n)
        if batch.likelihood is not None:
            weights = batch.likelihood.pow(-self._rates[1])
            weights = weights / (weights.max() * n)
        loss = (weights * losses).sum()
        to_outputs = torch.zeros_like(outputs)
        to_outputs.scatter_(1, self._place(choice), (weights[:, None] * slopes)[:, None])
        gradients = self.network.weight_gradients(trace, to_outputs)
        shrink = shrinkage(gradient_norm(gradients), config.max_gradient)
        turn.step(self.optimizers["q"], "q", loss, gradients, shrink)
        if config.prioritized:
            self.errors.copy_(errors)
        return {"loss": loss, "q_mean": self._values(outputs).mean(), "exploration_rate": self._rates[0].clone()}

    def _judged(self, now: Tensor, later: Tensor, reward: Tensor, discount: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of what the network says of a choice [B, n] and its target of what follows [B, n]: the losses [B], their
        slopes [B, n] by what the network says, and the errors [B] that priorities are of."""
        if self.atoms is None:
            error = now[:, 0] - (reward + discount * later[:, 0])
            return (
                F.huber_loss(error, torch.zeros_like(error), reduction="none"),
                error.clamp(-1.0, 1.0)[:, None],
                error,
            )
        wanted = projected(later.softmax(dim=-1), reward, discount, self.atoms)
        log_p = now.log_softmax(dim=-1)
        losses = -(wanted * log_p).sum(dim=-1)
        return losses, log_p.exp() - wanted, losses + torch.xlogy(wanted, wanted).sum(dim=-1)

    def _values(self, outputs: Tensor) -> Tensor:
        """Q [B, K] of a network's outputs [B, K, n]."""
        return outputs[..., 0] if self.support is None else expected(outputs, self.support)

    def _of(self, outputs: Tensor, choice: Tensor) -> Tensor:
        """Those [B, n] of one choice [B] each."""
        return outputs.gather(1, self._place(choice))[:, 0]

    def _place(self, choice: Tensor) -> Tensor:
        return choice[:, None, None].expand(-1, 1, self.network.head.outputs)

    def actor(self) -> DeterministicActor:
        """A copy of the best choice by the means of the (averaged) weights, with the normalizer inside: raw [B, k n] ->
        [B, 1].

        Of two streams the advantages are enough to tell which is the best, but not of distributions.
        """
        config, network = self.config, self.average
        actor = DeterministicActor(
            self._actor_size(), 1, config.hidden, "relu", "choice", config.history, self.choices, self.image,
            atoms=self.atoms, dueling=config.dueling and self.atoms is not None,
        )  # fmt: skip
        self._carry(actor.normalizer)
        streams = list(network.head.streams)[: None if self.atoms else 1]
        mine = [
            weights
            for part in (network.body, *streams)
            for name, weights in part.named_parameters()
            if not name.endswith("_deviation")
        ]
        with torch.no_grad():
            for theirs, weights in zip([*actor.body.parameters(), *actor.head.parameters()], mine, strict=True):
                theirs.copy_(weights)
        return actor.eval().requires_grad_(False)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """As the base's."""
        super().load_state_dict(tensors)
        self._told = None

    def _networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"network": self.network, "target": self.target}
        return networks | ({"average": self.average} if self.config.actor_average else {})

    def _tensors(self) -> dict[str, Tensor]:
        return {"updates": self.updates, "explored": self.explored, "rates": self._rates}
