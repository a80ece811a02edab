"""Benchmarks of learners of choices: DQN's whole loop and its update, and what priorities add to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from simtoreal import bench_sbx
from simtoreal.bench_learners import MODES, OBSERVATION, FreeVector, loop_row, update_ours, updates_of
from simtoreal.measuring import Row, interleaved
from simtoreal.policies.dqn import DQN, DQNConfig
from simtoreal.policies.frames import FrameReplay
from simtoreal.policies.loops import off_policy
from simtoreal.policies.prioritized import PrioritizedReplay
from simtoreal.policies.replay import Replay
from simtoreal.policies.updates import EachUpdate, Updates

CHOICES = 4
SIZES = {  # hidden layers, batch, environment steps to an update
    "2x64, batch 32, an update every 4 steps": ((64, 64), 32, 4),
    "2x256, batch 256, an update a step": ((256, 256), 256, 1),
}
HELD = 100_000  # transitions of which priorities are measured
FILLED = 4_096
IMAGE = (4, 84, 84)
IMAGE_BATCH, IMAGE_HIDDEN, IMAGES = 32, (512,), 512


def _agent(hidden: tuple[int, ...], batch: int, every: int, **settings: Any) -> DQN:
    """Ours, with Stable-Baselines3's settings of what is not of the row."""
    image = settings.pop("image", None)
    config = DQNConfig(
        hidden=hidden, batch_size=batch, updates_per_step=1 / every, target_every=10_000 // every, learning_rate=1e-4,
        normalize_observations=False, **settings,
    )  # fmt: skip
    size = OBSERVATION if image is None else int(np.prod(image))
    return DQN(size, 1, config=config, choices=CHOICES, image=image)


def _peer(hidden: tuple[int, ...], batch: int, every: int, **more: Any) -> Any:
    """Stable-Baselines3's DQN of that size."""
    from simtoreal.policies.baselines import learn_sb3

    settings = {
        "batch_size": batch, "policy_kwargs": {"net_arch": list(hidden)}, "learning_starts": 0, "train_freq": every,
        "buffer_size": HELD,
    }  # fmt: skip
    envs = FreeVector(1, 1)
    if image := more.get("image"):
        settings |= {"policy_kwargs": {}, "buffer_size": IMAGES}  # its CnnPolicy is the network of Mnih et al. 2015
        envs.single_observation_space = gym.spaces.Box(0, 255, image, np.uint8)
    return learn_sb3("dqn", envs, settings, steps=10**9, seed=0, choices=CHOICES, report_every=100, **more)


