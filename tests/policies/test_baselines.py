import copy
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.baselines import VecEnvAdapter, learn_sb3
from simtoreal.policies.distributions import chosen_action
from simtoreal.policies.images import is_channels_first

CONFIG = {"learning_starts": 20, "batch_size": 16, "buffer_size": 500, "policy_kwargs": {"net_arch": [16, 8]}}


@pytest.mark.parametrize(("name", "more"), [("sac", {}), ("sac", {"use_sde": True}), ("td3", {})])
def test_the_copied_actor_predicts_what_sb3_predicts(vectorized, name, more):
    envs = vectorized(2, length=5, truncate=True)
    baseline = learn_sb3(name, envs, CONFIG | more, steps=100, seed=0, report_every=40)
    reports = list(baseline)
    assert [report.step for report in reports] == [40, 80, 100]
    assert {"actor_loss", "critic_loss"} <= reports[-1].metrics.keys()
    assert ("ent_coef" in reports[-1].metrics) == (name == "sac")
    assert sum(len(report.episodes) for report in reports) == 20
    assert all(episode["l"] == 5 for episode in reports[0].episodes)
    obs = np.random.default_rng(0).uniform(-1, 1, (64, 1)).astype(np.float32)
    expected, _ = baseline.model.predict(obs, deterministic=True)
    np.testing.assert_allclose(baseline.actor()(torch.from_numpy(obs)), expected, atol=1e-6)


@pytest.mark.parametrize("image", [(4, 36, 40), (36, 40, 3), (10, 10, 4), (10, 10, 10), (2, 12, 30)])
@pytest.mark.parametrize(("name", "choices"), [("ppo", 0), ("ppo", 3), ("dqn", 3)])
def test_the_copied_actor_of_images_predicts_what_sb3_predicts(name, choices, image):
    envs = SyncVectorEnv([lambda: Shown(image)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    more = {"n_steps": 8} if name == "ppo" else {"learning_starts": 8, "buffer_size": 50}
    config = {"batch_size": 16} | more
    baseline = learn_sb3(name, envs, config, steps=32, seed=0, choices=choices, image=image)
    list(baseline)
    with torch.no_grad():  # or all choices are alike
        for parameter in baseline.model.policy.parameters():
            parameter.mul_(2.0)
    obs = np.random.default_rng(0).integers(0, 256, (64, *image), np.uint8)
    theirs = obs if is_channels_first(image) else obs.transpose(0, 3, 1, 2)
    expected, _ = baseline.model.predict(theirs, deterministic=True)
    if choices:
        expected = chosen_action(torch.from_numpy(expected)[:, None].float(), choices).numpy()
    np.testing.assert_allclose(baseline.actor()(torch.from_numpy(obs)), expected, atol=1e-5)


class Shown(gym.Env):
    """Random pixels; the episodes have three steps."""

    def __init__(self, image):
        self.observation_space = gym.spaces.Box(0, 255, image, np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action[0]), False, self.steps == 3, {}


ON_POLICY = {"n_steps": 20, "batch_size": 20, "policy_kwargs": {"net_arch": [16, 8]}}
RELU = ON_POLICY | {"policy_kwargs": {"net_arch": [16, 8], "activation_fn": "relu"}}


@pytest.mark.parametrize(
    ("name", "choices", "config"), [("ppo", 0, ON_POLICY), ("ppo", 0, RELU), ("ppo", 3, ON_POLICY), ("dqn", 3, CONFIG)]
)
def test_the_copied_actor_predicts_what_sb3_predicts_of_the_others(vectorized, name, choices, config):
    envs = vectorized(2, length=5, truncate=True)
    baseline = learn_sb3(name, envs, config, steps=120, seed=0, choices=choices, report_every=40)
    assert [report.step for report in baseline] == [40, 80, 120]
    obs = np.random.default_rng(0).uniform(-1, 1, (64, 1)).astype(np.float32)
    expected, _ = baseline.model.predict(obs, deterministic=True)
    expected = expected[:, None] - 1.0 if choices else expected  # of three choices: -1, 0, 1
    np.testing.assert_allclose(baseline.actor()(torch.from_numpy(obs)), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "choices", "words"), [("sac", 2, "continuous"), ("dqn", 0, "several choices")])
def test_actions_that_a_learner_does_not_take_are_refused(vectorized, name, choices, words):
    with pytest.raises(ValueError, match=words):
        learn_sb3(name, vectorized(1), {}, steps=10, seed=0, choices=choices)


def test_what_sb3_schedules_follows_the_whole_training(vectorized):
    """Exploration falls from 1 to 0 over the first half of 400 steps, however often it reports."""
    config = CONFIG | {"exploration_fraction": 0.5, "exploration_final_eps": 0.0}
    baseline = learn_sb3("dqn", vectorized(1), config, steps=400, seed=0, choices=2, report_every=100)
    assert [round(baseline.model.exploration_rate, 2) for _ in baseline] == [0.5, 0.0, 0.0, 0.0]


def test_reports_do_not_change_what_is_learned(vectorized):
    def weights(report_every: int) -> list[torch.Tensor]:
        baseline = learn_sb3("sac", vectorized(2), CONFIG, steps=80, seed=0, report_every=report_every)
        list(baseline)
        return list(baseline.actor().parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(20), weights(80), strict=True))


