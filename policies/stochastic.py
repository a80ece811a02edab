"""What learners of a stochastic policy from rollouts share: the policy, the value of states, and their settings."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from simtoreal.policies.adam import Adam
from simtoreal.policies.backprop import HiddenLayers
from simtoreal.policies.convolutions import Body, ImageLayers
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.distributions import Categorical, Gaussian, Head, SquashedGaussian, StateDependentGaussian
from simtoreal.policies.networks import ACTIVATIONS, mlp
from simtoreal.policies.neural import NeuralAgent, NeuralConfig, finite_action
from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.recurrent import RecurrentLayers
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.settings import RATE, is_rate

DISTRIBUTIONS: dict[str, Callable[[int, int, float], Head]] = {
    "gaussian": Gaussian,
    "squashed": SquashedGaussian,
    "sde": StateDependentGaussian,
}


@dataclass(frozen=True, kw_only=True)
class StochasticConfig(NeuralConfig):
    """Settings of a learner of a stochastic policy, besides those of any learner; a value out of range raises
    ValueError.

    `distribution` is that of continuous actions, one of `DISTRIBUTIONS`, and `log_std` its first log standard
    deviation; `sde_every` is after how many control steps "sde" draws its exploration anew, 0 = once a rollout;
    `shared` gives actor and value the same layers before their heads, of images the convolutions too, so the value sees
    what the actor sees.
    """

    learning_rate: float = 3e-4
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    distribution: str = "gaussian"
    log_std: float = 0.0
    sde_every: int = 0
    shared: bool = False

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return super().checks() | {
            "learning_rate": (is_rate(self.learning_rate), RATE),
            "activation": (self.activation in ACTIVATIONS, ", ".join(sorted(ACTIVATIONS))),
            "distribution": (self.distribution in DISTRIBUTIONS, ", ".join(sorted(DISTRIBUTIONS))),
            "log_std": (-20 <= self.log_std <= 2, "from -20 to 2"),
            "sde_every": (self.sde_every >= 0, "at least 0"),
        }


Config = TypeVar("Config", bound=StochasticConfig)


class StochasticActor(nn.Module):
    """Hidden layers and a distribution of actions, of normalized observations [B, n] or of images."""

    def __init__(self, body: Body, head: Head) -> None:
        super().__init__()
        self.body, self.head = body, head

    def evaluate(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(u) [B] and the mean entropy, as `Head.evaluate`; not of a recurrent policy."""
        log_prob, entropy, _ = self.head.evaluate(self.body(x), u)
        return log_prob, entropy


