"""The loop of an on-policy learner: a rollout of every environment, then an update on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from simtoreal.policies.agent import Observation, split_observation
from simtoreal.policies.loops import (
    LoopState,
    Progress,
    check_same_step,
    copied,
    final_observation,
    finite,
    stacked,
    transition,
    valid_rows,
)
from simtoreal.policies.rollout import Rollout, advantages


class OnPolicyAgent(Protocol):
    """A learner from rollouts."""

    device: torch.device

    def try_out(self, obs: Observation) -> tuple[np.ndarray, Tensor, Tensor]:
        """Actions [E, m] for the environments, what they were before they were bounded, and log pi of that [E]."""
        ...

    def values(self, obs: Tensor, privileged: Tensor | None) -> Tensor:
        """V [B] of raw observations."""
        ...

    def observe(self, obs: Observation) -> None:
        """Add observations to the normalizer's statistics."""
        ...

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Learn from one rollout; returns scalar metrics. Raises NonFiniteError."""
        ...


def on_policy(
    agent: OnPolicyAgent,
    envs: VectorEnv[Any, Any, Any],
    *,
    steps: int,
    seed: int,
    rollout: int,
    gamma: float,
    gae_lambda: float,
    history: int = 1,
    state: LoopState | None = None,
    max_fault_rate: float = 0.05,
) -> Iterator[Progress]:
    """Train until at least `steps` environment steps over all environments; reports after every update.

    A rollout is `rollout` control steps of each environment. An ended environment's last observation is its
    `final_obs`; a truncated episode is worth what that one is. A transition that is invalid or not finite is counted in
    `faults`, ends what is known of its episode, and is not learned from. The statistics of observations are brought up
    after an update, so that a rollout is normalized as it was acted on.

    Raises ValueError for environments that do not reset in the same step, FaultRateError above `max_fault_rate` of
    invalid transitions, and what the agent raises.
    """
    check_same_step(envs)
    if steps < 1 or rollout < 1:
        raise ValueError(f"steps and rollout must be at least 1, got {steps} and {rollout}")
    state = state or LoopState.start(seed)
    if state.observation is None:
        state.begin(stacked(copied(envs.reset(seed=seed)[0]), history), envs.num_envs)
        agent.observe(finite(state.current))
    state.check(envs.num_envs)
    began = time.perf_counter()
    while state.step < steps:
        parts: list[dict[str, Any]] = []
        episodes: list[dict[str, Any]] = []
        for _ in range(rollout):
            obs = finite(state.current)
            action, raw, log_prob = agent.try_out(obs)
            next_obs, reward, terminated, truncated, infos = envs.step(action)
            ended = terminated | truncated
            reached = stacked(final_observation(next_obs, ended, infos), history, state.observation)
            valid = valid_rows(transition(state.current, action, reward, reached, terminated), infos)
            parts.append(
                {
                    "obs": obs,
                    "reached": finite(reached),
                    "action": raw,
                    "log_prob": log_prob,
                    "reward": np.where(valid, reward, 0.0),
                    "terminated": terminated,
                    "ended": ended | ~valid,
                    "valid": valid,
                }
            )
            state.count(valid, infos, max_fault_rate)
            state.observation = stacked(copied(next_obs), history, state.observation, ended)
            episodes += state.end_episodes(reward, ended, infos)
        learned = collect(agent, parts, gamma=gamma, gae_lambda=gae_lambda)
        metrics = {name: float(value) for name, value in agent.update(learned).items()}
        for part in parts:
            agent.observe(part["reached"])
        yield Progress(state.step, time.perf_counter() - began, episodes, metrics, state.faults)


def collect(agent: OnPolicyAgent, parts: list[dict[str, Any]], *, gamma: float, gae_lambda: float) -> Rollout:
    """T control steps of E environments as one rollout of those transitions that are valid.

    Values are asked for once, of all observations together: of the T steps', of those the last step led to, and of
    those with which episodes ended.
    """
    device, n = agent.device, len(parts[0]["reward"])
    obs, privileged = _joined([part["obs"] for part in parts], device)
    ended, terminated = (np.stack([part[name] for part in parts]) for name in ("ended", "terminated"))
    led_to, led_privileged = _joined([part["reached"] for part in parts], device)
    value = agent.values(obs, privileged).cpu().numpy().astype(float).reshape(len(parts), n)
    next_value = np.concatenate([value[1:], np.zeros((1, n))])
    asked = ended.copy()
    asked[-1] = True
    rows = torch.from_numpy(np.flatnonzero(asked)).to(device)
    found = agent.values(led_to[rows], None if led_privileged is None else led_privileged[rows])
    next_value[asked] = found.cpu().numpy()
    next_value[terminated] = 0.0
    valid = np.stack([part["valid"] for part in parts])
    reward = np.stack([part["reward"] for part in parts])
    advantage = advantages(reward, value, next_value, ended, gamma=gamma, gae_lambda=gae_lambda)
    keep = torch.from_numpy(np.flatnonzero(valid)).to(device)

    def rows_of(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array.ravel(), dtype=torch.float32, device=device)[keep]

    return Rollout(
        obs[keep],
        None if privileged is None else privileged[keep],
        torch.cat([part["action"] for part in parts])[keep],
        torch.cat([part["log_prob"] for part in parts])[keep],
        rows_of(value),
        rows_of(advantage),
        rows_of(advantage + value),
    )


def _joined(each: list[Observation], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Observations of T steps as tensors [T E, ...]."""

    def tensor(arrays: list[Any]) -> Tensor:
        return torch.as_tensor(np.concatenate(arrays), dtype=torch.float32, device=device)

    split = [split_observation(obs) for obs in each]
    privileged = [part for _, part in split if part is not None]
    return tensor([policy for policy, _ in split]), tensor(privileged) if privileged else None
