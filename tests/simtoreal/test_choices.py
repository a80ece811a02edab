"""Environments whose action is one of several choices, from training to a verdict."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import simtoreal
from simtoreal.build import choices_of, make_env
from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.foreign import ChangesEnv, LevelsEnv

sys.path.insert(0, str(Path(__file__).parent))
from killing import checkpoint, odd


@pytest.fixture
def cartpole():
    env = make_env("CartPole-v1")
    yield env
    env.close()


def test_an_action_is_rounded_to_the_nearest_choice(cartpole):
    """CartPole-v1 pushes left for 0 and right for 1: the cart's speed tells which it was."""
    for action, sign in ((-1.0, -1), (-0.2, -1), (0.2, 1), (1.0, 1), (7.0, 1)):
        cartpole.reset(seed=0)
        before = cartpole.unwrapped.state[1]
        cartpole.step(np.array([action], np.float32))
        assert np.sign(cartpole.unwrapped.state[1] - before) == sign
    assert choices_of(cartpole) == 2


def test_choices_may_begin_anywhere():
    class Counted(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(4, start=-2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.taken = action
            return np.zeros(1, np.float32), 0.0, False, False, {}

    gym.register("Counted-v0", Counted)
    try:
        env = make_env("Counted-v0")
        env.reset()
        taken = []
        for action in (-1.0, -1 / 3, 1 / 3, 1.0):
            env.step(np.array([action], np.float32))
            taken.append(env.unwrapped.taken)
        assert taken == [-2, -1, 0, 1]
        assert all(type(number) is int for number in taken)
        contract = Contract.of("Counted-v0", env)
        (field,) = contract.command.fields
        assert (field.name, field.size, field.unit) == ("choice", 1, "number")
        commands = contract.command.offset + contract.command.scale * np.array([[-1.0], [-1 / 3], [1 / 3], [1.0]])
        np.testing.assert_allclose(commands[:, 0], taken)
    finally:
        del gym.registry["Counted-v0"]


@pytest.mark.parametrize("algorithm", ["sac", "td3", "sb3-sac", "sb3-td3"])
def test_a_learner_of_continuous_actions_is_refused(algorithm, tmp_path, cli):
    said = cli("train", "CartPole-v1", "--algorithm", algorithm, "--steps", 100, "--out", tmp_path / "run")
    said.refused(f"{algorithm} needs continuous actions, CartPole-v1 takes one of 2 choices; algorithms for these: ppo")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", ["dqn", "rainbow", "qlearning", "sb3-dqn"])
def test_a_learner_of_choices_is_refused_where_there_are_none(algorithm, tmp_path, cli):
    said = cli("train", "Pendulum-v1", "--algorithm", algorithm, "--steps", 100, "--out", tmp_path / "run")
    said.refused(f"{algorithm} takes one of several choices, the actions of Pendulum-v1 are continuous; set choices to")


def test_a_bundle_of_choices_gives_whole_numbers_and_its_verdict_is_that_of_the_environment(tmp_path):
    """What the bundle earns is what its own commands earn when we step gymnasium's environment with them."""
    settings = ["agent.rollout=64", "agent.hidden=[16]", "evaluate_episodes=2"]
    run = simtoreal.train("CartPole-v1", algorithm="ppo", steps=640, out=tmp_path / "run", assignments=settings).run
    bundle = simtoreal.export(run, tmp_path / "bundle", checkpoint="last")
    policy = simtoreal.Runtime(bundle)
    verdict = simtoreal.evaluate([bundle], suites=["nominal"], episodes=3, out=tmp_path / "verdict")
    for episode in verdict.episodes:
        env = gym.make("CartPole-v1")
        obs, _ = env.reset(seed=episode.seed)
        total, over = 0.0, False
        while not over:
            (command,) = policy.act(obs.astype(np.float32))
            assert command == policy.spec.choices[policy.choice([command])][0] == policy.choice([command])
            obs, reward, terminated, truncated, _ = env.step(int(command))
            total, over = total + reward, terminated or truncated
        assert total == episode.return_


def test_a_space_that_no_policy_acts_in_is_refused():
    def make():
        return gym.wrappers.TransformAction(gym.make("CartPole-v1"), lambda _: 0, gym.spaces.Discrete(1))

    gym.register("One-v0", make)
    try:
        with pytest.raises(ConfigError, match="Discrete of two or more, got Discrete"):
            make_env("One-v0")
    finally:
        del gym.registry["One-v0"]


OURS = "CartPoleBalanceDiscrete"
SMALL = {
    "ppo": ["agent.hidden=[16]", "agent.rollout=50", "agent.epochs=2"],
    "rainbow": ["agent.hidden=[16, 16]", "agent.learning_starts=50", "agent.batch_size=32"],
    "sb3-ppo": ["agent.policy_kwargs.net_arch=[16]", "agent.n_steps=50", "agent.batch_size=50"],
    "sb3-dqn": ["agent.policy_kwargs.net_arch=[16]", "agent.learning_starts=50"],
}


def test_our_own_choices_are_pushes_in_newtons():
    env = make_env(f"simtoreal/{OURS}-v0")
    env.reset(seed=0)
    assert (choices_of(env), choices_of(make_env("simtoreal/CartPoleBalance-v0"))) == (2, 0)
    for action, force in ((-1.0, -10.0), (-0.1, -10.0), (0.1, 10.0), (1.0, 10.0)):
        env.step(np.array([action], np.float32))
        assert env.unwrapped.last_command == [force]
    _, reward, terminated, _, info = env.step(np.array([np.nan], np.float32))
    assert (reward, terminated, info["invalid_action"]) == (0.0, True, True)
    env.close()


@pytest.mark.parametrize(
    ("algorithm", "engine", "workers"),
    [("ppo", "mujoco", 2), ("rainbow", "pybullet", 2), ("sb3-dqn", "pybullet", 0), ("sb3-ppo", "pybullet", 0)],
)
def test_our_own_task_of_choices_goes_the_whole_way(algorithm, engine, workers, tmp_path, cli):
    """What the bundle earns is what its own forces earn when we push the cart by them."""
    run, bundle, verdict = (tmp_path / name for name in ("run", "bundle", "verdict"))
    settings = [f"--set={setting}" for setting in (*SMALL[algorithm], "evaluate_episodes=1")]
    how = ("--algorithm", algorithm, "--engine", engine, "--envs", 2, "--workers", workers)
    assert cli("train", OURS, *how, "--steps", 400, "--out", run, *settings).code == 0
    assert cli("export", run, "--out", bundle).code == 0
    assert cli("verify", bundle).code == 0
    spec = json.loads((bundle / "spec.json").read_text())
    (field,) = spec["command"]
    assert (field["unit"], field["labels"], field["description"]) == (
        "N",
        ["slider"],
        "one of -10, 10; else the nearest",
    )
    assert spec["choices"] == [[-10.0], [10.0]]
    assert (spec["task"], spec["joints"], len(spec["training_ranges"])) == (f"simtoreal/{OURS}-v0", ["slider"], 14)
    found = simtoreal.evaluate(bundle, suites=["train"], episodes=2, engine=engine, out=verdict)
    policy = simtoreal.Runtime(bundle)
    for episode in found.episodes:
        env = gym.make(f"simtoreal/{OURS}-v0", engine=engine, disable_env_checker=True)
        obs, _ = env.reset(seed=episode.seed, options={"parameters": episode.parameters})
        total, over = 0.0, False
        while not over:
            (command,) = policy.act(obs)
            assert command in (-10.0, 10.0)
            obs, reward, terminated, truncated, info = env.step(int(command > 0))
            total, over = total + reward, terminated or truncated
        assert (total, info["is_success"]) == (episode.return_, episode.success)
        assert episode.parameters.keys() == env.unwrapped.parameters.keys()
        env.close()
    assert cli("replay", verdict, f"{found.episodes[1].suite}/train/1").code == 0
    film = tmp_path / "film.mp4"
    assert cli("play", OURS, bundle, "--engine", engine, "--episodes", 1, "--video", film).code == 0
    assert film.stat().st_size > 1_000
    said = cli("finetune", run, "--target", "t.yaml", "--robot-seconds", 100, "--out", tmp_path / "tuned")
    said.refused("fine-tuning is for policies that see vectors and act continuously")


def test_a_continuous_task_is_commanded_by_every_combination_of_its_levels():
    """The racecar's angle is 0.4 a [rad], its speed 1.25 (1 + a) [m/s]."""
    env = LevelsEnv(make_env("simtoreal/RacecarPath-v0"), [3, 2])
    env.reset(seed=0)
    assert (choices_of(env), env.action_space.shape) == (6, (1,))
    given = []
    for number in (0, 1, 2, 3, 4, 5):
        env.step(np.array([2 * number / 5 - 1], np.float32))
        given.append(np.asarray(env.unwrapped.last_command).tolist())
    np.testing.assert_allclose(given, [[-0.4, 0], [-0.4, 2.5], [0, 0], [0, 2.5], [0.4, 0], [0.4, 2.5]], atol=1e-12)
    _, _, terminated, _, info = env.step(np.array([np.nan], np.float32))
    assert (terminated, info["invalid_action"]) == (True, True)
    env.close()


def test_choices_of_change_count_from_the_last_command():
    """A number of the action is 0.4 rad or 1.25 m/s, of which a choice adds a half or a fifth; the car starts at 0."""
    env = LevelsEnv(ChangesEnv(make_env("simtoreal/RacecarPath-v0"), [0.5, 0.2]), [3, 2])
    given = []
    env.reset(seed=0)
    for number in (5, 5, 3, 1, 0):  # (+, +), (+, +), (0, +), (-, +), (-, -)
        env.step(np.array([2 * number / 5 - 1], np.float32))
        given.append(np.asarray(env.unwrapped.last_command).tolist())
    np.testing.assert_allclose(given, [[0.2, 0.25], [0.4, 0.5], [0.4, 0.75], [0.2, 1.0], [0.0, 0.75]], atol=1e-6)
    env.reset(seed=0)
    env.step(np.array([1.0], np.float32))
    np.testing.assert_allclose(env.unwrapped.last_command, [0.2, 0.25], atol=1e-6)
    _, _, terminated, _, info = env.step(np.array([np.nan], np.float32))
    assert (terminated, info["invalid_action"]) == (True, True)
    env.close()


def test_a_walk_changes_by_choices_from_its_last_target():
    """The middle choice of a hip holds the target that was; the last adds a tenth of its scale each time."""
    legs = make_env("simtoreal/A1Walk-v0")
    env = LevelsEnv(ChangesEnv(legs, [0.1] * 12), [3, *[1] * 11])
    env.reset(seed=0)
    stand, scale = legs.get_wrapper_attr("command_layout").offset, legs.get_wrapper_attr("command_layout").scale
    for number, steps in ((1, 0), (2, 1), (2, 2), (1, 2), (0, 1)):
        env.step(np.array([number - 1.0], np.float32))
        given = np.asarray(env.unwrapped.last_command)
        np.testing.assert_allclose(given, stand + 0.1 * steps * scale * np.eye(12)[0], atol=1e-6)
    env.close()


CAR = ("RacecarPath", "--algorithm", "ppo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [*CAR, "--set=choices=[5,3,2]"],
            "choices: one for each of the 2 numbers of an action of RacecarPath, got [5, 3",
        ),
        ([*CAR, "--set=choices=1"], "choices: from 2 to 4096 combinations, [1, 1] are 1"),
        ([*CAR, "--set=choices=[64,65]"], "choices: from 2 to 4096 combinations, [64, 65] are 4160"),
        ([*CAR, "--set=choices=[0,3]"], "choices: from 1 (held at 0) to 4096 even steps from -1 to 1, or a list"),
        ([*CAR, "--set=choices=2.5"], "for each number of an action, got 2.5"),
        ([*CAR, "--set=choices=true"], "for each number of an action, got True"),
        ([*CAR, "--set=choices=[]"], "for each number of an action, got []"),
        ([*CAR, "--set=choices=3", "--set=mirror=true"], "mirror: with choices ppo learns without"),
        ([*CAR, "--set=choices=3", "--set=augment=1"], "augment: with choices ppo learns without"),
        ([*CAR, "--set=choices_change=0.1"], "choices_change: choices say in how many steps; set them"),
        ([*CAR, "--set=choices=3", "--set=choices_change=0"], "choices_change: from 0.0001 to 2, what a choice"),
        ([*CAR, "--set=choices=3", "--set=choices_change=[1,x]"], "for each number of it, got [1, 'x']"),
        (
            [*CAR, "--set=choices=3", "--set=choices_change=[0.1]"],
            "choices_change: one for each of the 2 numbers of an action of RacecarPath, got [0.1]",
        ),
        (
            ["PandaReach", "--algorithm", "ppo", "--set=choices=[2,1,1,1,1,1,1]", "--set=choices_change=0.1"],
            "choices_change: PandaReach: the observation does not show the last command: it has no last_joint",
        ),
        (
            ["Pendulum-v1", "--algorithm", "ppo", "--set=choices=3", "--set=choices_change=0.1"],
            "choices_change: Pendulum-v1 does not show its last command",
        ),
        (
            ["RacecarPath", "--algorithm", "sac", "--set=choices=3"],
            "choices: sac acts continuously; set choices to null",
        ),
        (["CartPole-v1", "--set=choices=2"], "choices: an action of CartPole-v1 is one of 2 choices by itself"),
        ([OURS, "--set=choices=2"], f"choices: an action of {OURS} is one of 2 choices by itself"),
    ],
)
def test_choices_that_a_run_cannot_have_are_refused_and_nothing_is_written(arguments, words, tmp_path, cli):
    cli("train", *arguments, "--steps", 100, "--out", tmp_path / "run").refused(words)
    assert not (tmp_path / "run").exists()


