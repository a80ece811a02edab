"""A run survives: whatever kills it, what it becomes is what it would have become."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import simtoreal
from simtoreal.policies.checkpoint import checkpoints, load_checkpoint, load_latest, save_checkpoint
from simtoreal.runs import Run

sys.path.insert(0, str(Path(__file__).parent))
from killing import checkpoint, lines, newest, odd, replay, unlike

FAST = [
    "agent.hidden=[16, 16]", "agent.learning_starts=100", "agent.updates_per_step=0.1", "agent.batch_size=16",
    "evaluate_every=400", "evaluate_episodes=1", "save_every=200",
]  # fmt: skip
RUNS = {  # privileged critic, mirrored transitions, averaged actor; relabelled goals; no names, and a ring overwritten;
    # "history": cut in mid-episode, its relabelled stacks of three frames go on, as does the hidden state of "gru"; the
    # walk's episodes are cut off and its robots begin as nominal ones
    "cartpole": ["CartPoleSwingUp", "--steps", "1200", "--envs", "2", *(f"--set={s}" for s in FAST)],
    "reach": ["PandaReach", "--steps", "600", "--envs", "3", *(f"--set={s}" for s in FAST)],
    "history": [
        "PandaReach", "--steps", "450", "--envs", "3", *(f"--set={s}" for s in [*FAST, "agent.history=3"]),
    ],
    "gru": [
        "CartPoleSwingUp", "--steps", "1200", "--envs", "2", "--algorithm", "ppo", "--set=agent.recurrent=8",
        "--set=agent.hidden=[16]", "--set=agent.rollout=20", "--set=agent.batch_size=20",
        "--set=agent.sequence_length=10", *(f"--set={s}" for s in FAST[4:]),
    ],
    "pendulum": ["Pendulum-v1", "--steps", "900", *(f"--set={s}" for s in [*FAST, "agent.buffer_size=400"])],
    "compiled": [
        "Pendulum-v1", "--algorithm", "td3", "--steps", "600", *(f"--set={s}" for s in [*FAST, "agent.compile=true"]),
    ],
    "sides": [
        "CartPoleSwingUp", "--steps", "800", "--envs", "2",
        *(f"--set={s}" for s in [*FAST, "augment=0", "mirror=true", "agent.n_step=3"]),
    ],
    "walk": [
        "A1Walk", "--steps", "400", "--envs", "2",
        *(f"--set={s}" for s in [*FAST, "save_every=100", "episode_steps=45", "randomization_ramp=[1, 3]"]),
    ],
    "adr": [  # every episode at a boundary widens it
        "PandaReach", "--steps", "600", "--envs", "3", *(f"--set={s}" for s in FAST),
        "--set=curriculum={kind: adr, share: 0.9, queue: 1, metric: return, high: -1e6, low: -2e6}",
    ],
    "sb3": [
        "CartPoleSwingUp", "--steps", "800", "--envs", "2", "--algorithm", "sb3-sac",
        "--set=agent.policy_kwargs.net_arch=[16, 16]", "--set=agent.learning_starts=100", "--set=agent.train_freq=10",
        "--set=agent.buffer_size=700", *(f"--set={s}" for s in FAST[4:]),
    ],
}  # fmt: skip


def killed(name, out, **order):
    """A run that was killed as `order` says and went on each time; what happened."""
    words = json.dumps({"arguments": RUNS[name], "out": str(out), **order})
    script = Path(__file__).with_name("killing.py")
    done = subprocess.run([sys.executable, script, words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["code"] == 0, done.stderr
    return said


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Runs that nothing happened to, by name, each trained once. No test may change them."""
    folder, made = tmp_path_factory.mktemp("undisturbed"), {}

    def run(name):
        if name not in made:
            made[name] = folder / name
            killed(name, made[name], kills=0, seed=0)
        return made[name]

    return run


