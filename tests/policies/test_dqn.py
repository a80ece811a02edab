import copy
import dataclasses
import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.testing import assert_close

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.distributions import chosen_action, chosen_number
from simtoreal.policies.dqn import DQN, DQNConfig, RainbowConfig
from simtoreal.policies.loops import off_policy
from simtoreal.policies.prioritized import PrioritizedReplay
from simtoreal.policies.replay import Batch, Replay

N, K = 5, 3
SWITCHES = ("double", "dueling", "noisy", "prioritized", "categorical")
SMALL = {"hidden": (16, 8), "batch_size": 12}


def random_batch(size, n=N, choices=K):
    return Batch(
        torch.randn(size, n),
        chosen_action(torch.randint(choices, (size, 1)).float(), choices),
        torch.randn(size),
        torch.randn(size, n),
        (torch.rand(size) < 0.2).float(),
    )


def shaken(agent):
    """With a target that differs from the network."""
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return agent


def weights(agent):
    return [parameter.detach().clone() for parameter in agent.network.parameters()]


@pytest.mark.parametrize("max_gradient", [1e3, 0.01])
def test_the_loss_gradients_and_new_weights_are_those_of_sb3(monkeypatch, max_gradient):
    env = gym.Env()
    env.observation_space, env.action_space = gym.spaces.Box(-9, 9, (N,)), gym.spaces.Discrete(K)
    model = stable_baselines3.DQN(
        "MlpPolicy", env, policy_kwargs={"net_arch": [16, 8]}, gamma=0.9, learning_rate=1e-3, max_grad_norm=max_gradient
    )
    model.set_logger(Logger(None, []))
    config = DQNConfig(
        **SMALL, gamma=0.9, learning_rate=1e-3, normalize_observations=False, max_gradient=max_gradient, target_every=4
    )
    agent = shaken(DQN(N, 1, config=config, choices=K))
    for mine, theirs in ((agent.network, model.q_net), (agent.target, model.q_net_target)):
        for theirs_, mine_ in zip(theirs.parameters(), mine.parameters(), strict=True):
            theirs_.data.copy_(mine_)
    for _ in range(4):
        batch = random_batch(12)
        numbers = chosen_number(batch.action, K)
        columns = batch.reward[:, None] * 3, batch.terminated[:, None]
        batch = dataclasses.replace(batch, reward=batch.reward * 3)  # some errors beyond 1, where the loss is linear
        samples = ReplayBufferSamples(
            batch.obs, numbers, batch.next_obs, dones=columns[1], rewards=columns[0], discounts=None
        )
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, samples=samples, **__: samples)
        model.train(1, 12)
        metrics = agent.update(batch)
        assert float(metrics["loss"]) == pytest.approx(model.logger.name_to_value["train/loss"], rel=1e-5)
        for mine, theirs in zip(agent.network.parameters(), model.q_net.parameters(), strict=True):
            if max_gradient > 1:  # below, theirs are those that were clipped
                assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)
            assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(agent.target.parameters(), agent.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)  # after the fourth step


def one_layer(q, q_target, **settings):
    """An agent whose Q(s, .) is `q` [K] and Q'(s, .) `q_target`, whatever s is; of distributions their logits."""
    agent = DQN(1, 1, config=DQNConfig(**{"hidden": (1,), "batch_size": 1} | settings), choices=2)
    with torch.no_grad():
        for network, values in ((agent.network, q), (agent.target, q_target)):
            for parameter in network.parameters():
                parameter.zero_()
            network.head.streams[0].output.bias.copy_(torch.tensor(values).flatten())
    return agent


