"""Hidden layers forward and back by hand: what autograd would do, without its bookkeeping.

For networks of 64 units the bookkeeping is most of the time of a gradient step, and layers that know of each other can
pass on what is in bf16 as it is (`products`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from simtoreal.policies.networks import threshold_backward
from simtoreal.policies.products import operand, product, widened

BACKWARD: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda g, y: threshold_backward(g, y, 0),
    nn.Tanh: lambda g, y: torch.ops.aten.tanh_backward(g, y),
    nn.ELU: lambda g, y: torch.ops.aten.elu_backward(g, 1.0, 1.0, 1.0, True, y),
}  # activation -> from the gradient to its output and that output to the gradient to its input


class HiddenLayers(nn.Sequential):
    """Linear layers, an activation after each (`networks.mlp`), as one step of autograd."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.layers: list[tuple[Tensor, Tensor, nn.Module]] = []  # weight, bias and activation of each
        for linear, activation in zip(modules[::2], modules[1::2], strict=True):
            assert isinstance(linear, nn.Linear)
            self.layers.append((linear.weight, linear.bias, activation))

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


@dataclass
class Trace:
    """What a pass forward leaves for the gradient: the input of every linear layer, and the output of the last."""

    inputs: list[Tensor]
    output: Tensor


def forward(body: HiddenLayers, x: Tensor) -> Trace:
    """`x` [B, n] through all layers; the output is float32."""
    inputs = []
    for weight, bias, activation in body.layers:
        inputs.append(x)
        relu = isinstance(activation, nn.ReLU)
        x = product(x, operand(weight, x.shape[0]).t(), bias, "relu" if relu else "none")
        if not relu:
            x = activation(widened(x))
    return Trace(inputs, widened(x))


def backward(body: HiddenLayers, trace: Trace, g: Tensor) -> tuple[list[Tensor], Tensor]:
    """From the gradient of the output [B, h]: those of the weights, in the order of `body.parameters()`, and the one of
    the first linear layer's output."""
    found: list[Tensor] = []
    outputs = [*trace.inputs[1:], trace.output]
    for i in reversed(range(len(body.layers))):
        weight, _, activation = body.layers[i]
        g = BACKWARD[type(activation)](g.to(outputs[i].dtype), outputs[i])
        found[:0] = linear_gradients(trace.inputs[i], g)
        if i > 0:
            g = product(g, operand(weight, g.shape[0]))
    return found, g


def linear_gradients(x: Tensor, g: Tensor) -> list[Tensor]:
    """Of a linear layer's weight and bias, float32, from its input [B, n] and the gradient to its output [B, m]."""
    return [widened(product(g.t(), x)), widened(g.sum(0))]


class _Pass(torch.autograd.Function):
    """All hidden layers; the weights are arguments so that autograd knows of them."""

    @staticmethod
    def forward(ctx: Any, body: HiddenLayers, x: Tensor, *weights: Tensor) -> Tensor:
        trace = forward(body, x)
        # the output itself knows this context, so keeping it here would leave every pass to the garbage collector
        ctx.body, ctx.trace = body, replace(trace, output=trace.output.detach())
        return trace.output

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        found, to_first = backward(ctx.body, ctx.trace, g)
        first = ctx.body.layers[0][0]
        to_x = widened(product(to_first, first)) if ctx.needs_input_grad[1] else None
        return None, to_x, *found
