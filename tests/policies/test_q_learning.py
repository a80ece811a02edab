"""Tabular Q-learning against values that are worked by hand, and its actor against ONNX."""

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import tensor

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.checkpoint import build_actor, load_checkpoint, save_actor
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.loop_state import LoopState
from simtoreal.policies.loops import off_policy
from simtoreal.policies.q_learning import QLearning, QLearningConfig
from simtoreal.policies.replay import Batch, Latest
from simtoreal.policies.updates import Arrivals

LEFT, RIGHT = -1.0, 1.0
CART = QLearningConfig(bins=(4, 3), low=(-2.0, 0.0), high=(2.0, 0.9))


class Line(gym.Env):
    """Six states in a row, shown one-hot: it begins in 0, the goal is 5, and pays 1."""

    observation_space = gym.spaces.Box(0.0, 1.0, (6,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.eye(6, dtype=np.float32)[0], {}

    def step(self, action):
        self.at = max(0, self.at + (1 if action[0] > 0 else -1))
        there = self.at == 5
        return np.eye(6, dtype=np.float32)[self.at], float(there), there, False, {}


def lines(count):
    """So many in a vector environment that keeps their episodes."""
    return SyncVectorEnv([Line] * count, autoreset_mode=AutoresetMode.SAME_STEP)


def learner(seed=0, **settings):
    return QLearning(6, 1, QLearningConfig(**{"gamma": 0.9, "epsilon_steps": 5_000} | settings), choices=2, seed=seed)


def learn(agent, envs, steps, state=None):
    latest = Latest(envs.num_envs, 6, 1)
    updates = Arrivals(agent, latest, 0)
    return list(off_policy(agent, envs, latest, steps=steps, seed=0, learning_starts=0, updates=updates, state=state))


def one_hot(*states):
    return torch.eye(6)[list(states)]


def batch(obs, action, reward, next_obs, terminated):
    return Batch(one_hot(*obs), tensor(action)[:, None], tensor(reward), one_hot(*next_obs), tensor(terminated))


@pytest.mark.parametrize(("envs", "steps"), [(1, 10_000), (4, 10_000)])
def test_the_line_world_comes_to_its_values(envs, steps):
    agent = learner()
    learn(agent, lines(envs), steps)
    np.testing.assert_allclose(agent.table.max(axis=1)[:5], [0.6561, 0.729, 0.81, 0.9, 1.0], atol=1e-6)
    np.testing.assert_allclose(
        agent.table[1:5, 0], [0.59049, 0.6561, 0.729, 0.81], atol=1e-2
    )  # one to the left and back
    assert (agent.table[5] == 0).all()  # nothing follows the goal
    assert (agent.act(np.eye(6, dtype=np.float32)[:5], explore=False) == RIGHT).all()


def test_transitions_are_learned_from_one_after_the_other():
    """alpha .5, gamma .9, Q = 0: Q(4, right) = .5 1; then Q(3, right) = .5 (.9 .5) = .225; then .5 + .5 (1 - .5)."""
    agent = learner(learning_rate=0.5)
    agent.update(batch([4, 3, 4], [RIGHT] * 3, [1.0, 0.0, 1.0], [5, 4, 5], [1.0, 0.0, 1.0]))
    expected = np.zeros((6, 2))
    expected[4, 1], expected[3, 1] = 0.75, 0.225
    np.testing.assert_allclose(agent.table, expected, rtol=1e-12)


def test_only_a_terminated_step_has_no_future():
    """Q(2, left) = 4: alpha .5 brings Q(1, right) to .5 (1 + .9 4) = 2.3 where the episode was cut off, else to .5."""
    for terminated, expected in ((0.0, 2.3), (1.0, 0.5)):
        agent = learner(learning_rate=0.5)
        agent.table[2, 0] = 4.0
        found = agent.update(batch([1], [RIGHT], [1.0], [2], [terminated]))
        assert agent.table[1, 1] == pytest.approx(expected)
        assert float(found["td_error"]) == pytest.approx(2 * expected)


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e39])
def test_a_target_that_is_not_finite_leaves_the_table_as_it_was(reward):
    agent = learner(initial_q=2.0)
    with pytest.raises(NonFiniteError, match="the target of a state's value is"):
        agent.update(batch([4, 4, 3], [RIGHT] * 3, np.array([1.0, 1.0, reward]), [5, 5, 4], [0.0, 0.0, 0.0]))
    assert (agent.table == 2.0).all()


