import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.testing import assert_close

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.replay import Batch
from simtoreal.policies.sac import SAC, SACConfig

SMALL = SACConfig(hidden=(32, 32), batch_size=64, buffer_size=10_000, actor_lr=3e-3, critic_lr=3e-3, tau=0.05)
RNG = np.random.default_rng(0)


PARTS_OF_SAC = ("critics.", "policy.", "log_alpha")


def random_batch(n: int, m: int, size: int, privileged: int = 0) -> Batch:
    extra = {"privileged": torch.randn(size, privileged), "next_privileged": torch.randn(size, privileged)}
    return Batch(
        torch.randn(size, n),
        torch.rand(size, m) * 2 - 1,
        torch.randn(size),
        torch.randn(size, n),
        (torch.rand(size) < 0.2).float(),
        **(extra if privileged else {}),
    )


def copy_from_sb3(agent: SAC, model: stable_baselines3.SAC) -> None:
    """Give our agent SB3's weights."""
    actor = model.policy.actor
    with torch.no_grad():
        agent.policy.body.load_state_dict(actor.latent_pi.state_dict())
        if agent.config.sde:
            agent.policy.head.load_state_dict(actor.mu.state_dict())
            agent.policy.log_std.copy_(actor.log_std)
        else:
            agent.policy.head.weight.copy_(torch.cat([actor.mu.weight, actor.log_std.weight]))
            agent.policy.head.bias.copy_(torch.cat([actor.mu.bias, actor.log_std.bias]))
        for ours, theirs in ((agent.critics, model.critic), (agent.target_critics, model.critic_target)):
            for critic, network in zip(ours, theirs.q_networks, strict=True):
                for parameter, value in zip(critic.parameters(), network.parameters(), strict=True):
                    parameter.copy_(value)


@pytest.mark.parametrize("sde", [False, True])
def test_losses_gradients_and_new_weights_are_those_of_sb3(monkeypatch, sde):
    n, m, size = 5, 3, 32
    env = gym.Env()
    env.observation_space, env.action_space = gym.spaces.Box(-9, 9, (n,)), gym.spaces.Box(-1, 1, (m,))
    nets = {"net_arch": [32, 16]} | ({"clip_mean": 0.0} if sde else {})
    model = stable_baselines3.SAC("MlpPolicy", env, policy_kwargs=nets, gamma=0.9, tau=0.1, seed=1, use_sde=sde)
    model.set_logger(Logger(None, []))
    with torch.no_grad():
        if not sde:
            model.policy.actor.log_std.bias.fill_(-3.0)  # SB3 adds 1e-6 inside a logarithm: keep away from saturation
        for parameter in model.critic_target.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    config = SACConfig(hidden=(32, 16), gamma=0.9, tau=0.1, normalize_observations=False, sde=sde)
    agent = SAC(n, m, config=config)
    copy_from_sb3(agent, model)

    batch = random_batch(n, m, size)
    noise, next_noise = torch.randn(size, m), torch.randn(size, m)
    theirs, ours = [noise, next_noise], torch.cat([noise, next_noise])
    if sde:  # one matrix for a whole update; SB3 draws a second that it does not use
        ours = torch.randn(16, m)
        theirs = [ours, ours[None]]
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: theirs.pop(0))
    monkeypatch.setattr(agent.policy, "noise", lambda *_: ours)
    column = {"rewards": batch.reward[:, None], "dones": batch.terminated[:, None]}
    samples = ReplayBufferSamples(batch.obs, batch.action, batch.next_obs, **column)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, **__: samples)
    critic_gradients = []
    step = model.critic.optimizer.step
    monkeypatch.setattr(
        model.critic.optimizer,
        "step",
        lambda: (critic_gradients.extend(p.grad.clone() for p in model.critic.parameters()), step()),
    )

    model.train(1, size)
    metrics = agent.update(batch)

    for name in ("critic_loss", "actor_loss", "ent_coef", "ent_coef_loss"):
        assert float(metrics[name]) == pytest.approx(model.logger.name_to_value[f"train/{name}"], rel=1e-5, abs=1e-5)
    actor = model.policy.actor
    body, head = agent.policy.body, agent.policy.head
    for i in (0, 2):
        assert_close(body[i].weight.grad, actor.latent_pi[i].weight.grad, atol=1e-5, rtol=1e-5)
    if sde:
        assert_close(head.weight.grad, actor.mu.weight.grad, atol=1e-5, rtol=1e-5)
        assert_close(agent.policy.log_std.grad, actor.log_std.grad, atol=1e-5, rtol=1e-5)
    else:
        theirs_grad = torch.cat([actor.mu.weight.grad, actor.log_std.weight.grad])
        assert_close(head.weight.grad, theirs_grad, atol=1e-5, rtol=1e-5)
    for parameter, gradient in zip(agent.critics.parameters(), critic_gradients, strict=True):
        assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-5)
    assert_close(agent.log_alpha.detach(), model.log_ent_coef.detach()[0], atol=1e-5, rtol=1e-5)
    after = SAC(n, m, config=config)
    copy_from_sb3(after, model)
    for ours_after, theirs_after in zip(
        agent.target_critics.parameters(), after.target_critics.parameters(), strict=True
    ):
        assert_close(ours_after, theirs_after, atol=1e-5, rtol=1e-5)


