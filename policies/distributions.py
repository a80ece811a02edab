"""What a stochastic policy does with the last hidden layer [B, h]: the distributions of actions.

An action u [B, m] is what the distribution draws; `bounded` makes of it what the environment gets, in [-1, 1]. Each
head has one linear layer, whose output is all that a deterministic actor needs of it (`OUTPUTS` of `actors`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.backprop import linear_gradients
from simtoreal.policies.products import product

LOG_2PI = math.log(2.0 * math.pi)
Numbers = TypeVar("Numbers", Tensor, np.ndarray)
SDE_FLOOR = 1e-6  # added to the variance of state-dependent exploration, as Stable-Baselines3 does
Back = Callable[[Tensor, float], tuple[Tensor, list[Tensor]]]
"""From the gradients to log pi [B] and to the mean entropy, to the one to the hidden layer [B, h] and those to a head's
weights, in the order of its `parameters()`."""


class Head(nn.Module):
    """A distribution of actions given the last hidden layer."""

    output: str  # of a deterministic actor
    linear: nn.Linear

    def forward(self, latent: Tensor) -> Tensor:
        """The mean [B, m], or what stands for it; before it is bounded."""
        linear = self.linear
        return F.linear(latent, linear.weight, linear.bias)

    def mode(self, latent: Tensor) -> Tensor:
        """The action [B, m] of a deterministic policy."""
        return self(latent)

    @abstractmethod
    def sample(self, latent: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """An action u [B, m] and log pi(u) [B]."""

    @abstractmethod
    def evaluate(self, latent: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Back]:
        """log pi(u) [B] of actions that were taken, the mean entropy of the distributions they are held against, and
        the way back from both, for who does not leave that to autograd."""

    @abstractmethod
    def bounded(self, u: Tensor) -> Tensor:
        """What the environment gets, in [-1, 1]."""

    @abstractmethod
    def spread(self) -> Tensor:
        """A scalar that says how far it explores, for the log."""

    def begin(self, n: int, rng: torch.Generator) -> None:
        """Draw anew what stays the same over several steps of `n` environments; nothing does as a rule."""

    def _back(self, latent: Tensor, g: Tensor) -> tuple[Tensor, list[Tensor]]:
        """From the gradient to what `forward` gives."""
        return product(g, self.linear.weight), linear_gradients(latent, g)


class Gaussian(Head):
    """N(mean, std) with a standard deviation [m] that depends on no state; the environment gets it clipped."""

    output = "clip"

    def __init__(self, width: int, action_size: int, log_std: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, action_size)
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))

    def sample(self, latent: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        mean = self.forward(latent)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return mean + self.log_std.exp() * noise, (-0.5 * noise.square() - self.log_std - 0.5 * LOG_2PI).sum(-1)

    def evaluate(self, latent: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Back]:
        inverse = (-self.log_std).exp()
        z = (u - self.forward(latent)) * inverse

        def back(to_log_prob: Tensor, to_entropy: float) -> tuple[Tensor, list[Tensor]]:
            to_mean, to_log_std = _normal_back(z, inverse, to_log_prob)
            to_latent, of_linear = self._back(latent, to_mean)
            return to_latent, [to_log_std.sum(0) + to_entropy, *of_linear]

        return _normal_log_prob(z, self.log_std), (self.log_std + 0.5 * (1.0 + LOG_2PI)).sum(), back

    def bounded(self, u: Tensor) -> Tensor:
        return u.clamp(-1.0, 1.0)

    def spread(self) -> Tensor:
        return self.log_std.detach().exp().mean()


class SquashedGaussian(Gaussian):
    """Its tanh. log |d tanh| does not depend on the weights at a given u, so log pi is that of u; the entropy is
    estimated from the actions taken."""

    output = "tanh"

    def evaluate(self, latent: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Back]:
        log_prob, _, of_normal = super().evaluate(latent, u)

        def back(to_log_prob: Tensor, to_entropy: float) -> tuple[Tensor, list[Tensor]]:
            return of_normal(to_log_prob - to_entropy / len(u), 0.0)

        return log_prob, (tanh_correction(u).sum(-1) - log_prob).mean(), back

    def bounded(self, u: Tensor) -> Tensor:
        return u.tanh()


class StateDependentGaussian(Gaussian):
    """State-dependent exploration (gSDE, Raffin et al. 2021, arXiv 2005.05719), as Stable-Baselines3 does it.

        u = mean(s) + latent(s) W,  W_ij ~ N(0, std_ij);  pi(u|s) = N(mean(s), sqrt(latent(s)^2 std^2 + 1e-6))

    W [h, m], one an environment, stays for as many steps as the loop says, so exploration is smooth. The hidden layer
    is taken as it is: no gradient reaches it through the standard deviation.
    """

    def __init__(self, width: int, action_size: int, log_std: float) -> None:
        super().__init__(width, action_size, log_std)
        self.log_std = nn.Parameter(torch.full((width, action_size), log_std))
        self._matrices: Tensor | None = None

    def begin(self, n: int, rng: torch.Generator) -> None:
        with torch.no_grad():
            noise = torch.randn(n, *self.log_std.shape, generator=rng, device=self.log_std.device)
            self._matrices = noise * self.log_std.exp()

    def sample(self, latent: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        if self._matrices is None or len(self._matrices) != len(latent):
            self.begin(len(latent), rng)
        assert self._matrices is not None
        u = self(latent) + torch.bmm(latent.unsqueeze(1), self._matrices)[:, 0]
        return u, self.evaluate(latent, u)[0]

    def evaluate(self, latent: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Back]:
        variance = state_dependent_variance(latent.detach(), self.log_std)
        log_std = 0.5 * variance.log()
        inverse = (-log_std).exp()
        z = (u - self.forward(latent)) * inverse

        def back(to_log_prob: Tensor, to_entropy: float) -> tuple[Tensor, list[Tensor]]:
            to_mean, to_log_std = _normal_back(z, inverse, to_log_prob)
            to_variance = (to_log_std + to_entropy / len(u)) / variance
            to_latent, of_linear = self._back(latent, to_mean)
            return to_latent, [(latent.square().t() @ to_variance) * self.log_std.exp().square(), *of_linear]

        return _normal_log_prob(z, log_std), (log_std + 0.5 * (1.0 + LOG_2PI)).sum(-1).mean(), back


class Categorical(Head):
    """One of n choices. u [B, 1] is its number; the environment gets it as -1 for the first to 1 for the last, evenly
    spaced."""

    output = "choice"

    def __init__(self, width: int, choices: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, choices)

    def mode(self, latent: Tensor) -> Tensor:
        return self(latent).argmax(dim=-1, keepdim=True).float()

    def sample(self, latent: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        log_prob = F.log_softmax(self(latent), dim=-1)
        chosen = torch.multinomial(log_prob.exp(), 1, generator=rng)
        return chosen.float(), log_prob.gather(1, chosen)[:, 0]

    def evaluate(self, latent: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Back]:
        log_prob = F.log_softmax(self(latent), dim=-1)
        p, chosen = log_prob.exp(), u.long()
        entropy = -(p * log_prob).sum(-1)

        def back(to_log_prob: Tensor, to_entropy: float) -> tuple[Tensor, list[Tensor]]:
            to_logits = -to_log_prob[:, None] * p
            to_logits.scatter_add_(1, chosen, to_log_prob[:, None])
            to_logits -= to_entropy / len(u) * p * (log_prob + entropy[:, None])
            return self._back(latent, to_logits)

        return log_prob.gather(1, chosen)[:, 0], entropy.mean(), back

    def bounded(self, u: Tensor) -> Tensor:
        return chosen_action(u, self.linear.out_features)

    def spread(self) -> Tensor:
        return torch.ones(())


def chosen_action(number: Numbers, choices: int) -> Numbers:
    """A choice's number as an action in [-1, 1]: -1 for the first, 1 for the last."""
    return 2.0 * number / (choices - 1) - 1.0


