"""Recurrent policies, from training to a verdict."""

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
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.runs import Run

sys.path.insert(0, str(Path(__file__).parent))
from killing import checkpoint, lines, odd

SMALL = (
    "agent.recurrent=8", "agent.hidden=[16]", "agent.rollout=40", "agent.batch_size=40", "agent.sequence_length=20",
    "agent.epochs=2", "evaluate_every=400", "evaluate_episodes=1", "save_every=200",
)  # fmt: skip
SAC = (
    "agent.recurrent=8", "agent.hidden=[16]", "agent.batch_size=40", "agent.sequence_length=10", "agent.burn_in=2",
    "agent.learning_starts=100", "agent.smoothness=0", "agent.updates_per_step=0.25", "augment=0",
    "evaluate_every=400", "evaluate_episodes=1", "save_every=200",
)  # fmt: skip


def sets(*assignments):
    return [f"--set={text}" for text in assignments]


class Recall(gym.Env):
    """The first observation says which of two choices it will be; it pays 1 to make it eight steps later."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.cue = 8, int(self.np_random.integers(2))
        return np.array([2 * self.cue - 1, 1], np.float32), {}

    def step(self, action):
        self.left -= 1
        right = float(self.left == 0 and action == self.cue)
        return np.array([0, self.left / 8], np.float32), right, self.left == 0, False, {}


@pytest.fixture
def recall():
    gym.register("Recall-v0", Recall)
    yield "Recall-v0"
    del gym.registry["Recall-v0"]


def test_a_bundle_remembers_what_its_robot_saw_and_the_verdict_is_that_of_the_environment(recall, tmp_path):
    """Without a memory half of the episodes are won; this one, through its bundle, wins all."""
    settings = (
        "agent.recurrent=16", "agent.hidden=[32]", "agent.rollout=64", "agent.batch_size=256", "agent.epochs=4",
        "agent.learning_rate=3e-3", "agent.gamma=0.95", "evaluate_every=4096",
    )  # fmt: skip
    trained = simtoreal.train(recall, algorithm="ppo", steps=12_288, envs=8, out=tmp_path / "run", assignments=settings)
    bundle = simtoreal.export(trained.run, tmp_path / "bundle")
    assert simtoreal.verify(bundle).passed
    policy = simtoreal.Runtime(bundle)
    verdict = simtoreal.evaluate(bundle, episodes=20, out=tmp_path / "verdict")
    assert len(verdict.episodes) == 20
    for episode in verdict.episodes:
        env = gym.make(recall)
        (obs, _), over, total = env.reset(seed=episode.seed), False, 0.0
        policy.reset()
        while not over:
            obs, reward, over, *_ = env.step(int(policy.act(obs)[0]))
            total += reward
        assert (episode.return_, total) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("ppo", (*SMALL, "privileged=true")),
        pytest.param("ppo", (*SMALL, "agent.shared=true", "agent.distribution=sde"), marks=pytest.mark.soak),
        pytest.param("sac", (*SAC, "privileged=false"), marks=pytest.mark.soak),
        ("sac", (*SAC, "privileged=state")),
    ],
)
def test_it_goes_the_whole_way(algorithm, settings, tmp_path, cli):
    run, bundle, verdict, film = (tmp_path / name for name in ("run", "bundle", "verdict", "film.mp4"))
    command = ("train", "CartPoleSwingUp", "--algorithm", algorithm, "--steps", 400, "--envs", 2, "--out", run)
    assert cli(*command, *sets(*settings)).code == 0
    assert Run.load(run).actor("last")[0].describe()["kind"] == "gru"
    assert cli("export", run, "--out", bundle).code == 0
    verified = cli("verify", bundle, "--json").result
    checks = {check["name"]: check for check in verified["checks"]}
    assert (verified["passed"], verified["skipped"]) == (True, [])
    assert checks["schema"]["detail"] == "format 4, 6 with 8 recurrent units -> 1"
    assert "1000 control steps" in checks["closed loop"]["detail"]
    assert cli("evaluate", bundle, "--suite", "nominal", "--episodes", 3, "--out", verdict).code == 0
    for case in (0, 2):  # each episode begins with a hidden state of its own
        assert cli("replay", verdict, f"nominal/nominal/{case}", "--json").result["identical"]
    assert cli("play", "CartPoleSwingUp", bundle, "--episodes", 1, "--video", film).code == 0
    done = subprocess.run(
        [sys.executable, bundle / "onboard", "--self-test", "--json"], capture_output=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("algorithm", "settings", "at", "width", "workers"),
    [("ppo", (*SMALL, "privileged=true"), 80, 16, workers) for workers in (0, 2)]
    + [("sac", (*SAC, "privileged=false"), 200, 16, 0), ("sac", (*SAC, "privileged=true"), 200, 8, 2)],
)
def test_a_broken_off_training_goes_on_from_its_hidden_state(algorithm, settings, at, width, workers, tmp_path):
    options = {"algorithm": algorithm, "steps": 480, "envs": 2, "assignments": [*settings, f"save_every={at}"]}
    whole = simtoreal.train(
        "CartPoleSwingUp", **options, out=tmp_path / "whole", workers=workers, checkpoint_every=at
    ).run
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for path in checkpoints(cut / "checkpoints")[1:]:
        shutil.rmtree(path)
    (stored, _) = checkpoint(cut, at)
    assert stored["loop.lengths"].tolist() == [at // 2, at // 2], "in mid-episode"
    assert stored["loop.hidden_state"].shape == (2, width)
    assert stored["loop.hidden_state"].abs().min() > 0
    again = simtoreal.train("CartPoleSwingUp", out=cut, resume=True, workers=0)
    assert (again.resumed_at, again.steps) == ((at,), 480)
    assert odd(checkpoint(whole, 480)[0], checkpoint(cut, 480)[0]) == []
    assert lines(whole) == lines(cut)
    one, other = (Run.load(run).actor("last")[0].state_dict() for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_not_fine_tuned(tmp_path, cli):
    run = simtoreal.train("PandaReach", algorithm="ppo", steps=40, out=tmp_path / "run", assignments=SMALL).run
    (tmp_path / "target.yaml").write_text("task: PandaReach\n")
    words = ("--target", tmp_path / "target.yaml", "--robot-seconds", 60, "--out", tmp_path / "new")
    said = cli("finetune", run, *words)
    said.refused("its policy is recurrent; fine-tuning is for policies without a hidden state")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("algorithm", "settings", "words"),
    [
        ("ppo", ["agent.recurrent=-1"], "recurrent must be from 0 to 4096, got -1"),
        ("ppo", ["agent.recurrent=8", "agent.history=3"], "history must be 1 with a recurrent layer"),
        (
            "ppo",
            ["agent.recurrent=8", "agent.sequence_length=30"],
            "batch_size must be a multiple of sequence_length 30",
        ),
        ("ppo", ["agent.recurrent=many"], "agent.recurrent: Input should be a valid integer"),
        ("sac", ["agent.recurrent=8", "agent.sequence_length=30"], "batch_size must be a multiple of sequence_length"),
        ("sac", ["agent.recurrent=8", "agent.buffer_size=256", "envs=16"], "at least 512, 32 steps of 16 environments"),
        ("sac", ["agent.recurrent=8", "agent.compile=true"], "compile must be false with a recurrent layer"),
        *((name, ["agent.recurrent=8"], "no setting agent.recurrent") for name in ("td3", "reinforce", "sb3-ppo")),
    ],
)
def test_what_makes_no_sense_is_one_line_and_writes_nothing(algorithm, settings, words, tmp_path, cli):
    command = ("train", "Pendulum-v1", "--algorithm", algorithm, "--steps", 10, "--out", tmp_path / "run")
    cli(*command, *sets(*settings)).refused(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["augment", "mirror"])
def test_a_recurrent_sac_derives_no_transitions(name, tmp_path, cli):
    command = ("train", "CartPoleSwingUp", "--steps", 10, "--out", tmp_path / "run")
    more = {"augment": 0, "mirror": "false"} | {name: {"augment": 1, "mirror": "true"}[name]}
    settings = [*SAC, *(f"{key}={value}" for key, value in more.items())]
    cli(*command, *sets(*settings)).refused(f"{name}: a recurrent learner of sac learns without")
    assert not (tmp_path / "run").exists()


def test_images_are_refused(tmp_path, cli):
    command = ("train", "squares:Square-v0", "--algorithm", "ppo", "--steps", 10, "--out", tmp_path / "run")
    cli(*command, *sets(*SMALL)).refused("images go with no recurrent layer here; set recurrent to 0")
    assert not (tmp_path / "run").exists()
