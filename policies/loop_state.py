"""Where a training loop stands, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.transitions import final_value, finite, is_finite

FAULT_GRACE = 200
"""Environment steps before the share of faults is judged."""


class FaultRateError(RuntimeError):
    """Too many transitions were invalid: the simulation, not the policy, is broken."""


@dataclass(frozen=True)
class Progress:
    """What happened up to environment step `step` (over all environments).

    `seconds` since the loop began; `episodes` finished since the last report, each {"r": return, "l": length,
    "is_success": bool or None}; `metrics` the means of the agent's metrics since then; `faults` invalid transitions
    since the training began.
    """

    step: int
    seconds: float
    episodes: list[dict[str, Any]]
    metrics: dict[str, float]
    faults: int


@dataclass
class LoopState:
    """Where a loop stands: with the agent's and the replay's states, enough to go on bit for bit.

    The loop changes it in place. On resuming, `observation` is what the environments last returned, the policy's part
    as the stack [E, k n] that it sees, and the caller has brought the environments back to that point; None means the
    loop resets them. `hidden_state` [E, w] is what a recurrent agent remembers of the open episodes; w is 0 for others.
    """

    rng: torch.Generator
    step: int = 0
    credit: float = 0.0
    faults: int = 0
    observation: Observation | None = None
    returns: np.ndarray = field(default_factory=lambda: np.zeros(0))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    hidden_state: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def begin(self, observation: Observation, n_envs: int, hidden_state_size: int = 0) -> None:
        """The first observations [E, ...] after a reset, of an agent whose hidden state is so large."""
        self.observation, self.hidden_state = observation, torch.zeros(n_envs, hidden_state_size)
        self.returns, self.lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)

    @property
    def current(self) -> Observation:
        """`observation`, once there is one."""
        assert self.observation is not None
        return self.observation

    def check(self, n_envs: int, hidden_state_size: int = 0) -> None:
        """Raises ValueError when this is the state of another number of environments, or of another memory."""
        if len(self.returns) != n_envs:
            raise ValueError(f"the loop's state is of {len(self.returns)} environments, got {n_envs}")
        found, expected = list(self.hidden_state.shape), [n_envs, hidden_state_size]
        if found != expected:
            raise ValueError(f"the loop's hidden state has shape {found}, expected {expected}")

    def count(self, valid: np.ndarray, infos: Mapping[str, Any], max_fault_rate: float) -> None:
        """One vector step more. Raises FaultRateError when more than `max_fault_rate` of all were not `valid` [E]."""
        self.step += len(valid)
        lost = np.asarray(infos.get("lost", np.zeros(len(valid), dtype=bool)), dtype=bool)  # with a worker, by no fault
        self.faults += int(np.count_nonzero(~valid & ~lost))
        if self.step >= FAULT_GRACE and self.faults > max_fault_rate * self.step:
            raise FaultRateError(
                f"{self.faults} of {self.step} transitions were invalid, more than {max_fault_rate:.0%}"
            )

    def end_episodes(self, reward: np.ndarray, ended: np.ndarray, infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Add a step's rewards [E]; the episodes that `ended` [E] with it, as `Progress` has them."""
        self.returns += np.where(np.isfinite(reward), reward, 0.0)
        self.lengths += 1
        episodes: list[dict[str, Any]] = []
        if not ended.any():
            return episodes
        for i in np.flatnonzero(ended):
            success = final_value(infos, int(i), "is_success")
            success = None if success is None else bool(success)
            episodes.append({"r": float(self.returns[i]), "l": int(self.lengths[i]), "is_success": success})
        self.returns[ended], self.lengths[ended] = 0.0, 0
        return episodes

    @classmethod
    def start(cls, seed: int) -> LoopState:
        return cls(torch.Generator().manual_seed(seed))

    def state_dict(self) -> dict[str, Tensor]:
        state = {
            "rng": self.rng.get_state(),
            "step": torch.tensor(self.step),
            "credit": torch.tensor(self.credit, dtype=torch.float64),
            "faults": torch.tensor(self.faults),
            "returns": torch.from_numpy(self.returns.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
        }
        if self.observation is not None:
            policy, privileged = split_observation(finite(self.observation))
            state["observation"] = torch.from_numpy(np.array(policy))
            known = is_finite(split_observation(self.observation)[0])
            if not known.all():  # a stack stays invalid as long as such a frame is in it
                state["unknown"] = torch.from_numpy(~known)
            if privileged is not None:
                state["privileged"] = torch.from_numpy(np.array(privileged))
        if self.hidden_state.numel():
            state["hidden_state"] = self.hidden_state.clone()
        return state

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> LoopState:
        """Raises ValueError when something is missing."""
        missing = sorted({"rng", "step", "credit", "faults", "returns", "lengths"} - tensors.keys())
        if missing:
            raise ValueError(f"loop state: missing {missing}")
        rng = torch.Generator()
        rng.set_state(tensors["rng"].cpu())
        observation: Observation | None = None
        if "observation" in tensors:
            observation = tensors["observation"].cpu().numpy().copy()
            if "unknown" in tensors:
                observation[tensors["unknown"].cpu().numpy()] = np.nan
            if "privileged" in tensors:
                observation = {"policy": observation, "privileged": tensors["privileged"].cpu().numpy()}
        return cls(
            rng,
            int(tensors["step"]),
            float(tensors["credit"]),
            int(tensors["faults"]),
            observation,
            tensors["returns"].cpu().numpy().copy(),
            tensors["lengths"].cpu().numpy().copy(),
            tensors.get("hidden_state", torch.zeros(len(tensors["lengths"]), 0)).clone(),
        )


def check_same_step(envs: VectorEnv[Any, Any, Any]) -> None:
    """Raises ValueError for environments that do not reset in the same step."""
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(f"vector environments must reset in the same step (AutoresetMode.SAME_STEP), got {mode}")
