"""Workers that die, raise, hang, or lose their parent: real processes, really killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest

from simtoreal.shared_memory import Channel
from simtoreal.worker_handle import WorkerError, WorkerRestart

sys.path.insert(0, str(Path(__file__).parent))
from drift import HANG, KILL, LEAVE, RAISE, STUCK, Drift, action, drive, equal, gone, keyed, make, seeded

pytestmark = pytest.mark.usefixtures("nothing_stays")


def test_a_killed_worker_is_replaced_and_its_open_transitions_are_marked():
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


def test_a_worker_killed_between_steps_is_replaced_too():
    envs = make(2, 2)
    envs.reset(seed=5)
    os.kill(envs.pids[0], signal.SIGKILL)
    with pytest.warns(WorkerRestart, match=r"worker 0 \(environment 0\)"):
        infos = envs.step(action(0, 0))[4]
    assert infos["lost"].tolist() == [True, False]
    envs.close()


def test_environments_without_keys_go_on_from_another_seed():
    envs = make(2, 2, factory=lambda index: Drift())
    first = envs.reset(seed=5)[0]
    with pytest.warns(WorkerRestart):
        again = envs.step(action(KILL, 0))[0]
    assert not equal(first[0], again[0])
    envs.close()


def test_restarts_end():
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


def test_a_worker_that_leaves_says_how():
    envs = make(1, 1, max_restarts=0)
    envs.reset(seed=5)
    with pytest.raises(WorkerError, match="ended with exit code 7"):
        envs.step(action(LEAVE))


def test_what_an_environment_raises_is_shown_with_its_traceback():
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
        envs.reset(seed=5, options={"raise": True})

    def broken(index):
        return keyed(index) if index < 2 else keyed(index, nonsense=True)

    with pytest.raises(WorkerError, match="environment 2 in worker 1 raised TypeError") as error:
        make(3, 2, factory=broken)
    assert error.value.envs == (2,)


@pytest.mark.parametrize("what", [HANG, STUCK])
def test_a_step_that_never_returns_is_ended(what):
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


def test_a_hang_and_a_death_in_the_reset_inside_a_step_are_said_to_be_there():
    class Last(Drift):
        """Its first episode ends in a reset that never returns, or in its death."""

        end, begun = HANG, 0

        def reset(self, **given):
            self.begun += 1
            self.misbehave(self.end if self.begun == 2 else 0)
            return super().reset(**given)

    class Dies(Last):
        end = KILL

    there = r"environment 1 {} the reset after step [1-7] of its episode"
    envs = make(2, 2, timeout=0.5, factory=lambda i: seeded(Last() if i else Drift(), 5, i))
    with pytest.raises(WorkerError, match=there.format("did not return from")):
        drive(envs, 7)
    envs = make(2, 2, factory=lambda i: seeded(Dies() if i else Drift(), 5, i))
    with pytest.warns(WorkerRestart, match=there.format("was at")):
        drive(envs, 7)
    with pytest.warns(WorkerRestart, match=r"environment 1 was at step [1-7] of its episode"):
        envs.step(action(0, KILL))
    envs.close()


def test_a_stopped_worker_is_ended_like_one_that_hangs():
    envs = make(2, 2, timeout=0.5)
    envs.reset(seed=5)
    os.kill(envs.pids[1], signal.SIGSTOP)
    with pytest.raises(WorkerError, match="environment 1 did not return from step 1"):
        envs.step(action(0, 0))


@pytest.mark.parametrize("state", ["new", "idle", "busy", "stuck", "stopped", "dead", "all dead"])
def test_close_returns_within_seconds_in_every_state(state):
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
    ended = threading.Event()

    def interrupt():
        pause = 0.2
        while not ended.wait(pause):  # once, or again where it met a callback, whose exceptions Python drops
            signal.raise_signal(signal.SIGINT)
            pause = 5.0

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        drive(envs, 10**6)
    ended.set()
    fresh = make(2, 2)
    assert equal(drive(envs, 5), drive(fresh, 5))
    envs.close()
    fresh.close()


@pytest.mark.parametrize("point", ["before it was sent", "when it was sent", "when it was answered"])
def test_a_request_cut_short_at_any_point_leaves_no_answer_behind(point, monkeypatch):
    envs, fresh = make(2, 2), make(2, 2)
    envs.reset(seed=5)
    name = "receive" if "answered" in point else "send"
    real = getattr(Channel, name)

    def interrupted(*arguments):
        monkeypatch.undo()
        if "before" not in point:
            real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Channel, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        envs.step(np.zeros((2, 1)))
    began = time.monotonic()
    assert equal(drive(envs, 5), drive(fresh, 5))
    assert time.monotonic() - began < 5.0
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
