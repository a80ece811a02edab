"""The loops of on-policy learners: a rollout of every environment, then an update on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from simtoreal.policies.agent import tensor_of
from simtoreal.policies.loop_state import LoopState, Progress, check_same_step
from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.recurrent import Sequences
from simtoreal.policies.rollout import Rollout, advantages, joined
from simtoreal.policies.transitions import Mirror, copied, final_observation, finite, stacked, transition, valid_rows


class OnPolicyAgent(Protocol):
    """A learner from rollouts."""

    device: torch.device
    hidden_state_size: int  # w, what it remembers of an episode; 0 where it is not recurrent

    def begin(self, n: int) -> None:
        """A rollout of `n` environments begins."""
        ...

    def try_out(self, obs: Observation, hidden_state: Tensor) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
        """Actions [E, m] for the environments, what they were before they were bounded, log pi of that [E], and the
        next hidden state [E, w]."""
        ...

    def values(self, obs: Tensor, privileged: Tensor | None, hidden_state: Tensor) -> Tensor:
        """V [B] of raw observations that follow on a hidden state [B, w]."""
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
    mirror: Mirror | None = None,
    state: LoopState | None = None,
    max_fault_rate: float = 0.05,
) -> Iterator[Progress]:
    """Train until at least `steps` environment steps over all environments; reports after every update.

    A rollout is `rollout` control steps of each environment. An ended environment's last observation is its
    `final_obs`; a truncated episode is worth what that one is. A transition that is invalid or not finite is counted in
    `faults`, ends what is known of its episode, and is not learned from, nor do the statistics of observations know
    where it led. These are brought up after an update, so that a rollout is normalized as it was acted on. With
    `mirror` an update is on the rollout and its mirror image (`with_image`).

    Raises ValueError for environments that do not reset in the same step, FaultRateError above `max_fault_rate` of
    invalid transitions, and what the agent raises.
    """
    check_same_step(envs)
    if steps < 1 or rollout < 1:
        raise ValueError(f"steps and rollout must be at least 1, got {steps} and {rollout}")
    state = _begun(agent, envs, seed, history, state)
    began = time.perf_counter()
    while state.step < steps:
        parts: list[dict[str, Any]] = []
        episodes: list[dict[str, Any]] = []
        agent.begin(envs.num_envs)
        for _ in range(rollout):
            part, ended = _stepped(agent, envs, state, history, max_fault_rate)
            parts.append(part)
            episodes += ended
        yield _learned(agent, parts, episodes, state, began, gamma=gamma, gae_lambda=gae_lambda, mirror=mirror)


def monte_carlo(
    agent: OnPolicyAgent,
    envs: VectorEnv[Any, Any, Any],
    *,
    steps: int,
    seed: int,
    gamma: float,
    history: int = 1,
    state: LoopState | None = None,
    max_fault_rate: float = 0.05,
) -> Iterator[Progress]:
    """As `on_policy`, but a rollout is one whole episode of every environment.

    What an environment does after its episode's end, while others go on, is not learned from; then all begin anew.
    """
    check_same_step(envs)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    state = _begun(agent, envs, seed, history, state)
    began = time.perf_counter()
    while state.step < steps:
        parts: list[dict[str, Any]] = []
        episodes: list[dict[str, Any]] = []
        running = np.ones(envs.num_envs, dtype=bool)
        agent.begin(envs.num_envs)
        while running.any():
            part, ended = _stepped(agent, envs, state, history, max_fault_rate)
            parts.append(part | {"learned": part["valid"] & running})
            episodes += ended
            running &= ~part["ended"]
        report = _learned(agent, parts, episodes, state, began, gamma=gamma, gae_lambda=1.0)
        if state.lengths.any():
            state.begin(stacked(copied(envs.reset()[0]), history), envs.num_envs, agent.hidden_state_size)
        yield report


def _begun(
    agent: OnPolicyAgent, envs: VectorEnv[Any, Any, Any], seed: int, history: int, state: LoopState | None
) -> LoopState:
    """`state`, or a first one; with the environments reset where it says that they are not."""
    state = state or LoopState.start(seed)
    if state.observation is None:
        state.begin(stacked(copied(envs.reset(seed=seed)[0]), history), envs.num_envs, agent.hidden_state_size)
        agent.observe(finite(state.current))
    state.check(envs.num_envs, agent.hidden_state_size)
    return state


def _stepped(
    agent: OnPolicyAgent, envs: VectorEnv[Any, Any, Any], state: LoopState, history: int, max_fault_rate: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One control step of every environment, and the episodes that ended with it."""
    obs, hidden_state = finite(state.current), state.hidden_state.to(agent.device)
    action, raw, log_prob, following = agent.try_out(obs, hidden_state)
    shown, reward, terminated, truncated, infos = envs.step(action)
    next_obs, ended = copied(shown), terminated | truncated
    reached = stacked(final_observation(next_obs, ended, infos), history, state.observation)
    valid = valid_rows(transition(state.current, action, reward, reached, terminated), infos)
    all_valid = valid.all()
    part = {
        "obs": obs,
        "reached": reached if all_valid else finite(reached),
        "action": raw,
        "log_prob": log_prob,
        "reward": np.array(reward) if all_valid else np.where(valid, reward, 0.0),
        "terminated": np.array(terminated),  # an environment may write the next ones over them
        "ended": ended if all_valid else ended | ~valid,
        "valid": valid,
        "learned": valid,
        "begins": state.lengths == 0,
        "hidden_state": hidden_state,
        "next_hidden_state": following,
    }
    state.count(valid, infos, max_fault_rate)
    state.observation = stacked(next_obs, history, state.observation, ended)
    state.hidden_state = following
    if ended.any():
        state.hidden_state = following.masked_fill(torch.from_numpy(ended).to(following.device)[:, None], 0.0)
    return part, state.end_episodes(reward, ended, infos)


