import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from simtoreal.policies.adam import Adam
from simtoreal.policies.loops import off_policy
from simtoreal.policies.replay import Replay


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _gradients_stay(monkeypatch):
    """Every step of an optimizer leaves its gradients, as they are given, at the weights, to be looked at."""
    step = Adam.step

    def noted(self, gradients, *options, **more):
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        step(self, gradients, *options, **more)

    monkeypatch.setattr(Adam, "step", noted)


class Toy(gym.Env):
    """Observation x in [-1, 1], new each step; reward -(a - x / 2)^2 + `bonus`; an episode lasts `length` steps."""

    def __init__(self, length: int = 1, bonus: float = 0.0, action_reward: float = 1.0, truncate: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.length, self.bonus, self.action_reward, self.truncate = length, bonus, action_reward, truncate

    def _observe(self):
        self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        error = float(action[0] - self.x[0] / 2)
        self.steps += 1
        over = self.steps >= self.length
        reward = self.bonus - self.action_reward * error**2
        return (
            self._observe(),
            reward,
            over and not self.truncate,
            over and self.truncate,
            {"is_success": abs(error) < 0.1},
        )


@pytest.fixture
def toy():
    return Toy


@pytest.fixture
def vectorized():
    """n toys in a vector environment."""

    def make(n: int = 1, **kwargs) -> VectorEnv:
        return SyncVectorEnv([lambda: Toy(**kwargs)] * n, autoreset_mode=AutoresetMode.SAME_STEP)

    return make


class Scripted(VectorEnv):
    """Two environments; observation [environment, steps since the beginning]; environment 0 ends every third step.

    `changes` maps a step to what replaces its (obs, reward, terminated, truncated, infos), given them.
    """

    def __init__(self, changes=None, privileged=False, terminate=True):
        self.num_envs = 2
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.changes, self.privileged, self.terminate = changes or {}, privileged, terminate
        self.actions = []

    def _pack(self, obs):
        return {"policy": obs, "privileged": obs[:, 1:] * 10} if self.privileged else obs

    def _observe(self):
        return np.array([[0, self.t], [1, self.t]], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._pack(self._observe()), {}

    def step(self, action):
        self.actions.append(action.copy())
        self.t += 1
        obs, infos = self._observe(), {"valid": np.array([True, True])}
        ended = np.array([self.t % 3 == 0, False])
        if ended[0]:
            obs[0, 1] += 1000  # the first observation of the new episode
            last = np.array([0, self.t], dtype=np.float32)
            last = {"policy": last, "privileged": last[1:] * 10} if self.privileged else last
            infos["final_obs"] = np.array([last, None], dtype=object)
            infos["final_info"] = np.array([{"is_success": True}, None], dtype=object)
        none = np.zeros(2, dtype=bool)
        flags = (ended, none) if self.terminate else (none, ended)
        result = (self._pack(obs), np.ones(2), *flags, infos)
        return self.changes.get(self.t, lambda *r: r)(*result)


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def learn():
    """Train an off-policy agent on toys; its replay."""

    def train(agent, envs: VectorEnv, *, steps: int, learning_starts: int) -> Replay:
        replay = Replay(10_000, 1, 1)
        settings = {"seed": 0, "batch_size": 64, "learning_starts": learning_starts}
        for _ in off_policy(agent, envs, replay, steps=steps, **settings):
            pass
        return replay

    return train
