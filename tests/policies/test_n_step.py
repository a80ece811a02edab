import dataclasses
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies.loop_state import LoopState
from simtoreal.policies.loops import off_policy
from simtoreal.policies.n_step import NStep
from simtoreal.policies.replay import Replay
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.td3 import TD3, TD3Config

YES = np.array([True, True])
NO = ~YES


def rows(t, reward=(1.0, 1.0), terminated=(False, False)):
    """A step from t to t + 1 of two environments, their numbers in the hundreds."""
    env = np.array([0.0, 100.0])
    obs = (env + t)[:, None]
    return {
        "obs": obs, "action": obs, "reward": np.array(reward), "next_obs": obs + 1, "terminated": np.array(terminated),
    }  # fmt: skip


def told(found):
    """obs -> (reward, next_obs, terminated, discount)."""
    assert (found["action"] == found["obs"]).all()
    names = ("reward", "next_obs", "terminated", "discount")
    return {
        float(found["obs"][i, 0]): tuple(float(np.ravel(found[name])[i]) for name in names)
        for i in range(len(found["obs"]))
    }


def test_three_steps_by_hand():
    """gamma .5, rewards 1, 2, 4, 8, of the other environment 10 times that."""
    memory = NStep(3, 0.5)
    assert told(memory.push(rows(0, (1, 10)), YES, NO)) == {}
    assert told(memory.push(rows(1, (2, 20)), YES, NO)) == {}
    # 1 + .5 * 2 + .25 * 4 = 3, bootstrapped with .125 from step 3
    assert told(memory.push(rows(2, (4, 40)), YES, NO)) == {
        0.0: (3.0, 3.0, 0.0, 0.125),
        100.0: (30.0, 103.0, 0.0, 0.125),
    }
    assert told(memory.push(rows(3, (8, 80)), YES, NO)) == {
        1.0: (6.0, 4.0, 0.0, 0.125),
        101.0: (60.0, 104.0, 0.0, 0.125),
    }


@pytest.mark.parametrize("terminated", [True, False])
def test_an_ended_episode_leaves_nothing_waiting(terminated):
    """Environment 0 ends at its second step: what waits of it is complete, over two steps and over one."""
    memory, ended = NStep(3, 0.5), np.array([True, False])
    memory.push(rows(0), YES, NO)
    found = told(memory.push(rows(1, terminated=(terminated, False)), YES, ended))
    assert found == {0.0: (1.5, 2.0, float(terminated), 0.25), 1.0: (1.0, 2.0, float(terminated), 0.5)}
    assert told(memory.push(rows(2), YES, NO)) == {100.0: (1.75, 103.0, 0.0, 0.125)}
    assert told(memory.push(rows(3), YES, NO)) == {101.0: (1.75, 104.0, 0.0, 0.125)}
    assert told(memory.push(rows(4), YES, NO)) == {2.0: (1.75, 5.0, 0.0, 0.125), 102.0: (1.75, 105.0, 0.0, 0.125)}


def test_what_led_to_an_invalid_step_is_dropped():
    memory = NStep(2, 0.5)
    memory.push(rows(0), YES, NO)
    found = told(memory.push(rows(1, (np.nan, 1.0)), np.array([False, True]), NO))
    assert found == {100.0: (1.5, 102.0, 0.0, 0.25)}
    assert told(memory.push(rows(2), YES, NO)) == {101.0: (1.5, 103.0, 0.0, 0.25)}
    assert told(memory.push(rows(3), YES, NO)) == {2.0: (1.5, 4.0, 0.0, 0.25), 102.0: (1.5, 104.0, 0.0, 0.25)}


def test_what_waits_is_finite_beside_an_invalid_step():
    """So that it can be stored: a checkpoint takes no tensor that is not."""
    memory, broken = NStep(3, 0.5), rows(0, (1.0, np.nan))
    broken["obs"][1] = np.inf
    memory.push(broken, np.array([True, False]), NO)
    assert all(torch.isfinite(tensor).all() for tensor in memory.state_dict().values())
    memory.push(rows(1), YES, NO)
    assert told(memory.push(rows(2), YES, NO)) == {0.0: (1.75, 3.0, 0.0, 0.125)}


