"""Trainings on worker processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import simtoreal
from simtoreal.config import RunConfig
from simtoreal.policies.checkpoint import load_checkpoint
from simtoreal.runs import Run
from simtoreal.training_envs import TrainingEnvs
from simtoreal.worker_handle import WorkerRestart

sys.path.insert(0, str(Path(__file__).parent))
from drift import gone, workers_of

pytestmark = pytest.mark.usefixtures("nothing_stays")


SMALL = ["agent.hidden=[16]", "agent.learning_starts=50", "agent.updates_per_step=0.1", "agent.batch_size=32",
         "agent.compile=false",
         "evaluate_every=400", "evaluate_episodes=1"]  # fmt: skip


WIDENS = "curriculum={share: 0.9, queue: 1, metric: return, high: -1e6, low: -2e6}"  # with each episode at a boundary

SB3 = ["agent.policy_kwargs.net_arch=[8]", "agent.learning_starts=50", "agent.train_freq=10", *SMALL[-2:]]


@pytest.mark.parametrize(
    ("task", "algorithm", "settings"),
    [
        ("PandaReach", "sac", [*SMALL, WIDENS]),
        ("CartPoleSwingUp", "sb3-sac", SB3),
    ],
)
def test_a_training_is_the_same_with_and_without_workers(task, algorithm, settings, tmp_path):
    weights = []
    for workers in (0, 2):
        run = simtoreal.train(
            task,
            algorithm=algorithm,
            steps=400,
            envs=4,
            workers=workers,
            out=tmp_path / str(workers),
            assignments=settings,
        ).run
        assert Run.load(run).summary["worker_restarts"] == 0
        weights.append(load_checkpoint(run / "checkpoints" / "400")[0])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_command_line_says_in_one_line_what_failed_in_a_worker(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import gymnasium, multiprocessing\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n\n\n"
        "class Breaks(PendulumEnv):\n"
        "    steps = 0\n\n"
        "    def step(self, action):\n"
        "        self.steps += 1\n"
        "        if self.steps == 80 and multiprocessing.parent_process():  # the periodic evaluation passes\n"
        "            raise ArithmeticError('no torque')\n"
        "        return super().step(action)\n\n\n"
        "gymnasium.register('Breaks-v0', Breaks, max_episode_steps=100)\n"
    )
    command = [sys.executable, "-m", "simtoreal", "train", "mine:Breaks-v0", "--json", "--envs", "2", "--workers", "2"]
    failed = subprocess.run(
        [*command, "--steps", "400", "--out", tmp_path / "run", *(part for text in SMALL for part in ("--set", text))],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"SIMTOREAL_TRACEBACK": "1"}, timeout=120,
    )  # fmt: skip
    assert (failed.returncode, failed.stdout) == (3, "")
    *shown, line = failed.stderr.strip().splitlines()
    assert "WorkerError: environment 0 in worker 0 raised ArithmeticError: no torque" in line
    assert any("mine.py" in text for text in shown)


class Assassin:
    """Kills a worker at the report of a step."""

    def __init__(self, at):
        self.at = at

    def update(self, step, figures):
        if step == self.at:
            workers_of(psutil.Process())[0].kill()


def test_a_training_survives_the_death_of_a_worker(tmp_path):
    with pytest.warns(WorkerRestart):
        run = simtoreal.train(
            "CartPoleSwingUp",
            steps=400,
            envs=8,
            workers=2,
            out=tmp_path / "run",
            assignments=SMALL,
            reporter=Assassin(at=200),
        ).run
    summary = Run.load(run).summary
    assert (summary["worker_restarts"], summary["physics_faults"], summary["finished"]) == (1, 0, True)
    with pytest.warns(WorkerRestart):
        simtoreal.train("CartPoleSwingUp", steps=800, out=run, resume=True, reporter=Assassin(at=600))
    assert Run.load(run).summary["worker_restarts"] == 2
    simtoreal.train("CartPoleSwingUp", steps=840, out=run, resume=True)
    assert Run.load(run).summary["worker_restarts"] == 2


def test_a_replaced_worker_draws_from_the_ranges_of_now():
    config = RunConfig(
        task="PandaReach", steps=1, envs=2, workers=2, randomization="PandaReach",
        curriculum={"share": 1.0, "queue": 1, "metric": "return", "high": -1e6, "low": -2e6},
    )  # fmt: skip
    envs = TrainingEnvs(config)
    envs.reset(seed=0)
    action = np.zeros((2, 7), np.float32)
    for _ in range(51):
        envs.step(action)
    extents = envs.curriculum.extents.copy()
    assert extents.sum() == pytest.approx(0.5)  # two episodes, two boundaries
    workers_of(psutil.Process())[0].kill()
    with pytest.warns(WorkerRestart):
        envs.step(action)
    replaced, other = envs.open_episodes()
    assert replaced.extents.tolist() == extents.tolist()
    assert not other.extents.any(), "it began in the step that moved them"
    assert envs.curriculum.extents.tolist() == extents.tolist(), "a lost episode teaches nothing"
    envs.close()


def test_the_command_line_tells_of_a_dead_worker_in_one_line():
    code = (
        "import warnings; from simtoreal import cli\n"
        "from simtoreal.verbs.verb import make_verb\n"
        "from simtoreal.worker_handle import WorkerRestart\n"
        "def run(options):\n"
        "    warnings.warn('worker 1 was killed; it is restarted', WorkerRestart)\n"
        "    warnings.warn('other')\n"
        "    return {}, 0\n"
        "cli.VERBS = (lambda all: make_verb(all, 'tasks', run),)\n"
        "raise SystemExit(cli.main(['tasks']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ours, *theirs = done.stderr.splitlines()
    assert ours == "simtoreal: worker 1 was killed; it is restarted"
    assert "UserWarning: other" in theirs[0]


def test_a_terminals_interrupt_is_the_parents_to_answer(tmp_path):
    command = [sys.executable, "-m", "simtoreal", "train", "CartPoleSwingUp", "--steps", "10000000", "--envs", "2"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--out", tmp_path / "run", *(part for text in SMALL for part in ("--set", text))],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        while not (metrics.is_file() and metrics.stat().st_size):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        family = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    (line,) = err.strip().splitlines()
    assert "stopped by SIGINT; checkpoint saved in" in line
    run = Run.load(tmp_path / "run")
    assert run.summary["worker_restarts"] == 0
    assert run.actor("last")[1]["step"] >= 400
    assert len(family) >= 2
    assert not gone(family, 2)
