import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.testing import assert_close

from simtoreal.policies.on_policy import monte_carlo
from simtoreal.policies.reinforce import Reinforce, ReinforceConfig
from simtoreal.policies.rollout import Rollout

SMALL = ReinforceConfig(hidden=(32,), learning_rate=1e-2)


def learn(agent, envs, steps):
    return list(monte_carlo(agent, envs, steps=steps, seed=0, gamma=agent.config.gamma))


def seen_rollouts(agent):
    seen, update = [], agent.update
    agent.update = lambda rollout: seen.append(rollout) or update(rollout)
    return seen


@pytest.mark.parametrize("choices", [0, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_an_update_is_that_of_sb3_s_a2c_on_whole_episodes(choices, normalize):
    """With lambda = 1 and rollouts of whole episodes A2C is REINFORCE with a baseline, beside its clipping."""
    n, m, steps = 4, 1 if choices else 2, 24

    def make():
        env = gym.Env()
        env.observation_space = gym.spaces.Box(-9, 9, (n,))
        env.action_space = gym.spaces.Discrete(choices) if choices else gym.spaces.Box(-1, 1, (m,))
        return env

    model = stable_baselines3.A2C(
        "MlpPolicy",
        DummyVecEnv([make]),
        n_steps=steps,
        gamma=0.9,
        gae_lambda=1.0,
        learning_rate=1e-2,
        ent_coef=0.03,
        normalize_advantage=normalize,
        max_grad_norm=1e9,
        use_rms_prop=False,
        policy_kwargs={"net_arch": [16, 8], "optimizer_class": torch.optim.Adam},
        seed=1,
    )
    model.set_logger(Logger(None, []))
    config = ReinforceConfig(
        hidden=(16, 8), learning_rate=1e-2, entropy_weight=0.03, normalize_advantage=normalize,
        normalize_observations=False,
    )  # fmt: skip
    agent = Reinforce(n, m, config=config, choices=choices)
    policy = model.policy
    pairs = [
        (agent.policy.body, policy.mlp_extractor.policy_net),
        (agent.policy.head.linear, policy.action_net),
        (agent.value[0], policy.mlp_extractor.value_net),
        (agent.value[1], policy.value_net),
    ]
    with torch.no_grad():
        policy.action_net.weight.mul_(20.0)
        for ours, theirs in pairs:
            ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(steps, 1, n)).astype(np.float32)
    reward = rng.normal(size=(steps, 1)).astype(np.float32)
    model.rollout_buffer.reset()
    kept, values = [], []
    for t in range(steps):
        with torch.no_grad():
            action, value, log_prob = policy(torch.from_numpy(obs[t]))
        model.rollout_buffer.add(
            obs[t], action.numpy().reshape(1, -1), reward[t], np.array([t in (0, 10)]), value, log_prob
        )
        kept.append((action.float().reshape(1, -1), log_prob))
        values.append(value[0])
    model.rollout_buffer.compute_returns_and_advantage(torch.zeros(1, 1), np.array([True]))
    # episodes of 10 and 14 steps, each summed backwards by hand
    returns = np.zeros(steps)
    for first, last in ((0, 10), (10, steps)):
        total = 0.0
        for t in reversed(range(first, last)):
            total = reward[t, 0] + 0.9 * total
            returns[t] = total
    np.testing.assert_allclose(returns, model.rollout_buffer.returns[:, 0], atol=1e-5)
    value = torch.cat(values)
    returns = torch.as_tensor(returns, dtype=torch.float32)
    rollout = Rollout(
        torch.from_numpy(obs[:, 0]),
        None,
        torch.cat([action for action, _ in kept]),
        torch.cat([log_prob for _, log_prob in kept]),
        value,
        returns - value,
        returns,
    )
    metrics = agent.update(rollout)
    model.train()
    logged = model.logger.name_to_value
    assert float(metrics["policy_gradient_loss"]) == pytest.approx(logged["train/policy_loss"], abs=1e-5)
    assert float(metrics["value_loss"]) == pytest.approx(logged["train/value_loss"], abs=1e-5)
    for ours, theirs in pairs:
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(a, b, atol=1e-4, rtol=1e-4)  # their Adam's epsilon is another


def test_the_gradient_by_hand():
    """One state, probabilities 1/2 and 1/2, choices 0 and 1 taken with returns 3 and 1, no baseline: the gradient of
    -mean log pi G to the logits is -((1/2, -1/2) 3 + (-1/2, 1/2) 1) / 2 = (-1/2, 1/2)."""
    config = dataclasses.replace(SMALL, baseline=False, normalize_advantage=False, normalize_observations=False)
    agent = Reinforce(2, 1, config=config, choices=2)
    with torch.no_grad():
        agent.policy.head.linear.weight.zero_()
    g = torch.tensor([3.0, 1.0])
    agent.update(Rollout(torch.zeros(2, 2), None, torch.tensor([[0.0], [1.0]]), torch.zeros(2), torch.zeros(2), g, g))
    assert_close(agent.policy.head.linear.bias.grad, torch.tensor([-0.5, 0.5]))
    assert all(not p.grad.any() for p in agent.value.parameters())


@pytest.mark.parametrize("baseline", [True, False])
def test_it_finds_the_optimum_of_a_one_step_task(vectorized, baseline):
    """Reward -(a - x/2)^2 and the end: the best action is x / 2."""
    config = dataclasses.replace(SMALL, baseline=baseline, log_std=-1.0)
    agent = Reinforce(1, 1, config=config, seed=0)
    learn(agent, vectorized(64), 64 * 600)
    x = torch.linspace(-0.9, 0.9, 7)[:, None]
    assert_close(agent.actor()(x), x / 2, atol=0.1, rtol=0)


def test_a_rollout_is_one_whole_episode_of_each_environment(scripted):
    """Environment 0 ends after 3 steps, 1 not: what 0 does while 1 goes on is left out."""
    agent = Reinforce(2, 1, config=SMALL)
    seen = seen_rollouts(agent)

    def end_the_other(obs, reward, terminated, truncated, infos):
        return obs, reward, terminated | np.array([False, True]), truncated, infos | {"final_obs": obs}

    learn(agent, scripted({5: end_the_other}, terminate=True), 10)
    obs = seen[0].obs.tolist()
    assert [row for row in obs if row[0] == 0] == [[0, 0], [0, 1], [0, 2]]
    assert len([row for row in obs if row[0] == 1]) == 5


def test_an_episode_whose_first_step_is_invalid_teaches_nothing(vectorized):
    envs = vectorized(1, length=4)
    step, factors = envs.step, iter([np.nan])

    def broken(action):
        obs, reward, *rest = step(action)
        return obs, reward * next(factors, 1.0), *rest

    envs.step = broken
    agent = Reinforce(1, 1, config=SMALL)
    before = [p.clone() for p in agent.policy.parameters()]
    reports = monte_carlo(agent, envs, steps=5, seed=0, gamma=0.9)
    first = next(reports)
    assert (first.metrics, first.faults) == ({}, 1)
    assert all(torch.equal(a, b) for a, b in zip(agent.policy.parameters(), before, strict=True))
    assert "policy_gradient_loss" in next(reports).metrics


@pytest.mark.parametrize(
    ("baseline", "truncate", "returns"), [(True, True, 6.4), (True, False, 1.0), (False, True, 1.0)]
)
def test_a_truncated_episode_goes_on_for_the_baseline_alone(vectorized, baseline, truncate, returns):
    """Reward 1, gamma .9, one step, a baseline that says 6 everywhere: 1 + .9 * 6, else 1."""
    agent = Reinforce(1, 1, config=dataclasses.replace(SMALL, gamma=0.9, baseline=baseline))
    with torch.no_grad():
        agent.value[1].weight.zero_()
        agent.value[1].bias.fill_(6.0)
    seen = seen_rollouts(agent)
    learn(agent, vectorized(2, bonus=1.0, action_reward=0.0, truncate=truncate), 2)
    assert_close(seen[0].returns, torch.full((2,), returns))
