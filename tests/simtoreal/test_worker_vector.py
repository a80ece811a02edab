"""Environments in worker processes: the same numbers, and what happens when one dies, raises, hangs or is orphaned."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import cloudpickle
import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecCheckNan

import simtoreal
from simtoreal import build
from simtoreal.config import ConfigError, make_config
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.baselines import VecEnvAdapter
from simtoreal.policies.checkpoint import load_checkpoint
from simtoreal.robots.layout import Field, Layout
from simtoreal.runs import Run
from simtoreal.worker_handle import WorkerError, WorkerRestart
from simtoreal.worker_vector import WorkerVectorEnv
from simtoreal.workers import LocalVectorEnv

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import a test

KILL, RAISE, HANG, STUCK, LEAVE, NAN = (1000.0 * k for k in range(1, 7))


class Drift(gym.Env):
    """A random walk with reward signals that does to itself what its action says."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)  # nobody clips what lies outside
    reward_layout = Layout(Field("place", 2, "m"), Field("speed", 1, "m/s"))

    def __init__(self, *, privileged=False, signals=True):
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"policy": box, "privileged": box}) if privileged else box
        self.privileged, self.signals = privileged, signals

    def seen(self):
        return {"policy": self.at.copy(), "privileged": -self.at} if self.privileged else self.at.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if options == "raise":
            raise ValueError("no such option")
        self.at, self.steps = self.np_random.normal(size=2).astype(np.float32), 0
        return self.seen(), {"options": options}

    def step(self, action):
        self.misbehave(float(action[0]))
        before = self.at
        self.at = (self.at + self.np_random.normal(size=2) + action).astype(np.float32)
        self.steps += 1
        info = {"is_success": self.steps > 3, "reward_terms": {"place": float(self.at[0])}, "note": object}
        if self.signals:
            info["reward_signals"] = {"place": self.at.tolist(), "speed": [float(self.at[0] - before[0])]}
        if self.steps == 5:
            info["physics_fault"] = True
        reward = np.nan if action[0] == NAN else float(self.at[0])
        return self.seen(), reward, bool(self.at[1] > 3), self.steps >= 7, info

    def misbehave(self, what):
        if what == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == RAISE:
            raise ArithmeticError("the gearbox is\nbroken")
        if what == HANG:
            time.sleep(1000)
        if what == STUCK:
            ctypes.PyDLL(None).sleep(1000)  # in C, and without giving Python back
        if what == LEAVE:
            os._exit(7)


def keyed(index, **options):
    """Its episodes are keyed by (seed, index, episode), as in a training."""
    return build.SeededEnv(Drift(**options), 5, index)


def make(envs=4, workers=2, *, factory=keyed, method="fork", **options):
    """`fork` starts at once; no thread of the test's parent matters to a Drift."""
    factories = [partial(factory, i) for i in range(envs)]
    return WorkerVectorEnv(factories, workers, start_method=method, **options)


def drive(envs, steps, seed=5):
    """Everything an environment says for `steps` steps of fixed actions."""
    said = [envs.reset(seed=seed)]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        said.append(envs.step(rng.uniform(-1, 1, (envs.num_envs, 1))))
    return said