def test_smoothness_adds_the_gradient_of_the_squared_change_of_the_mean_action():
    plain, smooth = (SAC(4, 2, config=dataclasses.replace(SMALL, smoothness=weight)) for weight in (0.0, 0.3))
    batch = random_batch(4, 2, 16)
    actor = plain.actor().requires_grad_(True)
    (0.3 * (actor(batch.obs) - actor(batch.next_obs)).square().sum(-1).mean()).backward()
    losses = [agent.update(batch)["actor_loss"] for agent in (plain, smooth)]
    assert losses[1] > losses[0]
    for i in (0, 2):
        added = smooth.policy.body[i].weight.grad - plain.policy.body[i].weight.grad
        assert_close(added, actor.body[i].weight.grad, atol=1e-6, rtol=1e-4)
    added = smooth.policy.head.weight.grad - plain.policy.head.weight.grad
    assert_close(added[:2], actor.head.weight.grad, atol=1e-6, rtol=1e-4)
    assert_close(added[2:], torch.zeros_like(added[2:]), atol=1e-6, rtol=0)


def test_it_finds_the_optimum_of_a_one_step_task(vectorized, learn):
    """Reward -(a - x/2)^2 and the end: the best action is x / 2, its value 0 (less the temperature's small part)."""
    config = dataclasses.replace(SMALL, alpha_lr=0.0, initial_alpha=1e-3)
    agent = SAC(1, 1, config=config, seed=0)
    learn(agent, vectorized(4), steps=2_400, learning_starts=400)
    x = torch.linspace(-0.9, 0.9, 7)[:, None]
    assert_close(agent.actor()(x), x / 2, atol=0.06, rtol=0)


@pytest.mark.parametrize(("truncate", "value"), [(True, 10.0), (False, 1.0)])
def test_the_value_of_a_constant_reward(vectorized, learn, truncate, value):
    """Reward 1, gamma .9, an episode of one step: worth 1 / (1 - gamma) when it is truncated, 1 when it terminates."""
    config = dataclasses.replace(SMALL, gamma=0.9, alpha_lr=0.0, initial_alpha=1e-6)
    agent = SAC(1, 1, config=config)
    envs = vectorized(1, bonus=1.0, action_reward=0.0, truncate=truncate)
    replay = learn(agent, envs, steps=1_200, learning_starts=200)
    batch = replay.sample(256, torch.Generator().manual_seed(0))
    q = agent.critics(torch.cat([agent.normalizer(batch.obs), batch.action], dim=-1))
    assert_close(q, torch.full_like(q, value), rtol=0.05, atol=0)


def test_a_privileged_critic_sees_more_than_its_actor():
    agent = SAC(3, 2, privileged_size=4, config=SMALL)
    agent.observe({"policy": RNG.standard_normal((50, 3)), "privileged": RNG.standard_normal((50, 4)) * 7})
    agent.update(random_batch(3, 2, 64, privileged=4))
    assert agent.critics[0].body[0].in_features == 3 + 4 + 2
    assert agent.actor()(torch.zeros(2, 3)).shape == (2, 2)
    assert agent.critics[0].body[0].weight.grad[:, 3:7].abs().max() > 0
    assert agent.privileged_normalizer.scale.mean().item() == pytest.approx(1 / 7, rel=0.3)


