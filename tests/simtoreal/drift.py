"""A small environment that does to itself what its action says, in worker processes, and how to look at them."""

import ctypes
import os
import signal
import sys
import time
from functools import partial

import cloudpickle
import gymnasium as gym
import numpy as np
import psutil
from gymnasium import spaces

from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.wrapper import RandomizedEnv
from simtoreal.robots.layout import Field, Layout
from simtoreal.worker_vector import WorkerVectorEnv

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import a test

KILL, RAISE, HANG, STUCK, LEAVE, NAN = (1000.0 * k for k in range(1, 7))


class Drift(gym.Env):
    """A random walk with reward signals that does to itself what its action says."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)  # nobody clips what lies outside
    reward_layout = Layout(Field("place", 2, "m"), Field("speed", 1, "m/s"))

    def __init__(self, *, privileged=False, signals=True):
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"policy": box, "privileged": box}) if privileged else box
        self.privileged, self.signals = privileged, signals

    def seen(self):
        return {"policy": self.at.copy(), "privileged": -self.at} if self.privileged else self.at.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if "raise" in (options or {}):
            raise ValueError("no such option")
        self.at, self.steps = self.np_random.normal(size=2).astype(np.float32), 0
        return self.seen(), {"options": options}

    def step(self, action):
        self.misbehave(float(action[0]))
        before = self.at
        self.at = (self.at + self.np_random.normal(size=2) + action).astype(np.float32)
        self.steps += 1
        info = {"is_success": self.steps > 3, "reward_terms": {"place": float(self.at[0])}, "note": object}
        if self.signals:
            info["reward_signals"] = {"place": self.at.tolist(), "speed": [float(self.at[0] - before[0])]}
        if self.steps == 5:
            info["physics_fault"] = True
        reward = np.nan if action[0] == NAN else float(self.at[0])
        return self.seen(), reward, bool(self.at[1] > 3), self.steps >= 7, info

    def misbehave(self, what):
        if what == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == RAISE:
            raise ArithmeticError("the gearbox is\nbroken")
        if what == HANG:
            time.sleep(1000)
        if what == STUCK:
            ctypes.PyDLL(None).sleep(1000)  # in C, and without giving Python back
        if what == LEAVE:
            os._exit(7)


def seeded(env, seed, index):
    """An environment whose episodes are keyed by (seed, index, episode)."""
    return RandomizedEnv(env, Randomizer(Preset.none("Drift"), {}), seed, index)


def keyed(index, **options):
    """Its episodes are keyed by (seed, index, episode), as in a training."""
    return seeded(Drift(**options), 5, index)


def make(envs=4, workers=2, *, factory=keyed, method="fork", **options):
    """`fork` starts at once; no thread of the test's parent matters to a Drift."""
    factories = [partial(factory, i) for i in range(envs)]
    return WorkerVectorEnv(factories, workers, start_method=method, **options)


def drive(envs, steps, seed=5):
    """Everything an environment says for `steps` steps of fixed actions."""
    said = [envs.reset(seed=seed)]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        said.append(envs.step(rng.uniform(-1, 1, (envs.num_envs, 1))))
    return said


def equal(a, b):
    """Equal to the last bit, in type too, through dictionaries and sequences."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) and a.dtype != object:
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if hasattr(a, "__len__") and not isinstance(a, str):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def gone(pids, within):
    """None of the processes lives after `within` seconds (a zombie that waits for its new parent is dead)."""
    until = time.monotonic() + within
    while alive := [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > until:
            return alive
        time.sleep(0.02)
    return []


def action(*values):
    return np.array(values, np.float32)[:, None]


def workers_of(process):
    """The worker processes below it, but not multiprocessing's own helper."""
    return [p for p in process.children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())]
