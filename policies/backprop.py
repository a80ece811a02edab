"""Hidden layers forward and back by hand: what autograd would do, without its bookkeeping.

For networks of 64 units the bookkeeping is most of the time of a gradient step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simtoreal.policies.products import product

BACKWARD: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda g, y: torch.ops.aten.threshold_backward(g, y, 0),
    nn.Tanh: lambda g, y: torch.ops.aten.tanh_backward(g, y),
    nn.ELU: lambda g, y: torch.ops.aten.elu_backward(g, 1.0, 1.0, 1.0, True, y),
}  # activation -> from the gradient to its output and that output to the gradient to its input


@dataclass
class Trace:
    """What a pass forward leaves for the gradient: the input of every linear layer, and the output of the last."""

    inputs: list[Tensor]
    output: Tensor


def forward(body: nn.Sequential, x: Tensor) -> Trace:
    """`x` [B, n] through linear layers and their activations (`networks.mlp`)."""
    inputs = []
    for layer in body:
        if isinstance(layer, nn.Linear):
            inputs.append(x)
            x = product(x, layer.weight.t(), layer.bias)
        else:
            x = layer(x)
    return Trace(inputs, x)


def backward(body: nn.Sequential, trace: Trace, g: Tensor) -> list[Tensor]:
    """The gradients of the weights, in the order of `body.parameters()`, from that of the output [B, h]."""
    found: list[Tensor] = []
    outputs = [*trace.inputs[1:], trace.output]
    layers = list(body)
    for i in reversed(range(len(trace.inputs))):
        linear, activation = layers[2 * i], layers[2 * i + 1]
        assert isinstance(linear, nn.Linear)
        g = BACKWARD[type(activation)](g, outputs[i])
        found[:0] = linear_gradients(trace.inputs[i], g)
        if i > 0:
            g = product(g, linear.weight)
    return found


def linear_gradients(x: Tensor, g: Tensor) -> list[Tensor]:
    """Of a linear layer's weight and bias, from its input [B, n] and the gradient to its output [B, m]."""
    return [product(g.t(), x), g.sum(0)]
