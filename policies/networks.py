"""Networks: hidden layers, and critics stacked into one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from simtoreal.policies.products import operand, product, stacked_product, widened

LAYER_NORM_EPS = 1e-5
Layers = TypeVar("Layers", bound=nn.Sequential)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
MAX_LAYERS, MAX_WIDTH = 32, 16_384
HIDDEN = f"1 to {MAX_LAYERS} layer widths from 1 to {MAX_WIDTH}"  # what a setting must be
MAX_BATCH, MAX_CRITICS, MAX_HISTORY = 65_536, 16, 64  # of a learner's settings, as of layers
threshold_backward = torch.ops.aten.threshold_backward.default


@dataclass
class Layer:
    """What a stacked hidden layer leaves for its gradient: input `x`, output `y`, pre-activation `z`; [C, B, width].
    Without LayerNorm and dropout what was made in bf16 stays so (`products`)."""

    x: Tensor
    y: Tensor
    z: Tensor
    normalized: Tensor
    mean: Tensor
    rstd: Tensor
    mask: Tensor | None  # of dropout: 0 or 1 / (1 - dropout)


class StackedCritics(nn.Module):
    """`n_critics` independent ReLU MLPs evaluated as one: [B, n] -> Q [C, B].

    Weights are batched, [C, in, out], each initialised as torch's nn.Linear. The last layer is an elementwise product
    and a sum: a batched matmul of output width 1 is some twenty times slower. `layer_norm` normalizes before each ReLU,
    and `dropout` drops before that (DroQ, Hiraoka et al. 2022, arXiv 2110.02034, fig. 2), where a stream is given.

    `forward` is differentiable. Training takes the two gradients it needs by hand from `trace`, which saves a tenth of
    an update: those of the weights, and that of min_i Q_i to the action, for which each sample visits one critic only.
    """

    def __init__(
        self,
        input_size: int,
        hidden: Sequence[int],
        n_critics: int = 2,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [input_size, *hidden]
        self.layer_norm, self.dropout = layer_norm, dropout
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

    def trace(
        self, x: Tensor, count: int | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, list[Layer]]:
        """Q [C, B] of `x` [B, n], and what its gradients need; `count` asks for the first so many critics alone, and
        with `rng` units drop out."""
        h = x.expand(count or self.head_weight.shape[0], *x.shape)
        layers = []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            plain = not self.layer_norm and not (self.dropout and rng is not None)
            z = self._affine(h, weight, bias[:count], "relu" if plain else "none")
            mask = None
            if not plain:
                z = widened(z)
            if self.dropout and rng is not None:
                mask = torch.empty_like(z).bernoulli_(1 - self.dropout, generator=rng).div_(1 - self.dropout)
                z = z * mask
            normalized, mean, rstd = z, z, z
            if self.layer_norm:
                normalized, mean, rstd = torch.native_layer_norm(z, z.shape[-1:], None, None, LAYER_NORM_EPS)
                y = (normalized * self.gains[i][:count] + self.shifts[i][:count]).relu_()
            else:
                y = z if plain else z.relu_()
            layers.append(Layer(h, y, z, normalized, mean, rstd, mask))
            h = y
        return (widened(h) * self.head_weight[:count]).sum(-1) + self.head_bias[:count], layers

    def _affine(self, h: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        if torch.is_grad_enabled():  # by torch, whose products record their gradients
            z = torch.baddbmm(bias, h, weight[: len(h)])
            return z.relu_() if activation == "relu" else z
        return stacked_product(h, operand(weight, h.shape[1])[: len(h)], bias, activation)

    @torch.no_grad()
    def weight_gradients(self, layers: Sequence[Layer], dq: Tensor) -> list[Tensor]:
        """Gradients of a loss with dloss/dQ = `dq` [C, B], in the order of `parameters()`."""
        last = widened(layers[-1].y)
        found = {"head_weight": torch.bmm(dq.unsqueeze(1), last), "head_bias": dq.sum(1, keepdim=True)}
        g = dq.unsqueeze(-1) * self.head_weight
        for i in reversed(range(len(layers))):
            layer = layers[i]
            g = threshold_backward(g.to(layer.y.dtype), layer.y, 0)
            if self.layer_norm:
                found[f"gains.{i}"] = (g * layer.normalized).sum(1, keepdim=True)
                found[f"shifts.{i}"] = g.sum(1, keepdim=True)
                g = _layer_norm_backward(g * self.gains[i], layer.z, layer.mean, layer.rstd)
            if layer.mask is not None:
                g = g * layer.mask
            found[f"weights.{i}"] = widened(stacked_product(layer.x.transpose(1, 2), g))
            found[f"biases.{i}"] = g.sum(1, keepdim=True, dtype=dq.dtype)
            if i > 0:
                g = stacked_product(g, operand(self.weights[i], g.shape[1]).transpose(1, 2))
        return [found[name] for name, _ in self.named_parameters()]

    @torch.no_grad()
    def min_gradient(self, q: Tensor, layers: Sequence[Layer], width: int) -> Tensor:
        """d min_i Q_i / dx of the last `width` inputs, [B, width]: each sample goes back through its lowest critic."""
        if len(q) == 1:
            return self._input_gradient(0, layers, width, lambda t: t)
        gradient = q.new_empty(q.shape[1], width)
        lowest = q.argmin(dim=0)
        for c in range(len(q)):
            rows = (lowest == c).nonzero()[:, 0]
            gradient[rows] = self._input_gradient(c, layers, width, partial(torch.index_select, dim=0, index=rows))
        return gradient

    def _input_gradient(self, c: int, layers: Sequence[Layer], width: int, taken: Callable[[Tensor], Tensor]) -> Tensor:
        """dQ_c / dx of the last `width` inputs, of those samples that are `taken` from a tensor [B, ...]."""
        g = self.head_weight[c]
        for i in reversed(range(len(layers))):
            layer = layers[i]
            y = taken(layer.y[c])
            g = threshold_backward(g.to(y.dtype).expand_as(y), y, 0)
            if self.layer_norm:
                g = _layer_norm_backward(
                    g * self.gains[i][c], *(taken(t[c]) for t in (layer.z, layer.mean, layer.rstd))
                )
            if layer.mask is not None:
                g = g * taken(layer.mask[c])
            weight = operand(self.weights[i], len(g)) if i > 0 else self.weights[0][:, -width:]
            g = product(g, weight[c].T)
        return widened(g)


def _layer_norm_backward(g: Tensor, z: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    wanted = [True, False, False]  # that to `z` alone: gain and shift are no part of it
    gradient: Tensor = torch.ops.aten.native_layer_norm_backward(g, z, z.shape[-1:], mean, rstd, None, None, wanted)[0]
    return gradient


def is_hidden(widths: Sequence[int]) -> bool:
    """Are these the widths of hidden layers, as `HIDDEN` says? Beyond it memory, not the network, would be the news."""
    return 1 <= len(widths) <= MAX_LAYERS and all(type(n) is int and 1 <= n <= MAX_WIDTH for n in widths)


def mlp(sizes: Sequence[int], activation: str, kind: type[Layers]) -> Layers:
    """A linear layer and an activation for each pair of `sizes`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"no activation {activation!r}; activations: {', '.join(sorted(ACTIVATIONS))}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return kind(*layers)