def equal(a, b):
    """Equal to the last bit, in type too, through dictionaries and sequences."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) and a.dtype != object:
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if hasattr(a, "__len__") and not isinstance(a, str):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def gone(pids, within):
    """None of the processes lives after `within` seconds (a zombie that waits for its new parent is dead)."""
    until = time.monotonic() + within
    while alive := [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > until:
            return alive
        time.sleep(0.02)
    return []


@pytest.fixture
def action():
    return lambda *values: np.array(values, np.float32)[:, None]


@pytest.fixture(autouse=True)
def _nothing_stays():
    """No test leaves a process or a file in shared memory behind."""
    before, names = {p.pid for p in psutil.Process().children(recursive=True)}, set(os.listdir("/dev/shm"))
    yield
    left = [
        p
        for p in psutil.Process().children(recursive=True)
        if p.pid not in before and "resource_tracker" not in " ".join(p.cmdline())
    ]
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert set(os.listdir("/dev/shm")) <= names


@pytest.mark.parametrize("options", [{}, {"privileged": True}, {"signals": False}])
@pytest.mark.parametrize(("workers", "method"), [(1, "fork"), (2, "fork"), (3, "fork"), (2, "spawn")])
def test_workers_change_no_bit(options, workers, method):
    if method == "spawn" and options:
        pytest.skip("the way of starting has nothing to do with it; it takes a second")
    factory = partial(keyed, **options)
    here, there = (
        LocalVectorEnv([partial(factory, i) for i in range(5)]),
        make(5, workers, factory=factory, method=method),
    )
    assert there.single_observation_space == here.single_observation_space
    assert there.observation_space == here.observation_space
    assert there.action_space == here.action_space
    a, b = drive(here, 40), drive(there, 40)
    assert equal(a, b)
    ended = [infos for *_, infos in a[1:] if "final_info" in infos]
    assert len(ended) > 10
    assert any(not infos["valid"].all() for *_, infos in a[1:])
    assert (a[1][4]["reward_signals"][0] is None) == (options == {"signals": False})
    there.close()


def test_what_was_returned_stays_as_it_was(action):
    envs = make(2, 2)
    first = envs.reset(seed=1)[0].copy()
    kept = [envs.step(action(1, 2)) for _ in range(3)]
    frozen = [[np.array(part) for part in step[:4]] + [list(step[4]["reward_signals"])] for step in kept]
    drive(envs, 5)
    for step, copy in zip(kept, frozen, strict=True):
        assert equal([*step[:4], list(step[4]["reward_signals"])], copy)
    assert equal(envs.reset(seed=1)[0], first)
    envs.close()


def test_only_what_has_no_fixed_size_crosses_on_the_pipe(monkeypatch):
    from simtoreal.shared_memory import Channel

    envs, crossed, receive = make(4, 2), [], Channel.receive

    def noted(self, deadline=None):
        crossed.append(receive(self, deadline))
        return crossed[-1]

    monkeypatch.setattr(Channel, "receive", noted)
    envs.reset(seed=5)
    quiet = 0
    for _ in range(30):
        crossed.clear()
        *_, infos = envs.step(np.zeros((4, 1), np.float32))
        for worker, (_, payload) in enumerate(crossed):
            ends = "final_info" in infos and any(infos["final_info"][2 * worker : 2 * worker + 2])
            assert (payload is not None) == bool(ends)
            quiet += not ends
    assert quiet > 20
    envs.close()


def test_a_method_is_called_in_every_worker_with_its_part():
    here, there = LocalVectorEnv([partial(keyed, i) for i in range(5)]), make(5, 2)
    actions = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    assert equal(here.reset(seed=5), there.reset(seed=5))
    ((obs, reward, *_),) = here.call("step", each=actions)
    parts = there.call("step", each=actions)
    assert [len(part[1]) for part in parts] == [2, 3]
    assert equal(np.concatenate([part[0] for part in parts]), obs)
    assert equal(np.concatenate([part[1] for part in parts]), reward)
    assert equal(here.step(actions), there.step(actions))
    with pytest.raises(WorkerError, match=r"raised AttributeError: .*no attribute 'nonsense'"):
        there.call("nonsense")


def test_what_cannot_be_sent_disturbs_nothing():
    envs = make(4, 2)
    envs.reset(seed=5)
    with pytest.raises(TypeError, match="pickle"):
        envs.call("step", each=[[0.0], [0.0], [0.0], threading.Lock()])
    assert equal(drive(envs, 5), drive(LocalVectorEnv([partial(keyed, i) for i in range(4)]), 5))
    envs.close()


def test_a_killed_worker_is_replaced_and_its_open_transitions_are_marked(action):
    undisturbed, envs = make(4, 2), make(4, 2)
    undisturbed.reset(seed=5)
    last = envs.reset(seed=5)[0]
    for _ in range(2):
        undisturbed.step(action(0, 0, 0, 0))
        last = envs.step(action(0, 0, 0, 0))[0]
    expected = undisturbed.step(action(0, 0, 0, 0))
    with pytest.warns(WorkerRestart, match=r"worker 1 \(environments 2-3\) was killed by SIGKILL while environment 3"):
        obs, reward, terminated, truncated, infos = envs.step(action(0, 0, 0, KILL))
    assert envs.restarts == 1
    for mine, theirs in zip(
        (obs, reward, terminated, truncated, infos["valid"]), (*expected[:4], expected[4]["valid"]), strict=True
    ):
        assert equal(mine[:2], theirs[:2])
    assert infos["lost"].tolist() == [False, False, True, True]
    assert infos["valid"][2:].tolist() == [False, False]
    assert truncated[2:].tolist() == [True, True]
    assert terminated[2:].tolist() == [False, False]
    assert reward[2:].tolist() == [0, 0]
    for i in (2, 3):
        assert equal(infos["final_obs"][i], last[i])
        assert "SIGKILL" in infos["final_info"][i]["worker_restart"]
        assert infos["final_info"][i]["episode"]["l"] == 3
        other = keyed(i)
        other.set_next_episode(5 + i, 1)  # the next one of this environment, as if the first had ended here
        assert equal(obs[i], other.reset()[0])
    after = envs.step(action(0, 0, 0, 0))
    assert "lost" not in after[4]
    assert equal(after[0][:2], undisturbed.step(action(0, 0, 0, 0))[0][:2])
    undisturbed.close()
    envs.close()


def test_a_worker_killed_between_steps_is_replaced_too(action):
    envs = make(2, 2)
    envs.reset(seed=5)
    os.kill(envs.pids[0], signal.SIGKILL)
    with pytest.warns(WorkerRestart, match=r"worker 0 \(environment 0\)"):
        infos = envs.step(action(0, 0))[4]
    assert infos["lost"].tolist() == [True, False]
    envs.close()


def test_environments_without_keys_go_on_from_another_seed(action):
    envs = make(2, 2, factory=lambda index: Drift())
    first = envs.reset(seed=5)[0]
    with pytest.warns(WorkerRestart):
        again = envs.step(action(KILL, 0))[0]
    assert not equal(first[0], again[0])
    envs.close()


def test_restarts_end(action):
    envs = make(3, 2, max_restarts=2)
    envs.reset(seed=5)
    for _ in range(2):
        with pytest.warns(WorkerRestart):
            envs.step(action(0, 0, KILL))
    began = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"worker 1 \(environments 1-2\) was killed by SIGKILL .* after 2 restarts"
    ) as error:
        envs.step(action(0, 0, KILL))
    assert time.monotonic() - began < 5
    assert (error.value.worker, error.value.envs) == (1, (1, 2))
    with pytest.raises(gym.error.ClosedEnvironmentError):
        envs.step(action(0, 0, 0))
    envs.close()


def test_a_worker_that_leaves_says_how(action):
    envs = make(1, 1, max_restarts=0)
    envs.reset(seed=5)
    with pytest.raises(WorkerError, match="ended with exit code 7"):
        envs.step(action(LEAVE))


def test_what_an_environment_raises_is_shown_with_its_traceback(action):
    envs = make(5, 2)
    envs.reset(seed=5)
    with pytest.raises(WorkerError, match=r"environment 3 in worker 1 raised ArithmeticError: the gearbox is") as error:
        envs.step(action(0, 0, 0, RAISE, 0))
    assert error.value.envs == (3,)
    assert 'raise ArithmeticError("the gearbox is\\nbroken")' in error.value.traceback
    assert "in misbehave" in error.value.traceback
    assert error.value.traceback in str(error.value.__cause__)  # so Python prints it above the error
    assert "\n" not in str(error.value)
    assert not gone([p for p in envs.pids if p], 1)


def test_a_reset_that_raises_and_a_factory_that_raises():
    envs = make(3, 2)
    with pytest.raises(WorkerError, match="environment 0 in worker 0 raised ValueError: no such option"):
        envs.reset(seed=5, options="raise")

    def broken(index):
        return keyed(index) if index < 2 else keyed(index, nonsense=True)

    with pytest.raises(WorkerError, match="environment 2 in worker 1 raised TypeError") as error:
        make(3, 2, factory=broken)
    assert error.value.envs == (2,)


@pytest.mark.parametrize("what", [HANG, STUCK])
def test_a_step_that_never_returns_is_ended(what, action):
    envs = make(4, 2, timeout=0.5)
    envs.reset(seed=5)
    envs.step(action(0, 0, 0, 0))
    pids, began = envs.pids, time.monotonic()
    with pytest.raises(
        WorkerError, match=r"environment 2 did not return from step 2 of its episode within 0\.5 s; worker 1 was"
    ):
        envs.step(action(0, 0, what, 0))
    assert time.monotonic() - began < 5
    assert not gone(pids, 1)


def test_a_stopped_worker_is_ended_like_one_that_hangs(action):
    envs = make(2, 2, timeout=0.5)
    envs.reset(seed=5)
    os.kill(envs.pids[1], signal.SIGSTOP)
    with pytest.raises(WorkerError, match="environment 1 did not return from step 1"):
        envs.step(action(0, 0))


@pytest.mark.parametrize("state", ["new", "idle", "busy", "stuck", "stopped", "dead", "all dead"])
def test_close_returns_within_seconds_in_every_state(state, action):
    envs = make(2, 2)
    if state != "new":
        envs.reset(seed=5)
    pids = envs.pids
    if state in ("busy", "stuck"):
        threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            envs.step(action(HANG if state == "busy" else STUCK, 0))
    if state == "stopped":
        os.kill(pids[0], signal.SIGSTOP)
    for pid in {"dead": pids[:1], "all dead": pids}.get(state, []):
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    envs.close()
    envs.close()
    assert time.monotonic() - began < 6
    assert not gone(pids, 0)


def test_after_an_interrupted_step_the_next_answers_belong_together():
    envs = make(2, 2)
    envs.reset(seed=5)
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        drive(envs, 10**6)
    fresh = make(2, 2)
    assert equal(drive(envs, 5), drive(fresh, 5))
    envs.close()
    fresh.close()


PARENT = """
import ctypes, os, sys, threading, time
import gymnasium as gym
import numpy as np
from simtoreal.worker_vector import WorkerVectorEnv

