from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from simtoreal import build
from simtoreal.config import ConfigError, RunConfig
from simtoreal.contract import Contract
from simtoreal.foreign import MOST_STEPS
from simtoreal.integration import check_borne
from simtoreal.randomization.randomizer import Preset
from simtoreal.randomization.yaml_files import ConfigFileError
from simtoreal.robots.stability import Overload
from simtoreal.training_envs import TrainingEnvs


class Odd(gym.Env):
    """Image-like float64 observations, 2x1 actions in [-3, 5]; step k gives reward `script[k]`."""

    action_space = spaces.Box(-3.0, 5.0, (2, 1), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2, 3), np.float64)

    def __init__(self, script=(1.0,) * 5):
        self.script, self.got = script, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.full((2, 3), 0.5), {}

    def step(self, action):
        self.got.append(np.array(action))
        value = self.script[self.at]
        self.at += 1
        seen = np.full((2, 3), np.nan if value == "blind" else 0.5)
        return seen, 1.0 if value == "blind" else value, False, self.at == len(self.script), {}


class Worded(Odd):
    observation_space = spaces.Dict({"camera": spaces.Box(0.0, 1.0, (3,), np.float32)})


@pytest.fixture
def odd():
    made = []

    def register(name, kind=Odd, **options):
        gym.register(name, kind, kwargs=options)
        made.append(name)
        return build.make_env(name)

    yield register
    for name in made:
        del gym.registry[name]


def test_names_of_tasks():
    assert build.task_id("PandaReach") == "simtoreal/PandaReach-v0"
    assert build.task_id("simtoreal/PandaReach-v0") == "simtoreal/PandaReach-v0"
    assert build.task_id("Pendulum-v1") == "Pendulum-v1"
    assert build.short_name("simtoreal/PandaReach-v0") == "PandaReach"
    assert build.short_name("Pendulum-v1") == "Pendulum-v1"
    with pytest.raises(ConfigError, match="no task 'PandaReech'; did you mean PandaReach"):
        build.task_id("PandaReech")
    with pytest.raises(ConfigError, match="no task 'Pendulum-v7'; did you mean Pendulum-v1"):
        build.task_id("Pendulum-v7")


@pytest.mark.parametrize("task", ["nomodule:X-v0", "os:X-v0", ":", ".:X-v0"])
def test_a_task_that_cannot_be_used_is_refused(task):
    with pytest.raises(ConfigError, match="task"):
        build.make_env(build.task_id(task))


def test_a_task_in_a_module_of_the_working_folder_is_found(tmp_path, monkeypatch):
    text = "import gymnasium\ngymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    (tmp_path / "my_own_tasks.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in build.sys.path if path])
    assert build.make_env(build.task_id("my_own_tasks:Mine-v0")).action_space.shape == (1,)
    del gym.registry["Mine-v0"]


def test_others_actions_are_rescaled_and_their_observations_flat(odd):
    env = odd("Odd-v0")
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((6,), np.float32)
    assert env.observation_space.contains(obs)
    env.step(np.array([-1.0, 1.0], np.float32))
    np.testing.assert_allclose(env.unwrapped.got, [[[-3.0], [5.0]]])


@pytest.mark.parametrize("value", [np.nan, np.inf, "blind"])
def test_others_numbers_that_are_not_finite_are_a_physics_fault(odd, value):
    env = odd("Odd-v0", script=(1.0, value, 1.0))
    env.reset(seed=0)
    still = np.zeros(2, np.float32)
    assert not env.step(still)[4].get("physics_fault")
    obs, reward, terminated, truncated, info = env.step(still)
    assert np.array_equal(obs, np.full(6, 0.5, np.float32))
    assert (reward, terminated, truncated, info["physics_fault"]) == (0.0, False, True, True)


def test_others_never_get_an_action_that_is_not_finite(odd):
    env = odd("Odd-v0")
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(np.array([0.0, np.nan], np.float32))
    assert terminated
    assert info["invalid_action"]
    assert all(np.isfinite(action).all() for action in env.unwrapped.got)


