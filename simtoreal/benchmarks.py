"""Benchmarks of one process: steps, resets, updates, inference.

Each figure is a ratio against a named peer in the same run, interleaved, the median of several rounds. Times are CPU
seconds of this process, so that other work on the machine disturbs them little.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import torch

from simtoreal import build
from simtoreal.randomization.wrapper import RandomizedEnv
from simtoreal.robots import pybullet_world

OBSERVATION, ACTION, HIDDEN, BATCH = 48, 12, (256, 256), 256  # the size of a quadruped's policy
Work = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """`ours` and `peer` in `unit`; `ratio` is how many times better ours is (above 1) than the peer."""

    name: str
    what: str
    ours: float
    peer_name: str
    peer: float
    unit: str
    ratio: float


def _seconds(work: Work, repeat: int) -> float:
    began = time.process_time()
    for _ in range(repeat):
        work()
    return (time.process_time() - began) / repeat


def _interleaved(
    ours: Work, peer: Work, *, repeat: int, rounds: int, before: Work = lambda: None
) -> tuple[float, float, float]:
    """Median CPU seconds a call of both, and the median over rounds of peer / ours. `before` goes before each round,
    and its time counts for nobody."""

    def one_round(repeat: int) -> tuple[float, float]:
        before()
        return _seconds(ours, repeat), _seconds(peer, repeat)

    one_round(max(1, repeat // 10))
    pairs = [one_round(repeat) for _ in range(rounds)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )


def bench_step(rounds: int) -> list[Row]:
    """A control step with everything on against the Bullet calls alone that such a controller cannot avoid.

    Each physics step has one reading of the joints, one write of torques and one step. The bare robot is given
    the torques that ours was given, from the same start and with the same parameters: so both go through the same
    states and touch the ground at the same points, and the engine has the same to do.
    """
    rows = []
    for short, full in build.task_ids().items():
        env, twin = build.make_env(full), build.make_env(full)
        randomizer = build.make_randomizer(short, env, short)
        assert randomizer is not None
        everything = {"parameters": randomizer.draw(0, 0, 0)}
        if "push.speed" in everything["parameters"]:
            everything["parameters"]["push.speed"] = 0.0  # what the engine does in a fall is another matter
        task: Any = twin.unwrapped
        repeat, substeps = min(200, task.horizon), round(task.control_dt / task.physics_dt)
        action = np.zeros(env.action_space.shape or (), np.float32)
        env.reset(seed=0, options=everything)
        torques = _torques(env, [action] * repeat)
        given = [torques[k : k + substeps] for k in range(0, len(torques), substeps)]
        turns: list[Any] = []

        def restart(env: Any = env, twin: Any = twin, everything: Any = everything, given: Any = given) -> None:
            env.reset(seed=0, options=everything)
            twin.reset(seed=0, options=everything)
            turns[:] = given[::-1]  # noqa: B023 (used at once)

        def ours(env: Any = env, action: Any = action) -> None:
            env.step(action)

        def bare(task: Any = task, turns: Any = turns) -> None:
            task.world.bare_steps(turns.pop(), gravity=task.compensates_gravity)

        mine, theirs, ratio = _interleaved(ours, bare, repeat=repeat, rounds=rounds, before=restart)
        what = f"{short}: one control step ({substeps} substeps), all sensors noisy and late"
        rows.append(Row("step", what, mine * 1e6, "bare Bullet calls", theirs * 1e6, "us", ratio))
        twin.close()
        env.close()
    return rows


def bench_reset(rounds: int) -> list[Row]:
    """A randomized reset (a draw of every parameter, the start, the first observation and the report of what really
    applies) against the writes to Bullet alone that it makes: the parameters that changed, joints, base."""
    rows = []
    for short, full in build.task_ids().items():
        make = [build.make_env(full) for _ in range(2)]
        randomizer = build.make_randomizer(short, make[0], short)
        assert randomizer is not None
        env, twin = (RandomizedEnv(each, randomizer) for each in make)
        env.reset()
        turns = itertools.cycle(_writes(twin, resets=32))

        def ours(env: Any = env) -> None:
            env.reset()

        def bare(turns: Any = turns) -> None:
            for write in next(turns):
                write()

        mine, theirs, ratio = _interleaved(ours, bare, repeat=100, rounds=rounds)
        what = f"{short}: one reset, {len(randomizer.names)} parameters drawn, written and read back"
        rows.append(Row("reset", what, mine * 1e3, "its writes to Bullet alone", theirs * 1e3, "ms", ratio))
        twin.close()
        env.close()
    return rows


class _Noted:
    """Stands in for the engine's module and notes the calls that write to it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.writes: list[Work] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._engine, name)
        if not name.startswith(("change", "set", "reset")):
            return call

        def noted(*args: Any, **options: Any) -> Any:
            self.writes.append(partial(call, *args, **options))
            return call(*args, **options)

        return noted


