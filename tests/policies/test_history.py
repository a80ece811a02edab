"""Stacks of frames: by hand, over an episode's end, and as an actor sees them."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.history import Driver
from simtoreal.policies.loop_state import LoopState
from simtoreal.policies.loops import off_policy
from simtoreal.policies.replay import Replay
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.transitions import stacked


def frames(*values):
    return np.array(values, np.float32)


def test_stacks_grow_from_an_episodes_first_observation():
    first = stacked(frames([1, 10], [2, 20]), 3)
    assert first.tolist() == [[1, 10, 1, 10, 1, 10], [2, 20, 2, 20, 2, 20]]
    second = stacked(frames([3, 30], [4, 40]), 3, first)
    assert second.tolist() == [[1, 10, 1, 10, 3, 30], [2, 20, 2, 20, 4, 40]]
    third = stacked(frames([5, 50], [6, 60]), 3, second, begins=np.array([False, True]))
    assert third.tolist() == [[1, 10, 3, 30, 5, 50], [6, 60, 6, 60, 6, 60]]


def test_only_what_the_policy_sees_is_stacked():
    first = stacked({"policy": frames([1], [2]), "privileged": frames([7, 8], [9, 9])}, 2)
    then = stacked({"policy": frames([3], [4]), "privileged": frames([5, 5], [6, 6])}, 2, first)
    assert then["policy"].tolist() == [[1, 3], [2, 4]]
    assert then["privileged"].tolist() == [[5, 5], [6, 6]]


def test_an_ended_episodes_stack_holds_its_last_frame_and_the_next_one_begins_anew(scripted):
    class Watcher:
        device, seen = torch.device("cpu"), []

        def act(self, obs, explore):
            self.seen.append(obs.tolist())
            return np.zeros((2, 1), np.float32)

        def observe(self, obs):
            pass

        def update(self, batch):
            return {}

    agent, replay = Watcher(), Replay(100, 3 * 2, 1)
    list(off_policy(agent, scripted(), replay, steps=8, seed=0, learning_starts=0, history=3))
    rows = {name: tensor.tolist() for name, tensor in replay.rows(0, 8).items()}
    # environment 0 ends at its third step; its next episode begins with [0, 1003]
    assert rows["obs"][0::2] == [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 2], [0, 1003] * 3]
    assert rows["next_obs"][0::2] == [
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0, 2],
        [0, 1, 0, 2, 0, 3],
        [0, 1003, 0, 1003, 0, 4],
    ]
    assert rows["next_obs"][1::2] == [[1, 0, 1, 0, 1, 1], [1, 0, 1, 1, 1, 2], [1, 1, 1, 2, 1, 3], [1, 2, 1, 3, 1, 4]]
    assert [seen[0] for seen in agent.seen] == rows["obs"][0::2]
    assert [seen[1] for seen in agent.seen] == rows["obs"][1::2]


def test_a_stack_with_a_frame_that_is_not_finite_stays_invalid_over_a_break(scripted):
    """k = 3: into the broken frame, and out of the three stacks that hold it."""

    def broken(obs, reward, terminated, truncated, infos):
        obs[1, 1] = np.nan
        return obs, reward, terminated, truncated, infos

    agent, envs, replay, state = SAC(2, 1, config=SACConfig(history=3)), scripted({4: broken}), Replay(99, 6, 1), None
    for steps in (12, 20):
        state = LoopState.start(0) if state is None else LoopState.from_state_dict(state.state_dict())
        (*_, last) = off_policy(agent, envs, replay, steps=steps, seed=0, history=3, state=state)
        assert all(torch.isfinite(t).all() for t in state.state_dict().values())
    assert last.faults == 4


class Echo(torch.nn.Module):
    """An actor that gives back the stack it sees."""

    history, recurrent = 3, 0

    def forward(self, stack):
        return stack


def test_a_driver_keeps_one_episodes_frames():
    driver = Driver(Echo())
    given = [driver.act(np.array([t, -t], np.float32)).tolist() for t in (1, 2, 3, 4)]
    assert given == [[1, -1] * 3, [1, -1, 1, -1, 2, -2], [1, -1, 2, -2, 3, -3], [2, -2, 3, -3, 4, -4]]
    assert driver.stack.tolist() == given[-1]
    driver.reset()
    assert driver.act(np.array([9, -9], np.float32)).tolist() == [9, -9] * 3


def test_a_driver_of_an_actor_without_history_gives_what_the_actor_gives():
    actor, rows = DeterministicActor(3, 2, (8,)), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    driver = Driver(actor)
    with torch.inference_mode():
        expected = [actor(torch.from_numpy(row)[None])[0].numpy() for row in rows]
    np.testing.assert_array_equal([driver.act(row) for row in rows], expected)


def test_an_actor_normalizes_every_frame_alike():
    actor, plain = DeterministicActor(2, 1, (8,), history=3), DeterministicActor(6, 1, (8,))
    for name, values in (("shift", [1.0, -2.0]), ("scale", [2.0, 0.5])):
        getattr(actor.normalizer, name).copy_(torch.tensor(values))
        getattr(plain.normalizer, name).copy_(torch.tensor(values * 3))
    plain.body.load_state_dict(actor.body.state_dict())
    plain.head.load_state_dict(actor.head.state_dict())
    x = torch.randn(7, 6)
    assert_close(actor(x), plain(x), rtol=0, atol=0)
    assert actor.normalizer(torch.tensor([1.0, -2.0, 2.0, 0.0, 0.0, 2.0])).tolist() == [0, 0, 2, 1, -2, 2]


def test_a_history_survives_a_description_and_an_old_one_has_none():
    description = DeterministicActor(2, 1, (8,), history=3).describe()
    assert DeterministicActor.from_description(description).body[0].in_features == 6
    del description["history"]
    assert DeterministicActor.from_description(description).history == 1
    for bad in (0, 1.0, True):
        with pytest.raises(ValueError, match="actor sizes"):
            DeterministicActor.from_description(description | {"history": bad})