@pytest.fixture
def cut(undisturbed, tmp_path):
    """A copy of a run as it was after the checkpoint of a step: what came later is gone."""

    def make(name, step, out="run"):
        run = tmp_path / out
        shutil.copytree(undisturbed(name), run)
        for path in checkpoints(run / "checkpoints"):
            if int(path.name) > step:
                shutil.rmtree(path)
        return run

    return make


def training_seconds(run):
    """How long [s] it trained until its last line of metrics."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        *(("cartpole", 4), ("pendulum", 2), ("sb3", 3), ("gru", 2), ("adr", 2)),
        *(pytest.param(*c, marks=pytest.mark.soak) for c in (("reach", 2), ("history", 2), ("sides", 1), ("walk", 2))),
    ],
)
def test_killed_at_random_instants_it_ends_the_same_bit_for_bit(name, kills, undisturbed, tmp_path):
    alone = undisturbed(name)
    said = killed(name, tmp_path / "run", kills=kills, seed=len(name), within=training_seconds(alone))
    assert said["kills"] > 0
    assert unlike(alone, tmp_path / "run") == []
    assert Run.load(tmp_path / "run").summary["finished"] is True
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith((".tmp", ".old", ".lock"))]


def test_machine_code_goes_on_bit_for_bit(cut, undisturbed, cli):
    run = cut("compiled", 400)
    assert newest(run) == 400
    assert cli("train", *RUNS["compiled"], "--out", run, "--resume").code == 0
    assert unlike(undisturbed("compiled"), run) == []


def test_a_run_goes_on_without_machine_code_where_there_is_no_compiler(cut, cli, monkeypatch):
    run = cut("compiled", 400)
    monkeypatch.setenv("CXX", "no-such-compiler")
    cli("train", *RUNS["compiled"], "--out", run, "--resume").refused("set agent.compile=false")
    more = "--set=agent.compile=false"
    assert cli("train", *RUNS["compiled"], more, "--out", run, "--resume").code == 0
    assert Run.load(run).summary["steps"] == 600


def test_killed_between_any_two_of_its_calls_to_the_disk_it_ends_the_same(undisturbed, tmp_path):
    said = killed("pendulum", tmp_path / "run", kills=10, seed=0, at="calls")
    assert said["kills"] > 3
    assert unlike(undisturbed("pendulum"), tmp_path / "run") == []
    assert not list((tmp_path / "run").rglob(".tmp*"))


def test_the_frames_before_a_break_are_seen_after_it(cut, undisturbed, cli):
    run = cut("history", 402)
    (stored, _) = checkpoint(run, 402)
    stacks = stored["loop.observation"].reshape(3, 3, 27)
    assert all(not torch.equal(stacks[:, i], stacks[:, i + 1]) for i in (0, 1)), "in mid-episode"
    assert cli("train", "PandaReach", "--out", run, "--resume").code == 0
    assert unlike(undisturbed("history"), run) == []


def test_the_replay_is_written_once_by_what_was_added(undisturbed):
    run = undisturbed("cartpole")
    said = {step: checkpoint(run, step)[1]["memory"] for step in (1000, 1200)}
    assert said[1200]["chunks"][:-1] == said[1000]["chunks"]
    assert said[1200]["added"] == 2 * 1200  # each transition and its mirror image
    first, last, _ = said[1200]["chunks"][-1]
    assert (first, last) == (2000, 2400)
    ring = undisturbed("pendulum")
    kept = checkpoint(ring, 900)[1]["memory"]
    assert (kept["oldest"], kept["added"]) == (500, 900)
    oldest = min(checkpoint(ring, int(path.name))[1]["memory"]["oldest"] for path in checkpoints(ring / "checkpoints"))
    assert all(int(name.split("-")[1].split(".")[0]) > oldest for name in names(ring / "replay"))


def test_more_steps_train_on_as_if_there_had_been_as_many_from_the_start(undisturbed, tmp_path, cli):
    short = [*RUNS["cartpole"][:2], "600", *RUNS["cartpole"][3:]]
    assert cli("train", *short, "--out", tmp_path / "run").code == 0
    said = cli("train", "CartPoleSwingUp", "--steps", 1200, "--out", tmp_path / "run", "--resume", "--json")
    assert (said.code, said.result["resumed_at"], said.result["steps"]) == (0, [600], 1200)
    whole = undisturbed("cartpole")
    (one, meta), (two, other) = (checkpoint(run, 1200) for run in (whole, tmp_path / "run"))
    assert odd(one, two) == []
    assert odd(replay(whole, meta["memory"]), replay(tmp_path / "run", other["memory"])) == []
    late = [[line for line in lines(run) if line["step"] > 1000] for run in (whole, tmp_path / "run")]
    assert late[0] == late[1] != []


@pytest.mark.parametrize(("first", "then"), [(2, 2), (0, 2), (2, 0)])
def test_in_worker_processes_it_goes_on_as_in_one(first, then, undisturbed, tmp_path, cli):
    run, others = tmp_path / "run", [] if first == then else ["--workers", then, "--set", "step_timeout=90"]
    short = [*RUNS["cartpole"][:2], "600", *RUNS["cartpole"][3:]]
    assert cli("train", *short, "--workers", first, "--out", run).code == 0
    said = cli("train", "CartPoleSwingUp", "--steps", 1200, "--out", run, "--resume", "--json", *others)
    assert (said.code, said.result["resumed_at"]) == (0, [600])
    (one, _), (other, _) = (checkpoint(folder, 1200) for folder in (undisturbed("cartpole"), run))
    assert odd(one, other) == []
    assert Run.load(run).config.workers == then


def test_a_finished_run_says_so_and_is_left_as_it_is(undisturbed, tmp_path, cli):
    run = tmp_path / "run"
    shutil.copytree(undisturbed("cartpole"), run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = cli("train", *RUNS["cartpole"], "--out", run, "--resume")
    assert said.code == 0
    assert "was finished already; --resume with more --steps trains on" in said.out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    result = simtoreal.train("CartPoleSwingUp", out=run, resume=True)
    assert (result.was_finished, result.steps) == (True, 1200)


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(cut, cli):
    run = cut("cartpole", 0)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for more in ([], ["--steps", 2000], ["--fall-back"]):
        said = cli("train", "CartPoleSwingUp", "--out", run, "--resume", *more)
        said.refused("has a summary.json but nothing in checkpoints/ to resume from; --force trains anew")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["PandaReach"], "is a run of task CartPoleSwingUp, not PandaReach"),
        (["CartPoleSwingUp", "--algorithm", "sb3-sac"], "is a run of algorithm sac, not sb3-sac"),
        (["CartPoleSwingUp", "--seed", "1"], "was begun with seed 0, not 1; only steps, workers"),
        (["CartPoleSwingUp", "--envs", "4"], "was begun with envs 2, not 4"),
        (["CartPoleSwingUp", "--workers", "3"], "3 workers need at least as many environments"),
        (["CartPoleSwingUp", "--randomization", "none"], "begun with randomization 'CartPoleSwingUp', not 'none'"),
        (["CartPoleSwingUp", "--set", "agent.gamma=0.5"], "begun with agent.gamma 0.99, not 0.5"),
        (["CartPoleSwingUp", "--set", "agent.gama=0.5"], "no setting agent.gama"),
        (["CartPoleSwingUp", "--steps", "1000"], "is a run of 1200 steps; 1000 are fewer"),
        (["CartPoleSwingUp", "--force"], "--resume goes on with a run, --force replaces it: choose one"),
    ],
)
def test_what_contradicts_the_run_is_refused_and_changes_nothing(arguments, words, undisturbed, cli):
    run = undisturbed("cartpole")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    cli("train", *arguments, "--out", run, "--resume").refused(words)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path != run} == {
        path: when for path, when in before.items() if path != run
    }


def test_where_there_is_no_run_nothing_is_resumed(tmp_path, cli):
    cli("train", "CartPoleSwingUp", "--out", tmp_path / "run", "--resume").refused("holds no run to resume")
    assert not (tmp_path / "run").exists()
    cli("train", "CartPoleSwingUp", "--steps", 9, "--out", tmp_path, "--fall-back").refused(
        "--fall-back is for --resume"
    )
    cli("train", "MountainCar-v0", "--out", tmp_path / "run").refused(
        "no recipe says how many steps sac takes to learn"
    )


def test_a_run_without_its_replay_is_not_resumed(tmp_path, cli):
    words = ["Pendulum-v1", "--steps", "200", "--out", tmp_path / "run", *(f"--set={s}" for s in FAST)]
    assert cli("train", *words, "--set", "resumable=false").code == 0
    assert not (tmp_path / "run" / "replay").exists()
    cli("train", "Pendulum-v1", "--out", tmp_path / "run", "--resume").refused("its replay was not stored")


def test_a_configuration_edited_since_is_refused(cut, cli):
    run = cut("cartpole", 1000)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("gamma: 0.99", "gamma: 0.98"))
    said = cli("train", "CartPoleSwingUp", "--out", run, "--resume")
    said.refused("was written under agent.gamma 0.99, config.yaml says 0.98")


def test_draws_edited_since_are_refused_and_a_comment_is_not(cut, undisturbed, cli):
    run = cut("cartpole", 1000)
    preset = run / "randomization.yaml"
    text = preset.read_text()
    assert "1.2" in text
    preset.write_text(text.replace("1.2", "1.3", 1))
    said = cli("train", "CartPoleSwingUp", "--out", run, "--resume")
    said.refused("checkpoints/1000: was written under another randomization.yaml: the run's was changed since")
    preset.write_text(f"# as it was\n{text}")
    assert cli("train", "CartPoleSwingUp", "--out", run, "--resume").code == 0
    assert unlike(undisturbed("cartpole"), run) == []


def test_a_run_from_before_a_setting_was_added_goes_on(cut, undisturbed, cli):
    run = cut("cartpole", 1000)
    config = run / "config.yaml"
    text = config.read_text()
    assert "resumable: true\n" in text
    config.write_text(text.replace("resumable: true\n", ""))
    tensors, meta = load_checkpoint(run / "checkpoints" / "1000")
    del meta["config"]["resumable"], meta["config"]["agent"]["matmul_precision"]
    del meta["preset"], meta["standing"]["worker_restarts"]
    save_checkpoint(run / "checkpoints" / "1000", tensors, meta, replace=True)
    assert cli("train", "CartPoleSwingUp", "--out", run, "--resume").code == 0
    assert unlike(undisturbed("cartpole"), run) == []


@pytest.mark.parametrize("what", ["agent.safetensors", "checkpoint.json", "chunk"])
@pytest.mark.parametrize("how", ["flipped", "truncated", "gone"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_used_when_told(what, how, cut, undisturbed, cli):
    run = cut("cartpole", 1200)
    step = newest(run)
    path = run / "checkpoints" / str(step) / what
    if what == "chunk":
        first, last, _ = checkpoint(run, step)[1]["memory"]["chunks"][-1]
        path = run / "replay" / f"{first}-{last}.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(data) if how == "flipped" else data[: len(data) // 2])
    said = cli("train", "CartPoleSwingUp", "--out", run, "--resume", "--json")
    said.refused(path.name)
    assert "--fall-back resumes from the newest that is sound" in said.err
    assert path.exists() is (how != "gone")
    said = cli("train", "CartPoleSwingUp", "--out", run, "--resume", "--fall-back", "--json")
    assert said.code == 0, said
    assert said.result["resumed_at"] == [1000]
    assert unlike(undisturbed("cartpole"), run) == []


class Forgetful(gym.Env):
    """Steps 30 an episode; what it shows depends on its whole life, not on its seed and actions."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    age = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.array([float(self.age)], np.float32), {}

    def step(self, action):
        self.age += 1
        self.at += 1
        return np.array([float(self.age)], np.float32), 0.0, False, self.at == 30, {}