def test_a_critic_may_see_the_privileged_observation_alone():
    agent = SAC(3, 2, 4, dataclasses.replace(SMALL, critic_inputs="privileged"))
    batch = random_batch(3, 2, 64, privileged=4)
    other = dataclasses.replace(batch, obs=batch.obs + 1.0, next_obs=batch.next_obs)
    q = [agent.critics(torch.cat([agent._inputs(b.obs, b.privileged)[1], b.action], -1)) for b in (batch, other)]
    assert torch.equal(q[0], q[1])
    before = agent.policy.body[0].weight.clone()
    agent.update(batch)
    assert agent.critics[0].body[0].in_features == 4 + 2
    assert not torch.equal(agent.policy.body[0].weight, before)
    assert (
        SAC(3, 2, config=dataclasses.replace(SMALL, critic_inputs="privileged")).critics[0].body[0].in_features == 3 + 2
    )


@pytest.mark.parametrize(("privileged", "state"), [(0, 3 * 2), (4, 2 + 4)])
def test_a_history_is_the_actors_and_the_critics_who_see_no_truth(privileged, state):
    agent = SAC(2, 1, privileged, dataclasses.replace(SMALL, history=3))
    stacks = RNG.standard_normal((50, 6)) * [9, 9, 9, 9, 2, 5]
    truth = RNG.standard_normal((50, 4))
    agent.observe({"policy": stacks, "privileged": truth} if privileged else stacks)
    assert_close(agent.normalizer.mean.numpy(), stacks[:, 4:].mean(axis=0), atol=1e-6, rtol=1e-5)
    assert agent.critics[0].body[0].in_features == state + 1
    batch = random_batch(6, 1, 64, privileged=privileged)
    agent.update(batch)
    actor_sees, critics_see = agent._inputs(batch.obs, batch.privileged)
    assert_close(critics_see[:, : state - privileged], actor_sees[:, 4:] if privileged else actor_sees)
    assert agent.critics[0].body[0].weight.grad.abs().amax(dim=0).min() > 0
    obs = RNG.standard_normal((6, 6)).astype(np.float32)
    assert_close(agent.actor()(torch.from_numpy(obs)).numpy(), agent.act(obs, explore=False), atol=1e-6, rtol=1e-6)
    assert agent.actor().history == 3


@pytest.mark.parametrize("actor_average", [0.0, 0.2])
def test_the_actor_that_leaves_acts_as_the_agent_does(actor_average):
    agent = SAC(3, 2, config=dataclasses.replace(SMALL, actor_average=actor_average))
    agent.observe(RNG.standard_normal((50, 3)) * 5 + 2)
    for _ in range(3):
        agent.update(random_batch(3, 2, 64))
    obs = RNG.standard_normal((6, 3)).astype(np.float32)
    assert_close(agent.actor()(torch.from_numpy(obs)).numpy(), agent.act(obs, explore=False), atol=1e-6, rtol=1e-6)
    raw = torch.tanh(agent.policy.mean(agent.normalizer(torch.from_numpy(obs))))
    assert torch.allclose(raw, agent.actor()(torch.from_numpy(obs)), atol=1e-6) == (actor_average == 0)


def test_with_a_delay_the_critics_step_alone_and_the_actor_with_every_third():
    agent = SAC(4, 2, config=dataclasses.replace(SMALL, policy_delay=3), seed=1)
    moved: list[list[bool]] = []
    shown: list[list[float]] = []
    for _ in range(6):
        before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
        metrics = agent.update(random_batch(4, 2, 16))
        after = agent.state_dict()
        moved.append(
            [any(not torch.equal(before[n], after[n]) for n in after if n.startswith(part)) for part in PARTS_OF_SAC]
        )
        shown.append([float(metrics[name]) for name in ("actor_loss", "ent_coef_loss", "entropy")])
    assert moved == [[True, False, False], [True, False, False], [True, True, True]] * 2
    assert shown[2] == shown[3] == shown[4]
    assert shown[2] not in (shown[1], shown[5])


