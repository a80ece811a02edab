import copy
import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.testing import assert_close

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.replay import Batch
from simtoreal.policies.td3 import TD3, TD3Config

SMALL = TD3Config(hidden=(32, 32), batch_size=64, buffer_size=10_000, actor_lr=3e-3, critic_lr=3e-3, tau=0.05)


def random_batch(n, m, size):
    return Batch(
        torch.randn(size, n),
        torch.rand(size, m) * 2 - 1,
        torch.randn(size),
        torch.randn(size, n),
        (torch.rand(size) < 0.2).float(),
    )


def copy_from_sb3(agent, model):
    """Give our agent SB3's weights."""
    with torch.no_grad():
        for ours, theirs in ((agent.policy, model.actor), (agent.target_policy, model.actor_target)):
            layers = [layer for layer in theirs.mu if isinstance(layer, torch.nn.Linear)]
            for mine, layer in zip([ours.body[0], ours.body[2], ours.head], layers, strict=True):
                mine.load_state_dict(layer.state_dict())
        for ours, theirs in ((agent.critics, model.critic), (agent.target_critics, model.critic_target)):
            for critic, network in zip(ours, theirs.q_networks, strict=True):
                for parameter, value in zip(critic.parameters(), network.parameters(), strict=True):
                    parameter.copy_(value)


def same(one, other):
    """Are all weights and targets of two agents the same?"""
    for name in ("policy", "target_policy", "critics", "target_critics"):
        for a, b in zip(getattr(one, name).parameters(), getattr(other, name).parameters(), strict=True):
            assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_losses_gradients_and_new_weights_are_those_of_sb3(monkeypatch):
    """Over four updates, of which two move the actor and the targets."""
    n, m, size = 5, 3, 32
    env = gym.Env()
    env.observation_space, env.action_space = gym.spaces.Box(-9, 9, (n,)), gym.spaces.Box(-1, 1, (m,))
    settings = {"gamma": 0.9, "tau": 0.1, "learning_rate": 1e-3, "seed": 1}
    model = stable_baselines3.TD3("MlpPolicy", env, policy_kwargs={"net_arch": [32, 16]}, **settings)
    model.set_logger(Logger(None, []))
    with torch.no_grad():
        for network in (model.critic_target, model.actor_target):
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    config = TD3Config(hidden=(32, 16), gamma=0.9, tau=0.1, actor_lr=1e-3, critic_lr=1e-3, normalize_observations=False)
    agent = TD3(n, m, config=config)
    copy_from_sb3(agent, model)
    gradients = []
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        step = optimizer.step

        def noted(step=step, optimizer=optimizer):
            gradients.append([p.grad.clone() for p in optimizer.param_groups[0]["params"]])
            step()

        monkeypatch.setattr(optimizer, "step", noted)
    for k in range(4):
        batch = random_batch(n, m, size)
        noise = torch.randn(size, m)  # some of it beyond the clip of 2.5 standard deviations
        monkeypatch.setattr(agent, "_noise", lambda _, noise=noise: noise)
        column = {"rewards": batch.reward[:, None], "dones": batch.terminated[:, None]}
        samples = ReplayBufferSamples(batch.obs, batch.action.clone(), batch.next_obs, **column)
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, samples=samples, **__: samples)
        monkeypatch.setattr(
            torch.Tensor, "normal_", lambda self, mean, std, noise=noise: self.copy_(std * noise + mean)
        )
        gradients.clear()
        model.train(1, size)
        metrics = agent.update(batch)
        logged = model.logger.name_to_value
        assert float(metrics["critic_loss"]) == pytest.approx(logged["train/critic_loss"], rel=1e-5, abs=1e-5)
        for parameter, gradient in zip(agent.critics.parameters(), gradients[0], strict=True):
            assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-5)
        assert len(gradients) == (2 if k % 2 else 1)
        if k % 2:
            assert float(metrics["actor_loss"]) == pytest.approx(logged["train/actor_loss"], rel=1e-5, abs=1e-5)
            for ours, other in zip(agent.policy.parameters(), gradients[1], strict=True):
                assert_close(ours.grad, other, atol=1e-5, rtol=1e-5)
        after = TD3(n, m, config=config)
        copy_from_sb3(after, model)
        same(agent, after)