def test_a_task_whose_episodes_cannot_be_had_again_is_refused(tmp_path, cli):
    gym.register("Forgetful-v0", Forgetful)
    try:
        words = ["Forgetful-v0", "--out", tmp_path / "run", *(f"--set={s}" for s in FAST)]
        assert cli("train", *words, "--steps", 100).code == 0
        said = cli("train", "Forgetful-v0", "--out", tmp_path / "run", "--resume", "--steps", 200)
        said.refused("environment 0 did not come back to where it was")
    finally:
        del gym.registry["Forgetful-v0"]


def begun(out, name="cartpole", steps="10000000"):
    """A training in a process of its own that has written a checkpoint."""
    words = [RUNS[name][0], "--steps", steps, *RUNS[name][3:], "--out", str(out), "--set=agent.compile=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "simtoreal", "train", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while newest(out) == 0:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def test_a_second_training_in_the_same_folder_is_refused_and_a_dead_ones_lock_recovered(tmp_path, undisturbed, cli):
    run = tmp_path / "run"
    process = begun(run, steps="1500000")
    try:
        for more in (["--steps", 10], ["--steps", 10, "--force"], ["--resume"]):
            cli("train", "CartPoleSwingUp", "--out", run, *more).refused(f"is being trained by process {process.pid}")
    finally:
        process.kill()
        process.communicate()
    assert (run / ".lock").read_text() == f"{process.pid}\n"
    config = run / "config.yaml"
    step = newest(run)
    said = cli("train", "CartPoleSwingUp", "--out", run, "--resume", "--steps", step)
    said.refused("is a run of 1500000 steps")
    assert config.is_file()
    assert cli("train", *RUNS["cartpole"], "--out", run, "--force").code == 0
    assert unlike(undisturbed("cartpole"), run) == []
    assert not (run / ".lock").exists()


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_saves_and_goes_on_as_if_nothing_had_been(which, code, undisturbed, tmp_path, cli):
    run = tmp_path / "run"
    process = begun(run, steps="1200")
    process.send_signal(which)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was finished before the signal came")
    assert (process.returncode, out) == (code, "")
    assert f"stopped by {which.name}; checkpoint saved in" in err
    stopped = json.loads((run / "summary.json").read_text())["steps"]
    assert newest(run) == stopped
    actor, meta = Run.load(run).actor("last")
    assert meta["step"] == stopped
    assert torch.isfinite(actor(torch.zeros(2, 6))).all()
    said = cli("train", "CartPoleSwingUp", "--out", run, "--resume", "--json")
    assert (said.code, said.result["resumed_at"]) == (0, [stopped])
    assert unlike(undisturbed("cartpole"), run) == []


@pytest.mark.parametrize(("evaluation", "step"), [(2, 800), (3, 1200)])
def test_stopped_in_an_evaluation_it_does_not_play_on_and_makes_up_for_it_later(
    evaluation, step, undisturbed, tmp_path, cli, monkeypatch
):
    """The tenth step that it plays brings the signal."""
    acts: list[int] = []  # of each evaluation

    class Driver(simtoreal.judge.Driver):
        def __init__(self, actor):
            super().__init__(actor)
            acts.append(0)

        def act(self, obs):
            acts[-1] += 1
            if (len(acts), acts[-1]) == (evaluation, 10):
                signal.raise_signal(signal.SIGTERM)
            return super().act(obs)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("simtoreal.judge.Driver", Driver)
        said = cli("train", *RUNS["cartpole"], "--out", run)
    assert said.code == 143
    assert (len(acts), acts[-1]) == (evaluation, 10)
    summary = Run.load(run).summary
    assert (summary["steps"], summary["finished"], len(summary["evaluations"])) == (step, False, evaluation - 1)
    assert newest(run) == step
    said = cli("train", "CartPoleSwingUp", "--out", run, "--resume", "--json")
    assert (said.code, said.result["resumed_at"]) == (0, [step])
    assert unlike(undisturbed("cartpole"), run) == []


FULL = """
import resource, sys
from simtoreal.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [9_000, 30_000], ids=["a chunk does not fit", "the weights do not fit"])
def test_a_full_disk_ends_it_with_the_old_checkpoint_intact(limit, cut, undisturbed, cli):
    run = cut("cartpole", 1000)
    sizes = {path: path.stat().st_size for path in run.rglob("*.safetensors")}
    assert min(sizes.values()) > 9_000
    words = ["train", "CartPoleSwingUp", "--out", str(run), "--resume"]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.strip().splitlines()
    assert "File too large; the checkpoint of step 1000 is intact and --resume goes on from it" in line
    assert not list(run.rglob(".tmp*"))
    assert load_latest(run / "checkpoints")[0].name == "1000"
    assert cli(*words).code == 0
    assert unlike(undisturbed("cartpole"), run) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_metrics_that_find_no_room_end_it_and_the_checkpoint_stays(cut, tmp_path, cli):
    run = cut("cartpole", 1000)
    (run / "metrics.jsonl").unlink()
    cli("train", "CartPoleSwingUp", "--out", run, "--resume").refused("metrics.jsonl: nothing, but the checkpoint")
    (run / "metrics.jsonl").symlink_to("/dev/full")
    said = cli("train", *RUNS["pendulum"], "--out", run, "--force", "--set=save_every=5000")
    assert said.code == 3
    assert "No space left on device" in said.err
    assert "no checkpoint had been written yet" in said.err


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 pages."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # TensorBoard's thread may still have a file open


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own
@pytest.mark.parametrize("free", range(5), ids="{} pages free".format)
def test_a_disk_that_is_full_from_the_start_is_named_and_nothing_stays(free, small_disk, cli):
    (small_disk / "filler").write_bytes(bytes((16 - free) * 4096))
    said = cli("train", *RUNS["cartpole"], "--out", small_disk / "run")
    assert (said.code, said.out) == (3, "")
    *_, line = said.err.strip().splitlines()
    assert f"SaveError: {small_disk / 'run'}" in line
    assert "No space left on device" in line
    assert names(small_disk) == {"filler"}


def test_a_crash_before_a_rename_is_ignored_and_swept(cut, undisturbed, cli):
    run = cut("cartpole", 1000)
    shutil.copytree(run / "checkpoints" / "1000", run / "checkpoints" / ".tmp-1200-x")
    (run / "replay" / ".tmp-2000-2100.safetensors-x").write_bytes(b"half")
    (run / "replay" / "2000-2050.safetensors").write_bytes(b"of a checkpoint that never came to be")
    assert cli("train", "CartPoleSwingUp", "--out", run, "--resume").code == 0
    assert names(run / "replay") == names(undisturbed("cartpole") / "replay")
    assert unlike(undisturbed("cartpole"), run) == []


def test_tensorboard_says_what_the_metrics_say_after_a_break(cut, cli):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = cut("cartpole", 1000)
    assert cli("train", "CartPoleSwingUp", "--out", run, "--resume").code == 0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for tag in events.Tags()["scalars"]:
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        assert read == [(line["step"], pytest.approx(line[tag], rel=1e-6)) for line in written if tag in line]


def test_an_older_checkpoint_is_an_actor_but_nothing_to_resume_from(cut, cli):
    run = cut("cartpole", 1000)
    path = run / "checkpoints" / "1000" / "checkpoint.json"
    document = json.loads(path.read_text())
    del document["seal"]
    meta = {name: document["meta"][name] for name in ("task", "algorithm", "step", "seed", "actor")}
    path.write_text(json.dumps(document | {"format": 1, "meta": meta}))
    assert load_checkpoint(path.parent)[1] == meta
    cli("train", "CartPoleSwingUp", "--out", run, "--resume").refused("was not stored to be resumed from")
