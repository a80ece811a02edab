"""What a control step costs beside physics, here and in the environments that people train on.

Each call to Bullet that a step makes is timed as it is made; what the whole step takes longer is Python. Peers are
measured where they are installed (`pip install pybullet_envs_gymnasium panda-gym`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np

from simtoreal.build import make_env
from simtoreal.measuring import Row
from simtoreal.robots import pybullet_world

bullet = vars(pybullet_world)["bullet"]
PEERS = (
    ("A1Walk", "pybullet_envs_gymnasium", "AntBulletEnv-v0"),
    ("A1Walk", "pybullet_envs_gymnasium", "HalfCheetahBulletEnv-v0"),
    ("PandaReach", "panda_gym", "PandaReach-v3"),
)
STEPS = 100
EMPTY = 10_000


class _Watch:
    """Adds up the time within calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""
        clock = time.process_time

        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            begin = clock()
            try:
                return function(*args, **options)
            finally:
                self.seconds += clock() - begin
                self.calls += 1

        return timed


@contextmanager
def _timing() -> Iterator[_Watch]:
    """Every function of Bullet is timed, for what is made or looked up within."""
    watch = _Watch()
    functions = {name: f for name, f in vars(bullet).items() if callable(f) and not isinstance(f, type)}
    for name, function in functions.items():
        setattr(bullet, name, watch.over(function))
    try:
        yield watch
    finally:
        for name, function in functions.items():
            setattr(bullet, name, function)


class _Stepped:
    """An environment under actions of zero: a whole step is timed without, its calls to Bullet with a watch."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], *, holds_on: bool) -> None:
        """`holds_on`: does it keep Bullet's functions, and so need a twin for the watch? Others look a function up at
        every call, and some do not bear a second environment of their kind."""
        self._env = make()
        self._env.reset(seed=0)  # some connect to Bullet no sooner, and take themselves for its only client
        self._watched = self._env
        if holds_on:
            with _timing() as self._watch:
                self._watched = make()
        space = self._env.action_space
        self._action = np.zeros(space.shape or (), space.dtype)
        empty = _Watch()
        nothing = empty.over(lambda: None)
        for _ in range(EMPTY):
            nothing()
        self._empty = empty.seconds / EMPTY  # what the watch itself takes of a call's time

    def outside(self) -> float:
        """Seconds of a control step outside Bullet."""
        whole = self._run(self._env, None)
        if self._watched is not self._env:
            return whole - self._run(self._watched, self._watch)
        with _timing() as watch:
            return whole - self._run(self._env, watch)

    def _run(self, env: gym.Env[Any, Any], watch: _Watch | None) -> float:
        env.reset(seed=0)
        action, step = self._action, env.step
        if watch is not None:
            watch.seconds, watch.calls = 0.0, 0
        begin = time.process_time()
        for _ in range(STEPS):
            step(action)
        return (time.process_time() - begin if watch is None else watch.seconds - watch.calls * self._empty) / STEPS

    def close(self) -> None:
        self._env.close()
        if self._watched is not self._env:
            self._watched.close()


def bench_overhead(rounds: int) -> list[Row]:
    """Time outside Bullet of a control step, ours with what a peer's robot has not: an explicit drive in every physics
    step, an IMU, delays, named reward signals, a scorer."""
    rows = []
    for task, package, name in PEERS:
        if find_spec(package) is None:
            continue
        peer = _Stepped(partial(gym.make, f"{package}:{name}", disable_env_checker=True), holds_on=False)
        mine = _Stepped(partial(make_env, f"simtoreal/{task}-v0"), holds_on=True)
        pairs = [(mine.outside(), peer.outside()) for _ in range(rounds + 1)][1:]  # the first warms up
        ours, theirs = (1e6 * statistics.median(times) for times in zip(*pairs, strict=True))
        what = f"{task}: time outside Bullet of a control step"
        rows.append(Row("overhead", what, ours, name, theirs, "us", statistics.median(b / a for a, b in pairs)))
        mine.close()
        peer.close()
    return rows
