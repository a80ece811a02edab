"""A recurrent layer before the hidden layers of a policy or a value: what it remembers of an episode.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + r (W_hn h + b_hn))
    h' = (1 - z) n + z h

The gated recurrent unit of Cho et al. 2014 (arXiv 1406.1078) as `torch.nn.GRUCell` has it, with orthogonal weights and
biases of 0 at first; h is 0 at an episode's start.

It learns by truncated backpropagation through time: a rollout is cut into sequences of so many control steps, each goes
on from the hidden state that there was when it was acted on, and no gradient passes from one to the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simtoreal.policies.backprop import HiddenLayers, Trace, backward, forward
from simtoreal.policies.networks import mlp
from simtoreal.policies.products import operand, product, widened

MAX_RECURRENT = 4_096  # units


@dataclass(frozen=True)
class Steps:
    """L control steps of each of B sequences, one step of all of them after the other.

    `hidden_state` [B, h] is that before the first step; `begins` [L, B] says with which steps an episode begins, and
    `valid` [L B] which may be learned from.
    """

    inputs: Tensor  # [L, B, n]
    hidden_state: Tensor
    begins: Tensor
    valid: Tensor


@dataclass
class RecurrentTrace(Trace):
    """And what the hidden layers saw of the valid steps, with its way back to the recurrent layer's weights."""

    remembered: Tensor


class RecurrentLayers(nn.Module):
    """A GRU of `width` units, then hidden layers, of a sequence's steps [B, n]."""

    def __init__(
        self, size: int, width: int, hidden: Sequence[int], activation: str, kind: type[nn.Sequential] = HiddenLayers
    ) -> None:
        super().__init__()
        self.gru = nn.GRUCell(size, width)
        self.hidden = mlp([width, *hidden], activation, kind)
        for name, weights in self.gru.named_parameters():
            if name.startswith("weight"):
                nn.init.orthogonal_(weights)
            else:
                nn.init.zeros_(weights)

    def forward(self, x: Tensor, hidden_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step: [B, n] and the hidden state [B, h], None at an episode's start, to the last hidden layer and the
        next hidden state."""
        following = self.gru(x, hidden_state)
        return self.hidden(following), following

    def unrolled(self, steps: Steps) -> Tensor:
        """The hidden state [L, B, h] after each step."""
        h, found = steps.hidden_state, []
        for x, begins in zip(steps.inputs, steps.begins, strict=True):
            h = self.gru(x, h.masked_fill(begins[:, None], 0.0))
            found.append(h)
        return torch.stack(found)

    def trace(self, steps: Steps) -> RecurrentTrace:
        """Forward, as `HiddenLayers.trace`, for the steps that are valid. The GRU is left to autograd."""
        with torch.enable_grad():
            remembered = self.unrolled(steps).flatten(0, 1)[steps.valid]
        after = forward(self._by_hand, remembered.detach())
        return RecurrentTrace(after.inputs, after.output, remembered)

    def weight_gradients(self, trace: Trace, g: Tensor) -> list[Tensor]:
        """Back, as `HiddenLayers.weight_gradients`."""
        assert isinstance(trace, RecurrentTrace)
        of_hidden, to_first = backward(self._by_hand, trace, g)
        to_remembered = widened(product(to_first, operand(self._by_hand.layers[0][0], len(g))))
        return [*torch.autograd.grad(trace.remembered, list(self.gru.parameters()), to_remembered), *of_hidden]

    @property
    def _by_hand(self) -> HiddenLayers:
        assert isinstance(self.hidden, HiddenLayers)
        return self.hidden