def test_it_finds_the_optimum_of_a_one_step_task(vectorized, learn):
    """Reward -(a - x/2)^2 and the end: the best action is x / 2."""
    agent = TD3(1, 1, config=SMALL, seed=0)
    learn(agent, vectorized(4), steps=2_400, learning_starts=400)
    x = torch.linspace(-0.9, 0.9, 7)[:, None]
    assert_close(agent.actor()(x), x / 2, atol=0.06, rtol=0)


@pytest.mark.parametrize(("truncate", "value"), [(True, 10.0), (False, 1.0)])
def test_the_value_of_a_constant_reward(vectorized, learn, truncate, value):
    """Reward 1, gamma .9, an episode of one step: worth 1 / (1 - gamma) when it is truncated, 1 when it terminates."""
    config = dataclasses.replace(SMALL, gamma=0.9)
    agent = TD3(1, 1, config=config)
    envs = vectorized(1, bonus=1.0, action_reward=0.0, truncate=truncate)
    replay = learn(agent, envs, steps=1_200, learning_starts=200)
    batch = replay.sample(64, torch.Generator().manual_seed(0))
    q = agent.critics(torch.cat([agent.normalizer(batch.obs), batch.action], dim=-1))
    assert_close(q.mean().item(), value, atol=0.15 * value, rtol=0)


def test_it_explores_with_clipped_noise_around_its_action():
    agent = TD3(4, 2, config=dataclasses.replace(SMALL, exploration_noise=0.5), seed=3)
    obs = np.zeros((20_000, 4), np.float32)
    sure, tried = agent.act(obs, explore=False), agent.act(obs, explore=True)
    assert (sure == sure[0]).all()
    inside = np.abs(tried) < 1
    assert (tried - sure)[inside].std() == pytest.approx(0.5, rel=0.15)
    assert np.abs(tried).max() == 1.0
    np.testing.assert_allclose(agent.actor()(torch.zeros(1, 4)).numpy(), sure[:1], atol=1e-6)


def test_smoothness_adds_the_gradient_of_the_squared_change_of_the_action():
    plain, smooth = (TD3(4, 2, config=dataclasses.replace(SMALL, smoothness=w, policy_delay=1)) for w in (0.0, 0.3))
    batch = random_batch(4, 2, 16)
    actor = plain.actor().requires_grad_(True)
    (0.3 * (actor(batch.obs) - actor(batch.next_obs)).square().sum(-1).mean()).backward()
    losses = [agent.update(batch)["actor_loss"] for agent in (plain, smooth)]
    assert losses[1] > losses[0]
    for ours, without, added in zip(
        smooth.policy.parameters(), plain.policy.parameters(), actor.parameters(), strict=True
    ):
        assert_close(ours.grad - without.grad, added.grad, atol=1e-6, rtol=1e-4)


def test_it_goes_on_bit_for_bit_between_two_steps_of_the_actor():
    config = dataclasses.replace(SMALL, policy_delay=3, actor_average=0.01)
    batches = [random_batch(4, 2, 16) for _ in range(9)]
    one = TD3(4, 2, config=config, seed=1)
    for batch in batches[:4]:
        one.update(batch)
    other = TD3(4, 2, config=config, seed=2)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for batch in batches[4:]:
        assert one.update(batch) == other.update(batch)
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match="missing"):
        other.load_state_dict({name: t for name, t in a.items() if name != "updates"})


@pytest.mark.parametrize("part", ["obs", "reward", "next_obs", "action"])
def test_a_number_that_is_none_stops_it_before_any_weight_changes(part):
    agent = TD3(4, 2, config=SMALL)
    batch = random_batch(4, 2, 16)
    getattr(batch, part)[3] = np.nan
    before = agent.state_dict()
    with pytest.raises(NonFiniteError, match="critic loss"):
        agent.update(batch)
    after = agent.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name != "rng")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"target_noise": -0.1}, "target_noise must be at least 0"),
        ({"exploration_noise": 1e9}, "exploration_noise must be at least 0 and at most 1"),
        ({"actor_lr": 1e30}, "actor_lr must be above 0 and at most 1"),
        ({"exploration_noise": float("nan")}, "exploration_noise must be finite"),
        ({"tau": 0.0}, "tau must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        TD3Config(**setting)
