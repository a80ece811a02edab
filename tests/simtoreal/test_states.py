"""Environments whose observation is one of several states, and a table of these from training to a verdict."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import simtoreal
from simtoreal.build import make_env, one_hots_of
from simtoreal.config import ConfigError, default_algorithm
from simtoreal.contract import Contract
from simtoreal.export import ObservationError

FROZEN = ("agent.learning_rate=1", "agent.epsilon_end=0.1", "agent.epsilon_steps=4000", "evaluate_every=4000")


@pytest.fixture
def lake():
    """A frozen lake that is not slippery: the goal is six steps away."""
    gym.register("Still-v0", lambda **options: gym.make("FrozenLake-v1", is_slippery=False, **options))
    yield "Still-v0"
    del gym.registry["Still-v0"]


@pytest.fixture
def showing():
    """The environment of a task that shows what is sampled from a space."""

    class Shows(gym.Env):
        action_space = spaces.Discrete(2)

        def __init__(self, space):
            self.observation_space = space

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.shown = self.observation_space.sample()
            return self.shown, {}

        def step(self, action):
            return self.shown, 0.0, False, False, {}

    def make(space):
        gym.register("Shows-v0", lambda: Shows(space))
        return make_env("Shows-v0")

    yield make
    gym.registry.pop("Shows-v0", None)


@pytest.mark.parametrize(
    ("space", "sizes", "places"),
    [
        (spaces.Discrete(5, start=-2), [5], lambda shown: [shown + 2]),
        (spaces.MultiDiscrete([[3, 2], [4, 2]]), [3, 2, 4, 2], lambda shown: shown.ravel()),
        (
            spaces.Tuple([spaces.Discrete(3), spaces.Tuple([spaces.MultiDiscrete([2, 4])])]),
            [3, 2, 4],
            lambda shown: [shown[0], *shown[1][0]],
        ),
    ],
)
def test_a_state_is_seen_one_hot(space, sizes, places, showing):
    env = showing(space)
    assert list(one_hots_of(env)) == sizes
    for _ in range(10):
        obs, _ = env.reset()
        assert (obs.dtype, obs.shape) == (np.float32, (sum(sizes),))
        parts = np.split(obs, np.cumsum(sizes)[:-1])
        assert [np.flatnonzero(part).tolist() for part in parts] == [[place] for place in places(env.unwrapped.shown)]
        assert obs.max() == 1.0
    fields = Contract.of("Shows-v0", env).observation.fields
    names = ["state"] if len(sizes) == 1 else [f"state.{i}" for i in range(len(sizes))]
    assert [(field.name, field.size, field.unit) for field in fields] == [
        (name, size, "one-hot") for name, size in zip(names, sizes, strict=True)
    ]
    assert not any("noise" in name or "bias" in name for name in env.get_wrapper_attr("parameters"))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Discrete(70_000), "at most 65536 states can be seen one-hot, got 70000"),
        (spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2,))]), "needs a Box of observations or Discrete ones"),
        (spaces.Dict(one=spaces.Discrete(3)), "needs a Box of observations or Discrete ones, got Dict"),
        (spaces.Tuple([]), "needs a Box of observations or Discrete ones, got Tuple"),
    ],
)
def test_what_cannot_be_seen_one_hot_is_refused(space, words, showing):
    with pytest.raises(ConfigError, match=words):
        showing(space)


def test_a_table_goes_the_whole_way(lake, tmp_path, cli):
    """From the start six steps lead to the goal, and of these alone does the bundle know."""
    run, bundle, verdict = (tmp_path / name for name in ("run", "bundle", "verdict"))
    sets = [f"--set={setting}" for setting in (*FROZEN, "evaluate_episodes=2")]
    assert cli("train", lake, "--algorithm", "qlearning", "--envs", 4, "--steps", 8_000, "--out", run, *sets).code == 0
    assert cli("export", run, "--out", bundle, "--checkpoint", "last").code == 0
    said = cli("verify", bundle, "--json")
    assert (said.code, said.result["skipped"]) == (0, [])
    (field,) = json.loads((bundle / "spec.json").read_text())["observation"]
    assert (field["name"], field["size"], field["unit"]) == ("state", 16, "one-hot")
    found = simtoreal.evaluate(bundle, suites=["nominal"], episodes=3, out=verdict)
    assert [(episode.return_, episode.length) for episode in found.episodes] == [(1.0, 6)] * 3
    policy, at = simtoreal.Runtime(bundle), 0
    env = gym.make("FrozenLake-v1", is_slippery=False)
    env.reset(seed=0)
    for _ in range(6):
        at, reward, over, _, _ = env.step(int(policy.act(np.eye(16, dtype=np.float32)[at])[0]))
    assert (at, reward, over) == (15, 1, True)
    for garbled in (np.zeros(16), np.ones(16), np.eye(16)[3] * 0.5, [np.eye(16)[3], np.eye(16)[3] + np.eye(16)[4]]):
        with pytest.raises(ObservationError, match='"state" is one-hot'):
            policy.act(np.asarray(garbled, np.float32))
    said = cli("finetune", run, "--target", "t.yaml", "--robot-seconds", 100, "--out", tmp_path / "tuned")
    said.refused("fine-tuning is for policies that see vectors and act continuously")


@pytest.mark.parametrize("algorithm", ["ppo", "sb3-dqn"])
def test_other_learners_of_choices_see_states_too(algorithm, lake, tmp_path):
    settings = {
        "ppo": ["agent.rollout=64", "agent.hidden=[16]"],
        "sb3-dqn": ["agent.policy_kwargs.net_arch=[16]", "agent.learning_starts=50"],
    }[algorithm]
    run = simtoreal.train(lake, algorithm=algorithm, steps=200, out=tmp_path / "run", assignments=settings).run
    assert simtoreal.Runtime(simtoreal.export(run, tmp_path / "bundle")).spec.observation_size == 16


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("Pendulum-v1", {}, "qlearning takes one of several choices, the actions of Pendulum-v1 are continuous"),
        ("CartPole-v1", {}, "agent.bins must say how finely each of the 4 numbers is cut that CartPole-v1 shows"),
        ("CartPole-v1", {"bins": [3] * 4}, "agent: low must be 4 finite numbers, one for each of bins, got ()"),
        (
            "CartPole-v1",
            {"bins": [3] * 3, "low": [0] * 3, "high": [1] * 3},
            "agent: bins must be one for each of the 4 numbers of an observation, got 3",
        ),
        (
            "CartPole-v1",
            {"bins": [999] * 4, "low": [0] * 4, "high": [1] * 4},
            "agent: a table may have 50000000 numbers at most, got 996005996001 states of 2 choices; use fewer bins",
        ),
        ("FrozenLake-v1", {"bins": [16], "low": [0], "high": [1]}, "agent: bins are for observations of numbers"),
        ("FrozenLake-v1", {"alpha": 1}, "no setting agent.alpha; choices: bins, "),
        ("PixelCartPole", {}, "qlearning needs observations that are vectors, PixelCartPole shows images"),
        ("CartPoleBalanceDiscrete", {"privileged": True}, "privileged: qlearning learns without"),
    ],
)
def test_a_table_that_cannot_be_is_refused(task, settings, words, tmp_path, cli):
    options = [f"--set={name if name == 'privileged' else f'agent.{name}'}={value}" for name, value in settings.items()]
    said = cli("train", task, "--algorithm", "qlearning", "--steps", 100, "--out", tmp_path / "run", *options)
    said.refused(words)
    assert not (tmp_path / "run").exists()


def test_a_lake_is_learned_by_a_table_unless_someone_else_is_asked_for():
    assert [default_algorithm(task) for task in ("FrozenLake-v1", "Taxi-v4", "Taxi-v3")] == ["qlearning"] * 3
