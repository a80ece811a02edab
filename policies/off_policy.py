"""What learners from a replay share: settings, how a gradient step is to be done, and networks that follow others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simtoreal.policies.adam import Adam
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.graphs import Skip
from simtoreal.policies.n_step import MAX_N_STEP
from simtoreal.policies.neural import NeuralConfig
from simtoreal.policies.replay import Batch


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(NeuralConfig):
    """Settings of a learner from a replay, besides those of any learner; a value out of range raises ValueError.

    `updates_per_step` is gradient steps per environment step; `tau` is how far the targets go to what they follow in a
    step of theirs; `n_step` is over how many rewards a target sums before it bootstraps; `actor_average` is the rate of
    the deployed average of the weights that act, 0 = off; `compile` makes machine code of the gradient step on a CPU,
    once for a kind of network (None: whoever trains decides).
    """

    tau: float = 0.005
    buffer_size: int = 1_000_000
    learning_starts: int = 1_000
    updates_per_step: float = 1.0
    n_step: int = 1
    actor_average: float = 0.0
    compile: bool | None = None

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return super().checks() | {
            "tau": (0 < self.tau <= 1, "above 0 and at most 1"),
            "buffer_size": (self.buffer_size >= self.batch_size, f"at least batch_size {self.batch_size}"),
            "learning_starts": (self.learning_starts >= 0, "at least 0"),
            "updates_per_step": (self.updates_per_step > 0, "above 0"),
            "n_step": (1 <= self.n_step <= MAX_N_STEP, f"from 1 to {MAX_N_STEP}"),
            "actor_average": (0 <= self.actor_average < 1, "at least 0 and below 1"),
        }

    def discount(self, batch: Batch) -> Tensor | float:
        """What a target's bootstrap is worth: gamma, or its power where rewards of several steps were summed."""
        return self.gamma if batch.discount is None else batch.discount


@dataclass(frozen=True)
class Turn:
    """What is done in a gradient step: does the actor learn, and with `skip` nobody waits to see whether a loss is
    finite."""

    actor_learns: bool
    skip: Skip | None = None

    def step(
        self, optimizer: Adam, name: str, loss: Tensor, gradients: Sequence[Tensor], shrink: Tensor | None = None
    ) -> None:
        """One step along `gradients`, divided by the number `shrink`, if the loss they are of is finite. Raises
        NonFiniteError where somebody waits for it."""
        if self.skip is not None:
            self.skip.note(f"{name} loss", loss)
            optimizer.step(gradients, self.skip.flag, shrink)
        elif math.isfinite(value := loss.item()):
            optimizer.step(gradients, shrink=shrink)
        else:
            raise NonFiniteError(f"{name} loss is {value}")


class Follower:
    """Weights that follow others slowly (Polyak): slow += rate (fast - slow), all at once. Which they are is found out
    once: modules take longer to list them than they take to move."""

    def __init__(self, slow: nn.Module, fast: nn.Module, rate: float) -> None:
        self._slow: list[Tensor] = list(slow.parameters())
        self._fast: list[Tensor] = list(fast.parameters())
        self._rate = rate

    @torch.no_grad()
    def step(self) -> None:
        torch._foreach_lerp_(self._slow, self._fast, self._rate)