def test_others_pay_no_more_for_a_number_that_is_none_than_for_holding_still():
    env, peer = build.make_env("Pendulum-v1"), gym.make("Pendulum-v1", disable_env_checker=True)
    env.reset(seed=5)
    peer.reset(seed=5)
    _, refused, terminated, truncated, _ = env.step(np.array([np.nan], np.float32))
    assert (terminated, truncated) == (True, False)
    assert refused == pytest.approx(sum(float(peer.step(np.zeros(1, np.float32))[1]) for _ in range(200)))


def test_others_without_a_time_limit_get_one(odd):
    env = odd("Endless-v0", script=(1.0,) * (MOST_STEPS + 2))
    env.reset(seed=0)
    still = np.zeros(2, np.float32)
    ends = [env.step(still)[2:4] for _ in range(MOST_STEPS)]
    assert ends[-2:] == [(False, False), (False, True)]


def test_an_observation_without_a_policy_part_is_refused(odd):
    with pytest.raises(ConfigError, match="needs a Box of observations"):
        odd("Worded-v0", Worded)


def test_the_contract_of_others_says_what_their_action_means():
    env = build.make_env("Pendulum-v1")
    contract = Contract.of("Pendulum-v1", env)
    assert (contract.observation.size, contract.command.size) == (3, 1)
    assert contract.spec(algorithm="sac", training_ranges={}, provenance={}).command_map.high == (2.0,)
    obs, _ = env.reset(seed=3)
    peer = gym.make("Pendulum-v1", disable_env_checker=True)
    peer.reset(seed=3)
    command = np.array([1.5])  # N m, of 2
    np.testing.assert_allclose(contract.action(command, obs), [0.75])
    ours = env.step(contract.action(command, obs).astype(np.float32))
    theirs = peer.step(command.astype(np.float32))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
    assert ours[1] == pytest.approx(theirs[1])


def test_a_bundle_made_for_another_observation_is_refused():
    reach = Contract.of("PandaReach", build.make_env("simtoreal/PandaReach-v0"))
    cart = Contract.of("CartPoleSwingUp", build.make_env("simtoreal/CartPoleSwingUp-v0"))
    spec = cart.spec(algorithm="sac", training_ranges={}, provenance={})
    cart.check(spec, "bundle")
    with pytest.raises(
        ConfigError, match="bundle was made for another PandaReach: observation has field cart_position, now "
    ):
        reach.check(spec, "bundle")


def test_what_randomization_means(tmp_path, monkeypatch):
    assert build.find_randomization(None, "PandaReach") == "PandaReach"
    assert build.find_randomization(None, "Pendulum-v1") == "none"
    assert build.find_randomization("none", "PandaReach") == "none"
    monkeypatch.chdir(tmp_path)
    assert build.find_randomization("mine.yaml", "PandaReach") == str(tmp_path / "mine.yaml")
    with pytest.raises(FileNotFoundError, match="choices: A1Walk, "):
        build.find_randomization("nope", "PandaReach")


def test_a_preset_must_fit_the_task():
    cart, pendulum = build.make_env("simtoreal/CartPoleSwingUp-v0"), build.make_env("Pendulum-v1")
    with pytest.raises(ConfigFileError, match=r"yaml:\d+: a preset for PandaReach, not for CartPoleSwingUp"):
        build.make_randomizer("PandaReach", cart, "CartPoleSwingUp")
    with pytest.raises(ConfigFileError, match=r"yaml:\d+: a preset for CartPoleSwingUp, not for Pendulum-v1"):
        build.make_randomizer("CartPoleSwingUp", pendulum, "Pendulum-v1")
    assert build.make_randomizer("none", pendulum, "Pendulum-v1") is None


def test_others_episodes_are_keyed_by_seed_environment_and_episode():
    def starts(seed, index, count=3):
        env = build.make_training_env(RunConfig(task="Pendulum-v1", steps=1, seed=seed), index, seed)
        return [env.reset(seed=seed if k == 0 else None)[0].tolist() for k in range(count)]

    first = starts(0, 0)
    assert starts(0, 0) == first
    others = [*first, *starts(0, 1), *starts(1, 0)]
    assert len({tuple(obs) for obs in others}) == 9


