"""Fine-tuning from end to end on robots in other processes, cut to seconds, and its guards one by one."""

import dataclasses
import hashlib
import json
import shutil
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import simtoreal
import simtoreal.finetune  # a module that is called as a verb; the tests need the module
from simtoreal import build, robot_session
from simtoreal.config import ConfigError
from simtoreal.finetune import better, decide
from simtoreal.locks import locked
from simtoreal.policies.checkpoint import save_checkpoint
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.finetuning import FineTuner, FineTuningConfig
from simtoreal.robot_env import open_robot
from simtoreal.robot_session import Budget, CapReached, Caps, Rollout, Session
from simtoreal.runs import Run
from tests.simtoreal.robots import running_robot, write_target

SECONDS = 60.0  # of PandaReach: 17 rollouts of 3.5 s, 6 each for base and candidate


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Everything that takes time but the robot, cut to a moment."""
    for name, value in {"SIMULATED_STEPS": 120, "PRETRAINING": 20, "WARM_UP": 20, "UPDATES_PER_STEP": 0.2}.items():
        monkeypatch.setattr(robot_session, name, value)
    monkeypatch.setattr(simtoreal.finetune, "SIMULATED_STEPS", 120)


@pytest.fixture(scope="module")
def reach(tmp_path_factory):
    """A run of PandaReach that has hardly learned a thing. No test may change it."""
    settings = (
        "agent.hidden=[16, 16]",
        "agent.learning_starts=50",
        "agent.updates_per_step=0.1",
        "evaluate_episodes=1",
    )
    folder = tmp_path_factory.mktemp("reach")
    return simtoreal.train("PandaReach", steps=60, out=folder / "run", assignments=settings).run


@pytest.fixture
def target(tmp_path):
    return write_target(tmp_path, "PandaReach", {"actuator.strength": 0.8})


def actor(bias=0.0, n=27, m=7):
    """An actor that gives one action whatever it sees."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = DeterministicActor(n, m, (8,))
    torch.nn.init.zeros_(made.head.weight)
    torch.nn.init.constant_(made.head.bias, bias)
    return made


def tuner_of(base):
    return FineTuner(base, FineTuningConfig(batch_size=16, hidden=(8,)), old=10, new=20_000, seed=0)


def actions(run, checkpoint="best"):
    policy, _ = Run.load(run).actor(checkpoint)
    return policy(torch.linspace(-1, 1, 5 * 27).reshape(5, 27))


def test_a_policy_that_is_no_better_is_not_kept_and_the_base_comes_back(reach, target, tmp_path, cli):
    out = tmp_path / "new"
    said = cli("finetune", reach, "--target", target, "--robot-seconds", SECONDS, "--out", out, "--json")
    assert said.code == 1, said.err
    result = said.result
    assert not result["accepted"]
    assert result["reason"].startswith(
        "base kept: not better with confidence: success 0 of 6 against the base's 0 of 6"
    )
    assert result["robot_seconds"] <= SECONDS
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finetune"]["reason"] == result["reason"]
    assert summary["best"]["step"] == 0
    assert torch.equal(actions(out), actions(reach))
    assert (out / summary["parent"]["run"]).resolve() == reach.resolve()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["base"] * 6 + ["learn"] * 5 + ["candidate"] * 6
    assert lines[-1]["robot_seconds"] == pytest.approx(17 * 3.5) == pytest.approx(result["robot_seconds"])
    first, second = lines[6], lines[7]
    assert "train/critic_loss" in first, "the critics warm up before the actor moves"
    assert "train/actor_loss" not in first
    assert "train/actor_loss" in second
    cli("finetune", reach, "--target", target, "--robot-seconds", SECONDS, "--out", out).refused(
        "exists; choose another"
    )


