"""The loop of off-policy learners: a generator that steps environments, fills a replay and updates an agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from simtoreal.policies.agent import Agent
from simtoreal.policies.distributions import chosen_action
from simtoreal.policies.loop_state import LoopState, Progress, check_same_step
from simtoreal.policies.n_step import NStep
from simtoreal.policies.observations import Observation
from simtoreal.policies.prioritized import AnyReplay
from simtoreal.policies.sequences import SequenceReplay
from simtoreal.policies.transitions import (
    Augment,
    Mirror,
    copied,
    final_observation,
    finite,
    observation_of,
    stacked,
    transition,
    valid_rows,
    with_more,
    zeroed,
)
from simtoreal.policies.updates import EachUpdate, Updates


class RecurrentAgent(Agent, Protocol):
    """A learner that remembers something of an episode, and learns from a `SequenceReplay`."""

    hidden_state_size: int  # w

    def try_out(self, obs: Observation, hidden_state: Tensor) -> tuple[np.ndarray, Tensor]:
        """Actions [E, m] in [-1, 1] to explore with, and the next hidden state [E, w]."""
        ...


def off_policy(
    agent: Agent,
    envs: VectorEnv[Any, Any, Any],
    replay: AnyReplay,
    *,
    steps: int,
    seed: int,
    batch_size: int = 256,
    learning_starts: int = 1_000,
    updates_per_step: float = 1.0,
    choices: int = 0,
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

    Before `learning_starts` actions are uniform in [-1, 1], or any of `choices`. Then every environment step earns
    `updates_per_step` gradient steps, so a ratio of .25 with 8 environments is 2 updates a vector step. An ended
    environment's next observation is its `final_obs`, and only `terminated` stops the bootstrap. A transition that is
    invalid (`infos["valid"]`) or not finite is counted in `faults`, not stored; one that was lost with a worker process
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
            action = _random_action(n_envs, action_size, choices, state.rng)
        if ahead:
            _spend(state, updates)
        next_obs, reward, terminated, truncated, infos = envs.step(action)
        ended = terminated | truncated
        reached = stacked(final_observation(next_obs, ended, infos), history, state.observation)
        rows = transition(state.current, action, reward, reached, terminated)
        valid = valid_rows(rows, infos)
        if remembers:
            begins, whole = state.lengths == 0, {name: zeroed(value) for name, value in rows.items()}
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


def _random_action(n: int, size: int, choices: int, rng: torch.Generator) -> np.ndarray:
    """[n, size], uniform in [-1, 1], or each one of `choices`."""
    if choices:
        return chosen_action(torch.randint(choices, (n, size), generator=rng), choices).numpy()
    return (2 * torch.rand(n, size, generator=rng) - 1).numpy()


def _spend(state: LoopState, updates: Updates) -> None:
    """The gradient steps that environment steps have earned."""
    while state.credit >= 1:
        state.credit -= 1
        updates.step(state.rng)
