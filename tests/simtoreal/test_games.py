"""Atari and MinAtar games, whose emulators are extras: what is seen and paid, and the whole way to a verdict."""

import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import simtoreal
from simtoreal.build import choices_of, episode_steps, image_of, make_env, task_id
from simtoreal.contract import Contract
from simtoreal.policies.frames import FrameReplay

sys.path.insert(0, str(Path(__file__).parent))
from test_missing import BLOCK

atari = pytest.mark.skipif(
    not (find_spec("ale_py") and find_spec("cv2")), reason="the extra atari (ale-py, opencv-python-headless) is absent"
)
minatar = pytest.mark.skipif(not find_spec("minatar"), reason="the extra minatar is absent")
ATARI, MINATAR = "ALE/Assault-v5", "MinAtar/Breakout-v1"
FAST = {
    "rainbow": ["agent.learning_starts=100", "agent.batch_size=8", "agent.buffer_size=250"],
    "ppo": ["agent.rollout=50", "agent.batch_size=25", "agent.epochs=1"],
}


def played(env, seed, steps, rng=0):
    """Observations, rewards and ends of random choices, the first observation without the others."""
    draw = np.random.default_rng(rng)
    rows = [(env.reset(seed=seed)[0], 0.0, False)]
    while len(rows) <= steps and not rows[-1][2]:
        obs, reward, terminated, truncated, _ = env.step(draw.uniform(-1, 1, 1).astype(np.float32))
        rows.append((obs, reward, terminated or truncated))
    return rows


