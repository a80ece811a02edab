import json
import os
import shutil
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import simtoreal
from simtoreal.algorithms import complete_config, complete_stored_config
from simtoreal.config import ConfigError, RunConfig, load_config
from simtoreal.errors import EnvError
from simtoreal.judge import Judge
from simtoreal.learners import OffPolicyLearner
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.checkpoint import load_checkpoint
from simtoreal.policies.loop_state import FaultRateError
from simtoreal.runs import Run, RunError
from tests.simtoreal.conftest import quick

HUGE = 9_000_000_000_000
SMALL = (
    "agent.hidden=[16, 16]", "agent.learning_starts=50", "agent.updates_per_step=0.1", "agent.batch_size=32",
    "agent.compile=false",
)  # fmt: skip
QUICK = (*SMALL, "evaluate_every=100", "evaluate_episodes=1")


class Breaks(gym.Env):
    """A task of 20 steps an episode whose reward is NaN from the 150th step of its life on."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    age = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.age += 1
        reward = float("nan") if self.age > 150 else -float(action[0] ** 2)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), reward, False, self.age % 20 == 0, {}


class Raises(Breaks):
    """Breaks by an exception, and earlier."""

    def step(self, action):
        obs, *_, truncated, info = super().step(action)
        if self.age > 130:
            raise ValueError("the cable\nsnapped")
        return obs, 0.0, False, truncated, info


@pytest.fixture
def breaks():
    gym.register("Breaks-v0", Breaks)
    yield "Breaks-v0"
    del gym.registry["Breaks-v0"]


@pytest.fixture
def raises():
    gym.register("Raises-v0", Raises)
    yield "Raises-v0"
    del gym.registry["Raises-v0"]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_run_folder(randomized):
    run = Run.load(randomized.run)
    assert names(run.path) == {
        "config.yaml", "randomization.yaml", "metrics.jsonl", "summary.json", "checkpoints", "tensorboard", "replay",
    }  # fmt: skip
    best, last = run.summary["best"]["step"], run.summary["last"]["step"]
    assert last == 600
    kept = {400}  # --checkpoint-every 400; it is also the generation before the last
    assert {str(step) for step in {best, last} | kept} <= names(run.path / "checkpoints") <= {"200", "400", "600"}
    assert names(run.path / "checkpoints" / "600") == {"agent.safetensors", "checkpoint.json"}
    for key, value in {
        "task": "CartPoleSwingUp",
        "algorithm": "sac",
        "steps": 600,
        "finished": True,
        "seed": 0,
    }.items():
        assert run.summary[key] == value
    assert {"simtoreal", "torch", "pybullet"} <= run.summary["versions"].keys()
    assert [entry["step"] for entry in run.summary["evaluations"]] == [200, 400, 600]
    assert run.summary["wall_seconds"] > 0
    assert run.summary["cpu_seconds"] > 0
    assert run.summary["training_ranges"]
    assert not [path for path in run.path.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".zip")]


def test_the_resolved_configuration_is_complete_and_trains_the_same_again(randomized, tmp_path):
    config = load_config(randomized.run / "config.yaml")
    assert (config.randomization, config.envs, config.threads) == ("CartPoleSwingUp", 1, 1)
    assert config.agent["hidden"] == [16, 16]
    assert {"gamma", "buffer_size", "n_critics", "target_entropy"} <= config.agent.keys()
    again = simtoreal.train(
        "CartPoleSwingUp", steps=600, out=tmp_path / "again", config_file=randomized.run / "config.yaml"
    )
    assert load_config(again.run / "config.yaml") == config
    before, after = (load_checkpoint(path / "checkpoints" / "600")[0] for path in (randomized.run, again.run))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_metrics_and_tensorboard_say_the_same_under_the_known_tags(randomized):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = [json.loads(line) for line in (randomized.run / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(randomized.run / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate", "time/fps"} <= tags
    assert {"eval/mean_reward", "eval/success_rate"} <= tags
    assert any(tag.startswith("train/") for tag in tags)
    for tag in tags:
        written = [(line["step"], line[tag]) for line in lines if tag in line]
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        assert read == [(step, pytest.approx(value, rel=1e-6)) for step, value in written]


def test_best_and_last_are_what_the_summary_says_they_are(randomized):
    run = Run.load(randomized.run)
    judge = Judge(run.config)
    for which in ("best", "last"):
        actor, meta = run.actor(which)
        assert meta["step"] == run.summary[which]["step"]
        judgement = judge(actor)
        assert judgement.mean_return == run.summary[which]["mean_return"]
        assert judgement.success == run.summary[which]["success"]
    judge.close()
    keys = [(entry["success"], entry["return"]) for entry in run.summary["evaluations"]]
    assert (run.summary["best"]["success"], run.summary["best"]["mean_return"]) == max(keys)


def test_an_unknown_checkpoint_names_those_there_are(randomized):
    run = Run.load(randomized.run)
    with pytest.raises(RunError, match=r"no checkpoint '250'; checkpoints: best, last, .*600"):
        run.checkpoint("250")
    with pytest.raises(RunError, match="no checkpoint"):
        run.checkpoint("../300")


def test_a_run_whose_summary_was_cut_is_no_run(randomized, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text((randomized.run / "config.yaml").read_text())
    for text in ("", "[]", "{}", '{"best": {"step": 1}, "last": 3, "training_ranges": {}}'):
        (folder / "summary.json").write_text(text)
        with pytest.raises(RunError, match=r"summary\.json"):
            Run.load(folder)


def test_the_baseline_goes_the_same_way(baseline):
    run = Run.load(baseline.run)
    assert run.summary["algorithm"] == "sb3-sac"
    assert names(run.path) == {
        "config.yaml", "randomization.yaml", "metrics.jsonl", "summary.json", "checkpoints", "tensorboard", "replay",
    }  # fmt: skip
    actor, _ = run.actor("last")
    judge = Judge(run.config)
    assert judge(actor).mean_return == run.summary["last"]["mean_return"]
    judge.close()


def test_someone_elses_task(tmp_path, cli):
    said = cli("train", "Pendulum-v1", "--steps", 200, "--out", tmp_path / "run", "--json", *sets(QUICK))
    assert said.code == 0
    assert said.result["best_success"] is None  # Pendulum has no success
    assert said.result["best_return"] < 0
    run = Run.load(tmp_path / "run")
    assert run.config.randomization == "none"
    actor, _ = run.actor("last")
    assert actor(torch.zeros(2, 3)).shape == (2, 1)


def sets(assignments):
    return [part for text in assignments for part in ("--set", text)]


def test_it_refuses_to_overwrite_and_replaces_only_a_run(tmp_path, cli):
    out = tmp_path / "ein Lauf ünd mehr"
    command = ("train", "Pendulum-v1", "--steps", 100, "--out", out, *sets(QUICK))
    assert cli(*command).code == 0
    kept = (out / "summary.json").read_bytes()
    cli(*command).refused("exists; choose another folder or pass --force")
    assert (out / "summary.json").read_bytes() == kept
    (out / "checkpoints" / "99999").mkdir()
    assert cli(*command, "--force", "--set", "steps=150").code == 0
    assert names(out / "checkpoints") <= {"100", "150"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    cli(*command[:4], "--out", tmp_path / "other", "--force").refused("holds no config.yaml")
    assert names(tmp_path / "other") == {"thesis.txt"}


def test_outputs_that_cannot_be_written_are_refused(tmp_path, cli):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for out, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "run", "cannot be written: Not a directory"),
        (tmp_path / "dangling", "dangling symbolic link"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        cli("train", "Pendulum-v1", "--steps", 100, "--out", out, *sets(QUICK)).refused(words)
    assert names(tmp_path) == {"file", "dangling"}


def test_what_a_kill_left_before_there_was_a_config_is_no_obstacle(tmp_path, cli):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.yaml.k3j2.tmp").write_text("task: Pend")
    assert cli("train", "Pendulum-v1", "--steps", 200, "--out", run, "--set", "evaluate_episodes=1").code == 0
    assert not list(run.glob(".*"))
    (run / "config.yaml").unlink()
    cli("train", "Pendulum-v1", "--steps", 200, "--out", run, "--force").refused("holds no config.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path, cli):
    (tmp_path / "closed").mkdir(mode=0o555)
    cli("train", "Pendulum-v1", "--steps", 100, "--out", tmp_path / "closed" / "run").refused("Permission denied")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CartPoleSwing"], "did you mean CartPoleSwingUp"),
        (["CartPole-v1", "--algorithm", "sac"], "sac needs continuous actions, CartPole-v1 takes one of 2 choices"),
        (["CartPoleSwingUp", "--algorithm", "quux"], "no algorithm 'quux'; choices: dqn, ppo, qlearning, rainbow, rei"),
        (["CartPoleSwingUp", "--seed", "-1"], "argument --seed: must be a whole number from 0, got '-1'"),
        (["CartPoleSwingUp", "--envs", "0"], "argument --envs: must be a whole number from 1, got '0'"),
        (["CartPoleSwingUp", "--randomization", "nope"], "choices: A1Walk, "),
        (["CartPoleSwingUp", "--randomization", "./nope.yaml"], "no such file"),
        (["CartPoleSwingUp", "--randomization", "PandaReach"], "yaml:2: a preset for PandaReach"),
        (["CartPoleSwingUp", "--set", "agent.n_critics=17"], "n_critics must be from 1 to 16, got 17"),
        (["CartPoleSwingUp", "--set", "agent.batch_size=1000000000"], "batch_size must be from 1 to 65536, got"),
        (["CartPoleSwingUp", "--steps", HUGE, "--set", f"agent.buffer_size={HUGE}"], "can't allocate memory"),
        (["CartPoleSwingUp", "--workers", "2"], "2 workers need at least as many environments; raise --envs"),
        (["CartPoleSwingUp", "--out", ""], "--out is an empty path; name the folder to write"),
        (
            [
                "CartPoleSwingUp",
                "--envs",
                "8",
                "--set",
                "agent.buffer_size=500",
                "--set",
                "augment=0",
                "--set",
                "agent.n_step=64",
            ],
            "buffer_size must be at least 512, what 8 environments may add in one step, got 500",
        ),
        (["Pendulum-v1", "--set", "augment=2"], "augment: task Pendulum-v1 derives no further transitions"),
        (["PandaReach", "--set", "mirror=true", "--set", "augment=0"], "mirror: task PandaReach has no left and right"),
        (["CartPole-v1", "--set", "privileged=true"], "privileged: CartPole-v1 shows nothing but its observation; set"),
        (["CartPoleSwingUp", "--set", "mirror=true"], "mirror: what a task with sides derives by augment is mirrored"),
        (["CartPoleSwingUp", "--set", "mirror=true", "--algorithm", "reinforce"], "mirror: reinforce and recurrent"),
        (
            ["CartPoleSwingUp", "--algorithm", "ppo", "--set", "mirror=true", "--set", "agent.target_kl=0.02"],
            "mirror: target_kl would count how far",
        ),
        (["CartPoleSwingUp", "--set", "mirror=true", "--algorithm", "sb3-ppo"], "mirror: sb3-ppo learns without"),
        (["CartPoleSwingUp", "--set", "augment=1", "--algorithm", "sb3-sac"], "augment: sb3-sac learns without"),
        (
            ["CartPoleSwingUp", "--set", "agent.n_step=3", "--set", "augment=1"],
            "augment: it takes transitions of one step, agent.n_step is 3; set augment to 0 (mirror=true goes with",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, words, tmp_path, cli):
    cli("train", "--steps", 10, "--out", tmp_path / "run", *arguments).refused(words)
    assert not (tmp_path / "run").exists()


def test_without_its_arguments_it_says_which(cli):
    cli("train", "CartPoleSwingUp").refused("simtoreal train: the following arguments are required: --out")
    cli("trian").refused("invalid choice: 'trian'")
    cli().refused("name a verb: tasks, inspect, play, train")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_absent_is_refused(tmp_path, cli):
    said = cli("train", "CartPoleSwingUp", "--steps", 10, "--device", "cuda", "--out", tmp_path / "run")
    said.refused("device cuda was asked for, but torch finds no CUDA GPU")


def test_a_configuration_file_decides_what_arguments_leave_open(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("randomization: none\nseed: 7\nenvs: 2\n")
    result = simtoreal.train(
        "CartPoleSwingUp", steps=100, out=tmp_path / "run", config_file=file, assignments=QUICK, envs=3
    )
    config = load_config(result.run / "config.yaml")
    assert (config.randomization, config.seed, config.envs) == ("none", 7, 3)


def test_a_reward_that_is_not_a_number_stops_our_learner_and_the_last_good_checkpoint_stays(breaks, tmp_path, cli):
    said = cli("train", breaks, "--steps", 1000, "--out", tmp_path / "run", *sets(QUICK))
    assert said.code == 3
    assert "FaultRateError" in said.err
    assert said.out == ""
    run = Run.load(tmp_path / "run")
    assert run.summary["finished"] is False
    tensors, meta = load_checkpoint(run.checkpoint("last"))
    assert 100 <= meta["step"] < 1000
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
    with pytest.raises(FaultRateError):
        simtoreal.train(breaks, steps=1000, out=tmp_path / "api", assignments=QUICK)


def test_a_reward_that_is_not_a_number_stops_the_baseline_too(breaks, tmp_path):
    settings = ["agent.policy_kwargs.net_arch=[8]", "agent.learning_starts=50", "agent.train_freq=10", *QUICK[-2:]]
    with pytest.raises(NonFiniteError):
        simtoreal.train(breaks, algorithm="sb3-sac", steps=1000, out=tmp_path / "run", assignments=settings)
    assert Run.load(tmp_path / "run").actor("last")[1]["step"] == 100


@pytest.mark.parametrize(
    ("algorithm", "task"),
    [
        *((algorithm, "CartPoleSwingUp") for algorithm in ("td3", "ppo", "sb3-td3")),
        *(
            (algorithm, "CartPole-v1")
            for algorithm in ("dqn", "rainbow", "qlearning", "reinforce", "sb3-ppo", "sb3-dqn")
        ),
        *(pytest.param(algorithm, "CartPoleSwingUp", marks=pytest.mark.soak) for algorithm in ("reinforce", "sb3-ppo")),
        pytest.param("ppo", "CartPole-v1", marks=pytest.mark.soak),
    ],
)
def test_every_learner_goes_the_whole_way_and_on_again_bit_for_bit(algorithm, task, tmp_path, cli):
    whole, parts, bundle = tmp_path / "whole", tmp_path / "parts", tmp_path / "bundle"
    command = ("train", task, "--algorithm", algorithm, "--envs", 2, *sets(quick(algorithm)))
    assert cli(*command, "--steps", 1200, "--out", whole).code == 0
    assert cli(*command, "--steps", 600, "--out", parts).code == 0
    assert cli("train", task, "--out", parts, "--resume", "--steps", 1200).code == 0
    one, other = (Run.load(run).actor("last")[0].state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert cli("export", parts, "--out", bundle).code == 0
    said = cli("verify", bundle, "--json")
    assert said.code == 0, said
    assert said.result["skipped"] == []


@pytest.mark.parametrize("algorithm", ["sac", "td3", "ppo", "reinforce", "sb3-sac", "sb3-td3", "sb3-ppo"])
def test_an_environment_that_raises_before_the_first_checkpoint_leaves_nothing(algorithm, raises, tmp_path, cli):
    out = tmp_path / "deep" / "run"
    command = ("train", raises, "--algorithm", algorithm, "--steps", 1000, "--out", out)
    for _ in range(2):
        said = cli(*command)
        assert (said.code, said.out) == (3, "")
        (line,) = said.err.strip().splitlines()
        assert "EnvError: environment 0 raised ValueError: the cable snapped" in line
        assert not (tmp_path / "deep").exists()


def test_a_folder_that_was_there_stays_with_what_is_not_the_runs(raises, tmp_path, cli):
    out = tmp_path / "run"
    assert cli("train", "Pendulum-v1", "--steps", 100, "--out", out, *sets(QUICK)).code == 0
    (out / "notes.txt").write_text("mine")
    assert cli("train", raises, "--steps", 1000, "--out", out, "--force").code == 3
    assert names(out) == {"notes.txt"}


def test_an_environment_that_raises_later_leaves_the_run_and_its_checkpoint(raises, tmp_path, cli):
    out = tmp_path / "run"
    command = ("train", raises, "--steps", 1000, "--out", out)
    assert cli(*command, *sets(QUICK)).code == 3
    assert Run.load(out).actor("last")[1]["step"] == 100
    cli(*command).refused("exists; choose another folder or pass --force")
    assert cli(*command, "--resume").code == 3
    assert Run.load(out).actor("last")[1]["step"] == 200  # a new environment lasts for another 130 steps


def test_a_run_that_is_resumed_from_its_beginning_stays(raises, tmp_path, cli):
    out = tmp_path / "run"
    assert cli("train", raises, "--steps", 1000, "--out", out, *sets(QUICK)).code == 3
    config = (out / "config.yaml").read_text().replace("evaluate_every: 100", "evaluate_every: 500")
    shutil.rmtree(out)
    out.mkdir()
    (out / "config.yaml").write_text(config)  # as if it had been killed before its first checkpoint
    assert cli("train", raises, "--out", out, "--resume").code == 3
    assert not (out / "checkpoints").exists()
    assert (out / "config.yaml").read_text() == config


def test_an_environment_that_raises_in_the_evaluation_is_named(raises, tmp_path):
    settings = [*SMALL, "evaluate_every=100", "evaluate_episodes=10"]
    with pytest.raises(EnvError, match="the environment of the periodic evaluation raised ValueError: the cable snapp"):
        simtoreal.train(raises, steps=1000, out=tmp_path / "run", assignments=settings)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_numbers_are_never_saved(tmp_path, monkeypatch):
    tensors = OffPolicyLearner.tensors

    def broken(self):
        return {
            name: torch.full_like(t, torch.nan) if t.is_floating_point() else t for name, t in tensors(self).items()
        }

    monkeypatch.setattr(OffPolicyLearner, "tensors", broken)
    with pytest.raises(ValueError, match="not finite; a broken policy is not saved"):
        simtoreal.train("Pendulum-v1", steps=100, out=tmp_path / "run", assignments=QUICK)
    assert not list(tmp_path.rglob("agent.safetensors"))


def test_an_evaluation_that_is_not_a_number_is_never_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr("simtoreal.foreign.ForeignEnv.step", lambda self, a: (self._sound, np.nan, False, True, {}))
    with pytest.raises(NonFiniteError, match="an evaluation returned nan"):
        simtoreal.train("Pendulum-v1", steps=100, out=tmp_path / "run", assignments=QUICK)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("algorithm", "steps", "given", "compiler", "expected"),
    [
        ("td3", 60_000, {}, "gcc", True),
        ("td3", 60_000, {"updates_per_step": 0.5}, "gcc", False),
        ("td3", 60_000, {"compile": False}, "gcc", False),
        ("td3", 60_000, {"learning_starts": 20_000}, "gcc", False),
        ("td3", 60_000, {}, "false", False),
        ("td3", 60_000, {}, "no-such-compiler", False),
        ("sac", 1_000, {}, "gcc", False),
        ("sac", 1_000, {"compile": True}, "gcc", True),
        ("ppo", 1_400_000, {}, "gcc", True),  # 10 epochs of minibatches of 64
        ("ppo", 1_200_000, {}, "gcc", False),
        ("ppo", 1_400_000, {"recurrent": 8}, "gcc", False),
    ],
)
def test_machine_code_is_made_where_it_pays_and_that_is_written_down(
    algorithm, steps, given, compiler, expected, monkeypatch
):
    monkeypatch.setenv("CXX", compiler)
    config = complete_config(RunConfig(task="Pendulum-v1", algorithm=algorithm, steps=steps, agent=given))
    assert config.agent["compile"] is expected


def test_a_run_from_before_there_was_machine_code_goes_on_without():
    for algorithm, steps in (("td3", 60_000), ("ppo", 1_400_000)):
        config = RunConfig(task="Pendulum-v1", algorithm=algorithm, steps=steps)
        assert complete_stored_config(config).agent["compile"] is False
        kept = config.model_copy(update={"agent": {"compile": True}})
        assert complete_stored_config(kept).agent["compile"] is True
    assert "compile" not in complete_stored_config(config.model_copy(update={"algorithm": "reinforce"})).agent


def test_machine_code_without_a_compiler_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler"):
        simtoreal.train("Pendulum-v1", steps=100, out=tmp_path / "run", assignments=["agent.compile=true"])
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_is_not_a_success_of_the_function_either(tmp_path):
    from simtoreal.errors import Interrupted

    class Stops:
        def update(self, step, figures):
            if step == 200:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT"):
        simtoreal.train("Pendulum-v1", steps=10**6, out=tmp_path / "run", assignments=QUICK, reporter=Stops())
    summary = Run.load(tmp_path / "run").summary
    assert summary["steps"] == 300  # noticed at the next look, a hundred steps on
    assert summary["finished"] is False
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stopped_before_it_was_ever_evaluated_its_only_checkpoint_is_best_and_last(tmp_path):
    from simtoreal.errors import Interrupted

    class Stops:
        def update(self, step, figures):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"):
        simtoreal.train("Pendulum-v1", steps=10**6, out=tmp_path / "run", assignments=SMALL, reporter=Stops())
    run = Run.load(tmp_path / "run")
    unknown = {"step": 200, "success": None, "mean_return": None}
    assert (run.summary["best"], run.summary["last"], run.summary["evaluations"]) == (unknown, unknown, [])
    assert simtoreal.export(run.path, tmp_path / "bundle").is_dir()


def test_a_learner_gets_its_own_words_for_a_bad_device():
    from simtoreal.algorithms import pick_device

    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="use --device cpu or auto"):
            pick_device("cuda")
