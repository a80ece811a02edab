"""What a policy that remembers sees: with a history the stack [k n] of the last k observations [n], oldest first;
with a recurrent layer its hidden state [h] and one observation [n], joined to [h + n].

At an episode's start all k frames of the stack are the first observation, and a hidden state is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from simtoreal.policies.deterministic import DeterministicActor


def first_stack(frame: np.ndarray, history: int) -> np.ndarray:
    """The stack [..., k n] at an episode's start, whose first observation is `frame` [..., n]."""
    return np.tile(frame, history)


def next_stack(stack: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """`stack` [..., k n] without its oldest frame and with `frame` [..., n] as its newest."""
    return np.concatenate([stack[..., frame.shape[-1] :], frame], axis=-1)


class Driver:
    """A deterministic actor in one episode after another, an observation at a time.

    `stack`, [k n] or [h + n], is what the actor saw last, empty at an episode's start.
    """

    def __init__(self, actor: DeterministicActor) -> None:
        self._actor = actor
        self.reset()

    def reset(self) -> None:
        """Begin an episode: nothing of the last one remains."""
        self.stack: np.ndarray = np.empty(0, np.float32)
        self._hidden_state: np.ndarray = np.zeros(self._actor.recurrent, np.float32)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The action [m] for one raw observation [n]."""
        if self._actor.recurrent:
            return self._recurrent(obs)
        self.stack = next_stack(self.stack, obs) if self.stack.size else first_stack(obs, self._actor.history)
        with torch.inference_mode():
            action: np.ndarray = self._actor(torch.from_numpy(self.stack)[None])[0].numpy()
        return action

    def _recurrent(self, obs: np.ndarray) -> np.ndarray:
        self.stack = np.concatenate([self._hidden_state, obs])
        with torch.inference_mode():
            found: Sequence[Tensor] = self._actor(*(torch.from_numpy(x)[None] for x in (obs, self._hidden_state)))
        action, self._hidden_state = (rows[0].numpy() for rows in found)
        return action
