"""Training loops: generators that step environments, fill a replay and update an agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from simtoreal.policies.agent import Agent, Observation, split_observation, with_policy_part
from simtoreal.policies.history import first_stack, next_stack
from simtoreal.policies.n_step import NStep
from simtoreal.policies.replay import Replay
from simtoreal.policies.sequences import SequenceReplay
from simtoreal.policies.updates import EachUpdate, Updates

Transition = dict[str, np.ndarray]
"""Rows of one vector step under the names of `Replay.add`: obs, action, reward, next_obs, terminated, ..."""

Augment = Callable[[Transition, Mapping[str, Any]], Transition]
Mirror = Callable[[Transition], Transition]
"""The images of rows under any of those names when left and right are exchanged; reward and ends stay the same."""

FAULT_GRACE = 200
"""Environment steps before the share of faults is judged."""

LARGEST = float(np.finfo(np.float32).max)
"""Numbers beyond it are infinite for networks and replay, whatever type the environment has for them."""


class RecurrentAgent(Agent, Protocol):
    """A learner that remembers something of an episode, and learns from a `SequenceReplay`."""

    hidden_state_size: int  # w

    def try_out(self, obs: Observation, hidden_state: Tensor) -> tuple[np.ndarray, Tensor]:
        """Actions [E, m] in [-1, 1] to explore with, and the next hidden state [E, w]."""
        ...


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


def off_policy(
    agent: Agent,
    envs: VectorEnv[Any, Any, Any],
    replay: Replay,
    *,
    steps: int,
    seed: int,
    batch_size: int = 256,
    learning_starts: int = 1_000,
    updates_per_step: float = 1.0,
    history: int = 1,
    report_every: int = 1_000,
    state: LoopState | None = None,
    augment: Augment | None = None,
    mirror: Mirror | None = None,
    n_step: NStep | None = None,
    max_fault_rate: float = 0.05,
    updates: Updates | None = None,
    ahead: bool = False,
) -> Iterator[Progress]:
    """Train until `steps` environment steps over all environments; report every `report_every` of them and at the end.

    Before `learning_starts` actions are uniform in [-1, 1]. Then every environment step earns `updates_per_step`
    gradient steps, so a ratio of .25 with 8 environments is 2 updates a vector step. An ended environment's next
    observation is its `final_obs`, and only `terminated` stops the bootstrap. A transition that is invalid
    (`infos["valid"]`) or not finite is counted in `faults`, not stored; one that was lost with a worker process
    (`infos["lost"]`) is not stored either, but is no fault. `augment` makes further
    transitions of a vector step's E, a whole multiple of E in blocks of E, stored as well (a robot's mirror image, or
    the same motion towards another goal); it also gets the step's infos. Agent, replay and `augment` get the policy's
    part of an observation as the stack [E, k n] of the last `history` = k. With `n_step` what is stored are transitions
    over several steps, and there is no `augment`: what it derives need not hold together from step to step. The images
    that `mirror` gives do; they are stored as if as many environments again had made them.

    Into a `SequenceReplay`, of an agent that remembers, goes every step, with the hidden state before it; those that
    are not to be learned from are marked, and no others are derived.

    `updates` makes the gradient steps, by `agent.update` unless another is given. With `ahead` those that a vector step
    has earned are made after the next actions are chosen, before the environments take them (the last ones at the end):
    so a device that one need not wait for learns while they do.

    Raises ValueError for environments that do not reset in the same step, and for `augment` with `n_step`;
    FaultRateError above `max_fault_rate` of invalid transitions, and what `agent.update` raises.
    """
    check_same_step(envs)
    if augment is not None and n_step is not None:
        raise ValueError("augment derives transitions of one step, n_step sums several: choose one")
    if isinstance(replay, SequenceReplay) and (augment or mirror or n_step):
        raise ValueError("an agent that remembers learns without augment, mirror and n_step")
    if steps < 1 or report_every < 1:
        raise ValueError(f"steps and report_every must be at least 1, got {steps} and {report_every}")
    state = state or LoopState.start(seed)
    n_envs, action_size = envs.num_envs, int(np.prod(envs.single_action_space.shape or ()))
    remembers = cast(RecurrentAgent, agent) if isinstance(replay, SequenceReplay) else None
    width = remembers.hidden_state_size if remembers else 0
    if state.observation is None:
        state.begin(stacked(copied(envs.reset(seed=seed)[0]), history), n_envs, width)
        agent.observe(finite(state.current))
    state.check(n_envs, width)

    began, next_report = time.perf_counter(), (state.step // report_every + 1) * report_every
    episodes: list[dict[str, Any]] = []
    updates = updates or EachUpdate(agent, replay, batch_size)
    while state.step < steps:
        obs, before = finite(state.current), state.hidden_state
        explores = state.step >= learning_starts
        if remembers:
            action, following = remembers.try_out(obs, before.to(agent.device))
            state.hidden_state = following.cpu()
        elif explores:
            action = agent.act(obs, explore=True)
        if not explores:
            action = (2 * torch.rand(n_envs, action_size, generator=state.rng) - 1).numpy()
        if ahead:
            _spend(state, updates)
        next_obs, reward, terminated, truncated, infos = envs.step(action)
        ended = terminated | truncated
        reached = stacked(final_observation(next_obs, ended, infos), history, state.observation)
        rows = transition(state.current, action, reward, reached, terminated)
        valid = valid_rows(rows, infos)
        if remembers:
            begins, whole = state.lengths == 0, {name: _finite(value) for name, value in rows.items()}
            replay.add(**whole, begins=begins, valid=valid, hidden_state=before)
            state.hidden_state = state.hidden_state.masked_fill(torch.from_numpy(ended)[:, None], 0.0)
        sides = with_more(rows, mirror(rows)) if mirror else rows
        kept = with_more(sides, augment(rows, infos)) if augment else sides
        if not valid.all():
            mask = np.tile(valid, len(kept["reward"]) // n_envs)
            kept = {name: value[mask] for name, value in kept.items()}
        if len(kept["reward"]):
            agent.observe(observation_of(kept))
            if n_step is None and not remembers:
                replay.add(**kept)
        if n_step is not None:
            both = len(sides["reward"]) // n_envs
            complete = n_step.push(sides, np.tile(valid, both), np.tile(ended, both))
            if len(complete["reward"]):
                replay.add(**complete)

        state.count(valid, infos, max_fault_rate)
        state.observation = stacked(copied(next_obs), history, state.observation, ended)
        episodes += state.end_episodes(reward, ended, infos)
        if state.step >= learning_starts and len(replay):
            state.credit += n_envs * updates_per_step
        if not ahead or state.step >= steps:
            _spend(state, updates)
        if state.step >= next_report or state.step >= steps:
            metrics = updates.means()
            yield Progress(state.step, time.perf_counter() - began, episodes, metrics, state.faults)
            episodes = []
            next_report = (state.step // report_every + 1) * report_every


def _spend(state: LoopState, updates: Updates) -> None:
    """The gradient steps that environment steps have earned."""
    while state.credit >= 1:
        state.credit -= 1
        updates.step(state.rng)


def check_same_step(envs: VectorEnv[Any, Any, Any]) -> None:
    """Raises ValueError for environments that do not reset in the same step."""
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(f"vector environments must reset in the same step (AutoresetMode.SAME_STEP), got {mode}")


def valid_rows(rows: Transition, infos: Mapping[str, Any]) -> np.ndarray:
    """[E] True where a transition may be learned from: the environment says it is valid, and all of it is finite."""
    valid = np.asarray(infos.get("valid", np.ones(len(rows["reward"]), dtype=bool)), dtype=bool)
    return valid & finite_rows(rows)


def stacked(
    obs: Observation, history: int, before: Observation | None = None, begins: np.ndarray | None = None
) -> Observation:
    """`obs` with the policy's part [E, n] as a stack [E, k n]: that of `before` with the new frame, or `history` = k
    times the frame where an episode `begins` [E] (none does), and everywhere without `before`."""
    if history == 1:
        return obs
    frame = split_observation(obs)[0]
    stack = first_stack(frame, history)
    if before is not None:
        goes_on = np.ones(len(frame), dtype=bool) if begins is None else ~begins
        stack[goes_on] = next_stack(split_observation(before)[0], frame)[goes_on]
    return with_policy_part(obs, stack)


def transition(
    obs: Observation, action: np.ndarray, reward: np.ndarray, next_obs: Observation, terminated: np.ndarray
) -> Transition:
    """One vector step as rows for `Replay.add`."""
    policy, privileged = split_observation(obs)
    next_policy, next_privileged = split_observation(next_obs)
    rows = {"obs": policy, "action": action, "reward": reward, "next_obs": next_policy, "terminated": terminated}
    if privileged is not None and next_privileged is not None:
        rows |= {"privileged": privileged, "next_privileged": next_privileged}
    return rows


def with_more(rows: Transition, more: Transition) -> Transition:
    """`rows`, and after them `more`."""
    return {name: np.concatenate([value, more[name]]) for name, value in rows.items()}


def observation_of(rows: Transition) -> Observation:
    """The observations the steps led to, as an agent takes them."""
    if "next_privileged" in rows:
        return {"policy": rows["next_obs"], "privileged": rows["next_privileged"]}
    return rows["next_obs"]


def finite_rows(rows: Transition) -> np.ndarray:
    """[E] True where every number of the transition is finite."""
    known = np.ones(len(rows["reward"]), dtype=bool)
    for value in rows.values():
        each = is_finite(value)
        if not each.all():
            known &= each.reshape(len(value), -1).all(axis=1)
    return known


def final_observation(next_obs: Observation, ended: np.ndarray, infos: Mapping[str, Any]) -> Observation:
    """`next_obs` with the ended rows replaced by their episode's last. Raises ValueError when that is absent."""
    if not ended.any():
        return next_obs
    if "final_obs" not in infos:
        raise ValueError("an environment ended but infos have no 'final_obs'")
    final = infos["final_obs"]
    if isinstance(next_obs, Mapping):
        rows = {key: np.array(value) for key, value in next_obs.items()}
        for i in np.flatnonzero(ended):
            for key in rows:
                rows[key][i] = final[i][key]
        return rows
    array = np.array(next_obs)
    for i in np.flatnonzero(ended):
        array[i] = final[i]
    return array


