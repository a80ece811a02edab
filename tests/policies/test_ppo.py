import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from scipy import stats
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.testing import assert_close

from simtoreal.policies.distributions import gaussian_log_prob
from simtoreal.policies.on_policy import on_policy
from simtoreal.policies.ppo import PPO, Minibatch, PPOConfig
from simtoreal.policies.rollout import Rollout, advantages
from simtoreal.robots.mirror import mirrored

SMALL = PPOConfig(hidden=(32,), rollout=64, batch_size=64, epochs=6, learning_rate=3e-3)


def learn(agent, envs, steps):
    c = agent.config
    settings = {"rollout": c.rollout, "gamma": c.gamma, "gae_lambda": c.gae_lambda, "history": c.history}
    return list(on_policy(agent, envs, steps=steps, seed=0, **settings))


def test_advantages_by_hand():
    """gamma .5, lambda .5. One environment that goes on, one that terminates, one that is truncated, at step 1."""
    reward = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    value = np.array([[4.0, 4.0, 4.0], [8.0, 8.0, 8.0], [2.0, 2.0, 2.0]])
    next_value = np.array([[8.0, 8.0, 8.0], [2.0, 0.0, 6.0], [10.0, 10.0, 10.0]])
    ended = np.array([[False] * 3, [False, True, True], [False] * 3])
    found = advantages(reward, value, next_value, ended, gamma=0.5, gae_lambda=0.5)
    # deltas: 1 + 4 - 4 = 1; 2 + 1 - 8 = -5, 2 - 8 = -6, 2 + 3 - 8 = -3; 3 + 5 - 2 = 6
    np.testing.assert_allclose(found[2], [6.0, 6.0, 6.0])
    np.testing.assert_allclose(found[1], [-5.0 + 0.25 * 6.0, -6.0, -3.0])
    np.testing.assert_allclose(found[0], [1.0 + 0.25 * -3.5, 1.0 + 0.25 * -6.0, 1.0 + 0.25 * -3.0])