SWING = "CartPoleSwingUp"


@pytest.mark.parametrize(
    ("algorithm", "workers", "choices", "forces"),
    [("ppo", 2, "3", [-10, 0, 10]), ("sb3-dqn", 0, "[5]", [-10, -5, 0, 5, 10]), ("sb3-ppo", 0, "2", [-10, 10])],
)
def test_a_continuous_task_learned_by_choices_goes_the_whole_way(algorithm, workers, choices, forces, tmp_path, cli):
    """It is judged on the task as it is: a bundle earns what its forces earn when we push the cart by them."""
    run, bundle, verdict = (tmp_path / name for name in ("run", "bundle", "verdict"))
    settings = [f"--set={setting}" for setting in (*SMALL[algorithm], "evaluate_episodes=1", f"choices={choices}")]
    how = ("--algorithm", algorithm, "--envs", 2, "--workers", workers)
    assert cli("train", SWING, *how, "--steps", 600, "--out", run, *settings).code == 0
    assert cli("export", run, "--out", bundle).code == 0
    said = cli("verify", bundle)
    assert (said.code, f"golden answers are of {len(forces)}, " in said.out) == (0, True)
    policy = simtoreal.Runtime(bundle)
    assert policy.spec.choices == tuple((float(force),) for force in forces)
    found = simtoreal.evaluate(bundle, suites=["train"], episodes=1, out=verdict)
    (episode,) = found.episodes
    env = gym.make(f"simtoreal/{SWING}-v0", disable_env_checker=True)
    obs, _ = env.reset(seed=episode.seed, options={"parameters": episode.parameters})
    total, over = 0.0, False
    while not over:
        command = policy.act(obs)
        assert command.tolist() == [forces[policy.choice(command)]]
        obs, reward, terminated, truncated, _ = env.step(command / np.float32(10.0))
        total, over = total + reward, terminated or truncated
    assert total == episode.return_
    env.close()
    said = cli("finetune", run, "--target", "t.yaml", "--robot-seconds", 100, "--out", tmp_path / "tuned")
    said.refused("fine-tuning is for policies that see vectors and act continuously")


