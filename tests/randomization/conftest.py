from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import RecordConstructorArgs


@dataclass(frozen=True)
class ToyParameter:
    unit: str
    nominal: float
    low: float
    high: float


TABLE = {
    "link.base.mass": ToyParameter("kg", 4.0, 1.0, 20.0),
    "link.arm.mass": ToyParameter("kg", 2.0, 0.5, 10.0),
    "link.arm.com.x": ToyParameter("m", 0.1, -0.2, 0.4),
    "joint.left.damping": ToyParameter("N m s/rad", 0.1, 0.0, 1.0),
    "joint.right.damping": ToyParameter("N m s/rad", 0.2, 0.0, 1.0),
    "ground.friction": ToyParameter("-", 0.8, 0.1, 2.0),
    "actuator.latency": ToyParameter("s", 0.0, 0.0, 0.1),
}


class SlidingBlock(gymnasium.Env, RecordConstructorArgs):
    """A block on the ground: obs [x m, v m/s], action [1] newtons; it reports every parameter."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, reports: bool = True) -> None:
        RecordConstructorArgs.__init__(self, reports=reports)
        self.parameters = TABLE
        self.reports = reports
        self.values = {name: parameter.nominal for name, parameter in TABLE.items()}
        self.last_reset = {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.last_reset = {"seed": seed, "options": options}
        given = (options or {}).get("parameters", {})
        self.values = {name: given.get(name, parameter.nominal) for name, parameter in TABLE.items()}
        self.state = np.array([self.np_random.normal(), 0.0])
        return self.state.astype(np.float32), {"parameters": dict(self.values)} if self.reports else {}

    def step(self, action):
        self.state[1] += 0.02 * (
            float(action[0]) / self.values["link.base.mass"] - 0.1 * self.values["ground.friction"]
        )
        self.state[0] += 0.02 * self.state[1]
        return self.state.astype(np.float32), -abs(float(self.state[0])), False, False, {}


@pytest.fixture
def table():
    return dict(TABLE)


@pytest.fixture
def block():
    return SlidingBlock


@pytest.fixture
def preset_text():
    return """\
task: Toy
version: 3
entries:
  link.*.mass:      {scale: {uniform: [0.8, 1.2]}, source: somewhere}
  link.arm.com.x:   {offset: {uniform: [-0.05, 0.05]}}
  joint.*.damping:  {scale: {uniform: [0.5, 1.5]}, shared: true}
  ground.friction:  {uniform: [0.5, 1.25]}
  actuator.latency: {truncated_normal: {mean: 0.01, std: 0.005, low: 0.0, high: 0.02}}
"""
