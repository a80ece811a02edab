"""Benchmarks of one process: steps and resets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from simtoreal import build
from simtoreal.measuring import Row, Work, interleaved
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.wrapper import RandomizedEnv
from simtoreal.robots import pybullet_world

ROBOTS = ("A1Walk", "CartPoleSwingUp", "PandaReach")  # in which the cost of randomization is looked at


def bench_step(rounds: int) -> list[Row]:
    """A control step with everything on against the Bullet calls alone that such a controller cannot avoid.

    Each physics step has one reading of the joints, one write of torques and one step. The bare robot is given the
    torques (and the thrust) that ours was given, from the same start and with the same parameters: so both go through
    the same states and touch the ground at the same points, and the engine has the same to do.
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
        steps = _given(env, [action] * repeat)
        given = [steps[k : k + substeps] for k in range(0, len(steps), substeps)]
        turns: list[Any] = []

        def restart(env: Any = env, twin: Any = twin, everything: Any = everything, given: Any = given) -> None:
            env.reset(seed=0, options=everything)
            twin.reset(seed=0, options=everything)
            turns[:] = given[::-1]  # noqa: B023 (used at once)

        def ours(env: Any = env, action: Any = action) -> None:
            env.step(action)

        def bare(task: Any = task, turns: Any = turns) -> None:
            task.world.bare_steps(turns.pop(), gravity=task.compensates_gravity)

        mine, theirs, ratio = interleaved(ours, bare, repeat=repeat, rounds=rounds, before=restart)
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

        mine, theirs, ratio = interleaved(ours, bare, repeat=100, rounds=rounds)
        what = f"{short}: one reset, {len(randomizer.names)} parameters drawn, written and read back"
        rows.append(Row("reset", what, mine * 1e3, "its writes to Bullet alone", theirs * 1e3, "ms", ratio))
        twin.close()
        env.close()
    return rows


def bench_randomization(rounds: int) -> list[Row]:
    """What randomization costs: a reset that draws, writes and reads back every parameter of the preset, less one of a
    nominal robot, beside the latter; and control steps of drawn robots beside those of the nominal one, both with
    actions of 0. Of arms a part of it is the engine's own: joints with Coulomb friction are seven more constraints."""
    rows = []
    for short in ROBOTS:
        full = build.task_ids()[short]
        whole, nominal = (_randomized(full, short, preset) for preset in (short, "none"))
        names = len(whole.randomizer.names)

        def reset(side: Any) -> None:
            side.reset()

        mine, theirs, ratio = interleaved(partial(reset, whole), partial(reset, nominal), repeat=100, rounds=rounds)
        what = f"{short}: what {names} drawn parameters add to a reset"
        added, ratio = max(mine - theirs, 1e-9), 1.0 / max(1.0 / ratio - 1.0, 1e-9)
        rows.append(Row("randomization", what, added * 1e3, "a nominal robot's reset", theirs * 1e3, "ms", ratio))
        task: Any = whole.unwrapped
        repeat = min(100, task.horizon)
        action = np.zeros(whole.action_space.shape or (), np.float32)

        def restart(sides: Any = (whole, nominal)) -> None:
            for side in sides:
                side.reset()

        def step(side: Any, action: Any = action) -> None:
            side.step(action)

        mine, theirs, ratio = interleaved(
            partial(step, whole), partial(step, nominal), repeat=repeat, rounds=8 * rounds, before=restart
        )
        what = f"{short}: one control step, {names} parameters drawn"
        rows.append(Row("randomization", what, mine * 1e6, "of the nominal robot", theirs * 1e6, "us", ratio))
        whole.close()
        nominal.close()
    return rows


def _randomized(full: str, short: str, preset: str) -> RandomizedEnv:
    """An environment of this preset that has been reset once."""
    env = build.make_env(full)
    found = build.make_randomizer(preset, env, short) or Randomizer(Preset.none(short), build.parameters_of(env))
    made = RandomizedEnv(env, found)
    made.reset()
    return made


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


def _given(env: Any, actions: Sequence[np.ndarray]) -> list[tuple[list[float], Sequence[float]]]:
    """What the world is given in each physics step of these control steps: joint torques, wrench."""
    world = env.unwrapped.world
    given: list[tuple[list[float], Sequence[float]]] = []
    step = world.step

    def noted(torque: Sequence[float], wrench: Sequence[float] = (), *, base: bool = True) -> Any:
        given.append((list(torque), tuple(wrench)))
        return step(torque, wrench, base=base)

    calls, world.calls = world.calls, None  # else a compiled loop makes the steps
    world.step = noted
    for action in actions:
        env.step(action)
    del world.step
    world.calls = calls
    return given