class StochasticAgent(NeuralAgent[Config], Generic[Config]):
    """A stochastic policy and a value over raw observations, learned by one optimizer."""

    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        config = self.config
        stack = config.history * observation_size
        self._sees_state = privileged_size > 0 and not config.shared
        beside = 0 if self.image else observation_size  # no pixels in a value that sees the state
        state = privileged_size + beside if self._sees_state else stack
        width, recurrent = config.hidden[-1], self._recurrent()
        self.hidden_state_size = recurrent if config.shared else 2 * recurrent
        body = self._body(stack)
        make = DISTRIBUTIONS[config.distribution]
        head = Categorical(width, choices) if choices else make(width, self.action_size, config.log_std)
        value_body = body if config.shared else self._body(state, sees_image=not self._sees_state)
        last = nn.Linear(width, 1)
        for module, gain in ((body, math.sqrt(2)), (value_body, math.sqrt(2)), (head, 0.01), (last, 1.0)):
            orthogonal(module, gain)
        self.policy = StochasticActor(body, head).to(self.device)
        self.value = nn.Sequential(value_body, last).to(self.device)
        self._value_body, self._value_head = value_body, last
        self._optimize(self.policy, self.value)
        self._since = 0  # control steps since exploration was drawn

    def _optimize(self, *modules: nn.Module) -> None:
        """Let the optimizer have all of their weights."""
        self._parameters = list(dict.fromkeys(weight for module in modules for weight in module.parameters()))
        self.optimizers["all"] = Adam(self._parameters, self.config.learning_rate, eps=1e-5)

    def _body(self, size: int, sees_image: bool = True) -> Body:
        if self.image is not None and sees_image:
            return ImageLayers(self.image, self.config.hidden, self.config.activation)
        if self._recurrent():
            return RecurrentLayers(size, self._recurrent(), self.config.hidden, self.config.activation)
        return mlp([size, *self.config.hidden], self.config.activation, HiddenLayers)

    def _recurrent(self) -> int:
        """Units of a recurrent layer before the hidden ones, of actor and value each; 0 where there is none."""
        return 0

    @abstractmethod
    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Learn from one rollout; the means of its metrics, under SB3's names. Raises NonFiniteError."""

    def begin(self, n: int) -> None:
        """A rollout of `n` environments begins."""
        self.policy.head.begin(n, self.rng)
        self._since = 0

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, m] float32 in [-1, 1]: a sample, or the likeliest; a recurrent policy's as at an episode's start.
        Raises NonFiniteError."""
        if explore:
            return self.try_out(obs)[0]
        with torch.inference_mode():
            head = self.policy.head
            return finite_action(head.bounded(head.mode(self._latent(obs, None)[0])))

    def try_out(
        self, obs: Observation, hidden_state: Tensor | None = None
    ) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
        """Actions [E, m] in [-1, 1] to explore with, what they were before they were bounded, its log pi [E], and the
        next hidden state [E, w]. None for a hidden state stands for that at an episode's start, here as elsewhere."""
        head = self.policy.head
        with torch.inference_mode():
            latent, following = self._latent(obs, hidden_state)
            if self.config.sde_every and self._since == self.config.sde_every:
                self.begin(len(latent))
            self._since += 1
            u, log_prob = head.sample(latent, self.rng)
            return finite_action(head.bounded(u)), u, log_prob, following

    def _latent(self, obs: Observation, hidden_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The policy's last hidden layer of raw observations, and the next hidden state [E, w]: the policy's own and,
        unless they share it, the value's."""
        body, value_body = self.policy.body, self._value_body
        if not isinstance(body, RecurrentLayers):
            latent = body(self._seen(obs))
            return latent, latent[:, :0]
        policy, privileged = split_observation(obs)
        x, state = self._inputs(self._tensor(policy), None if privileged is None else self._tensor(privileged))
        mine, theirs = self._hidden_states(hidden_state)
        latent, following = body(x, mine)
        if body is value_body:
            return latent, following
        assert isinstance(value_body, RecurrentLayers)
        return latent, torch.cat([following, value_body.gru(state, theirs)], dim=1)

    def _hidden_states(self, hidden_state: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The policy's part and the value's of a hidden state [B, w]."""
        width = self._recurrent()
        return (None, None) if hidden_state is None else (hidden_state[:, :width], hidden_state[:, -width:])

    def values(self, obs: Tensor, privileged: Tensor | None, hidden_state: Tensor | None = None) -> Tensor:
        """V [B] of raw observations that follow on a hidden state [B, w]."""
        with torch.inference_mode():
            state = self._inputs(obs, privileged)[1]
            if isinstance(self._value_body, RecurrentLayers):
                latent, _ = self._value_body(state, self._hidden_states(hidden_state)[1])
                found: Tensor = self._value_head(latent)[:, 0]
                return found
            parts = [state] if self.image is None else state.split(self.config.batch_size)  # pixels become floats
            return torch.cat([self.value(part)[:, 0] for part in parts])

    def actor(self) -> DeterministicActor:
        """A copy of the policy's likeliest action with the normalizer inside: raw [B, k n] -> [B, m]; a recurrent one
        takes and gives its hidden state too."""
        head = self.policy.head
        return self._copied(
            self.policy.body,
            head.linear.weight,
            head.linear.bias,
            activation=self.config.activation,
            output=head.output,
            choices=head.linear.out_features if isinstance(head, Categorical) else 0,
            recurrent=self._recurrent(),
        )

    def _networks(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "value": self.value}

    def _inputs(self, obs: Tensor, privileged: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the actor sees and what the value sees, normalized."""
        x = self.normalizer(obs)
        if not self._sees_state or privileged is None or self.privileged_normalizer is None:
            return x, x
        beside = [] if self.image else [self._newest(x)]
        return x, torch.cat([*beside, self.privileged_normalizer(privileged)], dim=-1)


def orthogonal(module: nn.Module, gain: float) -> None:
    """Begin with orthogonal weights of this gain and no biases, in every layer of a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