def test_a_number_is_in_its_bin_and_on_an_edge_in_the_upper_one():
    """Edges -1, 0, 1 of the first and 0.3, 0.6 of the second, which counts fastest."""
    agent = QLearning(2, 1, CART, choices=3)
    assert agent.table.shape == (12, 3)
    first = {-1e9: 0, -2.0: 0, -1.0001: 0, -1.0: 1, -0.0001: 1, 0.0: 2, 0.9999: 2, 1.0: 3, 2.0: 3, 1e9: 3}
    second = {-1.0: 0, 0.29: 0, np.float32(0.3): 1, 0.59: 1, np.float32(0.6): 2, 0.9: 2, 5.0: 2}
    for x, one in first.items():
        for y, other in second.items():
            assert int(agent.states(torch.tensor([[x, y]], dtype=torch.float32))) == 3 * one + other, (x, y)


def test_several_one_hots_are_digits_of_one_state():
    """Blackjack's: 32 sums, 11 cards, 2 aces; (20, 5, 1) is 20 22 + 5 2 + 1."""
    agent = QLearning(45, 1, choices=2, one_hots=(32, 11, 2))
    space = gym.spaces.Tuple([gym.spaces.Discrete(n) for n in (32, 11, 2)])
    obs = torch.from_numpy(gym.spaces.flatten(space, (20, 5, 1)))[None].float()
    assert agent.table.shape == (704, 2)
    assert int(agent.states(obs)) == 451


def test_exploring_falls_with_its_own_acts_and_breaks_ties_at_random():
    agent = learner(epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=1000, learning_rate=0.5, learning_rate_end=0.1)
    obs = np.eye(6, dtype=np.float32)[[0] * 100]
    agent.table[0] = 1.0
    assert (agent.act(obs, explore=False) == LEFT).all()  # the first of two that are equal
    assert (agent.epsilon, agent.alpha) == (1.0, 0.5)
    for _ in range(5):
        agent.act(obs, explore=True)
    assert (agent.epsilon, agent.alpha) == pytest.approx((0.6, 0.3))
    for _ in range(200):
        tied = agent.act(obs, explore=True)
        assert 20 < np.count_nonzero(tied == LEFT) < 80  # 50 +- 5, by 6 standard deviations
    assert (agent.epsilon, agent.alpha) == pytest.approx((0.2, 0.1))
    agent.table[0, 1] = 1.1
    rights = sum(np.count_nonzero(agent.act(obs, explore=True) == RIGHT) for _ in range(100))
    assert rights / 10_000 == pytest.approx(0.9, abs=0.02)  # 1 - .2 / 2, within 6 standard deviations


def test_a_learner_that_was_stored_goes_on_as_one_that_never_stopped():
    whole, first, second = learner(), learner(), learner(seed=9)
    learn(whole, lines(2), 600)
    envs, state = lines(2), LoopState.start(0)
    learn(first, envs, 300, state)
    second.load_state_dict(first.state_dict())
    learn(second, envs, 600, LoopState.from_state_dict(state.state_dict()))
    assert whole.table.any()
    assert second.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in second.state_dict().items())


def test_the_state_of_another_learner_is_refused():
    agent = learner()
    with pytest.raises(ValueError, match=r"table: shape \[6, 2\], expected \[12, 3\]"):
        QLearning(2, 1, CART, choices=3).load_state_dict(agent.state_dict())
    with pytest.raises(ValueError, match=r"agent state: has \['acts', 'table'\], expected"):
        agent.load_state_dict({name: value for name, value in agent.state_dict().items() if name != "rng"})


