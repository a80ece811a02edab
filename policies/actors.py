"""Actors that are trained off-policy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.backprop import HiddenLayers, Trace, linear_gradients, tanh_backward
from simtoreal.policies.distributions import (
    LOG_2PI,
    gaussian_log_prob,
    state_dependent_variance,
    tanh_correction,
)
from simtoreal.policies.networks import mlp
from simtoreal.policies.recurrent import RecurrentLayers

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class Actor(nn.Module):
    """A body of hidden layers and a head of `outputs`; the first `action_size` of them are the action before its tanh.

    Takes normalized observations [B, n]; with a recurrent layer of so many units before the others, `Steps`.
    """

    def __init__(
        self, observation_size: int, action_size: int, hidden: Sequence[int], outputs: int, recurrent: int = 0
    ) -> None:
        super().__init__()
        self.action_size = action_size
        self.body: HiddenLayers | RecurrentLayers
        if recurrent:
            self.body = RecurrentLayers(observation_size, recurrent, hidden, "relu")
        else:
            self.body = mlp([observation_size, *hidden], "relu", HiddenLayers)
        self.head = nn.Linear(([observation_size, *hidden])[-1], outputs)

    def mean(self, obs: Tensor) -> Tensor:
        """The deterministic action [B, m] before its tanh."""
        outputs = self.head(self.body(obs)) if torch.is_grad_enabled() else self.trace(obs)[0]
        found: Tensor = outputs[:, : self.action_size]
        return found

    @torch.no_grad()
    def trace(self, obs: Any) -> tuple[Tensor, Trace]:
        """The head's outputs, and what their gradients need; of a recurrent actor those of the valid steps."""
        trace = self.body.trace(obs)
        return torch.addmm(self.head.bias, trace.output, self.head.weight.t()), trace

    @torch.no_grad()
    def weight_gradients(self, trace: Trace, g: Tensor) -> list[Tensor]:
        """From the gradient of the head's outputs: those of the weights, in the order of `parameters()`."""
        of_head = linear_gradients(trace.output, g)
        return [*self.body.weight_gradients(trace, torch.mm(g, self.head.weight)), *of_head]


class TanhActor(Actor):
    """a = tanh(mu)."""

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int]) -> None:
        super().__init__(observation_size, action_size, hidden, action_size)


@dataclass(frozen=True)
class Drawn:
    """What an actor did with observations: the mean before its tanh [B, m], an action [B, m] in [-1, 1] and its
    log pi(a|s) [B]."""

    mean: Tensor
    action: Tensor
    log_prob: Tensor


