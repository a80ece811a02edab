"""Networks of action values, and what Rainbow (Hessel et al. 2018, arXiv 1710.02298) adds to them.

    Q(s, a)   = V(s) + A(s, a) - mean_a' A(s, a')        dueling streams (Wang et al. 2016, arXiv 1511.06581, eq. 9)
    W         = mu + sigma * (f(e_out) f(e_in)^T),       noisy layers (Fortunato et al. 2018, arXiv 1706.10295,
    f(e)      = sign(e) sqrt|e|                          eqs. 9 to 11, factorised)
    p(s, a)   = softmax of n outputs, those of the atoms z_1 ... z_n     (C51, Bellemare et al. 2017, arXiv 1707.06887)
    Q(s, a)   = sum_i z_i p_i(s, a)

`trace` and the gradients by hand are for where autograd is off.

The last of the hidden layers belongs to the head, of which each stream has one of its own: so dueling streams part, and
noise is, where the papers have them after the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.backprop import HiddenLayers, Trace, linear_gradients, threshold_backward
from simtoreal.policies.branches import alongside
from simtoreal.policies.convolutions import ImageLayers
from simtoreal.policies.images import Shape
from simtoreal.policies.networks import mlp
from simtoreal.policies.products import product, widened

MOST_ATOMS = 1024


@dataclass(frozen=True)
class Atoms:
    """The returns that a distribution knows: `count` of them, evenly from `low` to `high`."""

    count: int
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Any) -> Atoms:
        """Of a list of the three. Raises ValueError where it is none."""
        match numbers:
            case [int(count), int() | float() as low, int() | float() as high]:
                if 2 <= count <= MOST_ATOMS and -math.inf < low < high < math.inf:
                    return cls(count, float(low), float(high))
        raise ValueError(f"atoms must be how many, up to {MOST_ATOMS}, from where and to where, got {numbers}")

    def values(self) -> Tensor:
        """z [n]."""
        return torch.linspace(self.low, self.high, self.count)


def expected(logits: Tensor, support: Tensor) -> Tensor:
    """Q [B, K] of the logits [B, K, n] of distributions over the returns `support` [n]."""
    return logits.softmax(dim=-1) @ support


def projected(probabilities: Tensor, reward: Tensor, discount: Tensor, atoms: Atoms) -> Tensor:
    """The distributions [B, n] of reward + discount z, shared among the nearest atoms: Bellemare et al. 2017, eq. 7.

    `probabilities` [B, n] of the returns from the next state on; `reward` and `discount` [B], which is 0 at an end.
    """
    support = atoms.values().to(probabilities.device)
    returns = (reward[:, None] + discount[:, None] * support).clamp(atoms.low, atoms.high)
    place = (returns - atoms.low) * ((atoms.count - 1) / (atoms.high - atoms.low))
    below = place.floor().clamp(max=atoms.count - 2)
    share = (place - below).clamp(0.0, 1.0)  # which rounding could pass
    at = below.nan_to_num(0.0).long()  # what is not finite stays so in the shares
    found = torch.zeros_like(probabilities)
    found.scatter_add_(1, at, probabilities * (1.0 - share))
    return found.scatter_add_(1, at + 1, probabilities * share)


class NoisyLinear(nn.Linear):
    """A linear layer whose weights have standard deviations sigma too, which are learned; without `deviation`, the
    first of them times sqrt(n) (0.5 in the paper), an ordinary one."""

    def __init__(self, fan_in: int, fan_out: int, deviation: float) -> None:
        super().__init__(fan_in, fan_out)
        self.noise_size = fan_in + fan_out if deviation else 0
        if deviation:
            first = deviation / math.sqrt(fan_in)
            self.weight_deviation = nn.Parameter(torch.full((fan_out, fan_in), first))
            self.bias_deviation = nn.Parameter(torch.full((fan_out,), first))

    def drawn(self, noise: Tensor | None) -> Drawn:
        """The weights under f(e_in) and f(e_out), one after the other; the means without noise."""
        if noise is None or not self.noise_size:
            return Drawn(self.weight, self.bias, None, None)
        e_in, e_out = noise.split([self.in_features, self.out_features])
        both = torch.outer(e_out, e_in)
        return Drawn(self.weight + self.weight_deviation * both, self.bias + self.bias_deviation * e_out, both, e_out)

    def gradients(self, drawn: Drawn, x: Tensor, g: Tensor) -> list[Tensor]:
        """In the order of `parameters()`, from what the layer was given [B, n] and the gradient to what it gave."""
        to_weight, to_bias = linear_gradients(x, g)
        if not self.noise_size:
            return [to_weight, to_bias]
        if drawn.noise is None or drawn.bias_noise is None:
            return [to_weight, to_bias, torch.zeros_like(to_weight), torch.zeros_like(to_bias)]
        return [to_weight, to_bias, to_weight * drawn.noise, to_bias * drawn.bias_noise]


class Drawn(NamedTuple):
    """The weights of a layer, and the noise of each."""

    weight: Tensor
    bias: Tensor
    noise: Tensor | None
    bias_noise: Tensor | None


class StreamTrace(NamedTuple):
    """What a stream's pass forward leaves for its gradient."""

    latent: Tensor  # [B, h]
    hidden: Tensor  # after its ReLU [B, h']
    layers: tuple[Drawn, Drawn]


