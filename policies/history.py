"""What a policy with a history sees: a stack [k n] of the last k observations [n], oldest first.

At an episode's start all k frames of the stack are the first observation.
"""

from __future__ import annotations

import numpy as np
import torch

from simtoreal.policies.actors import DeterministicActor


def first_stack(frame: np.ndarray, history: int) -> np.ndarray:
    """The stack [..., k n] at an episode's start, whose first observation is `frame` [..., n]."""
    return np.tile(frame, history)


def next_stack(stack: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """`stack` [..., k n] without its oldest frame and with `frame` [..., n] as its newest."""
    return np.concatenate([stack[..., frame.shape[-1] :], frame], axis=-1)


class Driver:
    """A deterministic actor in one episode after another, an observation at a time.

    `stack` [k n] is what the actor saw last, empty at an episode's start.
    """

    def __init__(self, actor: DeterministicActor) -> None:
        self._actor = actor
        self.reset()

    def reset(self) -> None:
        """Begin an episode: nothing of the last one remains."""
        self.stack: np.ndarray = np.empty(0, np.float32)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The action [m] for one raw observation [n]."""
        self.stack = next_stack(self.stack, obs) if self.stack.size else first_stack(obs, self._actor.history)
        with torch.inference_mode():
            action: np.ndarray = self._actor(torch.from_numpy(self.stack)[None])[0].numpy()
        return action
