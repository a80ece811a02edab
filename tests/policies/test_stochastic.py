"""What all learners of a stochastic policy hold to."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.loop_state import LoopState
from simtoreal.policies.on_policy import monte_carlo, on_policy
from simtoreal.policies.ppo import PPO, PPOConfig
from simtoreal.policies.reinforce import Reinforce, ReinforceConfig
from simtoreal.policies.rollout import Rollout

PPO_SMALL = PPOConfig(hidden=(32,), rollout=64, batch_size=64, epochs=6, learning_rate=3e-3)
REINFORCE_SMALL = ReinforceConfig(hidden=(32,), learning_rate=1e-2)
KINDS = [
    (PPO, PPO_SMALL, on_policy, {"rollout": 64, "gamma": 0.99, "gae_lambda": 0.95}, 1024),
    (Reinforce, REINFORCE_SMALL, monte_carlo, {"gamma": 0.9}, 280),
]


@pytest.mark.parametrize(
    ("kind", "config", "words", "drawn"),
    [(PPO, PPO_SMALL, "norm is nan, the loss nan", {"rng"}), (Reinforce, REINFORCE_SMALL, "the loss is nan", set())],
)
def test_a_loss_that_is_no_number_stops_it_before_any_weight_changes(kind, config, words, drawn):
    agent = kind(3, 2, config=config)
    n = 16
    rollout = Rollout(torch.randn(n, 3), None, torch.randn(n, 2), *(torch.randn(n) for _ in range(3)), torch.randn(n))
    rollout.returns[4] = np.nan
    before = agent.state_dict()
    with pytest.raises(NonFiniteError, match=words):
        agent.update(rollout)
    after = agent.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - drawn)


@pytest.mark.parametrize(("kind", "config", "loop", "settings", "steps"), KINDS)
def test_statistics_of_observations_know_nothing_of_an_invalid_step(scripted, kind, config, loop, settings, steps):
    def exploded(obs, reward, terminated, truncated, infos):
        obs[1] = 1e30
        return obs, reward, terminated, truncated, infos | {"valid": np.array([True, False])}

    agent = kind(2, 1, config=config)
    next(loop(agent, scripted({4: exploded}), steps=1, seed=0, **settings | {"max_fault_rate": 1.0}))
    assert agent.normalizer.mean.abs().max() < 1e4


@pytest.mark.parametrize(("kind", "config", "loop", "settings", "steps"), KINDS)
def test_an_environment_may_write_its_next_observation_over_the_last(toy, kind, config, loop, settings, steps):
    def learned(copy):
        envs = SyncVectorEnv([partial(toy, length=5)] * 2, copy=copy, autoreset_mode=AutoresetMode.SAME_STEP)
        agent = kind(1, 1, config=config)
        list(loop(agent, envs, steps=steps, seed=0, **settings))
        return agent.state_dict()

    kept, overwritten = learned(True), learned(False)
    assert all(torch.equal(kept[name], overwritten[name]) for name in kept)


def test_what_is_remembered_lies_on_the_agents_device_after_every_reset(vectorized):
    """Of a learner that resets all environments after each rollout; the device is one that torch has everywhere."""

    class Elsewhere:
        device, hidden_state_size, rollouts = torch.device("meta"), 0, 0

        def begin(self, n):
            pass

        def observe(self, obs):
            pass

        def try_out(self, obs, hidden_state):
            assert hidden_state.device == self.device
            return np.zeros((2, 1), np.float32), *(torch.zeros(*s, device="meta") for s in ((2, 1), (2,), (2, 0)))

        def values(self, obs, privileged, hidden_state):
            return torch.zeros(len(obs))

        def update(self, rollout):
            self.rollouts += 1
            return {}

    agent, envs = Elsewhere(), vectorized(2, length=3)
    step, rewards = envs.step, iter([np.nan])

    def cut_short(action):
        obs, reward, *rest = step(action)
        return obs, reward * next(rewards, 1.0), *rest

    envs.step = cut_short
    list(monte_carlo(agent, envs, steps=8, seed=0, gamma=0.9))
    assert agent.rollouts == 2


@pytest.mark.parametrize(("kind", "config", "loop", "settings", "steps"), KINDS)
def test_it_goes_on_bit_for_bit(vectorized, kind, config, loop, settings, steps):
    whole, first, second = (kind(1, 1, config=config, seed=s) for s in (0, 0, 7))
    envs = vectorized(4, length=7, truncate=True)
    twin = deepcopy(envs)
    run = settings | {"seed": 0}
    rest = [(r.step, r.metrics, r.episodes) for r in loop(whole, envs, steps=steps, **run)]
    state = LoopState.start(0)
    for _ in loop(first, twin, steps=steps // 2, state=state, **run):
        pass
    second.load_state_dict(first.state_dict())
    state = LoopState.from_state_dict(state.state_dict())
    again = [(r.step, r.metrics, r.episodes) for r in loop(second, twin, steps=steps, state=state, **run)]
    assert again == rest[len(rest) // 2 :]
    a, b = whole.state_dict(), second.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