@pytest.mark.parametrize(
    ("algorithm", "workers"), [("rainbow", 2), ("ppo", 0), pytest.param("sb3-dqn", 0, marks=pytest.mark.soak)]
)
def test_choices_that_change_the_last_command_go_the_whole_way(algorithm, workers, tmp_path, cli):
    """By 0.1 of 0.4 rad and 1.25 m/s: the bundle says so in SI, each command is that far from the last, and it earns
    what these commands earn on the task as it is."""
    run, bundle, verdict = (tmp_path / name for name in ("run", "bundle", "verdict"))
    settings = (*SMALL[algorithm], "evaluate_episodes=1", "choices=[3,2]", "choices_change=0.1")
    how = ("--algorithm", algorithm, "--envs", 2, "--workers", workers, *(f"--set={setting}" for setting in settings))
    assert cli("train", "RacecarPath", *how, "--steps", 600, "--out", run).code == 0
    assert cli("export", run, "--out", bundle).code == 0
    said = cli("verify", bundle)
    assert (said.code, "golden answers are of 6, " in said.out) == (0, True)
    policy = simtoreal.Runtime(bundle)
    assert policy.spec.command_map.relative_to == ("last_steering_angle", "last_speed")
    np.testing.assert_allclose(
        policy.spec.choices, [[angle, speed] for angle in (-0.04, 0, 0.04) for speed in (-0.125, 0.125)]
    )
    (episode,) = simtoreal.evaluate(bundle, suites=["train"], episodes=1, out=verdict).episodes
    env = gym.make("simtoreal/RacecarPath-v0", disable_env_checker=True)
    obs, _ = env.reset(seed=episode.seed, options={"parameters": episode.parameters})
    total, over, last = 0.0, False, np.zeros(2)
    while not over:
        command = policy.act(obs)
        changed = np.clip(last + policy.spec.choices[policy.choice(command, obs)], [-0.4, 0.0], [0.4, 2.5])
        np.testing.assert_allclose(command, changed, atol=1e-5)
        obs, reward, terminated, truncated, _ = env.step((command / [0.4, 1.25] - [0.0, 1.0]).astype(np.float32))
        total, over, last = total + reward, terminated or truncated, command
    assert total == pytest.approx(episode.return_, rel=1e-4)
    env.close()
    assert cli("replay", verdict, f"{episode.suite}/train/0").code == 0
    assert simtoreal.verify(bundle, run=run).passed


