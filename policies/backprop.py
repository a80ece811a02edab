"""Hidden layers forward and back by hand: what autograd would do, without its bookkeeping.

For networks of 64 units the bookkeeping is most of the time of a gradient step, and layers that know of each other can
pass on what is in bf16 as it is (`products`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.branches import alongside
from simtoreal.policies.products import operand, product, widened

threshold_backward = torch.ops.aten.threshold_backward.default
tanh_backward = torch.ops.aten.tanh_backward.default
layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
BACKWARD: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda g, y: threshold_backward(g, y, 0),
    nn.Tanh: tanh_backward,
    nn.ELU: lambda g, y: torch.ops.aten.elu_backward(g, 1.0, 1.0, 1.0, True, y),
}  # activation -> from the gradient to its output and that output to the gradient to its input

FORWARD: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {nn.ReLU: torch.relu, nn.Tanh: torch.tanh, nn.ELU: F.elu}

Mask = Callable[[Tensor], Tensor]
"""Of what a linear layer gives [B, h], what to multiply it with: dropout."""


class Hidden(NamedTuple):
    """One hidden layer: the weights of its linear layer, its LayerNorm and the kind of its activation. A module's own
    attributes take longer to find than small products to make."""

    weight: Tensor
    bias: Tensor
    norm: nn.LayerNorm | None
    activation: type[nn.Module]


class HiddenLayers(nn.Sequential):
    """Linear layers, after each a LayerNorm or none and an activation (`networks.mlp`), as one step of autograd."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.layers: list[Hidden] = []
        norm = linear = None
        for module in modules:
            if type(module) in BACKWARD and linear is not None:
                self.layers.append(Hidden(linear.weight, linear.bias, norm, type(module)))
                norm = linear = None
            elif isinstance(module, nn.LayerNorm) and linear is not None and norm is None:
                norm = module
            elif isinstance(module, nn.Linear) and linear is None:
                linear = module
            else:
                raise ValueError(f"{module} has no place here among hidden layers")
        if linear is not None:
            raise ValueError("hidden layers end with an activation")

    def forward(self, x: Tensor) -> Tensor:
        """[B, n] -> [B, h], float32."""
        if torch.is_grad_enabled():
            found: Tensor = _Pass.apply(self, x, *self.parameters())
            return found
        return forward(self, x).output

    def trace(self, x: Tensor) -> Trace:
        """Forward, for the way back by `weight_gradients`; for where autograd is off."""
        return forward(self, x)

    def weight_gradients(self, trace: Trace, g: Tensor) -> list[Tensor]:
        """From the gradient of the output [B, h]: those of the weights, in the order of `parameters()`."""
        return backward(self, trace, g)[0]

    def input_gradient(self, to_first: Tensor) -> Tensor:
        """To the input [B, n], float32, from the gradient of the first linear layer's output that `backward` gives;
        where there is no layer that is the input's."""
        if not self.layers:
            return widened(to_first)
        return widened(product(to_first, operand(self.layers[0].weight, len(to_first))))


class Step(NamedTuple):
    """What one hidden layer leaves for its gradient: its input `x`, its output `y`, and where there is a LayerNorm or
    dropout what came before it [B, h], with the mean and the reciprocal deviation [B, 1] of each row."""

    x: Tensor
    y: Tensor
    mask: Tensor | None
    z: Tensor | None
    mean: Tensor | None
    rstd: Tensor | None

    def rows(self, n: int) -> Step:
        """That of the first `n` rows alone."""
        x, y, *rest = (None if t is None else t[:n] for t in self)
        assert x is not None
        assert y is not None
        return Step(x, y, *rest)


@dataclass
class Trace:
    """What a pass forward leaves for the gradient, and the output of the last layer, float32."""

    steps: Sequence[Step]
    output: Tensor

    def rows(self, n: int) -> Trace:
        """That of the first `n` rows alone."""
        return Trace([step.rows(n) for step in self.steps], self.output[:n])


def forward(body: HiddenLayers, x: Tensor, dropout: Mask | None = None) -> Trace:
    """`x` [B, n] through all layers; with `dropout` after each linear one (Hiraoka et al. 2022, arXiv 2110.02034,
    fig. 2). For where autograd is off."""
    steps = []
    for weight, bias, norm, activation in body.layers:
        plain = norm is None and dropout is None
        fused = plain and activation is nn.ReLU
        z = product(x, operand(weight, x.shape[0]).t(), bias, "relu" if fused else "none")
        mask = mean = rstd = None
        if fused:
            y = z
        else:
            y = z = widened(z)
            if dropout is not None:
                mask = dropout(z)
                y = z = z * mask
            if norm is not None:
                y, mean, rstd = torch.native_layer_norm(z, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            y = y.relu_() if norm is not None and activation is nn.ReLU else FORWARD[activation](y)
        steps.append(Step(x, y, mask, z if norm is not None else None, mean, rstd))
        x = y
    return Trace(steps, widened(x))


def backward(body: HiddenLayers, trace: Trace, g: Tensor, weights: bool = True) -> tuple[list[Tensor], Tensor]:
    """From the gradient of the output [B, h]: those of the `weights`, in the order of `body.parameters()`, if they are
    wanted, and the one of the first linear layer's output."""
    of_layers: list[tuple[Step, Tensor, list[Tensor]]] = []  # with the gradients to the linear layer's output and norm
    for i in reversed(range(len(body.layers))):
        (weight, _, norm, activation), step = body.layers[i], trace.steps[i]
        g = BACKWARD[activation](g.to(step.y.dtype), step.y)
        of_norm: list[Tensor] = []
        if norm is not None:
            wanted = [True, weights, weights]
            g, *of_norm = layer_norm_backward(
                g, step.z, norm.normalized_shape, step.mean, step.rstd, norm.weight, norm.bias, wanted
            )
        if step.mask is not None:
            g = g * step.mask
        of_layers.append((step, g, of_norm))
        if i > 0:
            g = product(g, operand(weight, g.shape[0]))
    if not weights:
        return [], g
    of_layers.reverse()
    of_linear = alongside(g.device, [partial(linear_gradients, step.x, to_output) for step, to_output, _ in of_layers])
    return [
        gradient for mine, (_, _, of_norm) in zip(of_linear, of_layers, strict=True) for gradient in (*mine, *of_norm)
    ], g


def linear_gradients(x: Tensor, g: Tensor) -> list[Tensor]:
    """Of a linear layer's weight and bias, float32, from its input [B, n] and the gradient to its output [B, m]. The
    first factor is copied for the product, so let it be the narrower."""
    if g.is_cuda:
        return alongside(g.device, [partial(_of_weight, x, g), partial(torch.sum, g, 0)])
    return [_of_weight(x, g), widened(g.sum(0))]


def _of_weight(x: Tensor, g: Tensor) -> Tensor:
    return widened(product(x.t(), g).t() if x.shape[1] < g.shape[1] else product(g.t(), x))


class _Pass(torch.autograd.Function):
    """All hidden layers; the weights are arguments so that autograd knows of them."""

    @staticmethod
    def forward(ctx: Any, body: HiddenLayers, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.body, ctx.trace = body, forward(body, x)
        # an output knows its context, and the trace knows the output: that would leave each pass to the collector
        return ctx.trace.output.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        found, to_first = backward(ctx.body, ctx.trace, g)
        to_x = ctx.body.input_gradient(to_first) if ctx.needs_input_grad[1] else None
        return None, to_x, *found