def same(one, other):
    if len(one) != len(other):
        return False
    return all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("module", "task", "packages"),
    [
        ("ale_py", ATARI, "ale-py opencv-python-headless"),
        ("cv2", ATARI, "ale-py opencv-python-headless"),
        ("minatar", MINATAR, "minatar"),
    ],
)
def test_a_missing_emulator_is_said_in_one_line(module, task, packages, tmp_path):
    if module == "cv2" and not find_spec("ale_py"):
        pytest.skip("the extra atari is absent, and ale_py is missed first")
    command = [sys.executable, "-c", BLOCK, module, "train", task, "--algorithm", "dqn", "--steps", "9", "--out", "out"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert said.stderr.startswith(f"simtoreal: task {task} needs what simtoreal's extra ")
    assert f"pip install {packages} (No module named '{module}')\n" in said.stderr
    assert said.stderr.count("\n") == 1


@atari
def test_an_atari_game_is_seen_as_in_mnih_et_al():
    env = make_env(task_id("ALE/Breakout-v5"))
    assert (image_of(env), choices_of(env), episode_steps(env)) == ((4, 84, 84), 4, 27_000)
    assert Contract.of("ALE/Breakout-v5", env).control_dt == pytest.approx(4 / 60)
    rows = played(env, 3, 30)
    for (before, *_), (obs, *_) in pairwise(rows):
        assert (obs.dtype, obs.shape) == (np.uint8, (4, 84, 84))
        assert np.array_equal(obs[:3], before[1:])
    began = [env.reset(seed=seed)[1]["episode_frame_number"] for seed in range(60)]
    assert (min(began) >= 1, max(began) <= 30, len({*began}) > 15) == (True, True, True)


@atari
def test_an_episode_of_an_atari_game_is_the_same_after_any_others():
    env = make_env(task_id(ATARI))
    first = played(env, 3, 60)
    played(env, 7, 40)
    assert same(played(env, 3, 60), first)
    assert same(played(make_env(task_id(ATARI)), 3, 60), first)


@atari
def test_chance_repeats_a_quarter_of_the_frames_actions():
    env = make_env(task_id(ATARI))
    raw, asked, given = env.unwrapped, [], []
    choose, act = env.get_wrapper_attr("action"), raw.step
    sticky = env
    while not isinstance(sticky, gym.wrappers.StickyAction):
        sticky = sticky.env
    sticky.action = lambda action: asked.append(action) or choose(action)
    raw.step = lambda action: given.append(action) or act(action)
    played(env, 3, 150)
    changes = [(a, g) for before, a, g in zip(given, asked[-len(given) + 1 :], given[1:], strict=False) if a != before]
    assert np.mean([a != g for a, g in changes]) == pytest.approx(0.25, abs=0.1)


@atari
def test_who_learns_gets_the_sign_of_the_score_until_a_life_is_lost():
    """Space Invaders pays 5 to 30 a hit, and has three lives."""
    task = task_id("ALE/SpaceInvaders-v5")
    scored, learned = played(make_env(task), 1, 900), played(make_env(task, learning=True), 1, 900)
    assert learned[-1][2]
    assert len(learned) < len(scored)
    assert {reward for _, reward, _ in learned} == {0.0, 1.0}
    assert [reward for _, reward, _ in learned] == [float(reward > 0) for _, reward, _ in scored[: len(learned)]]
    assert max(reward for _, reward, _ in scored) >= 5.0
    assert make_env(task, learning=True).reset(seed=1)[1]["lives"] == 3


@atari
def test_a_replay_holds_each_picture_of_a_game_once():
    rows = played(make_env(task_id(ATARI)), 0, 50)
    replay = FrameReplay(100, (4, 84, 84), 1)
    for (obs, *_), (next_obs, reward, ended) in pairwise(rows):
        numbers = (np.array([[0.0]]), np.array([reward]), next_obs[None], np.array([float(ended)]))
        replay.add(obs[None], *numbers)
    pictures = {rows[0][0][0].tobytes(), *(obs[3].tobytes() for obs, *_ in rows)}
    assert replay.planes == len(pictures) <= len(rows)
    assert len(replay) == len(rows) - 1


@atari
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rainbow", "ppo"])
def test_an_atari_game_goes_the_whole_way(algorithm, tmp_path):
    """What the bundle earns is the game's own score, of all lives, when we step the game with its choices."""
    settings = [*FAST[algorithm], "agent.hidden=[32]", "evaluate_episodes=1", "evaluate_every=1000"]
    run = simtoreal.train(ATARI, algorithm=algorithm, steps=300, out=tmp_path / "run", assignments=settings).run
    bundle = simtoreal.export(run, tmp_path / "bundle", checkpoint="last")
    assert simtoreal.verify(bundle).passed
    policy = simtoreal.Runtime(bundle)
    (episode,) = simtoreal.evaluate(bundle, episodes=1, out=tmp_path / "verdict", task=ATARI).episodes
    env = make_env(task_id(ATARI))
    obs, _ = env.reset(seed=episode.seed)
    total, length, over = 0.0, 0, False
    while not over:
        choice = float(policy.act(obs)[0])
        obs, reward, terminated, truncated, _ = env.step(np.float32([choice / 3 - 1]))
        total, length, over = total + reward, length + 1, terminated or truncated
    assert (total, length) == (episode.return_, episode.length)


@minatar
def test_a_minatar_game_is_an_image_of_its_bools():
    env, raw = make_env(task_id(MINATAR)), gym.make(MINATAR, disable_env_checker=True)
    assert (image_of(env), choices_of(env), env.observation_space.dtype) == ((10, 10, 4), 3, np.uint8)
    obs, shown = env.reset(seed=5)[0], raw.reset(seed=5)[0]
    assert shown.dtype == np.bool_
    assert np.array_equal(obs, np.where(shown, 255, 0))


@minatar
def test_an_episode_of_a_minatar_game_is_the_same_after_any_others():
    """By itself a game repeats, at its start with chance 0.1, the last action of the one before."""
    env = make_env(task_id(MINATAR))
    fresh = [played(make_env(task_id(MINATAR)), seed, 40, rng=seed) for seed in range(40)]
    assert all(same(played(env, seed, 40, rng=seed), wanted) for seed, wanted in enumerate(fresh))