def _learned(
    agent: OnPolicyAgent,
    parts: list[dict[str, Any]],
    episodes: list[dict[str, Any]],
    state: LoopState,
    began: float,
    *,
    gamma: float,
    gae_lambda: float,
    mirror: Mirror | None = None,
) -> Progress:
    """An update on a rollout, after which the statistics of observations are brought up."""
    learned = collect(agent, parts, gamma=gamma, gae_lambda=gae_lambda)
    if mirror:
        learned = with_image(learned, mirror)
    metrics = {name: float(value) for name, value in agent.update(learned).items()}
    reached = _rows([part["reached"] for part in parts])
    valid = np.concatenate([part["valid"] for part in parts])
    if valid.any():
        known = reached if valid.all() else _taken(reached, valid)
        agent.observe(known)
        if mirror:
            agent.observe(_image(known, mirror))
    return Progress(state.step, time.perf_counter() - began, episodes, metrics, state.faults)


def collect(agent: OnPolicyAgent, parts: list[dict[str, Any]], *, gamma: float, gae_lambda: float) -> Rollout:
    """T control steps of E environments as one rollout of those transitions that are learned from; for a recurrent
    agent of all, which `sequences` then tells apart.

    Values are asked for once, of all observations together: of the T steps', of those the last step led to, and of
    those with which episodes ended, each with what the agent remembered when it came.
    """
    device, n = agent.device, len(parts[0]["reward"])
    obs, privileged = _joined([part["obs"] for part in parts], device)
    ended, terminated = (np.stack([part[name] for part in parts]) for name in ("ended", "terminated"))
    before, after = (torch.cat([part[name] for part in parts]) for name in ("hidden_state", "next_hidden_state"))
    value = agent.values(obs, privileged, before).cpu().numpy().astype(float).reshape(len(parts), n)
    next_value = np.concatenate([value[1:], np.zeros((1, n))])
    asked = ended.copy()
    asked[-1] = True
    led_to = [_taken(parts[t]["reached"], asked[t]) for t in np.flatnonzero(asked.any(axis=1))]
    which = torch.from_numpy(np.flatnonzero(asked)).to(device)
    next_value[asked] = agent.values(*_joined(led_to, device), after[which]).cpu().numpy()
    next_value[terminated] = 0.0
    valid, learned, reward = (np.stack([part[name] for part in parts]) for name in ("valid", "learned", "reward"))
    ended[:-1] |= ~valid[1:]  # an invalid step says nothing of those before it, but for the value of where it began
    advantage = advantages(reward, value, next_value, ended, gamma=gamma, gae_lambda=gae_lambda)
    sequences = None
    keep = torch.from_numpy(np.flatnonzero(learned)).to(device)
    if agent.hidden_state_size:
        begins = np.stack([part["begins"] for part in parts])
        sequences = Sequences(n, before, *(torch.from_numpy(flags.ravel()).to(device) for flags in (begins, learned)))
        keep = torch.arange(learned.size, device=device)

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
        sequences,
    )


def with_image(rollout: Rollout, mirror: Mirror) -> Rollout:
    """A rollout and its mirror image: what the image of the policy would have done, as likely, as good and as valuable
    as what it is the image of (Mittal et al. 2024, arXiv 2403.04359). So an image that the policy itself would hardly
    have made counts for little, and a bound on KL would count how far a policy is from its own image."""
    if rollout.sequences is not None:
        raise ValueError("the image of what a recurrent policy remembers is not known: it learns without mirror")
    rows = {"obs": rollout.obs, "action": rollout.action}
    if rollout.privileged is not None:
        rows["privileged"] = rollout.privileged
    images = mirror({name: value.cpu().numpy() for name, value in rows.items()})
    mirrored: dict[str, Any] = {name: torch.from_numpy(images[name]).to(rows[name]) for name in rows}
    return joined(rollout, replace(rollout, **mirrored))


def _image(obs: Observation, mirror: Mirror) -> Observation:
    """Of observations [B, ...]."""
    policy, privileged = split_observation(obs)
    if privileged is None:
        return mirror({"obs": policy})["obs"]
    images = mirror({"obs": policy, "privileged": privileged})
    return {"policy": images["obs"], "privileged": images["privileged"]}


def _rows(each: list[Observation]) -> Observation:
    """Observations of T steps as one batch [T E, ...]."""
    policy, privileged = zip(*map(split_observation, each), strict=True)
    if privileged[0] is None:
        return np.concatenate(policy)
    return {"policy": np.concatenate(policy), "privileged": np.concatenate(privileged)}


def _taken(obs: Observation, which: np.ndarray) -> Observation:
    """Those observations [B, ...] that are `which` [B]."""
    return {key: rows[which] for key, rows in obs.items()} if isinstance(obs, Mapping) else obs[which]


def _joined(each: list[Observation], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Observations of T steps as tensors [T E, ...]."""
    policy, privileged = split_observation(_rows(each))
    return tensor_of(policy, device), None if privileged is None else tensor_of(privileged, device)