@pytest.mark.parametrize("kind", ["bins", "one-hot", "one-hots"])
def test_onnx_and_a_checkpoint_answer_as_the_table(kind, tmp_path):
    rng = np.random.default_rng(0)
    obs = rng.normal(0.0, 1.5, (2_000, 2)).astype(np.float32)
    if kind == "bins":
        agent = QLearning(2, 1, CART, choices=3)
        edges = np.array(np.meshgrid([-2, -1, 0, 1, 2], [0.0, 0.3, 0.6, 0.9]), np.float32).reshape(2, -1).T
        obs = np.concatenate([obs, edges, np.nextafter(edges, np.float32(-9)), edges * 1e6])
    else:
        sizes = (7,) if kind == "one-hot" else (4, 1, 2)
        agent = QLearning(7, 1, choices=3, one_hots=sizes)
        obs = np.concatenate([np.eye(n, dtype=np.float32)[rng.integers(n, size=2_000)] for n in sizes], axis=1)
    agent.table[:] = rng.normal(size=agent.table.shape)
    agent.table[:3], agent.table[3:5] = np.eye(3), 0.5  # every choice, and equal values
    answers = agent.act(obs, explore=False)
    assert len(np.unique(answers)) == 3
    actor = agent.actor()
    save_actor(tmp_path / "checkpoint", actor, {})
    tensors, meta = load_checkpoint(tmp_path / "checkpoint")
    for one in (actor, build_actor(meta, tensors)):
        np.testing.assert_array_equal(one(torch.from_numpy(obs)).numpy(), answers)
    model = torch.onnx.export(
        actor, (torch.from_numpy(obs[:2]),), dynamo=True, input_names=["obs"], verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    ).model_proto.SerializeToString()  # fmt: skip
    (found,) = onnxruntime.InferenceSession(model).run(None, {"obs": obs})
    np.testing.assert_array_equal(found, answers)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gamma": 1.1}, "gamma must be from 0 to 1, got 1.1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and at most 1, got 0.0"),
        ({"learning_rate_end": 2.0}, "learning_rate_end must be above 0 and at most 1, got 2.0"),
        ({"epsilon_end": -0.1}, "epsilon_end must be from 0 to 1, got -0.1"),
        ({"epsilon_steps": 0}, "epsilon_steps must be at least 1, got 0"),
        ({"initial_q": np.inf}, "initial_q must be finite, got inf"),
        ({"initial_q": 1e300}, "initial_q must be what float32 can hold"),
        ({"bins": (3, 0), "low": (0, 0), "high": (1, 1)}, r"bins must be whole numbers from 1 to 65536, got \(3, 0\)"),
        ({"bins": (3,), "low": (0, 0), "high": (1,)}, "low must be 1 finite numbers, one for each of bins, got"),
        ({"bins": (3,), "low": (np.nan,), "high": (1,)}, "low must be 1 finite numbers"),
        ({"bins": (3,), "low": (-1e39,), "high": (1,)}, "low must be 1 finite numbers"),
        ({"bins": (3,), "low": (0,), "high": (1e300,)}, "high must be 1 finite numbers"),
        ({"bins": (3,), "low": (0,), "high": ()}, "high must be 1 finite numbers, one for each of bins, above low"),
        ({"bins": (3,), "low": (1,), "high": (1,)}, "high must be 1 finite numbers, one for each of bins, above low"),
        ({"low": (1,)}, "low must be 0 finite numbers"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        QLearningConfig(**settings)


@pytest.mark.parametrize(
    ("size", "config", "options", "words"),
    [
        (2, CART, {"choices": 0}, "a table is of one of several choices, these actions are continuous"),
        (4, CART, {"choices": 2}, "bins must be one for each of the 4 numbers of an observation, got 2"),
        (7, CART, {"choices": 2}, "bins must be one for each of the 7 numbers of an observation, got 2"),
        (2, CART, {"choices": 2, "one_hots": (2,)}, "bins are for observations of numbers, these are one-hot"),
        (
            4,
            QLearningConfig(bins=(100,) * 4, low=(0.0,) * 4, high=(1.0,) * 4),
            {"choices": 2},
            "a table may have 50000000 numbers at most, got 100000000 states of 2 choices; use fewer bins",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(size, config, options, words):
    with pytest.raises(ValueError, match=words):
        QLearning(size, 1, config, **options)


def test_a_description_of_a_table_too_large_is_refused():
    about = QLearning(2, 1, CART, choices=3).actor().describe()
    assert DeterministicActor.from_description(about).describe() == about
    with pytest.raises(ValueError, match="a table may have 50000000 numbers at most"):
        DeterministicActor.from_description(about | {"bins": [65536, 65536]})
    with pytest.raises(ValueError, match=r"bins must be one for each of the 2 numbers .* got \[3, 3, 3\]"):
        DeterministicActor.from_description(about | {"bins": [3, 3, 3]})
