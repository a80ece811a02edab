"""Benchmarks of the learners on a GPU: one process, wall clock, all work that was begun also waited for.

Sizes and networks are those of `bench_learners`, on both sides; Stable-Baselines3's products are fp32 in every row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from simtoreal.bench_learners import (
    BATCH,
    OBSERVATION,
    PPO_BATCH,
    PPO_ENVS,
    PPO_EPOCHS,
    PPO_ROLLOUT,
    PPO_SIZE,
    SIZE,
    FreeVector,
    filled_replay,
    our_ppo,
    ours,
    sb3,
    sb3_ppo,
)
from simtoreal.measuring import Row, interleaved
from simtoreal.policies.loops import off_policy
from simtoreal.policies.ppo import PPO
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.updates import CapturedUpdates

MODES = {"highest": "fp32", "medium": "tf32 products"}
DEVICE, UPDATES, PEER = "cuda", 200, "Stable-Baselines3 on the GPU"


def waited() -> float:
    """The time, once the GPU has done all it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def bench_gpu(rounds: int) -> list[Row]:
    """Gradient steps and whole learning loops against Stable-Baselines3's on the same GPU."""
    return [*_off_policy(rounds), *_on_policy(rounds)]


def _off_policy(rounds: int) -> list[Row]:
    rows = []
    for name in ("sac", "td3"):
        peer = sb3(name, DEVICE)
        train = partial(peer.model.train, gradient_steps=1, batch_size=BATCH)
        for precision, said in MODES.items():
            updates = CapturedUpdates(ours(name, precision, DEVICE), filled_replay(DEVICE), BATCH)
            step = partial(updates.step, torch.Generator())
            what = f"{name.upper()} updates, {SIZE}, {said}"
            rows.append(_row(what, step, train, UPDATES, rounds, 1, "updates/s"))
        theirs = iter(peer)
        for precision, said in MODES.items():
            agent, replay = ours(name, precision, DEVICE), filled_replay(DEVICE)
            loop = off_policy(
                agent, FreeVector(1), replay, steps=10**9, seed=0, batch_size=BATCH, learning_starts=0,
                report_every=100, updates=CapturedUpdates(agent, replay, BATCH), ahead=True,
            )  # fmt: skip
            what = f"{name.upper()} loop, one environment, an update a step, {SIZE}, {said}"
            rows.append(_row(what, partial(next, loop), partial(next, theirs), 1, rounds, 100, "steps/s"))
    return rows


def _on_policy(rounds: int) -> list[Row]:
    agent, loop = our_ppo(DEVICE)
    theirs = sb3_ppo(DEVICE)
    rollouts = iter(theirs)
    next(rollouts)  # there is a rollout to learn from
    minibatches = PPO_EPOCHS * PPO_ENVS * PPO_ROLLOUT // PPO_BATCH
    update = partial(agent.update, _rollout(agent))
    rows = [_row(f"PPO updates, {PPO_SIZE}, fp32", update, theirs.model.train, 1, rounds, minibatches, "updates/s")]
    per_call = PPO_ENVS * PPO_ROLLOUT
    what = f"PPO loop, {PPO_SIZE}, fp32"
    rows.append(_row(what, partial(next, loop), partial(next, rollouts), 1, rounds, per_call, "steps/s"))
    return rows


def _rollout(agent: PPO) -> Rollout:
    """A random rollout on the agent's device."""
    n = PPO_ENVS * PPO_ROLLOUT
    columns = [torch.randn(n, width, device=agent.device) for width in (OBSERVATION, agent.action_size)]
    log_prob, value, advantage, returns = (torch.randn(n, device=agent.device) for _ in range(4))
    return Rollout(columns[0], None, columns[1], log_prob, value, advantage, returns)


def _row(
    what: str, mine: Callable[[], Any], theirs: Callable[[], Any], repeat: int, rounds: int, each: int, unit: str
) -> Row:
    """`each` of `unit` are made in a call."""
    a, b, ratio = interleaved(mine, theirs, repeat=repeat, rounds=rounds, clock=waited)
    return Row("gpu", what, each / a, PEER, each / b, unit, ratio)