class Stream(nn.Module):
    """A hidden layer with its ReLU, and the outputs of a value or of advantages."""

    def __init__(self, width: int, hidden: int, outputs: int, deviation: float) -> None:
        super().__init__()
        self.hidden = NoisyLinear(width, hidden, deviation)
        self.output = NoisyLinear(hidden, outputs, deviation)
        self.noise_sizes = [self.hidden.noise_size, self.output.noise_size]

    def forward(self, latent: Tensor) -> Tensor:
        found: Tensor = self.output(F.relu(self.hidden(latent)))
        return found

    def trace(self, latent: Tensor, noise: Tensor | None) -> tuple[Tensor, StreamTrace]:
        """The outputs, and what the gradients need."""
        parts = (None, None) if noise is None else noise.split(self.noise_sizes)
        first, last = self.hidden.drawn(parts[0]), self.output.drawn(parts[1])
        hidden = widened(product(latent, first.weight.t(), first.bias, "relu"))
        outputs = widened(product(hidden, last.weight.t(), last.bias))
        return outputs, StreamTrace(latent, hidden, (first, last))

    def gradients(self, trace: StreamTrace, g: Tensor) -> tuple[list[Tensor], Tensor]:
        """Of the weights, in the order of `parameters()`, and to the latent, from the gradient to the outputs."""
        first, last = trace.layers
        to_hidden = threshold_backward(widened(product(g, last.weight)), trace.hidden, 0)
        of_output = self.output.gradients(last, trace.hidden, g)
        of_hidden = self.hidden.gradients(first, trace.latent, to_hidden)
        return [*of_hidden, *of_output], widened(product(to_hidden, first.weight))


class QHead(nn.Module):
    """From features [B, h] to [B, K, n]: of each of K choices its value (n = 1), or the logits of n atoms."""

    def __init__(
        self, width: int, hidden: int, choices: int, outputs: int = 1, dueling: bool = False, deviation: float = 0.0
    ) -> None:
        super().__init__()
        self.choices, self.outputs = choices, outputs
        sizes = [choices * outputs, *([outputs] if dueling else [])]  # of the advantages, and of the value
        self._each = [Stream(width, hidden, size, deviation) for size in sizes]
        self.streams = nn.ModuleList(self._each)
        self._noise_sizes = [sum(stream.noise_sizes) for stream in self._each]
        self.noise_size = sum(self._noise_sizes)

    def forward(self, latent: Tensor) -> Tensor:
        return self._joined([stream(latent) for stream in self._each])

    def draw(self, rng: torch.Generator) -> Tensor | None:
        """f(e) of all noisy layers, one after the other; None where there is none."""
        if not self.noise_size:
            return None
        e = torch.randn(self.noise_size, generator=rng, device=rng.device)
        return e.sign() * e.abs().sqrt()

    def trace(self, latent: Tensor, noise: Tensor | None) -> tuple[Tensor, list[StreamTrace]]:
        """The outputs under what was drawn, of the means without it, and what the gradients need."""
        parts = [None] * len(self._each) if noise is None else noise.split(self._noise_sizes)
        works = [partial(stream.trace, latent, part) for stream, part in zip(self._each, parts, strict=True)]
        found = alongside(latent.device, works)
        return self._joined([outputs for outputs, _ in found]), [trace for _, trace in found]

    def gradients(self, traces: Sequence[StreamTrace], g: Tensor) -> tuple[list[Tensor], Tensor]:
        """Of the weights, in the order of `parameters()`, and to the features, from the gradient to the outputs
        [B, K, n]."""
        of_each = [g]
        if len(traces) > 1:
            to_value = g.sum(dim=1, keepdim=True)
            of_each = [g - to_value / self.choices, to_value]
        each = zip(self._each, traces, of_each, strict=True)
        found = alongside(g.device, [partial(stream.gradients, trace, part.flatten(1)) for stream, trace, part in each])
        (first, *others) = (to_latent for _, to_latent in found)
        return [weight for weights, _ in found for weight in weights], sum(others, first)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        advantage, *value = (part.unflatten(1, (-1, self.outputs)) for part in parts)
        return value[0] + advantage - advantage.mean(dim=1, keepdim=True) if value else advantage


class ExpectedReturn(nn.Module):
    """Q [B, K] of features [B, h], by a head that gives distributions over `atoms`."""

    support: Tensor

    def __init__(self, head: QHead, atoms: Atoms) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("support", atoms.values(), persistent=False)

    def forward(self, latent: Tensor) -> Tensor:
        return expected(self.head(latent), self.support)


class QTrace(NamedTuple):
    """What a pass forward leaves for the gradient."""

    body: Trace
    streams: list[StreamTrace]


class QNetwork(nn.Module):
    """Hidden layers, or the convolutions of images, and a `QHead`: normalized observations [B, n] -> [B, K, n]."""

    def __init__(
        self,
        observation_size: int,
        hidden: Sequence[int],
        choices: int,
        outputs: int = 1,
        dueling: bool = False,
        deviation: float = 0.0,
        image: Shape | None = None,
    ) -> None:
        super().__init__()
        self.body: HiddenLayers | ImageLayers
        if image is None:
            self.body, width = mlp([observation_size, *hidden[:-1]], "relu", HiddenLayers), observation_size
        else:
            self.body = ImageLayers(image, hidden[:-1], "relu")
            width = self.body.convolutions.features
        width = hidden[-2] if len(hidden) > 1 else width
        self.head = QHead(width, hidden[-1], choices, outputs, dueling, deviation)

    def trace(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, QTrace]:
        """As `QHead.trace`, of normalized observations."""
        body = self.body.trace(x)
        outputs, streams = self.head.trace(body.output, noise)
        return outputs, QTrace(body, streams)

    def weight_gradients(self, trace: QTrace, g: Tensor) -> list[Tensor]:
        """In the order of `parameters()`, from the gradient to the outputs [B, K, n]."""
        of_head, to_latent = self.head.gradients(trace.streams, g)
        return [*self.body.weight_gradients(trace.body, to_latent), *of_head]