def test_one_step_is_what_it_was():
    memory = NStep(1, 0.9)
    found = memory.push(rows(0, (3, 4)), YES, NO)
    assert told(found) == {0.0: (3.0, 1.0, 0.0, 0.9), 100.0: (4.0, 101.0, 0.0, 0.9)}
    assert memory.waiting == []


def test_a_restored_memory_goes_on_alike():
    one, other = NStep(4, 0.9), NStep(4, 0.9)
    rng = np.random.default_rng(0)
    steps = [(rows(t, rng.normal(size=2)), rng.random(2) < 0.9, rng.random(2) < 0.2) for t in range(40)]
    for step in steps[:20]:
        one.push(*step)
    other.load_state_dict(one.state_dict())
    for step in steps[20:]:
        a, b = one.push(*step), other.push(*step)
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match=r"n-step state: unknown '0\.mass'"):
        other.load_state_dict({"0.mass": torch.zeros(1)})


@pytest.mark.parametrize(
    ("kind", "config", "truncate", "value"),
    [
        (SAC, SACConfig, True, 10.0),
        (TD3, TD3Config, False, 4.8 / 2.19),
        pytest.param(SAC, SACConfig, False, 4.8 / 2.19, marks=pytest.mark.soak),
        pytest.param(TD3, TD3Config, True, 10.0, marks=pytest.mark.soak),
    ],
)
def test_the_value_of_a_constant_reward(vectorized, kind, config, truncate, value):
    """Reward 1, gamma .9, three steps an episode, targets over two: 1 / (1 - gamma) when it is truncated. When it
    terminates, and an observation says nothing of the time, V = (1.9 + .81 V + 1.9 + 1) / 3."""
    settings = config(
        hidden=(32, 32), gamma=0.9, n_step=2, batch_size=64, buffer_size=5_000, critic_lr=3e-3, tau=0.05,
        normalize_observations=False, **({"alpha_lr": 0.0, "initial_alpha": 1e-6} if kind is SAC else {}),
    )  # fmt: skip
    agent = kind(1, 1, config=settings)
    replay = Replay(5_000, 1, 1, discounted=True)
    envs = vectorized(4, length=3, bonus=1.0, action_reward=0.0, truncate=truncate)
    for _ in off_policy(
        agent, envs, replay, steps=4_000, seed=0, batch_size=64, learning_starts=200, updates_per_step=0.5,
        n_step=NStep(2, 0.9),
    ):  # fmt: skip
        pass
    found = agent.critics(torch.cat([torch.linspace(-1, 1, 9)[:, None], torch.zeros(9, 1)], 1)).mean()
    assert_close(found.item(), value, atol=0.05 * value, rtol=0)


def test_resuming_equals_no_break(vectorized):
    config = SACConfig(hidden=(16,), batch_size=16, buffer_size=500, n_step=3, dropout=0.1, sde=True, sde_every=3)
    run = {"seed": 0, "batch_size": 16, "learning_starts": 20, "report_every": 10}

    def start(seed):
        return SAC(1, 1, config=config, seed=seed), Replay(500, 1, 1, discounted=True), NStep(3, config.gamma)

    envs = vectorized(2, length=7)
    twin = deepcopy(envs)
    whole, replay, memory = start(0)
    for _ in off_policy(whole, envs, replay, steps=140, n_step=memory, **run):
        pass
    first, replay, memory = start(0)
    state = LoopState.start(0)
    for _ in off_policy(first, twin, replay, steps=70, n_step=memory, state=state, **run):
        pass
    second, again, remembered = start(9)
    second.load_state_dict(first.state_dict())
    again.restore(0, [replay.rows(0, replay.added)])
    remembered.load_state_dict(memory.state_dict())
    state = LoopState.from_state_dict(state.state_dict())
    for _ in off_policy(second, twin, again, steps=140, n_step=remembered, state=state, **run):
        pass
    a, b = whole.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "change", [{"n_step": 0}, {"n_step": 65}, {"dropout": 1.0}, {"sde_every": 0}, {"log_std": 3.0}]
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(SACConfig(), **change)