@pytest.mark.parametrize("task", ["CartPoleSwingUp", "Pendulum-v1"])
def test_episodes_to_learn_from_can_be_cut_off_and_each_has_a_robot_of_its_own(task):
    preset = "CartPoleSwingUp" if task == "CartPoleSwingUp" else "none"
    config = RunConfig(task=task, steps=1, envs=2, randomization=preset, episode_steps=7)
    envs = TrainingEnvs(config)
    first, _ = envs.reset(seed=0)
    ends, starts = [], [first]
    for step in range(1, 22):
        seen, _, terminated, truncated, infos = envs.step(np.zeros((2, 1), np.float32))
        assert not terminated.any()
        if truncated.any():
            assert truncated.all()
            assert not np.array_equal(infos["final_obs"][0], seen[0])
            ends.append(step)
            starts.append(seen)
    assert ends == [7, 14, 21]
    assert len({start.tobytes() for start in starts}) == 4
    envs.close()
    judged = build.make_training_env(config, 0, 0)
    judged.reset(seed=0)
    assert not any(judged.step(np.zeros(1, np.float32))[3] for _ in range(20))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            "  link.*_*.mass: {scale: {uniform: [0.3, 1.0]}}\n  joint.*.damping: {uniform: [0.0, 1.0]}",
            r"wild.yaml:5: joint.\*.damping: joint.\w+_lower_joint.damping up to 1 N m s/rad would destabilise the "
            r"integrator: .* the joint bears at most 0\.\d+ N m s/rad in physics steps of 2 ms",
        ),
        ("  link.*_*.mass: {scale: {uniform: [0.8, 1.2]}}\n  joint.*.damping: {uniform: [0.0, 0.2]}", ""),
    ],
)
def test_damping_that_the_integrator_does_not_bear_is_refused(entries, said, tmp_path):
    preset = tmp_path / "wild.yaml"
    preset.write_text(f"task: A1Walk\nversion: 1\nentries:\n{entries}\n")
    env = build.make_env("simtoreal/A1Walk-v0")
    try:
        if not said:
            assert build.make_randomizer(str(preset), env, "A1Walk") is not None
            return
        with pytest.raises(ConfigFileError, match=said):
            build.make_randomizer(str(preset), env, "A1Walk")
    finally:
        env.close()


def test_what_a_robots_own_damping_does_is_not_a_presets_to_answer_for(monkeypatch):
    env = build.make_env("simtoreal/A1Walk-v0")
    monkeypatch.setattr("simtoreal.integration.hardest", lambda task, ranges: Overload("RR_lower_joint", 2.0, 0.1))
    sensors = Preset.loads("task: A1Walk\nversion: 1\nentries:\n  sensor.imu.latency: {uniform: [0.0, 0.01]}\n")
    check_borne(env, sensors.entries, {})
    lighter = Preset.loads("task: A1Walk\nversion: 1\nentries:\n  'link.*_lower.m*': {scale: {uniform: [0.5, 1.0]}}\n")
    with pytest.raises(ConfigFileError, match=r"link.\*_lower.m\*: joint.RR_lower_joint.damping up to"):
        check_borne(env, lighter.entries, {})
    env.close()


def test_a_suite_that_the_integrator_does_not_bear_is_refused(tmp_path, cli):
    (tmp_path / "suite.yaml").write_text(
        "task: A1Walk\nname: wild\nversion: 1\nconditions:\n"
        "  all: {'link.*_*.mass': {scale: 0.3}, joint.RR_lower_joint.damping: 1.0}\n"
    )
    said = cli(
        "evaluate", Path(__file__).parents[2] / "examples/bundles/a1walk", "--suite", tmp_path / "suite.yaml",
        "--episodes", 1, "--out", tmp_path / "verdict",
    )  # fmt: skip
    said.refused("suite.yaml:5: joint.RR_lower_joint.damping: joint.RR_lower_joint.damping up to 1 N m s/rad would")
