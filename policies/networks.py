"""Networks: stacked critics, the squashed Gaussian actor, and the plain actor that leaves training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from simtoreal.policies.distributions import LOG_2PI, chosen_action, tanh_correction
from simtoreal.policies.normalizer import FrozenNormalizer

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
LAYER_NORM_EPS = 1e-5
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
OUTPUTS = ("tanh", "clip", "choice")
MAX_LAYERS, MAX_WIDTH = 32, 16_384
HIDDEN = f"1 to {MAX_LAYERS} layer widths from 1 to {MAX_WIDTH}"  # what a setting must be
MAX_BATCH, MAX_CRITICS, MAX_HISTORY = 65_536, 16, 64  # of a learner's settings, as of layers
threshold_backward = torch.ops.aten.threshold_backward.grad_input


@dataclass
class Layer:
    """What a stacked hidden layer leaves for its gradient: input `x`, output `y`, pre-activation `z`; [C, B, width]."""

    x: Tensor
    y: Tensor
    z: Tensor
    normalized: Tensor
    mean: Tensor
    rstd: Tensor


class StackedCritics(nn.Module):
    """`n_critics` independent ReLU MLPs evaluated as one: [B, n] -> Q [C, B].

    Weights are batched, [C, in, out], each initialised as torch's nn.Linear. The last layer is an elementwise product
    and a sum: a batched matmul of output width 1 is some twenty times slower. `layer_norm` normalizes before each ReLU.

    `forward` is differentiable. Training takes the two gradients it needs by hand from `trace`, which saves a tenth of
    an update: those of the weights, and that of min_i Q_i to the action, for which each sample visits one critic only.
    """

    def __init__(self, input_size: int, hidden: Sequence[int], n_critics: int = 2, layer_norm: bool = False) -> None:
        super().__init__()
        sizes = [input_size, *hidden]
        self.layer_norm = layer_norm
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            self.weights.append(torch.empty(n_critics, fan_in, fan_out).uniform_(-bound, bound))
            self.biases.append(torch.empty(n_critics, 1, fan_out).uniform_(-bound, bound))
            if layer_norm:
                self.gains.append(torch.ones(n_critics, 1, fan_out))
                self.shifts.append(torch.zeros(n_critics, 1, fan_out))
        bound = 1 / math.sqrt(sizes[-1])
        self.head_weight = nn.Parameter(torch.empty(n_critics, 1, sizes[-1]).uniform_(-bound, bound))
        self.head_bias = nn.Parameter(torch.empty(n_critics, 1).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return self.trace(x)[0]

    def trace(self, x: Tensor, count: int | None = None) -> tuple[Tensor, list[Layer]]:
        """Q [C, B] of `x` [B, n], and what its gradients need; `count` asks for the first so many critics alone."""
        h = x.expand(count or self.head_weight.shape[0], *x.shape)
        layers = []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = torch.baddbmm(bias[:count], h, weight[:count])
            normalized, mean, rstd = z, z, z
            if self.layer_norm:
                normalized, mean, rstd = torch.native_layer_norm(z, z.shape[-1:], None, None, LAYER_NORM_EPS)
                y = (normalized * self.gains[i][:count] + self.shifts[i][:count]).relu_()
            else:
                y = z.relu_()
            layers.append(Layer(h, y, z, normalized, mean, rstd))
            h = y
        return (h * self.head_weight[:count]).sum(-1) + self.head_bias[:count], layers

    @torch.no_grad()
    def weight_gradients(self, layers: Sequence[Layer], dq: Tensor) -> list[Tensor]:
        """Gradients of a loss with dloss/dQ = `dq` [C, B], in the order of `parameters()`."""
        found = {"head_weight": torch.bmm(dq.unsqueeze(1), layers[-1].y), "head_bias": dq.sum(1, keepdim=True)}
        g = dq.unsqueeze(-1) * self.head_weight
        for i in reversed(range(len(layers))):
            layer = layers[i]
            threshold_backward(g, layer.y, 0, grad_input=g)
            if self.layer_norm:
                found[f"gains.{i}"] = (g * layer.normalized).sum(1, keepdim=True)
                found[f"shifts.{i}"] = g.sum(1, keepdim=True)
                g = _layer_norm_backward(g * self.gains[i], layer.z, layer.mean, layer.rstd)
            found[f"weights.{i}"] = torch.bmm(layer.x.transpose(1, 2), g)
            found[f"biases.{i}"] = g.sum(1, keepdim=True)
            if i > 0:
                g = torch.bmm(g, self.weights[i].transpose(1, 2))
        return [found[name] for name, _ in self.named_parameters()]

    @torch.no_grad()
    def min_gradient(self, q: Tensor, layers: Sequence[Layer], width: int) -> Tensor:
        """d min_i Q_i / dx of the last `width` inputs, [B, width]: each sample goes back through its lowest critic."""
        gradient = q.new_empty(q.shape[1], width)
        lowest = q.argmin(dim=0)
        for c in range(len(q)):
            rows = (lowest == c).nonzero()[:, 0]
            g = self.head_weight[c].repeat(len(rows), 1)
            for i in reversed(range(len(layers))):
                layer = layers[i]
                threshold_backward(g, layer.y[c].index_select(0, rows), 0, grad_input=g)
                if self.layer_norm:
                    z, mean, rstd = (t[c].index_select(0, rows) for t in (layer.z, layer.mean, layer.rstd))
                    g = _layer_norm_backward(g * self.gains[i][c], z, mean, rstd)
                g = g @ (self.weights[i][c] if i > 0 else self.weights[0][c, -width:]).T
            gradient[rows] = g
        return gradient


def _layer_norm_backward(g: Tensor, z: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    none = [True, False, False]
    gradient: Tensor = torch.ops.aten.native_layer_norm_backward(g, z, z.shape[-1:], mean, rstd, None, None, none)[0]
    return gradient


def is_hidden(widths: Sequence[int]) -> bool:
    """Are these the widths of hidden layers, as `HIDDEN` says? Beyond it memory, not the network, would be the news."""
    return 1 <= len(widths) <= MAX_LAYERS and all(type(n) is int and 1 <= n <= MAX_WIDTH for n in widths)


def mlp(sizes: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """Linear and activation for each pair of `sizes`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"no activation {activation!r}; activations: {', '.join(sorted(ACTIVATIONS))}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """A body of hidden layers and a head of `outputs`; the first `action_size` of them are the action before its tanh.

    Takes normalized observations [B, n].
    """

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.action_size = action_size
        self.body = mlp([observation_size, *hidden])
        self.head = nn.Linear(([observation_size, *hidden])[-1], outputs)

    def mean(self, obs: Tensor) -> Tensor:
        """The deterministic action [B, m] before its tanh."""
        found: Tensor = self.head(self.body(obs))[:, : self.action_size]
        return found


class TanhActor(Actor):
    """a = tanh(mu)."""

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int]) -> None:
        super().__init__(observation_size, action_size, hidden, action_size)


class SquashedGaussianActor(Actor):
    """a = tanh(mu + sigma eps): action and log-probability."""

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int]) -> None:
        super().__init__(observation_size, action_size, hidden, 2 * action_size)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, each [B, m]; the latter clamped to [-20, 2]."""
        mean, log_std = self.head(self.body(obs)).split(self.action_size, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Action [B, m] in [-1, 1] and log pi(a|s) [B] for standard normal `noise` [B, m]."""
        mean, log_std = self(obs)
        return squash(mean, log_std, noise)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh of a Gaussian sample and its log-density."""
    u = mean + log_std.exp() * noise
    log_prob = (-0.5 * noise.square() - log_std - tanh_correction(u)).sum(-1) - 0.5 * LOG_2PI * noise.shape[-1]
    return u.tanh(), log_prob


class DeterministicActor(nn.Module):
    """Raw SI observation [B, n] -> action [B, m] in [-1, 1]: what is exported, whoever trained it.

    With `output` "choice" the action [B, 1] is the likeliest of `choices`, as -1 for the first to 1 for the last.

    With a `history` of k it takes the stack [B, k n] of the last k observations, oldest first; its normalizer is that
    of one of them. `describe()` is what a checkpoint records, so `from_description` rebuilds it from the checkpoint
    alone.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        activation: str = "relu",
        output: str = "tanh",
        history: int = 1,
        choices: int = 0,
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"no output {output!r}; outputs: {', '.join(OUTPUTS)}")
        if (output == "choice") != (choices > 1) or (choices and action_size != 1):
            raise ValueError(f"{choices} choices do not go with the output {output!r} of size {action_size}")
        self.observation_size, self.action_size = observation_size, action_size
        self.hidden, self.activation, self.output, self.history = tuple(hidden), activation, output, history
        self.choices = choices
        self.normalizer = FrozenNormalizer(observation_size)
        sizes = [history * observation_size, *hidden]
        self.body = mlp(sizes, activation)
        self.head = nn.Linear(sizes[-1], choices or action_size)

    def forward(self, obs: Tensor) -> Tensor:
        found = self.head(self.body(self.normalizer(obs)))
        if self.output == "choice":
            return chosen_action(found.argmax(dim=-1, keepdim=True), self.choices)
        return found.tanh() if self.output == "tanh" else found.clamp(-1.0, 1.0)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "mlp",
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "output": self.output,
            "history": self.history,
            "choices": self.choices,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> DeterministicActor:
        """Without "history" or "choices", as it was once written, these are 1 and 0. Raises ValueError when another key
        is missing, unknown or of the wrong kind."""
        description = {"history": 1, "choices": 0} | description
        keys = {"kind", "observation_size", "action_size", "hidden", "activation", "output", "history", "choices"}
        if set(description) != keys:
            raise ValueError(f"actor description has keys {sorted(description)}, expected {sorted(keys)}")
        if description["kind"] != "mlp":
            raise ValueError(f"no actor of kind {description['kind']!r}; kinds: mlp")
        hidden = description["hidden"]
        sizes = [
            description["observation_size"],
            description["action_size"],
            description["history"],
            *(hidden if isinstance(hidden, list) else [None]),
            description["choices"] or 1,
        ]
        if not all(type(size) is int and 0 < size <= 65536 for size in sizes):
            raise ValueError(f"actor sizes must be whole numbers from 1 to 65536, got {sizes}")
        n, m, history = sizes[:3]
        return cls(n, m, hidden, description["activation"], description["output"], history, description["choices"])