def _filled(n: int, capacity: int = HELD) -> Replay:
    """A replay of random transitions."""
    rng, replay = np.random.default_rng(0), Replay(capacity, OBSERVATION, 1)
    for _ in range(n // FILLED):
        replay.add(
            rng.standard_normal((FILLED, OBSERVATION), np.float32),
            2.0 * rng.integers(0, CHOICES, (FILLED, 1)) / (CHOICES - 1) - 1.0,
            rng.standard_normal(FILLED),
            rng.standard_normal((FILLED, OBSERVATION), np.float32),
            np.zeros(FILLED),
        )
    return replay


def bench_dqn(rounds: int) -> list[Row]:
    """Whole loops on an environment that costs nothing, the update on images, and the share of priorities."""
    return [row for part in (_loops, _pixels, _priorities) for row in part(rounds)]


def _loops(rounds: int) -> list[Row]:
    rows = []
    for size, (hidden, batch, every) in SIZES.items():
        peer = iter(_peer(hidden, batch, every))
        for (precision, compiled), said in MODES.items():
            agent, replay = _agent(hidden, batch, every, matmul_precision=precision), _filled(FILLED)
            loop = off_policy(
                agent, FreeVector(1, 1), replay, steps=10**9, seed=0, batch_size=batch, learning_starts=0,
                updates_per_step=1 / every, choices=CHOICES, report_every=100,
                updates=updates_of(agent, replay, compiled),
            )  # fmt: skip
            what = f"DQN loop, one environment, {CHOICES} choices, observation {OBSERVATION}, {size}, {said}"
            rows.append(loop_row(what, loop, peer, 100, rounds, row="dqn"))
        if bench_sbx.installed():
            rows += _against_sbx(hidden, batch, size, rounds)
    return rows


def _against_sbx(hidden: tuple[int, ...], batch: int, size: str, rounds: int) -> list[Row]:
    """Updates of both, of SBX many in one call, where it is fastest."""
    rows, each = [], 40
    model = _peer(hidden, batch, 1).model
    theirs = bench_sbx.learner("dqn", model.get_env(), batch, hidden)
    theirs.set_logger(model.logger)
    rng = np.random.default_rng(0)
    for _ in range(FILLED):
        row = rng.standard_normal((2, 1, OBSERVATION)).astype(np.float32)
        theirs.replay_buffer.add(row[0], row[1], rng.integers(0, CHOICES, (1,)), np.zeros(1), np.zeros(1), [{}])
    for compiled, said in ((False, "fp32"), (True, "fp32, compiled")):
        updates = updates_of(_agent(hidden, batch, 1), _filled(FILLED), compiled)
        with bench_sbx.one_cpu():
            a, b, ratio = interleaved(
                _steps(updates, each), partial(theirs.train, each, batch), repeat=10, rounds=rounds
            )
        what = f"DQN updates, observation {OBSERVATION}, {size.rpartition(',')[0]}, {said}"
        rows.append(Row("dqn", what, each / a, f"SBX (JAX), {each} updates a call", each / b, "updates/s", ratio))
    return rows


def _steps(updates: Updates, times: int) -> Callable[[], None]:
    return partial(update_ours, updates, times, torch.Generator().manual_seed(0))


def _priorities(rounds: int) -> list[Row]:
    """An update with priorities against one without."""
    rows = []
    for size, (hidden, batch, _) in SIZES.items():
        for compiled, said in ((False, "fp32"), (True, "fp32, compiled")):
            plain = updates_of(_agent(hidden, batch, 1), _filled(HELD), compiled)
            replay = PrioritizedReplay(Replay(HELD, OBSERVATION, 1), 0.6)
            replay.add(**_filled(HELD).rows(0, HELD // FILLED * FILLED))
            ranked = updates_of(_agent(hidden, batch, 1, prioritized=True), replay, compiled)
            a, b, ratio = interleaved(_steps(ranked, 20), _steps(plain, 20), repeat=10, rounds=rounds)
            what = f"DQN updates by priority, {size.rpartition(',')[0]}, {HELD:,} held, {said}"
            rows.append(Row("dqn", what, 20 / a, "without priorities", 20 / b, "updates/s", ratio))
    return rows


def _pixels(rounds: int) -> list[Row]:
    """An update on stacks of frames against Stable-Baselines3's with its CnnPolicy, the same network."""
    rng = np.random.default_rng(0)
    agent = _agent(IMAGE_HIDDEN, IMAGE_BATCH, 1, image=IMAGE)
    replay, model = FrameReplay(IMAGES, IMAGE, 1), _peer((), IMAGE_BATCH, 1, image=IMAGE).model
    for _ in range(IMAGES // 2):
        frames, choice = rng.integers(0, 256, (5, *IMAGE[1:]), np.uint8), rng.integers(0, CHOICES, (1,))
        obs, next_obs = frames[None, :4], frames[None, 1:]
        action = 2.0 * choice[:, None] / (CHOICES - 1) - 1.0
        replay.add(obs, action, np.zeros(1), next_obs, np.zeros(1))
        model.replay_buffer.add(obs, next_obs, choice, np.zeros(1), np.zeros(1), [{}])
    a, b, ratio = interleaved(
        _steps(EachUpdate(agent, replay, IMAGE_BATCH), 2), partial(model.train, 2, IMAGE_BATCH), repeat=3, rounds=rounds
    )
    what = f"DQN updates on images {list(IMAGE)}, batch {IMAGE_BATCH}, the network of Mnih et al. 2015, fp32"
    return [Row("dqn", what, 2 / a, "Stable-Baselines3", 2 / b, "updates/s", ratio)]