@pytest.mark.parametrize(
    ("double", "terminated", "loss"),
    [
        (False, 0.0, 2.08),  # y = 1 + .9 max(5, 2) = 5.5, 2.58 away, where the loss is linear: 2.58 - .5
        (True, 0.0, 0.0072),  # Q says the second is the better: y = 1 + .9 2 = 2.8, .12 away, .12^2 / 2
        (True, 1.0, 1.42),  # y = 1, 1.92 away
    ],
)
def test_the_double_target_is_the_target_s_value_of_what_the_network_would_choose(double, terminated, loss):
    agent = one_layer([2.42, 2.92], [5.0, 2.0], double=double, gamma=0.9)
    batch = Batch(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1), torch.zeros(1, 1), torch.tensor([terminated]))
    assert float(agent.update(batch)["loss"]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("double", "loss"), [(False, 0.948560), (True, 1.151293)])
def test_the_best_choice_is_that_of_the_highest_mean_of_a_distribution(double, loss):
    """Atoms -1, 0, 1. Of the first choice the network says .2, .5, .3, of the second that it is mostly 0 or 1, so that
    its mean is the higher (.1 and .46) and its first logit the lower (-1.6 and -3); the target, that the first is
    surely 1 and the second surely -1. So y is half of 1, between the last two atoms: -(log .5 + log .3) / 2; of what
    the network would choose half of -1, between the first two: -(log .2 + log .5) / 2."""
    says = [np.log([0.2, 0.5, 0.3]), [-3.0, 0.0, 0.0]]
    sure = [[0.0, 0.0, 100.0], [100.0, 0.0, 0.0]]
    settings = {"categorical": True, "atoms": 3, "value_low": -1.0, "value_high": 1.0}
    agent = one_layer(np.array(says), sure, gamma=0.5, double=double, **settings)
    batch = Batch(torch.zeros(1, 1), -torch.ones(1, 1), torch.zeros(1), torch.zeros(1, 1), torch.zeros(1))
    assert float(agent.update(batch)["loss"]) == pytest.approx(loss, rel=1e-5)


def test_importance_weights_make_up_for_what_is_drawn_too_often():
    """N P is 2 and 1/2, and beta has risen from .4 half of the way to 1: w = 2^-.7 and 2^.7, over the greater .378929
    and 1. Q is 0, the returns 1 and 2, so the losses 1/2 and 3/2."""
    agent = one_layer([0.0, 0.0], [0.0, 0.0], prioritized=True, beta=0.4, beta_steps=100, batch_size=2)
    agent.explored += 50
    agent.count()
    batch = Batch(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([1.0, 2.0]), torch.zeros(2, 1), torch.ones(2))
    batch = dataclasses.replace(batch, likelihood=torch.tensor([2.0, 0.5]))
    assert float(agent.update(batch)["loss"]) == pytest.approx((0.378929 * 0.5 + 1.5) / 2, rel=1e-5)


def test_the_target_moves_by_tau_every_so_many_steps():
    """Half of the way after every second: (w0 + w2) / 2, then (w0 + w2 + 2 w4) / 4."""
    agent = DQN(N, 1, config=DQNConfig(**SMALL, learning_rate=1e-2, tau=0.5, target_every=2), choices=K)
    seen = [weights(agent)]
    for _ in range(4):
        agent.update(random_batch(12))
        seen.append(weights(agent))
    for found, first, _, second, _, fourth in zip(agent.target.parameters(), *seen, strict=True):
        assert_close(found.detach(), (first + second + 2 * fourth) / 4, atol=1e-6, rtol=1e-6)


def test_a_batch_of_several_steps_bootstraps_by_its_own_discount():
    agent = one_layer([0.0, 0.0], [2.0, 1.0], gamma=0.9)
    batch = Batch(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1), torch.zeros(1, 1), torch.zeros(1))
    batch = dataclasses.replace(batch, discount=torch.tensor([0.729]))
    assert float(agent.update(batch)["loss"]) == pytest.approx(1 + 0.729 * 2 - 0.5)


