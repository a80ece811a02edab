"""A task that wants a memory, and how well an actor does it."""

import gymnasium as gym
import numpy as np
import torch

from simtoreal.policies.history import Driver


def stir(module):
    """Weights and biases that are all of some size."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


class Recall(gym.Env):
    """The first observation says left or right; it pays 1 to say so ten steps later, and nothing before."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    length = 10

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.cue = self.length, float(self.np_random.choice([-1, 1]))
        return np.array([self.cue, 1], np.float32), {}

    def step(self, action):
        self.left -= 1
        right = self.left == 0 and np.sign(action[0]) == self.cue
        return np.array([0, self.left / self.length], np.float32), float(right), self.left == 0, False, {}


def remembered(actor):
    """How often an exported actor is right."""
    driver, env, right = Driver(actor), Recall(), []
    for episode in range(20):
        (obs, _), over = env.reset(seed=episode), False
        driver.reset()
        while not over:
            obs, reward, over, *_ = env.step(driver.act(obs))
        right.append(reward)
    return np.mean(right)