@pytest.mark.parametrize("terminate", [True, False])
def test_the_adapter_says_how_an_episode_ended(scripted, terminate):
    adapter = VecEnvAdapter(scripted(terminate=terminate), seed=0)
    adapter.reset()
    for _ in range(3):
        obs, reward, done, infos = adapter.step(np.zeros((2, 1), dtype=np.float32))
    assert done.tolist() == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [0, 3]
    assert obs.tolist() == [[0, 1003], [1, 3]]
    assert infos[0]["TimeLimit.truncated"] is not terminate
    assert (infos[0]["episode"], infos[1]) == ({"r": 3.0, "l": 3}, {})
    assert reward.dtype == np.float32


def test_a_broken_transition_stops_sb3(scripted):
    def broken(obs, reward, terminated, truncated, infos):
        return obs, reward * np.array([1, np.nan]), terminated, truncated, infos

    with pytest.raises(NonFiniteError, match="environment 1"):
        list(learn_sb3("sac", scripted({5: broken}), CONFIG, steps=100, seed=0))


def test_td3_explores_unless_it_is_told_not_to(vectorized):
    for settings, sigma in (({}, 0.1), ({"action_noise": 0.3}, 0.3), ({"action_noise": 0.0}, 0.0)):
        model = learn_sb3("td3", vectorized(2), CONFIG | settings, steps=10, seed=0).model
        assert model.action_noise._sigma == pytest.approx([sigma])
    with pytest.raises(ValueError, match="action_noise must be at least 0 and at most 1, got 'loud'"):
        learn_sb3("td3", vectorized(2), CONFIG | {"action_noise": "loud"}, steps=10, seed=0)


def test_an_activation_is_named(vectorized):
    policy = learn_sb3("ppo", vectorized(1), RELU, steps=20, seed=0, report_every=20).model.policy
    assert isinstance(policy.mlp_extractor.policy_net[1], torch.nn.ReLU)
    with pytest.raises(ValueError, match="activation_fn must be elu, relu, tanh, got 'gelu'"):
        learn_sb3("sac", vectorized(1), {"policy_kwargs": {"activation_fn": "gelu"}}, steps=20, seed=0, report_every=20)


def test_unknown_names_are_refused(vectorized):
    with pytest.raises(ValueError, match="no SB3 algorithm 'a3c'; algorithms: dqn, ppo, sac, td3"):
        learn_sb3("a3c", vectorized(), {}, steps=10, seed=0)
    with pytest.raises(ValueError, match="speed"):
        learn_sb3("sac", vectorized(), {"speed": 9}, steps=10, seed=0)


@pytest.mark.parametrize("name", ["sac", "td3"])
@pytest.mark.parametrize(("stop", "buffer_size"), [(20, 500), (60, 500), (60, 40)])
def test_resuming_equals_no_break(vectorized, name, stop, buffer_size):
    """Before learning, in its midst, and with a buffer that is overwritten."""
    config = CONFIG | {"buffer_size": buffer_size}
    envs = vectorized(2, length=7, truncate=True)
    one = learn_sb3(name, envs, config, steps=120, seed=3, report_every=20)
    reports = iter(one)
    while next(reports).step < stop:
        pass
    tensors, numbers = one.state_dict(), json.loads(json.dumps(one.numbers()))
    memory = one.memory()
    rows, first = memory.rows(memory.oldest, memory.added), memory.oldest
    twin_envs = copy.deepcopy(envs)
    rest = [(r.step, r.episodes, r.metrics) for r in reports]

    torch.rand(3), np.random.rand(3)  # noqa: NPY002 (whatever others drew meanwhile)
    two = learn_sb3(name, twin_envs, config, steps=120, seed=8, report_every=20)
    two.load_state_dict(tensors, numbers)
    two.memory().restore(first, [rows])
    assert [(r.step, r.episodes, r.metrics) for r in two] == rest
    mine, theirs = one.state_dict(), two.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert one.numbers() == two.numbers()


def test_a_stored_buffer_that_does_not_fit_is_refused(vectorized):
    baseline = learn_sb3("sac", vectorized(2), CONFIG, steps=40, seed=0)
    list(baseline)
    memory = baseline.memory()
    rows = memory.rows(0, 20)
    with pytest.raises(IndexError, match="0 to 20 are held"):
        memory.rows(0, 21)
    with pytest.raises(ValueError, match="expected"):
        memory.restore(0, [{"observations": rows["observations"]}])
    with pytest.raises(ValueError, match=r"stored actions has shape \[20, 2\], expected \[20, 2, 1\]"):
        memory.restore(0, [rows | {"actions": rows["actions"][:, :, 0]}])
    with pytest.raises(ValueError, match="do not fill a buffer of 20 rows"):
        memory.restore(0, [{name: part[:10] for name, part in rows.items()}])
    settings = CONFIG | {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        learn_sb3("sac", vectorized(2), settings, steps=40, seed=0).memory()
