"""Networks: hidden layers, and critics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from simtoreal.policies.backprop import HiddenLayers, Trace, backward, forward
from simtoreal.policies.branches import alongside
from simtoreal.policies.products import product, widened

Layers = TypeVar("Layers", bound=nn.Sequential)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
MAX_LAYERS, MAX_WIDTH = 32, 16_384
HIDDEN = f"1 to {MAX_LAYERS} layer widths from 1 to {MAX_WIDTH}"  # what a setting must be
MAX_BATCH, MAX_CRITICS, MAX_HISTORY = 65_536, 16, 64  # of a learner's settings, as of layers


class Critic(nn.Module):
    """Hidden ReLU layers, after each linear one a LayerNorm if so asked, and a value: [B, n] -> Q [B]."""

    def __init__(self, input_size: int, hidden: Sequence[int], layer_norm: bool) -> None:
        super().__init__()
        self.body = mlp([input_size, *hidden], "relu", HiddenLayers, layer_norm)
        self.head = nn.Linear(hidden[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.body(x))

    def value(self, latent: Tensor) -> Tensor:
        """Q [B] of the last hidden layer [B, h]: a matrix by a vector, which as a product of matrices takes longer."""
        return torch.addmv(self.head.bias, latent, self.head.weight[0])


class Critics(nn.ModuleList):
    """`n_critics` independent `Critic`s of the same input: [B, n] -> Q [C, B].

    Before each LayerNorm or ReLU units drop out at the rate `dropout` (DroQ, Hiraoka et al. 2022, arXiv 2110.02034,
    fig. 2), where a stream is given. `forward` is differentiable. Training takes the two gradients it needs by hand
    from `trace`: those of the weights, and that of min_i Q_i to the action.
    """

    def __init__(
        self,
        input_size: int,
        hidden: Sequence[int],
        n_critics: int = 2,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        critics = [Critic(input_size, hidden, layer_norm) for _ in range(n_critics)]
        super().__init__(critics)
        self.critics, self.dropout = critics, dropout

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([critic(x) for critic in self.critics])

    @torch.no_grad()
    def trace(
        self, x: Tensor, count: int | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, list[Trace]]:
        """Q [C, B] of `x` [B, n], and what the gradients of each need; `count` asks for the first so many critics
        alone, and with `rng` units drop out."""

        def mask(z: Tensor) -> Tensor:
            return torch.empty_like(z).bernoulli_(1 - self.dropout, generator=rng).div_(1 - self.dropout)

        dropout = mask if self.dropout and rng is not None else None

        def judge(critic: Critic) -> tuple[Tensor, Trace]:
            trace = forward(critic.body, x, dropout)
            return critic.value(trace.output), trace

        found = alongside(x.device, [partial(judge, critic) for critic in self.critics[:count]])
        return torch.stack([value for value, _ in found]), [trace for _, trace in found]

    @torch.no_grad()
    def weight_gradients(self, traces: Sequence[Trace], dq: Tensor) -> list[Tensor]:
        """Gradients of a loss with dloss/dQ = `dq` [C, B], in the order of `parameters()`."""
        return self.gradients(traces, dq)[0]

    @torch.no_grad()
    def gradients(self, traces: Sequence[Trace], dq: Tensor, width: int = 0) -> tuple[list[Tensor], Tensor | None]:
        """As `weight_gradients`, and to the first `width` inputs, [B, width], if there are any to be."""

        def work(critic: Critic, trace: Trace, g: Tensor) -> tuple[list[Tensor], Tensor | None]:
            of_body, to_first = backward(critic.body, trace, torch.outer(g, critic.head.weight[0]))
            to_inputs = widened(product(to_first, critic.body.layers[0].weight[:, :width])) if width else None
            return [*of_body, torch.mv(trace.output.t(), g)[None], g.sum(0, keepdim=True)], to_inputs

        each = zip(self.critics, traces, dq, strict=True)
        found = alongside(dq.device, [partial(work, *one) for one in each])
        to_inputs = torch.stack([g for _, g in found if g is not None]).sum(0) if width else None
        return [g for weights, _ in found for g in weights], to_inputs

    @torch.no_grad()
    def min_gradient(self, q: Tensor, traces: Sequence[Trace], width: int) -> Tensor:
        """d min_i Q_i / dx of the last `width` inputs, [B, width], of those critics that `q` [C, B] is of; where some
        are equally low, the mean of theirs."""
        lowest = (q == q.amin(dim=0)).to(q.dtype)
        share = lowest / lowest.sum(dim=0)

        def work(critic: Critic, trace: Trace, g: Tensor) -> Tensor:
            _, to_first = backward(critic.body, trace, torch.outer(g, critic.head.weight[0]), weights=False)
            return widened(product(to_first, critic.body.layers[0].weight[:, -width:]))

        each = zip(self.critics[: len(q)], traces, share, strict=True)
        first, *others = alongside(q.device, [partial(work, *one) for one in each])
        for other in others:
            first += other
        return first


def is_hidden(widths: Sequence[int]) -> bool:
    """Are these the widths of hidden layers, as `HIDDEN` says? Beyond it memory, not the network, would be the news."""
    return 1 <= len(widths) <= MAX_LAYERS and all(type(n) is int and 1 <= n <= MAX_WIDTH for n in widths)


def mlp(sizes: Sequence[int], activation: str, kind: type[Layers], layer_norm: bool = False) -> Layers:
    """A linear layer, with `layer_norm` a LayerNorm, and an activation for each pair of `sizes`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"no activation {activation!r}; activations: {', '.join(sorted(ACTIVATIONS))}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        norm = [nn.LayerNorm(fan_out)] if layer_norm else []
        layers += [nn.Linear(fan_in, fan_out), *norm, ACTIVATIONS[activation]()]
    return kind(*layers)


class AdaptedLayers(nn.Module):
    """A teacher's hidden layers, in whose first what the parameters of the robot add to each unit is told by an encoder
    of the last k observations: rapid motor adaptation (Kumar et al. 2021, arXiv 2107.04034), with the first layer's
    part for the parameters as their encoder, z = W e.

        latent = rest(act(W_x x_k + b + z)),    z = encoder(x_1, ..., x_k)
    """

    def __init__(
        self, observation_size: int, history: int, hidden: Sequence[int], encoder: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        self._newest = observation_size
        self.first = nn.Linear(observation_size, hidden[0])
        self.encoder = mlp([history * observation_size, *encoder], activation, nn.Sequential)
        self.latent = nn.Linear(encoder[-1], hidden[0])
        self.activation = ACTIVATIONS[activation]()
        self.rest = mlp(hidden, activation, nn.Sequential)

    def forward(self, stack: Tensor) -> Tensor:
        """The last hidden layer [B, h] of normalized stacks [B, k n]."""
        return self.after(stack, self.guess(stack))

    def guess(self, stack: Tensor) -> Tensor:
        """z [B, hidden[0]], of a stack alone."""
        found: Tensor = self.latent(self.encoder(stack))
        return found

    def after(self, stack: Tensor, z: Tensor) -> Tensor:
        """The last hidden layer, given z."""
        found: Tensor = self.rest(self.activation(self.first(stack[:, -self._newest :]) + z))
        return found
