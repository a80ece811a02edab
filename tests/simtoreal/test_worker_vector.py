"""Environments in worker processes say the same as in this one."""

import os
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecCheckNan

from simtoreal import worker_process
from simtoreal.config import ConfigError, make_config
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.baselines import VecEnvAdapter
from simtoreal.worker_handle import Worker, WorkerError
from simtoreal.worker_vector import WorkerVectorEnv
from simtoreal.workers import LocalVectorEnv

sys.path.insert(0, str(Path(__file__).parent))
from drift import Drift, action, drive, equal, keyed, make

pytestmark = pytest.mark.usefixtures("nothing_stays")


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


def test_what_was_returned_stays_as_it_was():
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


@pytest.mark.parametrize("here", [0, 1])
def test_the_worker_on_our_own_cpu_is_asked_last(here, monkeypatch):
    envs, order, ask = make(2, 2), [], Worker.ask

    def noted(self, *message):
        order.append(self.seat.worker)
        ask(self, *message)

    envs.reset(seed=1)
    envs.step(action(1, 2))
    allowed = os.sched_getaffinity(0)
    assert set(envs._arrays["busy"][worker_process.CPU :: worker_process.WORDS].tolist()) <= allowed
    envs._arrays["busy"][worker_process.CPU :: worker_process.WORDS] = [0, 1]
    monkeypatch.setattr(worker_process, "current_cpu", lambda: here)
    monkeypatch.setattr(Worker, "ask", noted)
    envs.step(action(1, 2))
    assert order == [1 - here, here]
    monkeypatch.undo()
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


def test_bad_numbers_are_refused():
    for workers in (0, 3):
        with pytest.raises(ValueError, match=f"from 1 worker to one for each of 2 environments, got {workers}"):
            make(2, workers)
    envs = make(2, 1)
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 1\), got \(3, 1\)"):
        envs.step(action(0, 0, 0))
    with pytest.raises(ValueError, match="2 seeds are needed, got 1"):
        envs.reset(seed=[1])
    envs.close()
    with pytest.raises(ConfigError, match=r"workers: .*3 workers need at least as many environments; raise --envs"):
        make_config("CartPoleSwingUp", algorithm="sac", overrides={"steps": 1, "envs": 2, "workers": 3})


def test_a_space_that_is_no_array_is_refused():
    class Odd(Drift):
        def __init__(self):
            self.observation_space = spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32)])

    with pytest.raises(ValueError, match=r"need spaces of arrays, .*; use --workers 0"):
        WorkerVectorEnv([Odd], 1)


def test_where_there_is_no_linux_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(ValueError, match="worker processes need Linux; use --workers 0"):
        make(2, 1)


def test_the_baselines_learner_runs_on_workers_under_sb3s_own_check():
    adapter = VecEnvAdapter(make(4, 2), seed=5)
    checked = VecCheckNan(adapter, raise_exception=True)
    model = SAC("MlpPolicy", checked, learning_starts=8, batch_size=8, policy_kwargs={"net_arch": [8]}, device="cpu")
    with pytest.raises(NonFiniteError, match="gave an invalid transition"):
        model.learn(40)  # Drift's physics breaks in the fifth step
    checked.close()


def test_sb3s_check_sees_what_the_adapter_lets_pass():
    envs = make(2, 2)
    checked = VecCheckNan(VecEnvAdapter(envs, seed=5), raise_exception=True)
    checked.reset()
    checked.step(action(0.0, 0.5))
    with pytest.raises(ValueError, match="nan"):
        checked.step(action(0.0, np.nan))
    checked.close()