def _writes(env: Any, resets: int) -> list[list[Work]]:
    """What each of some resets writes to the engine."""
    noted = []
    with mock.patch.object(pybullet_world, "bullet", _Noted(vars(pybullet_world)["bullet"])) as engine:
        for _ in range(resets):
            engine.writes = []
            env.reset()
            noted.append(engine.writes)
    return noted


def _torques(env: Any, actions: Sequence[np.ndarray]) -> list[list[float]]:
    """What the world is given in each physics step of these control steps."""
    world, given = env.unwrapped.world, []
    step = world.step

    def noted(torque: Sequence[float], *, base: bool = True) -> Any:
        given.append(list(torque))
        return step(torque, base=base)

    world.step = noted
    for action in actions:
        env.step(action)
    del world.step
    return given


def _sac_batch() -> tuple[Any, Any]:
    from simtoreal.policies.replay import Replay
    from simtoreal.policies.sac import SAC, SACConfig

    rng = np.random.default_rng(0)
    replay = Replay(4096, OBSERVATION, ACTION)
    replay.add(
        rng.standard_normal((4096, OBSERVATION), np.float32),
        rng.uniform(-1, 1, (4096, ACTION)).astype(np.float32),
        rng.standard_normal(4096).astype(np.float32),
        rng.standard_normal((4096, OBSERVATION), np.float32),
        np.zeros(4096, np.float32),
    )
    return SAC(OBSERVATION, ACTION, 0, SACConfig(hidden=HIDDEN, batch_size=BATCH), seed=0), replay


class _Free(gym.Env[np.ndarray, np.ndarray]):
    """An environment that costs nothing; never stepped here."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (ACTION,), np.float32)


def _sb3_sac() -> Any:
    from simtoreal.policies.baselines import learn_sb3
    from simtoreal.workers import LocalVectorEnv

    settings = {"batch_size": BATCH, "policy_kwargs": {"net_arch": list(HIDDEN)}}
    model: Any = learn_sb3("sac", LocalVectorEnv([_Free]), settings, steps=1, seed=0).model
    rng = np.random.default_rng(0)
    for _ in range(4096):
        row = rng.standard_normal((2, 1, OBSERVATION)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, ACTION)).astype(np.float32)
        model.replay_buffer.add(row[0], row[1], action, np.zeros(1), np.zeros(1), [{}])
    return model


def bench_update(rounds: int) -> list[Row]:
    """A SAC gradient step against Stable-Baselines3's, same networks and batch, float32, one thread."""
    agent, replay = _sac_batch()
    model = _sb3_sac()
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        agent.update(replay.sample(BATCH, generator))

    def peer() -> None:
        model.train(gradient_steps=1, batch_size=BATCH)

    mine, theirs, ratio = _interleaved(ours, peer, repeat=40, rounds=rounds)
    what = f"SAC updates, observation {OBSERVATION}, action {ACTION}, 2x256, batch {BATCH}, fp32, 1 thread"
    return [Row("update", what, 1 / mine, "Stable-Baselines3", 1 / theirs, "updates/s", ratio)]


def bench_inference(rounds: int) -> list[Row]:
    """One inference of the exported policy through the onboard runtime against torch and SB3's predict."""
    from simtoreal.export.bundle import write_bundle
    from simtoreal.export.onboard.runtime import Runtime
    from simtoreal.export.onboard.spec import CommandMap, Field, Spec

    agent, _ = _sac_batch()
    actor, model = agent.actor(), _sb3_sac()
    ones = (1.0,) * ACTION
    spec = Spec(
        task="bench",
        algorithm="sac",
        control_dt=0.02,
        observation=(Field("observation", OBSERVATION, "-"),),
        command=(Field("command", ACTION, "-"),),
        command_map=CommandMap((0.0,) * ACTION, ones, tuple(-x for x in ones), ones),
    )
    observations = np.random.default_rng(0).standard_normal((64, OBSERVATION)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(
            write_bundle(Path(folder) / "bundle", actor=actor, spec=spec, recorded_observations=observations)
        )
    one = observations[0]

    def ours() -> None:
        runtime.act(one)

    def in_torch() -> None:
        with torch.inference_mode():
            actor(torch.from_numpy(one)[None])

    rows = []
    for name, peer in (
        ("torch", in_torch),
        ("Stable-Baselines3 predict", lambda: model.predict(one, deterministic=True)),
    ):
        mine, theirs, ratio = _interleaved(ours, peer, repeat=1000, rounds=rounds)
        what = f"one inference, {OBSERVATION} -> 256 -> 256 -> {ACTION}, checks included"
        rows.append(Row("inference", what, mine * 1e6, name, theirs * 1e6, "us", ratio))
    return rows