def test_exploration_follows_the_policys_distribution():
    agent = SAC(1, 1, config=SMALL)
    with torch.no_grad():
        agent.policy.head.weight.zero_()
        agent.policy.head.bias.copy_(torch.tensor([0.3, np.log(0.1)]))
    u = np.arctanh(agent.act(np.zeros((20_000, 1), dtype=np.float32), explore=True))
    assert u.mean() == pytest.approx(0.3, abs=0.005)
    assert u.std() == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(("privileged", "delay"), [(0, 1), (2, 2)])
def test_a_restored_agent_goes_on_bit_for_bit(privileged, delay):
    config = dataclasses.replace(SMALL, actor_average=0.1, layer_norm=True, policy_delay=delay)
    agent = SAC(3, 2, privileged, config, seed=3)
    batches = [random_batch(3, 2, 64, privileged) for _ in range(6)]
    for batch in batches[:3]:
        agent.update(batch)
    other = SAC(3, 2, privileged, config, seed=99)
    other.load_state_dict(agent.state_dict())
    for batch in batches[3:]:
        agent.update(batch)
        other.update(batch)
    assert agent.state_dict().keys() == other.state_dict().keys()
    for name, tensor in agent.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    obs = np.zeros((2, 3), dtype=np.float32)
    assert np.array_equal(agent.act(obs, explore=True), other.act(obs, explore=True))


def test_a_foreign_state_is_refused_by_name_and_shape():
    state = SAC(3, 2, config=SMALL).state_dict()
    with pytest.raises(ValueError, match=r"policy.body.0.weight: shape \[32, 3\], expected \[32, 4\]"):
        SAC(4, 2, config=SMALL).load_state_dict(state)
    with pytest.raises(ValueError, match="average"):
        SAC(3, 2, config=dataclasses.replace(SMALL, actor_average=0.1)).load_state_dict(state)
    with pytest.raises(ValueError, match="surprise"):
        SAC(3, 2, config=SMALL).load_state_dict(state | {"surprise": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"log_alpha: shape \[3\], expected \[\]"):
        SAC(3, 2, config=SMALL).load_state_dict(state | {"log_alpha": torch.zeros(3)})


def test_the_seed_decides_the_agent_and_leaves_torchs_own_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, three = (SAC(3, 2, config=SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.critics[0].body[0].weight, two.critics[0].body[0].weight)
    assert not torch.equal(one.critics[0].body[0].weight, three.critics[0].body[0].weight)


def test_a_non_finite_loss_stops_before_the_weights_are_touched():
    agent = SAC(3, 2, config=SMALL)
    before = {name: value for name, value in agent.state_dict().items() if not name.startswith("rng")}
    batch = random_batch(3, 2, 64)
    with pytest.raises(NonFiniteError, match="critic loss is nan"):
        agent.update(dataclasses.replace(batch, reward=batch.reward * float("nan")))
    after = agent.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_broken_policy_does_not_act():
    agent = SAC(3, 2, config=SMALL)
    agent.policy.head.bias.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="action"):
        agent.act(np.zeros((1, 3), dtype=np.float32), explore=False)


@pytest.mark.parametrize(
    "change",
    [
        {"gamma": 1.01}, {"gamma": float("nan")}, {"tau": 0.0}, {"actor_lr": 0.0}, {"batch_size": 0},
        {"batch_size": 65_537}, {"buffer_size": 10},
        {"hidden": ()}, {"hidden": (0,)}, {"hidden": (16_385,)}, {"hidden": (4,) * 33},
        {"n_critics": 0}, {"n_critics": 17}, {"updates_per_step": 0.0}, {"initial_alpha": 0.0},
        {"actor_average": 1.0}, {"target_entropy": float("inf")}, {"learning_starts": -1}, {"matmul_precision": "low"},
        {"smoothness": -0.1}, {"critic_inputs": "policy"}, {"history": 0},
        {"history": 65},
    ],
)  # fmt: skip
def test_a_config_that_cannot_run_cannot_be_built(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        SACConfig(**change)


def test_the_toy_is_a_valid_environment(toy):
    check_env(toy(length=3), skip_render_check=True)