def final_value(infos: Mapping[str, Any], i: int, key: str) -> Any:
    """Environment i's `key` of its last info, or None; infos as a list of dicts or as gymnasium's dict of arrays."""
    final = infos.get("final_info")
    if final is None:
        return None
    if isinstance(final, Mapping):
        present = final.get(f"_{key}", np.ones(i + 1, dtype=bool))
        return final[key][i] if key in final and present[i] else None
    return None if final[i] is None else final[i].get(key)


def copied(obs: Observation) -> Observation:
    """A copy: an environment may write its next observation over the last."""
    if isinstance(obs, Mapping):
        return {key: np.array(value) for key, value in obs.items()}
    return np.array(obs)


def finite(obs: Observation) -> Observation:
    """NaN and infinity as 0: such a row's transition is never stored, yet the other environments need their actions."""
    if isinstance(obs, Mapping):
        return {key: _finite(value) for key, value in obs.items()}
    return _finite(obs)


def is_finite(x: np.ndarray) -> np.ndarray:
    """Where `x` is finite in float32, as it is learned from."""
    found: np.ndarray = np.abs(x) <= LARGEST if x.dtype == np.float64 else np.isfinite(x)
    return found


def _finite(x: np.ndarray) -> np.ndarray:
    known = is_finite(x)
    return x if known.all() else np.where(known, x, x.dtype.type(0))