def minibatch(agent, n, rows=64, privileged=0, image=None):
    """Random rows, of the agent's own actions and densities somewhat off."""
    x, state = torch.randn(rows, n), torch.randn(rows, privileged + (0 if image else n))
    if image:
        x = torch.randint(256, (rows, *image), dtype=torch.uint8)
    with torch.no_grad():
        u, log_prob = agent.policy.head.sample(agent.policy.body(x), agent.rng)
    noise = 0.4 * torch.randn(rows)
    return Minibatch(x, state if privileged else x, u, log_prob + noise, *(torch.randn(rows) for _ in range(3)))


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize(
    ("options", "choices", "privileged"),
    [
        ({"distribution": "gaussian"}, 0, 0),
        ({"distribution": "gaussian", "shared": True, "clip_value": 0.3}, 0, 0),
        ({"distribution": "squashed"}, 0, 3),
        ({"distribution": "sde", "normalize_advantage": False}, 0, 0),
        ({"clip_value": 0.3}, 4, 3),
        ({"shared": True}, 4, 0),
        ({"image": (3, 36, 40), "shared": True}, 4, 0),
        ({"image": (44, 36, 2), "clip_value": 0.3}, 0, 0),
        ({"image": (10, 10, 4), "shared": True}, 4, 0),
        ({"image": (3, 36, 40)}, 0, 3),
        ({"image": (3, 36, 40), "estimate_weight": 0.6}, 0, 3),
        ({"estimate_weight": 0.6}, 4, 3),
    ],
)
def test_gradients_by_hand_are_those_of_autograd(activation, options, choices, privileged):
    """Of the loss as the paper writes it, with torch's own distributions and minimum."""
    options = dict(options)
    image = options.pop("image", None)
    options |= {"normalize_observations": False} if image else {}
    n = math.prod(image) if image else 5
    config = PPOConfig(hidden=(16, 8), activation=activation, entropy_weight=0.3, value_weight=0.7, **options)
    agent = PPO(n, 1 if choices else 2, privileged, config=config, choices=choices, image=image, seed=1)
    with torch.no_grad():
        for parameter in agent._parameters:
            parameter.add_((0.01 if parameter.dim() == 4 else 0.3) * torch.randn_like(parameter))
    batch = minibatch(agent, n, privileged=privileged, image=image)
    _, found = agent.gradients(batch)

    log_prob, entropy = agent.policy.evaluate(batch.x, batch.action)
    advantage = batch.advantage
    if config.normalize_advantage:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = (log_prob - batch.log_prob).exp()
    gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    value = agent.value(batch.state)[:, 0]
    if config.clip_value:
        value = batch.value + (value - batch.value).clamp(-0.3, 0.3)
    loss = -gain - 0.3 * entropy + 0.7 * (value - batch.returns).square().mean()
    if config.estimate_weight:
        loss = loss + 0.6 * torch.nn.functional.mse_loss(
            agent.estimate(agent.policy.body(batch.x)), batch.state[:, -3:]
        )
    expected = torch.autograd.grad(loss, agent._parameters)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_log_probabilities_are_those_of_scipy_and_torch():
    u, mean, log_std = torch.randn(7, 3), torch.randn(7, 3), torch.tensor([-1.0, 0.0, 0.5])
    found = gaussian_log_prob(u, mean, log_std)
    expected = stats.norm(mean.numpy(), log_std.exp().numpy()).logpdf(u.numpy()).sum(-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert_close(found, torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(-1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_value": 0.1, "entropy_weight": 0.02},
        {"target_kl": 1e-4},
        {"normalize_advantage": False, "shared": True},
        {"distribution": "sde", "entropy_weight": 0.02},
        {"choices": 4, "entropy_weight": 0.02},
        {"image": (4, 36, 40), "shared": True, "choices": 4, "entropy_weight": 0.02},
        {"image": (3, 44, 36), "shared": True, "clip_value": 0.1},
    ],
)
def test_an_update_is_that_of_sb3(options):
    """From the rewards of a rollout to the weights after three epochs: advantages, losses, clipping, Adam, KL stop."""
    options = dict(options)
    choices, sde = options.pop("choices", 0), options.get("distribution") == "sde"
    image = options.pop("image", None)
    hidden, rate = ((32,), 1e-3) if image else ((16, 8), 1e-2)
    n, m, steps, envs = math.prod(image) if image else 5, 1 if choices else 3, 16, 2

    def make():
        env = gym.Env()
        env.observation_space = gym.spaces.Box(0, 255, image, np.uint8) if image else gym.spaces.Box(-9, 9, (n,))
        env.action_space = gym.spaces.Discrete(choices) if choices else gym.spaces.Box(-1, 1, (m,))
        return env

    vector = DummyVecEnv([make] * envs)
    given = {
        "gamma": 0.9,
        "gae_lambda": 0.8,
        "n_epochs": 3,
        "batch_size": steps * envs,
        "learning_rate": rate,
        "clip_range_vf": options.get("clip_value"),
        "ent_coef": options.get("entropy_weight", 0.0),
        "target_kl": options.get("target_kl"),
        "normalize_advantage": options.get("normalize_advantage", True),
    }
    kwargs = {"features_extractor_kwargs": {"features_dim": 32}} if image else {"net_arch": [16, 8]}
    model = stable_baselines3.PPO(
        "CnnPolicy" if image else "MlpPolicy", vector, n_steps=steps, policy_kwargs=kwargs, seed=1, use_sde=sde, **given
    )
    model.set_logger(Logger(None, []))
    config = PPOConfig(
        hidden=hidden,
        activation="relu" if image else "tanh",
        gamma=0.9,
        gae_lambda=0.8,
        epochs=3,
        batch_size=steps * envs,
        learning_rate=rate,
        normalize_observations=False,
        **options,
    )
    agent = PPO(n, m, config=config, choices=choices, image=image)
    policy = model.policy
    if options.get("shared") and not image:
        policy.mlp_extractor.value_net = policy.mlp_extractor.policy_net
        parameters = dict.fromkeys([*policy.parameters()])
        policy.optimizer = torch.optim.Adam(parameters, lr=1e-2, eps=1e-5)
    pairs = [
        (agent.policy.head.linear, policy.action_net),
        (agent.value[1], policy.value_net),
    ]
    if image:
        pairs += [
            (agent.policy.body.convolutions, policy.features_extractor.cnn),
            (agent.policy.body.hidden, policy.features_extractor.linear),
        ]
    else:
        pairs += [
            (agent.policy.body, policy.mlp_extractor.policy_net),
            (agent.value[0], policy.mlp_extractor.value_net),
        ]
    with torch.no_grad():
        policy.action_net.weight.mul_(20.0)
        if not choices:
            policy.log_std.copy_(torch.tensor([-0.5, 0.0, 0.3]).expand_as(policy.log_std))
            agent.policy.head.log_std.copy_(policy.log_std)
        for ours, theirs in pairs:
            ours.load_state_dict(theirs.state_dict())

    rng = np.random.default_rng(0)
    obs = rng.normal(size=(steps + 1, envs, n)).astype(np.float32)
    if image:
        obs = rng.integers(256, size=(steps + 1, envs, *image), dtype=np.uint8)
    reward, ended = rng.normal(size=(steps, envs)).astype(np.float32), rng.random((steps, envs)) < 0.2
    model.rollout_buffer.reset()
    kept, values = [], []
    for t in range(steps):
        with torch.no_grad():
            action, value, log_prob = policy(torch.from_numpy(obs[t]))
        starts = ended[t - 1] if t else np.ones(envs)
        model.rollout_buffer.add(obs[t], action.numpy().reshape(envs, -1), reward[t], starts, value, log_prob)
        kept.append((action.float().reshape(envs, -1), log_prob))
        values.append(value[:, 0].numpy())
    last = policy.predict_values(torch.from_numpy(obs[-1])).detach()
    model.rollout_buffer.compute_returns_and_advantage(last, ended[-1])
    value = np.stack(values)
    next_value = np.where(ended, 0.0, np.concatenate([value[1:], last.numpy().T]))
    advantage = advantages(reward, value, next_value, ended, gamma=0.9, gae_lambda=0.8)
    np.testing.assert_allclose(advantage, model.rollout_buffer.advantages, atol=1e-5)
    np.testing.assert_allclose(advantage + value, model.rollout_buffer.returns, atol=1e-5)

    flat = lambda array: torch.as_tensor(array, dtype=torch.float32).reshape(steps * envs, *array.shape[2:])  # noqa: E731
    rollout = Rollout(
        torch.from_numpy(obs[:-1]).flatten(0, 1),
        None,
        torch.cat([action for action, _ in kept]),
        torch.cat([log_prob for _, log_prob in kept]),
        flat(value),
        flat(advantage),
        flat(advantage + value),
    )
    metrics = agent.update(rollout)
    model.train()
    logged = model.logger.name_to_value
    if "target_kl" not in options:  # with it SB3 also reports the step that it did not take
        for name in ("value_loss", "policy_gradient_loss", "entropy_loss", "clip_fraction"):
            assert float(metrics[name]) == pytest.approx(logged[f"train/{name}"], abs=1e-5), name
    for ours, theirs in pairs:
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(a, b, atol=1e-5, rtol=1e-5)
    if not choices:
        assert_close(agent.policy.head.log_std, policy.log_std, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("distribution", ["gaussian", "squashed", "sde"])
def test_it_finds_the_optimum_of_a_one_step_task(vectorized, distribution):
    """Reward -(a - x/2)^2 and the end: the best action is x / 2."""
    agent = PPO(1, 1, config=dataclasses.replace(SMALL, distribution=distribution, sde_every=4), seed=0)
    learn(agent, vectorized(8), 20_000)
    x = torch.linspace(-0.9, 0.9, 7)[:, None]
    assert_close(agent.actor()(x), x / 2, atol=0.08, rtol=0)
    obs = np.linspace(-0.9, 0.9, 7, dtype=np.float32)[:, None]
    np.testing.assert_allclose(agent.act(obs, explore=False), agent.actor()(x), atol=1e-6)


@pytest.mark.parametrize(("truncate", "value"), [(True, 10.0), (False, 1.0)])
def test_the_value_of_a_constant_reward(vectorized, truncate, value):
    """Reward 1, gamma .9, an episode of one step: worth 1 / (1 - gamma) when it is truncated, 1 when it terminates."""
    agent = PPO(1, 1, config=dataclasses.replace(SMALL, gamma=0.9, learning_rate=1e-2))
    learn(agent, vectorized(4, bonus=1.0, action_reward=0.0, truncate=truncate), 12_000)
    found = agent.values(torch.linspace(-0.9, 0.9, 7)[:, None], None)
    assert_close(found.mean().item(), value, atol=0.1 * value, rtol=0)


def test_a_squashed_action_s_entropy_is_estimated_with_its_correction():
    agent = PPO(2, 1, config=dataclasses.replace(SMALL, distribution="squashed", log_std=-1.0, entropy_weight=0.1))
    x = torch.zeros(20_000, 2)
    u, _ = agent.policy.head.sample(agent.policy.body(x).detach(), agent.rng)
    entropy = agent.policy.evaluate(x, u)[1]
    mean = float(agent.policy.head(agent.policy.body(x[:1])).detach()[0, 0])
    grid = np.linspace(-0.99999, 0.99999, 200_001)
    density = stats.norm(mean, np.exp(-1.0)).pdf(np.arctanh(grid)) / (1 - grid**2)
    expected = -np.trapezoid(density * np.log(np.maximum(density, 1e-300)), grid)
    assert entropy.item() == pytest.approx(expected, abs=0.02)


def test_an_invalid_transition_is_not_learned_from(scripted):
    def broken(obs, reward, terminated, truncated, infos):
        return obs, reward * np.array([1, np.nan]), terminated, truncated, infos

    seen = []
    agent = PPO(2, 1, config=dataclasses.replace(SMALL, rollout=20))
    update = agent.update
    agent.update = lambda rollout: seen.append(rollout) or update(rollout)
    reports = learn(agent, scripted({5: broken}), 40)
    assert reports[-1].faults == 1
    assert len(seen[0].advantage) == 39
    assert all(bool(torch.isfinite(t).all()) for t in vars(seen[0]).values() if t is not None)


def image(rows):
    """Of observations x and actions a: -x and -a."""
    return {name: -value for name, value in rows.items()}


def test_a_motion_and_its_image_turn_a_policy_without_sides_to_neither(vectorized):
    """Without biases tanh layers are odd, so the policy has no side; nor may what it learns of both give it one."""
    agent = PPO(1, 1, config=dataclasses.replace(SMALL, normalize_observations=False), seed=0)
    with torch.no_grad():
        for name, weights in agent.policy.named_parameters():
            if name.endswith("bias"):
                weights.zero_()
    seen, c = [], agent.config
    agent.update = lambda rollout: seen.append(rollout) or {}
    envs = vectorized(n=4, length=3, bonus=1.0)
    list(on_policy(agent, envs, steps=64, seed=0, rollout=16, gamma=0.9, gae_lambda=c.gae_lambda, mirror=image))
    (both,) = seen
    half = len(both.returns) // 2
    assert_close(both.obs[half:], -both.obs[:half])
    assert_close(both.action[half:], -both.action[:half])
    for name in ("log_prob", "value", "advantage", "returns"):
        assert_close(getattr(both, name)[half:], getattr(both, name)[:half])

    def of_biases(which):
        batch = Minibatch(
            both.obs[which], both.obs[which], both.action[which], both.log_prob[which], both.value[which],
            both.advantage[which], both.returns[which],
        )  # fmt: skip
        names = [name for name, _ in agent.policy.named_parameters()]
        _, gradients = agent.gradients(batch)
        return {name: g for name, g in zip(names, gradients, strict=False) if name.endswith("bias")}

    for name, gradient in of_biases(slice(None)).items():
        assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)
        assert of_biases(slice(half))[name].abs().max() > 1e-4


def test_where_nothing_is_learned_from_there_is_no_image_either(scripted):
    def broken(obs, reward, terminated, truncated, infos):
        return obs, reward * np.nan, terminated, truncated, infos

    agent = PPO(2, 1, config=dataclasses.replace(SMALL, rollout=4), seed=0)
    mirror = CartPoleLike()
    settings = {"rollout": 4, "gamma": 0.9, "gae_lambda": 0.9, "max_fault_rate": 1.0, "mirror": mirror.mirror_image}
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    list(on_policy(agent, scripted(dict.fromkeys(range(8), broken)), steps=8, seed=0, **settings))
    after = agent.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("policy."))