def test_the_loss_of_a_distribution_is_its_cross_entropy_with_the_projected_target():
    """Atoms -1, 0, 1; the target's best choice is surely 1, so r + gamma z = .25 + .5 = .75: a quarter on 0, the rest
    on 1. The network says nothing yet, so each atom costs log 3, and as priority that less the target's entropy."""
    sure = [[0.0, 0.0, 100.0], [100.0, 0.0, 0.0]]
    settings = {"categorical": True, "atoms": 3, "value_low": -1.0, "value_high": 1.0}
    agent = one_layer(np.zeros((2, 3)), sure, gamma=0.5, prioritized=True, **settings)
    batch = Batch(torch.zeros(1, 1), torch.ones(1, 1), torch.full((1,), 0.25), torch.zeros(1, 1), torch.zeros(1))
    assert float(agent.update(batch)["loss"]) == pytest.approx(np.log(3))
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert float(agent.errors[0]) == pytest.approx(np.log(3) - entropy, rel=1e-5)


@pytest.mark.parametrize("switches", [s for n in range(3) for s in itertools.combinations(SWITCHES, n)] + [SWITCHES])
def test_gradients_are_those_of_autograd(monkeypatch, switches):
    """Of the loss as torch's own functions have it, with the same noise; the target being what the agent says."""
    torch.manual_seed(0)
    settings = dict.fromkeys(switches, True)
    agent = shaken(DQN(N, 1, config=DQNConfig(**SMALL, atoms=7, **settings), choices=K, seed=3))
    batch = random_batch(12)
    if "prioritized" in switches:
        batch = dataclasses.replace(batch, likelihood=torch.rand(12) * 3 + 0.1)
    rng = copy.deepcopy(agent.rng.get_state())
    noise = agent.network.head.draw(agent.rng)
    agent.rng.set_state(rng)
    told = []
    judged = agent._judged
    monkeypatch.setattr(agent, "_judged", lambda *given: told.append(judged(*given)) or told[0])
    before = copy.deepcopy(agent.network)
    agent.update(batch)

    head = before.head
    latent = before.body(agent.normalizer(batch.obs))
    outputs, parts = [], [None] * 2 if noise is None else noise.split(head._noise_sizes)
    for stream, part in zip(head.streams, parts, strict=False):
        x = latent
        layers = [None] * 2 if part is None else part.split(stream.noise_sizes)
        for layer, e in zip((stream.hidden, stream.output), layers, strict=True):
            weight, bias = layer.weight, layer.bias
            if e is not None:
                e_in, e_out = e.split([layer.in_features, layer.out_features])
                weight = weight + layer.weight_deviation * torch.outer(e_out, e_in)
                bias = bias + layer.bias_deviation * e_out
            x = torch.nn.functional.linear(x, weight, bias)
            x = x.relu() if layer is stream.hidden else x
        outputs.append(x.unflatten(1, (-1, head.outputs)))
    q = outputs[0] if len(outputs) == 1 else outputs[1] + outputs[0] - outputs[0].mean(1, keepdim=True)
    chosen = q[torch.arange(12), chosen_number(batch.action[:, 0], K)]
    losses, slopes, _ = told[0]
    if "categorical" in switches:
        target = (chosen.softmax(-1) - slopes).detach()  # the slope is softmax - target
        assert_close(target.sum(-1), torch.ones(12))
        each = torch.nn.functional.cross_entropy(chosen, target, reduction="none")
    else:
        error = torch.where(losses > 0.5, losses + 0.5, (2 * losses).sqrt()) * slopes[:, 0].sign()
        target = (chosen[:, 0] - error).detach()
        each = torch.nn.functional.smooth_l1_loss(chosen[:, 0], target, reduction="none")
    assert_close(each, losses, atol=1e-5, rtol=1e-5)
    scale = torch.ones(12)
    if "prioritized" in switches:
        scale = batch.likelihood**-0.4
        scale = scale / scale.max()
    wanted = torch.autograd.grad((scale * each).mean(), list(before.parameters()))
    for parameter, gradient in zip(agent.network.parameters(), wanted, strict=True):
        assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


