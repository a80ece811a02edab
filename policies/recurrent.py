"""A recurrent layer before the hidden layers of a policy or a value: what it remembers of an episode.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + r m),  m = W_hn h + b_hn
    h' = (1 - z) n + z h

The gated recurrent unit of Cho et al. 2014 (arXiv 1406.1078) as `torch.nn.GRUCell` has it, with orthogonal weights and
biases of 0 at first; h is 0 at an episode's start.

It learns by truncated backpropagation through time: a rollout is cut into sequences of so many control steps, each goes
on from the hidden state that there was when it was acted on, and no gradient passes from one to the one before. By
hand, as in `backprop`: with autograd's bookkeeping of some ten small operations a step it takes up to four times as
long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simtoreal.policies.backprop import HiddenLayers, Trace, backward, forward, linear_gradients
from simtoreal.policies.networks import MAX_BATCH, mlp
from simtoreal.policies.products import operand, product, widened

MAX_RECURRENT = 4_096  # units
WITH_IT = "with a recurrent layer"


def recurrent_checks(recurrent: int, length: int, history: int, batch_size: int) -> dict[str, tuple[bool, str]]:
    """Of settings that go with a recurrent layer, of 0 units for none: does each hold, and what is expected of it."""
    checks = {
        "recurrent": (0 <= recurrent <= MAX_RECURRENT, f"from 0 to {MAX_RECURRENT}"),
        "sequence_length": (length >= 1, "at least 1"),
    }
    if recurrent and length >= 1:
        whole = length <= batch_size <= MAX_BATCH and batch_size % length == 0
        checks |= {
            "history": (history == 1, f"1 {WITH_IT}, which remembers by itself"),
            "batch_size": (whole, f"a multiple of sequence_length {length} up to {MAX_BATCH} {WITH_IT}"),
        }
    return checks


@dataclass(frozen=True)
class Sequences:
    """What makes sequences of N rows, which are then T control steps of each of E environments, one step of all of them
    after the other, those included that are not to be learned from."""

    envs: int
    hidden_state: Tensor  # [N, w], before each step
    begins: Tensor  # [N], whether an episode begins with it
    valid: Tensor  # [N], whether it may be learned from


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


@dataclass(frozen=True)
class Unrolled:
    """What L steps through a GRU leave, [L, B, h] each: h before and after a step, and its r, z, n and m."""

    steps: Steps
    before: Tensor
    after: Tensor
    r: Tensor
    z: Tensor
    n: Tensor
    m: Tensor


@torch.no_grad()
def unroll(gru: nn.GRUCell, steps: Steps) -> Unrolled:
    """All steps, one after the other. No gradient is recorded."""
    sizes, x = [2 * gru.hidden_size, gru.hidden_size], steps.inputs.flatten(0, 1)
    of_x = widened(product(x, operand(gru.weight_ih, len(x)).t(), gru.bias_ih)).unflatten(0, steps.begins.shape)
    weight, after, found = gru.weight_hh.t(), steps.hidden_state, []
    for x_rz, x_n, keep in zip(*(part.unbind() for part in (*of_x.split(sizes, 2), _kept(steps))), strict=True):
        before = after * keep
        h_rz, m = torch.addmm(gru.bias_hh, before, weight).split(sizes, 1)
        r, z = (x_rz + h_rz).sigmoid_().chunk(2, 1)
        n = torch.addcmul(x_n, r, m).tanh_()
        after = torch.lerp(n, before, z)
        found.append((before, after, r, z, n, m))
    return Unrolled(steps, *map(torch.stack, zip(*found, strict=True)))


@torch.no_grad()
def through_time(gru: nn.GRUCell, u: Unrolled, g: Tensor) -> list[Tensor]:
    """From the gradient to h after each step [L, B, h], to which later steps add theirs here: those of the weights, in
    the order of `gru.parameters()`."""
    to_n = (1.0 - u.z) * (1.0 - u.n.square())  # to what tanh is taken of, for each of the gradient to h after the step
    to_z = (u.before - u.n) * u.z * (1.0 - u.z)  # and so for the sigmoids
    factors = torch.stack([to_n * u.m * u.r * (1.0 - u.r), to_z, to_n * u.r], dim=2)  # to W_h h + b_h
    to_hidden, to_after = torch.empty_like(factors), torch.empty_like(g)
    kept, later = _kept(u.steps), torch.zeros_like(g[0])
    each = (g, factors, kept, u.z * kept, to_hidden, to_after)
    for own, factor, keep, stays, hidden, total in zip(*(reversed(part.unbind()) for part in each), strict=True):
        torch.add(later, own, out=total)
        torch.mul(total[:, None], factor, out=hidden)
        later = torch.addcmul(torch.mm(hidden.flatten(1), gru.weight_hh).mul_(keep), total, stays)
    to_inputs = torch.cat([to_hidden[:, :, :2].flatten(2), to_after * to_n], dim=2).flatten(0, 1)
    of_input = linear_gradients(u.steps.inputs.flatten(0, 1), to_inputs)
    of_hidden = linear_gradients(u.before.flatten(0, 1), to_hidden.flatten(2).flatten(0, 1))
    return [of_input[0], of_hidden[0], of_input[1], of_hidden[1]]


def _kept(steps: Steps) -> Tensor:
    """[L, B, 1], 0 where an episode begins with the step."""
    return (~steps.begins)[:, :, None].to(steps.inputs.dtype)


@dataclass
class RecurrentTrace(Trace):
    """And what the recurrent layer leaves."""

    unrolled: Unrolled

    def rows(self, n: int) -> Trace:
        """All there are: a part of sequences is not to be had."""
        assert n == len(self.output)
        return self


def one_step(inputs: Tensor, hidden_state: Tensor) -> Steps:
    """Of each of B sequences, [B, n], none of which begins an episode."""
    none = torch.zeros(1, len(inputs), dtype=torch.bool, device=inputs.device)
    return Steps(inputs[None], hidden_state, none, ~none[0])


class RecurrentLayers(nn.Module):
    """A GRU of `width` units, then hidden layers."""

    def __init__(
        self, size: int, width: int, hidden: Sequence[int], activation: str, kind: type[nn.Sequential] = HiddenLayers
    ) -> None:
        super().__init__()
        self.gru = nn.GRUCell(size, width)
        self.hidden = mlp([width, *hidden], activation, kind)
        for weight, bias in ((self.gru.weight_ih, self.gru.bias_ih), (self.gru.weight_hh, self.gru.bias_hh)):
            nn.init.orthogonal_(weight)
            nn.init.zeros_(bias)

    def forward(self, x: Tensor, hidden_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step: [B, n] and the hidden state [B, h], None at an episode's start, to the last hidden layer and the
        next hidden state."""
        following = self.gru(x, hidden_state)
        return self.hidden(following), following

    def trace(self, steps: Steps) -> RecurrentTrace:
        """Forward, as `HiddenLayers.trace`, for the steps that are valid."""
        unrolled = unroll(self.gru, steps)
        after = forward(self._by_hand, unrolled.after.flatten(0, 1)[steps.valid])
        return RecurrentTrace(after.steps, after.output, unrolled)

    def weight_gradients(self, trace: Trace, g: Tensor) -> list[Tensor]:
        """Back, as `HiddenLayers.weight_gradients`."""
        assert isinstance(trace, RecurrentTrace)
        of_hidden, to_first = backward(self._by_hand, trace, g)
        to_after = torch.zeros_like(trace.unrolled.after)
        valid = trace.unrolled.steps.valid
        to_after.flatten(0, 1)[valid] = self._by_hand.input_gradient(to_first)
        return [*through_time(self.gru, trace.unrolled, to_after), *of_hidden]

    @property
    def _by_hand(self) -> HiddenLayers:
        assert isinstance(self.hidden, HiddenLayers)
        return self.hidden