class CartPoleLike:
    """Observations of two numbers, the first of which has a side."""

    def mirror_image(self, rows):
        both, one = np.arange(2), np.arange(1)
        seen = both, np.array([-1.0, 1.0], np.float32)
        return mirrored(rows, seen=seen, privileged=seen, action=(one, -np.ones(1, np.float32)))


def test_an_image_that_the_policy_would_hardly_have_made_counts_for_little(vectorized):
    """A policy that leans far to one side: of an action's image the ratio, and so the gradient, is next to nothing."""
    agent = PPO(1, 1, config=dataclasses.replace(SMALL, log_std=-2.0), seed=0)
    with torch.no_grad():
        agent.policy.head.linear.bias.fill_(0.5)
    seen = []
    agent.update = lambda rollout: seen.append(rollout) or {}
    settings = {"rollout": 16, "gamma": 0.9, "gae_lambda": 0.9, "mirror": image}
    list(on_policy(agent, vectorized(n=4, length=3), steps=64, seed=0, **settings))
    (both,) = seen
    assert_close(both.log_prob[64:], both.log_prob[:64])

    def weight_gradient(rows):
        x = agent.normalizer(both.obs[rows])
        batch = Minibatch(x, x, *(getattr(both, name)[rows] for name in MINIBATCH))
        return agent.gradients(batch)[1][2].abs().max()  # of the head that gives the mean

    assert weight_gradient(slice(64, None)) < 1e-3 * weight_gradient(slice(64))


MINIBATCH = ("action", "log_prob", "value", "advantage", "returns")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"clip": 0.0}, "clip must be above 0"),
        ({"gae_lambda": 1.5}, "gae_lambda must be from 0 to 1"),
        ({"learning_rate": float("inf")}, "learning_rate must be finite"),
        ({"activation": "sine"}, "activation must be elu, relu, tanh"),
    ],
)
def test_settings_out_of_range_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        PPOConfig(**setting)


def test_an_environment_may_write_what_it_returns_over_what_it_returned(vectorized):
    weights = []
    for reuses in (False, True):
        envs, shown = vectorized(n=2, length=3), {}
        step = envs.step

        def over(action, step=step, shown=shown, reuses=reuses):
            *arrays, infos = step(action)
            if reuses:
                for k, array in enumerate(arrays):
                    shown.setdefault(k, array.copy())[:] = array
                arrays = list(shown.values())
            return (*arrays, infos)

        envs.step = over
        agent = PPO(1, 1, config=PPOConfig(hidden=(8,), rollout=16, batch_size=8, epochs=1), seed=0)
        for _ in on_policy(agent, envs, steps=64, seed=0, rollout=16, gamma=0.9, gae_lambda=0.9):
            pass
        weights.append(agent.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