class StochasticTanhActor(Actor):
    """a = tanh(u), u normal about a mean: action and log-probability, by noise that is given."""

    @abstractmethod
    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """Standard normal noise for `draw` on n observations."""

    @abstractmethod
    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action [B, m] of `draw` alone."""

    @abstractmethod
    def draw(self, obs: Any, noise: Tensor) -> Any:
        """An action for each observation, as `Drawn`, of which `gradients` can be asked."""

    @abstractmethod
    def gradients(
        self, drawn: Any, to_action: Tensor, to_log_prob: Tensor, to_mean: Tensor | None = None
    ) -> list[Tensor]:
        """Of a loss to the weights, in the order of `parameters()`, from its gradients to the first n actions [n, m],
        to their log pi [n], and to the means of all that was drawn [B, m]."""


@dataclass(frozen=True)
class DrawnByHand(Drawn):
    """And std(s) times the noise, whether the log standard deviation was within its bounds, and the pass forward."""

    spread: Tensor
    inside: Tensor
    trace: Trace


class SquashedGaussianActor(StochasticTanhActor):
    """Of a standard deviation that the network gives too."""

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], recurrent: int = 0) -> None:
        super().__init__(observation_size, action_size, hidden, 2 * action_size, recurrent)

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.action_size, generator=rng, device=rng.device)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self.trace(obs)[0].split(self.action_size, dim=-1)
        return (mean + log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp() * noise).tanh()

    @torch.no_grad()
    def draw(self, obs: Any, noise: Tensor) -> DrawnByHand:
        outputs, trace = self.trace(obs)
        mean, unbounded = outputs.split(self.action_size, dim=-1)
        log_std = unbounded.clamp(LOG_STD_MIN, LOG_STD_MAX)
        action, log_prob, spread = squash(mean, log_std, noise)
        return DrawnByHand(mean, action, log_prob, spread, log_std == unbounded, trace)

    @torch.no_grad()
    def gradients(
        self, drawn: DrawnByHand, to_action: Tensor, to_log_prob: Tensor, to_mean: Tensor | None = None
    ) -> list[Tensor]:
        """With u = mean + std noise:  d log pi / du = 2 tanh(u),  du / d log std = std noise."""
        n, m = to_action.shape
        action, to_log_prob = drawn.action[:n], to_log_prob[:, None]
        to_u = torch.addcmul(tanh_backward(to_action, action), action, to_log_prob, value=2.0)
        to_log_std = (to_u * drawn.spread[:n]).sub_(to_log_prob).mul_(drawn.inside[:n])
        if to_mean is None:
            return self.weight_gradients(drawn.trace.rows(n), torch.cat([to_u, to_log_std], dim=1))
        g = torch.zeros(len(to_mean), 2 * m, dtype=to_mean.dtype, device=to_mean.device)
        g[:, :m] = to_mean
        g[:n, :m] += to_u
        g[:n, m:] = to_log_std
        return self.weight_gradients(drawn.trace, g)


@dataclass(frozen=True)
class DrawnByState(Drawn):
    """And the matrix [h, m] that explores, how far it leads from the mean, its variance, and the pass forward."""

    weights: Tensor
    distance: Tensor
    variance: Tensor
    trace: Trace


class StateDependentTanhActor(StochasticTanhActor):
    """State-dependent exploration (gSDE, Raffin et al. 2021, arXiv 2005.05719), as Stable-Baselines3 does it for SAC.

        u = mean(s) + latent(s) W,  W_ij ~ N(0, std_ij);  pi(u|s) = N(mean(s), sqrt(latent(s)^2 std^2 + 1e-6))

    Deviation: Stable-Baselines3 clips the mean to [-2, 2] as well (its `clip_mean`).
    """

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], log_std: float) -> None:
        super().__init__(observation_size, action_size, hidden, action_size)
        self.log_std = nn.Parameter(torch.full((hidden[-1], action_size), log_std))

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """One matrix [h, m] for all of them."""
        return torch.randn(self.log_std.shape, generator=rng, device=rng.device)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """As the base's; `noise` is one matrix [h, m] or one an observation [B, h, m]."""
        outputs, trace = self.trace(obs)
        return (outputs + (trace.output.unsqueeze(-2) @ (noise * self.log_std.exp())).squeeze(-2)).tanh()

    @torch.no_grad()
    def draw(self, obs: Any, noise: Tensor) -> DrawnByState:
        """As the base's, of one matrix of `noise` [h, m]."""
        mean, trace = self.trace(obs)
        latent, weights = trace.output, noise * self.log_std.exp()
        distance = latent @ weights
        variance = state_dependent_variance(latent, self.log_std)
        u = mean + distance
        log_prob = gaussian_log_prob(u, mean, 0.5 * variance.log()) - tanh_correction(u).sum(-1)
        return DrawnByState(mean, u.tanh(), log_prob, weights, distance, variance, trace)

    @torch.no_grad()
    def gradients(
        self, drawn: DrawnByState, to_action: Tensor, to_log_prob: Tensor, to_mean: Tensor | None = None
    ) -> list[Tensor]:
        """With d = u - mean = latent W and v the variance:  d log pi / du = 2 tanh(u) from the tanh,
        d log pi / dd = -d / v,  d log pi / dv = (d^2 / v - 1) / 2 v; and from d and v to the latent, W and std."""
        n, to_log_prob = len(to_action), to_log_prob[:, None]
        action, latent = drawn.action[:n], drawn.trace.output[:n]
        distance, variance, std = drawn.distance[:n], drawn.variance[:n], self.log_std.exp()
        to_u = torch.addcmul(tanh_backward(to_action, action), action, to_log_prob, value=2.0)
        to_distance = to_u - to_log_prob * distance / variance
        to_variance = to_log_prob * (distance.square() / variance - 1) / (2 * variance)
        of_log_std = (latent.t() @ to_distance) * drawn.weights
        of_log_std += 2 * (latent.square().t() @ to_variance) * std.square()
        to_latent = to_distance @ drawn.weights.t() + 2 * latent * (to_variance @ std.square().t())
        if to_mean is None:
            g, trace = to_u, drawn.trace.rows(n)
        else:
            g, trace = to_mean.clone(), drawn.trace
            g[:n] += to_u
            to_latent = F.pad(to_latent, (0, 0, 0, len(g) - n))
        to_latent = to_latent + g @ self.head.weight
        return [of_log_std, *self.body.weight_gradients(trace, to_latent), *linear_gradients(trace.output, g)]


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tanh of a Gaussian sample, its log-density, and what the sample differs by from its mean."""
    spread = log_std.exp() * noise
    u = mean + spread
    log_prob = (-0.5 * noise.square() - log_std - tanh_correction(u)).sum(-1) - 0.5 * LOG_2PI * noise.shape[-1]
    return u.tanh(), log_prob, spread