def test_a_policy_that_is_better_becomes_a_run_like_any_other(reach, target, tmp_path, monkeypatch, cli):
    monkeypatch.setattr(simtoreal.finetune, "LEVEL", 1.0)  # every test is passed then
    out = tmp_path / "new"
    result = simtoreal.finetune(reach, target=target, robot_seconds=SECONDS, out=out, seed=1)
    assert result.accepted
    summary = json.loads((out / "summary.json").read_text())
    assert summary["best"]["step"] == result.rollouts == 17
    assert not torch.equal(actions(out), actions(reach))
    assert torch.equal(actions(out, "0"), actions(reach))
    bundle = simtoreal.export(out, tmp_path / "bundle")
    assert simtoreal.verify(bundle).passed
    verdict = simtoreal.evaluate([bundle], suites=["nominal"], episodes=2, out=tmp_path / "verdict")
    assert len(verdict.episodes) == 2
    cli("finetune", out, "--target", target, "--robot-seconds", SECONDS, "--out", out, "--force").refused(
        "to start from"
    )


def test_a_policy_with_a_history_is_tuned_on_what_it_saw(target, tmp_path, monkeypatch):
    monkeypatch.setattr(simtoreal.finetune, "LEVEL", 1.0)  # every test is passed then
    settings = ("agent.hidden=[16, 16]", "agent.learning_starts=50", "evaluate_episodes=1", "agent.history=3")
    run = simtoreal.train("PandaReach", steps=60, out=tmp_path / "run", assignments=settings).run
    tuners = []

    class Watched(FineTuner):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            tuners.append(self)

    monkeypatch.setattr(simtoreal.finetune, "FineTuner", Watched)
    result = simtoreal.finetune(run, target=target, robot_seconds=SECONDS, out=tmp_path / "new", seed=1)
    assert result.accepted
    (tuner,) = tuners
    assert tuner.critics[0].body[0].in_features == 3 * 27 + 1 + 7
    for memory in (tuner.old, tuner.new):
        rows = memory.rows(memory.oldest, memory.added)
        frames, following = (rows[name].reshape(-1, 3, 27) for name in ("obs", "next_obs"))
        assert torch.equal(frames[:, 1:], following[:, :-1])
        first, own = frames[0], slice(0, 21)  # the first of an episode; a relabelled goal changes the other fields
        assert torch.equal(first, first[:1].expand(3, -1))
        assert not torch.equal(frames[-1, 0, own], frames[-1, 1, own])
    actor, _ = Run.load(tmp_path / "new").actor()
    assert actor.history == 3
    assert simtoreal.verify(simtoreal.export(tmp_path / "new", tmp_path / "bundle")).passed


def test_the_learners_settings(reach, target, tmp_path, cli):
    arguments = ("finetune", reach, "--target", target, "--robot-seconds", SECONDS, "--out", tmp_path / "new")
    for noise in ("-1", "1e9"):
        words = f"simtoreal: finetune: noise must be at least 0 and at most 1, got {float(noise):g}"
        cli(*arguments, "--set", f"noise={noise}").refused(words.replace("1e+09", "1000000000.0"))
    cli(*arguments, "--set", "nois=0.1").refused("no setting finetune.nois; did you mean noise?")
    cli(*arguments, "--set", "noise=much").refused("finetune.noise: ")
    cli(*arguments, "--set", "noise=0.02")
    settings = json.loads((tmp_path / "new" / "summary.json").read_text())["finetune"]["settings"]
    assert (settings["noise"], settings["hidden"]) == (0.02, [16, 16])  # as wide as the policy


def test_a_link_is_as_good_as_a_file(reach, target, tmp_path, cli):
    options = ("--robot-seconds", SECONDS, "--seed", 5)
    assert cli("finetune", reach, "--target", target, "--out", tmp_path / "file", *options).code == 1
    with running_robot(target, seed=5) as (address, _):
        assert cli("finetune", reach, "--target", address, "--out", tmp_path / "link", *options).code == 1
    file, link = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("file", "link"))
    assert file == link, "the same seeds, the same rollouts and the same weights"