class Choose(gym.Env):
    """Observation x in [-1, 1]; the choice whose number is that of x's third pays 1, another 0; then it is over."""

    def __init__(self, length=1, constant=False, truncate=False):
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Box(-1, 1, (1,))
        self.length, self.constant, self.truncate = length, constant, truncate

    def _observe(self):
        self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        right = int((self.x[0] + 1) * 1.4999) == round(float(action[0]) + 1)
        over = self.t >= self.length
        reward = 1.0 if right or self.constant else 0.0
        return self._observe(), reward, over and not self.truncate, over and self.truncate, {}


def trained(agent, steps, prioritized=False, **env):
    envs = SyncVectorEnv([lambda: Choose(**env)], autoreset_mode=AutoresetMode.SAME_STEP)
    replay = Replay(10_000, 1, 1)
    if prioritized:
        replay = PrioritizedReplay(replay, 0.5)
    settings = {"batch_size": 32, "learning_starts": 100, "choices": K}
    for _ in off_policy(agent, envs, replay, steps=steps, seed=0, **settings):
        pass
    return agent


LEARNING = {"hidden": (32, 32), "batch_size": 32, "learning_rate": 3e-3, "target_every": 20, "epsilon_steps": 500}


@pytest.mark.parametrize(
    "config", [DQNConfig(**LEARNING), RainbowConfig(**LEARNING | {"n_step": 1, "value_high": 2.0})]
)
def test_it_finds_the_optimum_of_a_one_step_task(config):
    agent = trained(DQN(1, 1, config=config, choices=K), 1500, config.prioritized)
    x = np.linspace(-0.99, 0.99, 67, dtype=np.float32)[:, None]
    right = ((x + 1) * 1.4999).astype(int) == agent.act(x, explore=False).round().astype(int) + 1
    assert right.mean() > 0.9


@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize(("truncate", "value"), [(True, 2.0), (False, 1.6)])
def test_the_value_of_a_constant_reward(categorical, truncate, value):
    """Whatever is done pays 1: 1 / (1 - gamma) where episodes are cut off, and where a quarter of the steps are the
    last and nobody sees which, 1 / (1 - 3/4 gamma)."""
    settings = LEARNING | {"gamma": 0.5, "categorical": categorical, "value_low": 0.0, "value_high": 3.0}
    agent = DQN(1, 1, config=DQNConfig(**settings), choices=K)
    trained(agent, 2500, length=4, constant=True, truncate=truncate)
    outputs, _ = agent.network.trace(agent.normalizer(torch.linspace(-1, 1, 21)[:, None]), None)
    assert agent._values(outputs).mean().item() == pytest.approx(value, rel=0.06)


def test_epsilon_falls_and_the_weight_of_priorities_rises_with_the_steps_explored():
    config = DQNConfig(epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=10, beta=0.5, beta_steps=20, batch_size=4)
    agent = DQN(N, 1, config=config, choices=K)
    rates = []
    for _ in range(6):
        rates.append((agent.epsilon, *agent._rates.tolist()))
        agent.act(np.zeros((2, N), np.float32), explore=True)
        agent.act(np.zeros((2, N), np.float32), explore=False)
        agent.update(random_batch(4))
    epsilon, told, beta = np.transpose(rates)
    assert np.allclose(epsilon, [0.9, 0.74, 0.58, 0.42, 0.26, 0.1])
    assert np.allclose(told, epsilon)
    assert np.allclose(beta, [0.5, 0.55, 0.6, 0.65, 0.7, 0.75])


def test_it_explores_any_choice_with_epsilon():
    agent = DQN(N, 1, config=DQNConfig(epsilon_start=0.6, epsilon_end=0.6), choices=K)
    obs = np.zeros((6000, N), np.float32)
    best = agent.act(obs[:1], explore=False)[0, 0]
    actions = agent.act(obs, explore=True)
    assert set(actions[:, 0]) == {-1.0, 0.0, 1.0}
    assert (actions != best).mean() == pytest.approx(0.4, abs=0.03)  # a third of what is random is the best too


