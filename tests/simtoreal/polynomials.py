"""Environments of one step whose reward is a known function of their parameters."""

import math

import gymnasium as gym
import numpy as np

from simtoreal.robots.parameters import Parameter, ParameterTable


class Known(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    names = ("a", "b", "c", "d.1", "d.2")
    low, high = -1.0, 1.0

    def __init__(self):
        self.parameters = ParameterTable(Parameter(name, "-", 0.0, self.low, self.high) for name in self.names)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._values = self.parameters.complete((options or {}).get("parameters", {}))
        self._luck = self.np_random.normal()  # the same in all episodes of a seed
        return np.zeros(1, np.float32), {"parameters": dict(self._values)}

    def set_parameters(self, values):
        self._values = self.parameters.complete(values, self._values)
        return dict(self._values)

    def step(self, action):
        reward = self.reward(**{name.replace(".", ""): value for name, value in self._values.items()})
        return np.zeros(1, np.float32), float(reward + self._luck), False, True, {"is_success": bool(reward > 0.5)}


class Linear(Known):
    """3 a - b + (d1 + d2) / 4; c has no part in it."""

    @staticmethod
    def reward(a, b, c, d1, d2):
        return 3.0 * a - b + (d1 + d2) / 4


class Ishigami(Known):
    """sin a + 7 sin^2 b + 0.1 c^4 sin a on [-pi, pi]^3 (Ishigami and Homma 1990)."""

    names = ("a", "b", "c")
    low, high = -math.pi, math.pi

    @staticmethod
    def reward(a, b, c):
        return math.sin(a) + 7.0 * math.sin(b) ** 2 + 0.1 * c**4 * math.sin(a)


def act(observation):
    return np.zeros(1)


for made in (Linear, Ishigami):
    gym.register(f"{made.__name__}-v0", made, max_episode_steps=1)
