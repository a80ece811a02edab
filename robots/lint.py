"""What an observation holds that no sensor of its robot gives: a policy that needs it cannot leave the simulator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.task import Task
from simtoreal.robots.terrain import PARAMETERS

EPISODES, STEPS = 3, 8  # control steps before each look
MEMORY = 16  # control steps after which a controller that remembers has seen the same
SAME = 1e-6
OFF = 0.05  # of the way from nominal to a bound


def unsensed(env: Task) -> list[str]:
    """The names of the observation's fields that change when the robot has moved on, as another one in every
    parameter, although every reading, the command, the goal and the clock are as they were; empty where all follow from
    these. What is the same for all of this, such as a contact that does not come about, is not found."""
    found: set[str] = set()
    for seed in range(EPISODES):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        _move(env)
        known = env.readings, env.last_command, env.control_step
        before = _look(env, *known)
        env.set_parameters(_others(env.parameters.values()))
        _move(env)
        after = _look(env, *known)
        found |= {name for name in before if not np.allclose(before[name], after[name], SAME, SAME)}
    return [field.name for field in env.observation_layout.fields if field.name in found]


def _others(parameters: Iterable[Parameter]) -> dict[str, float]:
    """A little off nominal; the ground keeps its shape, on which the robot stands."""
    return {
        p.name: p.nominal + OFF * ((p.high if p.high > p.nominal else p.low) - p.nominal)
        for p in parameters
        if p.name not in PARAMETERS
    }


def _move(env: Task) -> None:
    for _ in range(STEPS):
        env.step(env.action_space.sample())


def _look(
    env: Task, readings: Mapping[str, Any], command: Sequence[float], control_step: int
) -> dict[str, NDArray[np.float64]]:
    """What would be observed if a controller had had these readings for some time."""
    env.control_step = control_step
    for _ in range(MEMORY):
        env.remember(readings)
    return {name: np.array(value, float) for name, value in env.observe(readings, command).items()}
