"""What a control step costs beside physics, here and in the environments that people train on.

The calls to Bullet that an episode makes are recorded, and later made again alone; what the episode takes longer is
Python. Peers are measured where they are installed (`pip install pybullet_envs_gymnasium panda-gym`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
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
STEPS, GOES = 50, 20  # of an episode; episodes a round


class _Record:
    """The calls made to functions: what, and with which arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.on = False

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are recorded while this is on."""

        @wraps(function)
        def recorded(*args: Any, **options: Any) -> Any:
            if self.on:
                self.calls.append((function, deepcopy(args), deepcopy(options)))
            return function(*args, **options)

        return recorded


@contextmanager
def _recording() -> Iterator[_Record]:
    """Every function of Bullet is recorded, for what is made or looked up within."""
    record = _Record()
    functions = {name: f for name, f in vars(bullet).items() if callable(f) and not isinstance(f, type)}
    for name, function in functions.items():
        setattr(bullet, name, record.of(function))
    try:
        yield record
    finally:
        for name, function in functions.items():
            setattr(bullet, name, function)


class _Stepped:
    """An environment under actions of zero, and the calls to Bullet of each of its steps alone."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], *, holds_on: bool) -> None:
        """`holds_on`: does it keep Bullet's functions, so that it records for ever if it is made while calls are
        recorded? Others look a function up at every call, and some do not bear a second environment of their kind."""
        self._env = make()
        self._env.reset(seed=0)  # some connect to Bullet no sooner, and take themselves for its only client
        space = self._env.action_space
        self._action = np.zeros(space.shape or (), space.dtype)
        self._least = {self._steps: np.full(STEPS, np.inf), self._bare: np.full(STEPS, np.inf)}
        self._recorded = self._env
        self._calls = []
        with _recording() as record:
            if holds_on:
                self._recorded = make()
            self._recorded.reset(seed=0)
            for _ in range(STEPS):
                record.calls, record.on = [], True
                self._recorded.step(self._action)
                record.on = False
                self._calls.append(record.calls)

    def outside(self) -> float:
        """Seconds of a control step outside Bullet: of each step of an episode the least that it ever took, less the
        least of its calls, since what else a machine does adds more than the difference of the two."""
        return float(np.mean(self._least[self._steps]) - np.mean(self._least[self._bare]))

    def measure(self) -> None:
        """Some goes at the episode, whole and its calls alone."""
        clock = time.process_time
        for _ in range(GOES):
            for run, env in ((self._steps, self._env), (self._bare, self._recorded)):
                env.reset(seed=0)
                took, begin = [], clock()
                for _ in run():
                    end = clock()
                    took.append(end - begin)
                    begin = end
                np.minimum(self._least[run], took, out=self._least[run])

    def _steps(self) -> Iterator[None]:
        action, step = self._action, self._env.step
        for _ in range(STEPS):
            step(action)
            yield

    def _bare(self) -> Iterator[None]:
        for calls in self._calls:
            for function, args, options in calls:
                function(*args, **options)
            yield

    def close(self) -> None:
        self._env.close()
        if self._recorded is not self._env:
            self._recorded.close()


def bench_overhead(rounds: int) -> list[Row]:
    """Time outside Bullet of a control step, ours with what a peer's robot has not: an explicit drive in every physics
    step, an IMU, delays, named reward signals, a scorer."""
    rows = []
    for task, package, name in PEERS:
        if find_spec(package) is None:
            continue
        peer = _Stepped(partial(gym.make, f"{package}:{name}", disable_env_checker=True), holds_on=False)
        mine = _Stepped(partial(make_env, f"simtoreal/{task}-v0"), holds_on=True)
        for _ in range(rounds):
            mine.measure()
            peer.measure()
        ours, theirs = 1e6 * mine.outside(), 1e6 * peer.outside()
        what = f"{task}: time outside Bullet of a control step, least of {rounds * GOES}"
        rows.append(Row("overhead", what, ours, name, theirs, "us", theirs / ours))
        mine.close()
        peer.close()
    return rows
