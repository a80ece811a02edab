"""Benchmarks of worker processes: against others' vector environments, and two of ours against one.

The rates are by wall clock, because what workers are for is to use several cores at once: on a busy machine read their
ratios alone, and beside them what a step costs in CPU time of all processes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from simtoreal import build
from simtoreal.config import RunConfig
from simtoreal.measuring import Row
from simtoreal.worker_handle import process_seconds
from simtoreal.worker_vector import WorkerVectorEnv

WORKERS, PER_WORKER = 2, (1, 4, 16)  # processes, and environments in each
WORKER_TASKS = ("CartPoleSwingUp", "A1Walk")  # about 0.1 ms and 1 ms a control step
SCALED = 4  # environments a worker, where two workers are held against one that has all of them
TURN = 0.3  # [s] that a vector environment is stepped before it is the next one's turn


class _Turns:
    """A vector environment that is stepped in turn with its peers, and the processes it uses."""

    def __init__(self, envs: Any, pids: Sequence[int], action_shape: tuple[int, ...]) -> None:
        self._envs, self._pids, self._size = envs, pids, action_shape[0]
        self._actions = np.random.default_rng(0).uniform(-1, 1, (64, *action_shape)).astype(np.float32)
        self._at = 0
        envs.reset()

    def take(self, seconds: float) -> tuple[float, float]:
        """Environment steps a second, and CPU seconds of all processes a step."""
        cpu, steps, began = self._cpu(), 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            self._at = (self._at + 1) % len(self._actions)
            self._envs.step(self._actions[self._at])
            steps += self._size
        return steps / passed, (self._cpu() - cpu) / steps

    def _cpu(self) -> float:
        return time.process_time() + sum(map(process_seconds, self._pids))


def _take_turns(ours: _Turns, peers: Mapping[str, _Turns], what: str, rounds: int) -> list[Row]:
    """Two rows a peer: the rates, and the CPU time a step."""
    everyone = [ours, *peers.values()]
    for each in everyone:
        each.take(TURN / 3)
    taken: list[dict[int, tuple[float, float]]] = []
    for k in range(rounds):
        order = [(k + i) % len(everyone) for i in range(len(everyone))]  # nobody is always the first
        taken.append({i: everyone[i].take(TURN) for i in order})
    rows = []
    for i, name in enumerate(peers, start=1):
        mine, theirs = (statistics.median(turn[j][0] for turn in taken) for j in (0, i))
        ratio = statistics.median(turn[0][0] / turn[i][0] for turn in taken)
        rows.append(Row("workers", what, mine, name, theirs, "steps/s", ratio))
        mine, theirs = (statistics.median(turn[j][1] for turn in taken) * 1e6 for j in (0, i))
        ratio = statistics.median(turn[i][1] / turn[0][1] for turn in taken)
        rows.append(Row("workers", f"{what}, cost", mine, name, theirs, "CPU us/step", ratio))
    return rows


def bench_workers(rounds: int) -> list[Row]:
    """Our worker processes against gymnasium's and Stable-Baselines3's, and two of ours against one.

    The peers have a process for each environment. All are forked, so that none pays for imports.
    """
    from simtoreal.policies.baselines import subprocess_envs

    rows = []
    for task in WORKER_TASKS:
        config = RunConfig(task=task, steps=1, randomization=build.find_randomization(None, task))
        for each in PER_WORKER:
            make = [partial(build.make_training_env, config, i, 0) for i in range(WORKERS * each)]
            with ExitStack() as stack:
                two, one = (
                    stack.enter_context(closing(WorkerVectorEnv(make, workers, start_method="fork")))
                    for workers in (WORKERS, 1)
                )
                theirs: dict[str, Any] = {
                    "gymnasium AsyncVectorEnv": stack.enter_context(
                        closing(AsyncVectorEnv(make, context="fork", autoreset_mode=AutoresetMode.SAME_STEP))
                    ),
                    "Stable-Baselines3 SubprocVecEnv": stack.enter_context(closing(subprocess_envs(make))),
                }
                shape = two.action_space.shape or ()
                peers = {
                    name: _Turns(envs, [process.pid for process in envs.processes], shape)
                    for name, envs in theirs.items()
                }
                if each == SCALED:
                    peers["one worker of ours"] = _Turns(one, one.pids, shape)
                what = f"{task}, {WORKERS} workers x {each} environments"
                rows += _take_turns(_Turns(two, two.pids, shape), peers, what, rounds)
    return rows