class Slow(gym.Env):
    observation_space = action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        if action[0] == 1:
            time.sleep(1000)
        if action[0] == 2:
            ctypes.PyDLL(None).sleep(1000)
        return np.zeros(1, np.float32), 0.0, False, False, {}

def main(method, what):
    envs = WorkerVectorEnv([Slow] * 4, 2, start_method=method)
    envs.reset()
    print(*envs.pids, flush=True)
    if what >= 0:
        envs.step(np.full((4, 1), what, np.float32))
    return envs

if __name__ == "__main__":
    method, what, thread = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "thread"
    if thread:
        threading.Thread(target=main, args=(method, what)).start()
        time.sleep(1000)
    envs = main(method, what)
    if what >= 0:
        time.sleep(1000)
"""


def orphans(method, what, thread):
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, method, str(what), thread], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("method", "what", "thread"),
    [
        ("spawn", 0, "main"),
        ("spawn", 1, "main"),
        ("spawn", 2, "main"),
        ("fork", 1, "main"),
        ("fork", 2, "main"),
        ("fork", 1, "thread"),
    ],
)
def test_workers_do_not_outlive_a_killed_parent(method, what, thread):
    names = set(os.listdir("/dev/shm"))
    with orphans(method, what, thread) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        family = [p.pid for p in psutil.Process(parent.pid).children(recursive=True)]
        assert set(pids) <= set(family)
        time.sleep(0.2)  # into the step
        parent.kill()
    assert not gone(family, 2)
    assert set(os.listdir("/dev/shm")) <= names


def test_workers_outlive_the_thread_that_started_them_and_nothing_waits_for_them_at_the_end():
    script = PARENT.split("if __name__")[0] + (
        "made = []\n"
        "thread = threading.Thread(target=lambda: made.append(main('fork', 0)))\n"
        "thread.start(); thread.join(); time.sleep(0.3)\n"
        "print(made[0].step(np.zeros((4, 1), np.float32))[2].tolist(), made[0].restarts)\n"  # and no close()
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    pids, said = done.stdout.strip().splitlines()
    assert said == "[False, False, False, False] 0"
    assert not gone([int(pid) for pid in pids.split()], 0)


def test_a_script_without_its_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PARENT.split("if __name__")[0] + "main('spawn', 0)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "WorkerError: worker 0 (environments 0-1) ended with exit code 1 during its start" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr


def test_bad_numbers_are_refused(action):
    for workers in (0, 3):
        with pytest.raises(ValueError, match=f"from 1 worker to one for each of 2 environments, got {workers}"):
            make(2, workers)
    envs = make(2, 1)
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 1\), got \(3, 1\)"):
        envs.step(action(0, 0, 0))
    with pytest.raises(ValueError, match="2 seeds are needed, got 1"):
        envs.reset(seed=[1])
    envs.close()
    with pytest.raises(ConfigError, match=r"workers: .*3 workers need at least as many environments, set envs"):
        make_config("CartPoleSwingUp", algorithm="sac", overrides={"steps": 1, "envs": 2, "workers": 3})


def test_a_space_that_is_no_array_is_refused():
    class Odd(Drift):
        def __init__(self):
            self.observation_space = spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32)])

    with pytest.raises(ValueError, match="need spaces of arrays"):
        WorkerVectorEnv([Odd], 1)


SMALL = ["agent.hidden=[16]", "agent.learning_starts=50", "agent.updates_per_step=0.1", "agent.batch_size=32",
         "evaluate_every=400", "evaluate_episodes=1"]  # fmt: skip


SB3 = ["agent.policy_kwargs.net_arch=[8]", "agent.learning_starts=50", "agent.train_freq=10", *SMALL[-2:]]


@pytest.mark.parametrize(
    ("task", "algorithm", "settings"), [("PandaReach", "sac", SMALL), ("CartPoleSwingUp", "sb3-sac", SB3)]
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
    """Kills a worker at a report."""

    def update(self, step, figures):
        if step == 200:
            children = [p for p in psutil.Process().children() if "resource_tracker" not in " ".join(p.cmdline())]
            children[0].kill()


def test_a_training_survives_the_death_of_a_worker(tmp_path):
    with pytest.warns(WorkerRestart):
        run = simtoreal.train(
            "CartPoleSwingUp",
            steps=400,
            envs=40,
            workers=2,
            out=tmp_path / "run",
            assignments=SMALL,
            reporter=Assassin(),
        ).run
    summary = Run.load(run).summary
    assert (summary["worker_restarts"], summary["physics_faults"], summary["finished"]) == (1, 0, True)


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


def test_the_baselines_learner_runs_on_workers_under_sb3s_own_check(action):
    adapter = VecEnvAdapter(make(4, 2), seed=5)
    checked = VecCheckNan(adapter, raise_exception=True)
    model = SAC("MlpPolicy", checked, learning_starts=8, batch_size=8, policy_kwargs={"net_arch": [8]}, device="cpu")
    with pytest.raises(NonFiniteError, match="gave an invalid transition"):
        model.learn(40)  # Drift's physics breaks in the fifth step
    checked.close()


def test_sb3s_check_sees_what_the_adapter_lets_pass(action):
    envs = make(2, 2)
    checked = VecCheckNan(VecEnvAdapter(envs, seed=5), raise_exception=True)
    checked.reset()
    checked.step(action(0.0, 0.5))
    with pytest.raises(ValueError, match="nan"):
        checked.step(action(0.0, np.nan))
    checked.close()
