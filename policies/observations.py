"""What an environment shows: the policy's part, and what critics or teachers may see besides. Needs no torch, which
workers do without."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Observation = np.ndarray | Mapping[str, np.ndarray]
"""A batch of raw observations: `[E, n]`, or `{"policy": [E, n], "privileged": [E, p]}`. For a learner with a history of
k the policy's part is the stack [E, k n] of the last k, oldest first. Images are uint8 [E, C, H, W] or [E, H, W, C]."""


def split_observation(obs: Observation) -> tuple[np.ndarray, np.ndarray | None]:
    """The policy's part [E, n] and the privileged part [E, p] or None."""
    if isinstance(obs, Mapping):
        if "policy" not in obs:
            raise ValueError(f"a dict observation needs the key 'policy', got {sorted(obs)}")
        return obs["policy"], obs.get("privileged")
    return obs, None


def with_policy_part(obs: Observation, part: np.ndarray) -> Observation:
    """`obs` with `part` in place of what the policy sees."""
    return {**obs, "policy": part} if isinstance(obs, Mapping) else part