def chosen_number(action: Tensor, choices: int) -> Tensor:
    """The inverse, of type int64: the number of the choice that is nearest to an action in [-1, 1]."""
    return ((action + 1.0) * (0.5 * (choices - 1))).round().long()


def gaussian_log_prob(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(u; mean, std) [B], summed over the m actions."""
    return _normal_log_prob((u - mean) * (-log_std).exp(), log_std)


def state_dependent_variance(latent: Tensor, log_std: Tensor) -> Tensor:
    """Of an action under state-dependent exploration, [B, m], from the hidden layer [B, h] and log std [h, m]."""
    return latent.square() @ log_std.exp().square() + SDE_FLOOR


def _normal_log_prob(z: Tensor, log_std: Tensor) -> Tensor:
    """As `gaussian_log_prob`, of u in standard deviations from the mean."""
    return (-0.5 * z.square() - log_std - 0.5 * LOG_2PI).sum(-1)


def _normal_back(z: Tensor, inverse: Tensor, to_log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient [B] to log N(u) to those to its mean and its log standard deviation, [B, m]; `z` is u in
    standard deviations from the mean, `inverse` one over that deviation."""
    weighed = to_log_prob[:, None] * z
    return weighed * inverse, weighed * z - to_log_prob[:, None]


def tanh_correction(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), element by element, as 2 (log 2 - u - softplus(-2 u)), exact where the direct form is not;
    Haarnoja et al. 2018a, appendix C."""
    return 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