def test_noisy_layers_explore_instead_of_epsilon():
    agent = DQN(N, 1, config=DQNConfig(noisy=True, deviation=3.0), choices=K)
    obs = np.random.default_rng(0).normal(size=(1, N)).astype(np.float32)
    seen = {float(agent.act(obs, explore=True)[0, 0]) for _ in range(100)}
    assert len(seen) > 1
    assert len({float(agent.act(obs, explore=False)[0, 0]) for _ in range(20)}) == 1
    assert float(agent._rates[0]) == 0.0


@pytest.mark.parametrize("switches", [(), ("dueling",), ("noisy",), ("categorical",), SWITCHES])
@pytest.mark.parametrize("image", [None, (2, 40, 36), (2, 20, 16)])
def test_an_actor_chooses_as_its_agent_and_is_rebuilt_from_its_description(switches, image):
    size = N if image is None else math.prod(image)
    settings = {"normalize_observations": image is None, "hidden": (16, 8), "batch_size": 4}
    config = DQNConfig(**settings, **dict.fromkeys(switches, True), value_high=20.0)
    agent = DQN(size, 1, config=config, choices=4, image=image)
    rng = np.random.default_rng(0)
    obs = rng.normal(2, 3, (64, N)).astype(np.float32)
    if image:
        shown = rng.integers(0, 2, (64, 2, 5, 4), np.uint8)
        shown = shown.repeat(image[1] // 5, axis=2).repeat(image[2] // 4, axis=3)
        obs = rng.integers(0, 256, (64, *image), np.uint8) * shown
    agent.observe(obs)
    with torch.no_grad():  # as far apart as what was learned
        for parameter in agent.network.parameters():
            parameter.mul_(5.0 if parameter.ndim > 1 else 0.0)
    actor = agent.actor()
    wanted = agent.act(obs, explore=False)
    assert len(set(wanted[:, 0].tolist())) > 1
    again = DeterministicActor.from_description(actor.describe())
    again.load_state_dict(actor.state_dict())
    for one in (actor, again):
        assert torch.equal(one(torch.from_numpy(obs)), torch.from_numpy(wanted))


@pytest.mark.parametrize("config", [DQNConfig, RainbowConfig])
def test_the_network_that_acts_and_leaves_is_the_average_of_all_steps(config):
    """w <- 0.75 w + 0.25 of the trained ones after each of three steps from w0: (27 w0 + 9 w1 + 12 w2 + 16 w3) / 64."""
    agent = DQN(N, 1, config=config(**SMALL, learning_rate=1e-2, actor_average=0.25), choices=K)
    seen = [weights(agent)]
    for _ in range(3):
        agent.update(random_batch(12))
        seen.append(weights(agent))
    shares = (27, 9, 12, 16)
    for found, *each in zip(agent.average.parameters(), *seen, strict=True):
        expected = sum(share * weight for share, weight in zip(shares, each, strict=True)) / 64
        assert_close(found.detach(), expected, atol=1e-6, rtol=1e-6)
    with torch.no_grad():  # so that they choose otherwise
        for parameter in agent.average.parameters():
            parameter.neg_()
    obs = torch.randn(200, N)
    chosen = agent.act(obs.numpy(), explore=False)
    assert torch.equal(agent.actor()(obs), torch.from_numpy(chosen))
    explored = DQN(N, 1, config=config(**SMALL, epsilon_start=0, epsilon_end=0), choices=K)
    explored.network.load_state_dict(agent.network.state_dict())
    assert (explored.act(obs.numpy(), explore=False) != chosen).any()


@pytest.mark.parametrize(
    "change", [{"atoms": [3, 0.0]}, {"atoms": [1, 0.0, 1.0]}, {"atoms": [3, 1.0, 1.0]}, {"dueling": 1}]
)
def test_a_foreign_description_of_distributions_is_refused(change):
    agent = DQN(N, 1, config=DQNConfig(categorical=True, batch_size=4), choices=K)
    with pytest.raises(ValueError, match=r"atoms|dueling"):
        DeterministicActor.from_description(agent.actor().describe() | change)


@pytest.mark.parametrize("config", [DQNConfig, RainbowConfig])
def test_its_state_is_all_it_takes_to_go_on(config):
    settings = SMALL | {"target_every": 3, "actor_average": 0.1}
    agents = [DQN(N, 1, config=config(**settings), choices=K, seed=seed) for seed in (0, 1)]
    obs = np.random.default_rng(0).normal(size=(4, N)).astype(np.float32)
    batches = [random_batch(12) for _ in range(8)]
    for batch in batches[:4]:
        agents[0].act(obs, explore=True)
        agents[0].observe(obs)
        agents[0].update(batch)
    agents[1].load_state_dict(agents[0].state_dict())
    for batch in batches[4:]:
        acts = [agent.act(obs, explore=True) for agent in agents]
        assert np.array_equal(*acts)
        metrics = [agent.update(batch) for agent in agents]
        assert metrics[0] == metrics[1]
    assert all(map(torch.equal, *map(weights, agents)))
    assert all(map(torch.equal, *(agent.average.parameters() for agent in agents)))


@pytest.mark.parametrize("part", ["obs", "reward", "next_obs"])
@pytest.mark.parametrize("config", [DQNConfig, RainbowConfig])
def test_a_number_that_is_none_stops_it_before_any_weight_changes(part, config):
    agent = DQN(N, 1, config=config(**SMALL), choices=K)
    batch = random_batch(12)
    getattr(batch, part)[0] = torch.nan
    before = weights(agent)
    with pytest.raises(NonFiniteError):
        agent.update(batch)
    assert all(map(torch.equal, before, weights(agent)))


def test_a_broken_network_does_not_act():
    agent = DQN(N, 1, config=DQNConfig(**SMALL, epsilon_start=0.0, epsilon_end=0.0), choices=K)
    with torch.no_grad():
        agent.network.head.streams[0].output.bias[0] = torch.inf
    for explore in (True, False):
        with pytest.raises(NonFiniteError):
            agent.act(np.zeros((1, N), np.float32), explore=explore)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"target_every": 0}, "target_every must be at least 1"),
        ({"epsilon_end": 1.5}, "epsilon_end must be from 0 to 1"),
        ({"atoms": 1}, "atoms must be from 2"),
        ({"value_high": -10.0}, "value_high must be above value_low"),
        ({"priority_exponent": -0.1}, "priority_exponent must be from 0 to 1"),
        ({"adam_eps": 1e-300}, "adam_eps must be from 1e-30 to 1, got 1e-300"),
        ({"value_low": -1e39}, r"value_low must be from -1e\+30 to 1e\+30, got -1e\+39"),
        ({"value_high": 1e39}, r"value_high must be above value_low -10.0 and at most 1e\+30, got 1e\+39"),
        ({"deviation": 0.0}, "deviation must be above 0"),
        ({"deviation": 1e39}, r"deviation must be above 0 and at most 1000, got 1e\+39"),
        ({"learning_rate": 2.0}, "learning_rate must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        DQNConfig(**setting)


@pytest.mark.parametrize(("more", "words"), [({"choices": 0}, "continuous"), ({"privileged_size": 2}, "privileged")])
def test_environments_that_it_does_not_learn_in_are_refused(more, words):
    given = {"choices": K, "privileged_size": 0} | more
    with pytest.raises(ValueError, match=words):
        DQN(N, 1, given.pop("privileged_size"), DQNConfig(), **given)