def test_a_robot_that_dies_is_a_named_failure_and_nothing_is_written(reach, target, tmp_path, cli):
    out = tmp_path / "deep" / "new"
    with running_robot(target) as (address, process):
        killer = threading.Timer(2.0, process.send_signal, [signal.SIGKILL])
        killer.start()
        said = cli("finetune", reach, "--target", address, "--robot-seconds", 100_000, "--out", out, "--json")
        killer.join()
    assert (said.code, said.out) == (3, "")
    assert f"robot at {address} is gone" in said.err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--robot-seconds": "20"}, "20 robot seconds are too few: to judge base and candidate over 6 rollouts each"),
        ({"--robot-seconds": "nan"}, "must be a number of seconds above 0"),
        ({"--target": "tcp://127.0.0.1:9"}, "no robot at tcp://127.0.0.1:9"),
        ({"--target": "nowhere.yaml"}, "no such file: nowhere.yaml"),
        ({"--target": "CartPoleSwingUp"}, "the robot has task simtoreal/CartPoleSwingUp-v0"),
        ({"--max-falls": "0"}, "must be a whole number from 1"),
        ({"--checkpoint": "7"}, "no checkpoint '7'"),
        ({"--out": ""}, "--out is an empty path; name the folder to write"),
        ({"--set": "hidden=[99999999]"}, "finetune: hidden must be 1 to 32 layer widths from 1 to 16384"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(change, words, reach, target, tmp_path, cli):
    if change.get("--target") == "CartPoleSwingUp":
        change = {"--target": write_target(tmp_path, "CartPoleSwingUp", {})}
    options = {"--target": target, "--robot-seconds": SECONDS, "--out": tmp_path / "new"} | change
    cli("finetune", reach, *(part for pair in options.items() for part in pair)).refused(words)
    assert not (tmp_path / "new").exists()


def test_falls_are_counted_and_capped_and_the_base_comes_back(tmp_path):
    target = write_target(tmp_path, "CartPoleSwingUp", {}, reset_seconds=0.5)
    with open_robot(target, 0) as env:
        session = Session(
            env, tuner_of(actor(bias=5.0, n=6, m=1)), None, Budget(600, env.episode_seconds), Caps(3, 1000)
        )
        with pytest.raises(CapReached, match=r"3 falls in .* robot seconds, of at most 3"):
            session.run()
    assert (session.falls, len(session.rollouts)) == (3, 3)
    assert all(rollout.length < 100 for rollout in session.rollouts), "a cart that is pushed one way leaves its track"
    with pytest.raises(ConfigError, match="at least 1"):
        Caps(falls=0)


def test_a_session_stopped_by_a_cap_leaves_the_base_and_says_why(reach, tmp_path, cli):
    hasty = tmp_path / "hasty"
    shutil.copytree(reach, hasty)
    meta = Run.load(hasty).actor()[1]
    weights = {f"actor.{name}": tensor for name, tensor in actor(bias=5.0).state_dict().items()}
    meta |= {"actor": actor().describe()}
    save_checkpoint(hasty / "checkpoints" / str(meta["step"]), weights, meta, replace=True)
    target, out = write_target(tmp_path, "PandaReach", {"actuator.latency": 0.1}), tmp_path / "new"
    options = ("--target", target, "--robot-seconds", SECONDS, "--out", out, "--max-violations", 10, "--json")
    said = cli("finetune", hasty, *options)
    assert said.code == 1, said
    assert said.result["reason"].startswith("base kept: ")
    assert "limit violations in" in said.result["reason"]
    assert said.result["violations"] >= 10
    assert said.result["tuned"] is None
    assert torch.equal(actions(out), actions(hasty))


def test_two_bad_rollouts_in_a_row_roll_back_to_the_last_good_weights(tmp_path):
    target = write_target(tmp_path, "PandaReach", {})
    config = FineTuningConfig(batch_size=16, hidden=(8,), noise=0.0)
    tuner = FineTuner(actor(bias=0.1), config, old=10, new=20_000, seed=0)
    lessons = 0

    def update(steps, *, move_actor):
        """A base that drifts, a first lesson to stand still, which is better, a second to go full speed ahead."""
        nonlocal lessons
        lessons += move_actor
        with torch.no_grad():
            for module in (tuner.actor, tuner.average):
                if move_actor:
                    module.head.bias.fill_(5.0 if lessons >= 2 and session.rollbacks == 0 else 0.0)
        return {}

    tuner.update = update
    biases = []
    with open_robot(target, 0) as env:
        session = Session(env, tuner, None, Budget(70, env.episode_seconds), Caps(100, 10_000))
        rollout = session._rollout
        session._rollout = lambda phase, actor, *more: (
            biases.append((phase, round(actor.head.bias[0].item(), 3))) or rollout(phase, actor, *more)
        )
        session.run()
    assert [bias for phase, bias in biases if phase == "learn"][:5] == [0.1, 0.0, 5.0, 5.0, 0.0]
    returns = {
        phase: [rollout.return_ for rollout in session.rollouts if rollout.phase == phase]
        for phase in ("base", "learn", "candidate")
    }
    learned, worst = returns["learn"], min(returns["base"])
    assert session.rollbacks == 1
    assert max(learned[2:4]) < worst, "mad"
    assert min(learned[4:]) > max(learned[2:4]), "back"
    assert tuner.radius < config.first_radius * 1.2**6 / 2
    assert float(tuner.average.head.bias[0]) == 0.0


@pytest.mark.parametrize(("slack", "sign", "rollbacks"), [(0.0, -1, 5), (0.05, -1, 5), (0.2, -1, 0), (0.2, 1, 0)])
def test_a_loss_of_return_within_the_slack_is_not_bad(slack, sign, rollbacks):
    """The base's returns are -10 or 10, the learner's a tenth of their size less."""
    config = FineTuningConfig(batch_size=16, hidden=(8,), slack=slack)
    tuner = FineTuner(actor(), config, old=10, new=10, seed=0)
    tuner.update = lambda steps, *, move_actor: {}
    env = SimpleNamespace(task=build.task_class("simtoreal/PandaReach-v0"), seconds=0.0)
    session = Session(env, tuner, None, Budget(100, 3.5), Caps())

    def rollout(phase, *_):
        env.seconds += 3.5
        return_ = 10.0 * sign - (phase == "learn")
        session.rollouts.append(Rollout(phase, return_, False, 50, False, False, 0, 0, ""))
        return session.rollouts[-1]

    session._rollout = rollout
    session.run()
    assert session.rollbacks == rollbacks


def test_what_is_judged_is_the_best_over_five_rollouts_not_the_last(tmp_path):
    target = write_target(tmp_path, "PandaReach", {})
    tuner = FineTuner(
        actor(bias=0.1), FineTuningConfig(batch_size=16, hidden=(8,), noise=0.0), old=10, new=20_000, seed=0
    )
    lessons = 0

    def update(steps, *, move_actor):
        """A base that drifts, a learner that stands still, which is better, and goes mad in its last two lessons."""
        nonlocal lessons
        lessons += move_actor
        with torch.no_grad():
            for module in (tuner.actor, tuner.average):
                module.head.bias.fill_(5.0 if lessons > 6 else 0.0)
        return {}

    tuner.update = update
    with open_robot(target, 0) as env:
        session = Session(env, tuner, None, Budget(70, env.episode_seconds), Caps(100, 10_000))
        session.run()
    assert lessons == 8
    assert session.rollbacks == 0
    assert float(tuner.average.head.bias[0]) == 0.0


def test_time_that_the_robot_had_not_announced_is_kept_to(tmp_path):
    """Its resets take 10 s, and it had spoken of 1 s."""
    with open_robot(write_target(tmp_path, "PandaReach", {}, reset_seconds=10.0), 0) as env:
        session = Session(env, tuner_of(actor()), None, Budget(70, 3.5), Caps(100, 10_000))
        with pytest.raises(CapReached, match=r"62 of 70 robot seconds are used, and a rollout takes 12.5"):
            session.run()
        assert env.seconds <= 70
    with pytest.raises(ConfigError, match="more than 100,000"):
        Budget(1e15, 3.5)


def test_a_robot_that_keeps_stopping_itself_ends_the_session(tmp_path):
    with open_robot(write_target(tmp_path, "PandaReach", {}), 0) as env:
        step = env._link.step
        env._link.step = lambda command: dataclasses.replace(step(command), stopped=True)
        session = Session(env, tuner_of(actor()), None, Budget(70, env.episode_seconds), Caps(stops=3))
        with pytest.raises(CapReached, match=r"3 stops in .* of at most 3"):
            session.run()
    assert (session.stops, session.falls) == (3, 0)


def test_a_base_that_was_trained_in_workers_can_be_tuned(target, tmp_path, cli):
    settings = ("agent.hidden=[16, 16]", "agent.learning_starts=50", "evaluate_episodes=1", "envs=2", "workers=2")
    run = simtoreal.train("PandaReach", steps=60, out=tmp_path / "run", assignments=settings).run
    said = cli("finetune", run, "--target", target, "--robot-seconds", SECONDS, "--out", tmp_path / "new", "--json")
    assert said.code == 1, said
    assert said.result["stops"] == 0


def test_a_folder_in_which_another_process_trains_is_left_alone(reach, target, tmp_path, cli):
    busy = tmp_path / "busy"
    shutil.copytree(reach, busy)
    before = {path: path.read_bytes() for path in busy.rglob("*") if path.is_file()}
    with locked(busy):
        said = cli("finetune", reach, "--target", target, "--robot-seconds", SECONDS, "--out", busy, "--force")
    said.refused("is being trained by process")
    assert {path: path.read_bytes() for path in busy.rglob("*") if path.is_file()} == before
    assert cli("finetune", reach, "--target", target, "--robot-seconds", SECONDS, "--out", busy, "--force").code == 1
    assert not (busy / "replay").exists()
    assert cli("export", busy, "--out", tmp_path / "bundle").code == 0


def test_a_base_that_is_being_trained_is_refused(reach, target, tmp_path, cli):
    with locked(reach):
        said = cli("finetune", reach, "--target", target, "--robot-seconds", SECONDS, "--out", tmp_path / "new")
    said.refused("is being trained by process")
    assert not (tmp_path / "new").exists()


def test_the_base_is_not_needed_again_once_the_robot_moves(reach, target, tmp_path, monkeypatch):
    base, out = tmp_path / "base", tmp_path / "new"
    shutil.copytree(reach, base)
    expected = hashlib.sha256((base / "checkpoints" / "60" / "agent.safetensors").read_bytes()).hexdigest()
    run = Session.run

    def and_meanwhile(self, report=None):
        shutil.rmtree(base)
        run(self, report)

    monkeypatch.setattr(Session, "run", and_meanwhile)
    simtoreal.finetune(base, target=target, robot_seconds=SECONDS, out=out, checkpoint="last")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["parent"]["sha256"] == expected
    assert (out / "randomization.yaml").is_file() == (reach / "randomization.yaml").is_file()


@pytest.mark.parametrize(
    ("base", "tuned", "accepted"), [(7, 8, False), (5, 8, False), (3, 8, True), (8, 8, False), (8, 3, False)]
)
def test_more_successes_are_not_enough_to_be_better(base, tuned, accepted):
    """Of ten each: the difference has to be one that luck alone would not give in twenty sessions."""
    found = decide([True] * base + [False] * (10 - base), [True] * tuned + [False] * (10 - tuned))
    assert found["accepted"] is accepted
    assert (found["p_value"] <= 0.05) is accepted


def test_the_test_that_decides_is_exact_and_one_sided():
    assert better([False] * 6, [True] * 6) < 0.002
    assert better([True] * 6, [False] * 6) > 0.99
    assert better([False] * 6, [False] * 6) == 1.0
    assert better([True] * 25, [True] * 25) == 1.0
    assert better([True] * 5 + [False] * 5, [True] * 6 + [False] * 4) > 0.3
    assert better([True] * 3 + [False] * 7, [True] * 8 + [False] * 2) < 0.05
    false_alarms = 0
    rng = np.random.default_rng(0)
    for _ in range(200):
        base, tuned = rng.random((2, 10)) < 0.5
        false_alarms += better(base.tolist(), tuned.tolist()) <= 0.05
    assert false_alarms <= 20


def test_the_budget_keeps_time_for_the_candidate():
    budget = Budget(600, 12.0)
    assert budget.judged == 10
    assert budget.allows(600 - 11 * 12.0, 1 + budget.judged)
    assert not budget.allows(600 - 11 * 12.0 + 0.1, 1 + budget.judged)
    assert Budget(600, 3.5).judged == 25
    with pytest.raises(ConfigError, match="takes 204 s"):
        Budget(203, 12.0)