def test_a_bundle_of_changes_of_another_command_is_refused(tmp_path):
    env = make_env("simtoreal/RacecarPath-v0")
    contract = Contract.of("simtoreal/RacecarPath-v0", env)
    env.close()
    changing = replace(contract, command=contract.command.changing([0.1, 0.2], contract.observation))
    spec = changing.spec(algorithm="dqn", training_ranges={}, provenance={}, choices=np.array([[-1.0, 0], [1, 0]]))
    contract.check(spec, "bundle")
    for change, words in (
        ({"choices": ()}, "command counts from last_steering_angle \\+ last_speed, now from nothing"),
        ({"command_map": replace(spec.command_map, high=(0.4, 3.0))}, "speed: range 0.0 to 3.0, now 0.0 to 2.5 m/s"),
        ({"command_map": replace(spec.command_map, offset=(0.1, 0.0))}, "steering_angle: middle 0.1, now 0.0 rad"),
        (
            {"command_map": replace(spec.command_map, relative_to=("steering_angle", "wheel_speed"))},
            "command counts from steering_angle \\+ wheel_speed, now from nothing",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            contract.check(replace(spec, **change), "bundle")


def test_commands_that_count_from_the_observation_are_listed_by_what_they_add(tmp_path):
    """An arm's command is its joints' angles and up to 0.05 rad: here 0.05 forth or back of the first joint alone."""
    settings = [
        "agent.hidden=[8]",
        "agent.rollout=50",
        "agent.epochs=1",
        "evaluate_episodes=1",
        "choices=[2,1,1,1,1,1,1]",
    ]
    run = simtoreal.train("PandaReach", algorithm="ppo", steps=100, out=tmp_path / "run", assignments=settings).run
    bundle = simtoreal.export(run, tmp_path / "bundle")
    policy = simtoreal.Runtime(bundle)
    step = policy.spec.command_map.scale[0]
    np.testing.assert_allclose(policy.spec.choices, [[-step, *[0.0] * 6], [step, *[0.0] * 6]])
    assert simtoreal.verify(bundle).passed
    env = make_env("simtoreal/PandaReach-v0")
    obs, _ = env.reset(seed=0)
    command = policy.act(obs)
    angle = obs[env.get_wrapper_attr("observation_layout").slices[policy.spec.command_map.relative_to[0]]][0]
    assert policy.choice(command, obs) == int(command[0] > angle)
    env.close()


def test_pictures_and_choices_go_together(tmp_path):
    settings = ["agent.hidden=[16]", "agent.rollout=32", "agent.batch_size=32", "agent.epochs=1", "evaluate_episodes=1"]
    run = simtoreal.train(
        "PixelCartPole", algorithm="ppo", steps=64, envs=1, out=tmp_path / "run", assignments=[*settings, "choices=3"]
    ).run
    bundle = simtoreal.export(run, tmp_path / "bundle")
    assert (simtoreal.Runtime(bundle).spec.image is None, simtoreal.verify(bundle).passed) == (False, True)


def test_a_run_of_choices_that_was_broken_off_ends_as_one_that_was_not(tmp_path, cli):
    """It is resumed in the middle of episodes, whose actions were stored as choices."""
    how = (
        "--algorithm",
        "ppo",
        "--envs",
        2,
        *(f"--set={s}" for s in (*SMALL["ppo"], "evaluate_episodes=1", "choices=3")),
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli("train", SWING, *how, "--steps", 600, "--out", whole).code == 0
    assert cli("train", SWING, *how, "--steps", 300, "--out", broken).code == 0
    assert cli("train", SWING, "--out", broken, "--resume", "--steps", 600).code == 0
    (one, _), (other, _) = (checkpoint(run, 600) for run in (whole, broken))
    assert int(one["envs.lengths"].min()) > 0
    assert odd(one, other) == []
    cli("train", SWING, "--out", broken, "--resume", "--set=choices=5").refused("was begun with choices 3, not 5")
