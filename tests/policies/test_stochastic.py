"""What all learners of a stochastic policy hold to."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.loops import LoopState
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
