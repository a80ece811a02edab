"""Environments that show images, from training to a verdict."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import simtoreal
from simtoreal.build import image_of, make_env
from simtoreal.config import ConfigError, RunConfig
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.robot import Robot, Target
from simtoreal.runs import Run
from simtoreal.training_envs import TrainingEnvs

sys.path.insert(0, str(Path(__file__).parent))
import squares
from killing import checkpoint, lines, odd

from robots import write_target

FAST = [
    "agent.hidden=[32]", "agent.rollout=30", "agent.batch_size=20", "agent.epochs=1", "evaluate_every=120",
    "evaluate_episodes=1", "save_every=60",
]  # fmt: skip
LEARN = [
    "agent.rollout=32", "agent.epochs=4", "agent.learning_rate=1e-3", "agent.gamma=0", "evaluate_every=1024",
    "evaluate_episodes=5",
]  # fmt: skip


LEARN_Q = [
    "agent.gamma=0", "agent.learning_rate=1e-3", "agent.learning_starts=200", "agent.epsilon_steps=1000",
    "agent.target_every=20", "agent.value_low=-1", "agent.value_high=2", "evaluate_every=1024", "evaluate_episodes=5",
]  # fmt: skip
FAST_Q = [
    "agent.hidden=[32]", "agent.learning_starts=40", "agent.batch_size=20", "agent.updates_per_step=0.1",
    "agent.buffer_size=100", "evaluate_every=120", "evaluate_episodes=1", "save_every=100",
]  # fmt: skip

OF = {
    "ppo": FAST,
    "rainbow": FAST_Q,
    "sb3-ppo": ["agent.n_steps=30", "agent.batch_size=20", *FAST[-3:]],
    "sb3-dqn": ["agent.learning_starts=40", "agent.batch_size=20", "agent.buffer_size=100", *FAST[-3:]],
}


def train(task, out, *, steps=240, envs=2, settings=FAST, algorithm="ppo", **options):
    how = {"algorithm": algorithm, "assignments": settings, **options}
    return Path(simtoreal.train(task, steps=steps, envs=envs, out=out, **how).run)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
@pytest.mark.parametrize(("algorithm", "settings"), [("ppo", LEARN), ("dqn", LEARN_Q)])
@pytest.mark.parametrize(("task", "width"), [("Square", 512), ("SquareSmall", 128)])
def test_it_learns_to_name_what_it_sees(task, width, algorithm, settings, seed, tmp_path):
    """Naming the place of the square at random is worth 8/3 an episode, naming it rightly 8."""
    how = {"algorithm": algorithm, "settings": settings, "seed": seed}
    run = train(f"squares:{task}-v0", tmp_path / "run", steps=4096, envs=8, **how)
    assert Run.load(run).summary["best"]["mean_return"] >= 7.5
    agent = Run.load(run).config.agent
    assert list(agent["hidden"]) == [width]
    assert (agent.get("activation"), agent.get("shared")) == (("relu", True) if algorithm == "ppo" else (None, None))


@pytest.mark.parametrize(
    ("task", "algorithm", "shape", "layout", "form"),
    [
        ("Square", "ppo", [36, 36, 1], "HWC", 5),
        ("SquareSteered", "ppo", [2, 40, 36], "CHW", 3),
        ("SquareStack", "ppo", [4, 84, 84], "CHW", 5),
        ("SquareStack", "rainbow", [4, 84, 84], "CHW", 5),
        ("SquareSmall", "ppo", [10, 10, 4], "HWC", 5),
        ("SquareSmall", "sb3-dqn", [10, 10, 4], "HWC", 5),
        ("Square", "sb3-ppo", [36, 36, 1], "HWC", 5),
        ("SquareSmall", "rainbow", [10, 10, 4], "HWC", 5),
    ],
)
def test_from_training_to_a_verdict(task, algorithm, shape, layout, form, tmp_path):
    """What the bundle earns is what its own commands earn when we step the environment with them."""
    name = f"squares:{task}-v0"
    how = {"algorithm": algorithm, "settings": OF[algorithm]}
    bundle = simtoreal.export(train(name, tmp_path / "run", **how), tmp_path / "bundle", checkpoint="last")
    found = simtoreal.verify(bundle)
    assert found.passed, found.checks
    assert {check.name for check in found.checks} >= {"golden", "batch", "closed loop"}
    spec = json.loads((bundle / "spec.json").read_text())
    assert (spec["format_version"], spec["image"]["shape"], spec["image"]["layout"]) == (form, shape, layout)
    test = [sys.executable, bundle / "onboard", "--self-test"]
    assert subprocess.run(test, capture_output=True, check=False).returncode == 0
    policy = simtoreal.Runtime(bundle)
    verdict = simtoreal.evaluate(bundle, episodes=2, out=tmp_path / "verdict", task=name)
    for episode in verdict.episodes:
        env = gym.make(name)
        obs, _ = env.reset(seed=episode.seed)
        total, over = 0.0, False
        while not over:
            command = policy.act(obs * np.uint8(255) if obs.dtype == np.bool_ else obs)
            obs, reward, terminated, truncated, _ = env.step(command if task == "SquareSteered" else int(command[0]))
            total, over = total + reward, terminated or truncated
        assert total == pytest.approx(episode.return_, abs=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "settings", "at", "lengths"), [("ppo", FAST, 60, [6, 6]), ("rainbow", FAST_Q, 100, [2, 2])]
)
def test_a_broken_off_training_goes_on_bit_for_bit_with_or_without_workers(algorithm, settings, at, lengths, tmp_path):
    how = {"algorithm": algorithm, "settings": settings, "workers": 2}
    whole = train("squares:Square-v0", tmp_path / "whole", checkpoint_every=at, **how)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for path in checkpoints(cut / "checkpoints")[1:]:
        shutil.rmtree(path)
    (stored, _) = checkpoint(cut, at)
    assert (stored["loop.observation"].dtype, stored["loop.lengths"].tolist()) == (torch.uint8, lengths)
    again = simtoreal.train("squares:Square-v0", out=cut, resume=True, workers=0)
    assert (again.resumed_at, again.steps) == ((at,), 240)
    assert odd(checkpoint(whole, 240)[0], checkpoint(cut, 240)[0]) == []
    assert lines(whole) == lines(cut)


@pytest.mark.parametrize("workers", [0, 2])
def test_pixels_stay_bytes_on_their_way(workers):
    config = RunConfig(task="squares:SquareSteered-v0", algorithm="ppo", steps=1, envs=2, workers=workers)
    envs = TrainingEnvs(config)
    try:
        assert image_of(envs.prototype) == (2, 40, 36)
        shown = [envs.reset(seed=0)[0], *(envs.step(np.zeros((2, 1), np.float32))[0] for _ in range(8))]
        assert all((obs.dtype, obs.shape) == (np.uint8, (2, 2, 40, 36)) for obs in shown)
        if workers:
            assert envs.env._arrays["obs "].dtype == np.uint8
    finally:
        envs.close()


@pytest.mark.parametrize("algorithm", ["sac", "td3", "reinforce", "sb3-sac", "sb3-td3"])
def test_a_learner_of_vectors_is_refused(algorithm, tmp_path, cli):
    task = "squares:SquareSteered-v0"
    said = cli("train", task, "--algorithm", algorithm, "--steps", 100, "--out", tmp_path / "run")
    said.refused(f"{algorithm} needs observations that are vectors, {task} shows images; algorithms for these: ppo")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("agent.history=3", "images have no history here: let the environment stack them and set history to 1"),
        ("agent.normalize_observations=true", "pixels are divided by 255, not normalized"),
        ("agent.estimate_weight=1", "estimate_weight needs a privileged observation that the value sees"),
    ],
)
def test_what_images_do_not_have_is_refused(setting, words, tmp_path, cli):
    arguments = ["squares:Square-v0", "--algorithm", "ppo", "--steps", 100, "--out", tmp_path / "run"]
    cli("train", *arguments, "--set", setting).refused(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(0, 255, (3, 9, 84), np.uint8), "images need at least 10 x 10 pixels, got 9 x 84"),
        (spaces.Box(0, 1, (7, 7, 3), np.bool_), "images need at least 10 x 10 pixels, got 7 x 7"),
        (spaces.Box(0, 255, (84, 84, 16), np.uint8), "images need from 1 to 12 channels"),
        (spaces.Box(0, 255, (4, 84, 84, 3), np.uint8), "images need three axes"),
        (
            spaces.Dict(left=spaces.Box(0, 255, (84, 84, 3), np.uint8)),
            "needs a Box of observations or Discrete ones, got Dict",
        ),
        (
            spaces.Dict(policy=spaces.Box(0, 255, (84, 84, 3), np.uint8)),
            "needs a Box of observations or Discrete ones, got Dict",
        ),
    ],
)
def test_images_that_no_policy_here_sees_are_refused(space, words, tmp_path, cli):
    gym.register("Odd-v0", lambda: gym.wrappers.TransformObservation(squares.Square(), lambda _: 0, space))
    try:
        cli("train", "Odd-v0", "--algorithm", "ppo", "--steps", 100, "--out", tmp_path / "run").refused(words)
        with pytest.raises(ConfigError, match=words):
            make_env("Odd-v0")
    finally:
        del gym.registry["Odd-v0"]


def test_bytes_that_are_no_image_stay_a_vector():
    for space in (spaces.Box(0, 255, (128,), np.uint8), spaces.Box(0, 1, (84, 84, 3), np.uint8)):
        gym.register("Odd-v0", lambda s=space: gym.wrappers.TransformObservation(squares.Square(), lambda _: s.low, s))
        try:
            env = make_env("Odd-v0")
            assert image_of(env) is None
            assert (env.observation_space.shape, env.reset()[0].dtype) == ((space.low.size,), np.float32)
        finally:
            del gym.registry["Odd-v0"]


def test_a_bundle_of_images_is_not_for_an_environment_that_shows_them_turned(tmp_path):
    """As many pixels, but the channels are on the other side."""
    bundle = simtoreal.export(train("squares:Square-v0", tmp_path / "run"), tmp_path / "bundle", checkpoint="last")
    spec = gym.registry["Square-v0"]
    del gym.registry["Square-v0"]
    gym.register("Square-v0", squares.Square, kwargs={"shape": (1, 36, 36)})
    try:
        with pytest.raises(ConfigError, match="was made for another squares:Square-v0: image"):
            simtoreal.evaluate(bundle, episodes=1, out=tmp_path / "verdict", task="squares:Square-v0")
    finally:
        gym.registry["Square-v0"] = spec


@pytest.mark.parametrize(
    ("task", "engine", "channels"),
    [pytest.param("PixelCartPole", "mujoco", 3, marks=pytest.mark.soak), ("PixelCartPoleRGB", "pybullet", 9)],
)
def test_our_own_task_of_images_goes_the_whole_way(task, engine, channels, tmp_path, cli):
    """What the bundle earns is what its own forces earn when we push the cart by them, and a replay is the same."""
    settings = ["agent.hidden=[16]", "agent.rollout=16", "agent.batch_size=16", "agent.epochs=1", "evaluate_episodes=1"]
    run = train(task, tmp_path / "run", steps=32, workers=2, engine=engine, settings=settings)
    bundle = simtoreal.export(run, tmp_path / "bundle")
    assert simtoreal.verify(bundle).passed
    spec = json.loads((bundle / "spec.json").read_text())
    assert (spec["image"]["shape"], spec["observation"][0]["name"]) == ([channels, 84, 84], "image")
    assert spec["training_ranges"]["sensor.camera.brightness"] == [0.8, 1.2]
    found = simtoreal.evaluate(bundle, suites=["train"], episodes=2, engine=engine, out=tmp_path / "verdict")
    policy = simtoreal.Runtime(bundle)
    for episode in found.episodes:
        env = gym.make(f"simtoreal/{task}-v0", engine=engine, disable_env_checker=True)
        obs, _ = env.reset(seed=episode.seed, options={"parameters": episode.parameters})
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy.act(obs) / 10.0)
            total, over = total + reward, terminated or truncated
        assert total == pytest.approx(episode.return_, abs=1e-5)
        env.close()
    assert cli("replay", tmp_path / "verdict", f"{found.episodes[1].suite}/train/1").code == 0


def test_no_robot_link_carries_images(tmp_path):
    target = Target.load(write_target(tmp_path, "PixelCartPole", {}))
    with pytest.raises(ConfigError, match="PixelCartPole shows images, which no robot link carries"):
        Robot(target, 0)
