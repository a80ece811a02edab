import copy
import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from simtoreal.policies.agent import NonFiniteError, prefixed, under
from simtoreal.policies.checkpoint import load_checkpoint, save_checkpoint
from simtoreal.policies.loop_state import FaultRateError, LoopState
from simtoreal.policies.loops import off_policy
from simtoreal.policies.n_step import NStep
from simtoreal.policies.replay import Replay
from simtoreal.policies.sac import SAC, SACConfig

TINY = SACConfig(hidden=(16,), batch_size=16, buffer_size=1_000)


class Recorder:
    """An agent that acts with zeros and counts what it is given."""

    device = torch.device("cpu")

    def __init__(self):
        self.updates, self.acted_on, self.observed = 0, [], []

    def act(self, obs, explore):
        self.acted_on.append(obs)
        return np.zeros((2, 1), dtype=np.float32)

    def observe(self, obs):
        self.observed.append(obs)

    def update(self, batch):
        self.updates += 1
        return {"loss": torch.tensor(float(self.updates))}


def stored(replay: Replay) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in replay.rows(replay.oldest, replay.added).items()}


@pytest.mark.parametrize("terminate", [True, False])
def test_an_ended_episode_is_stored_with_its_own_last_observation(scripted, terminate):
    replay = Replay(100, 2, 1)
    (last,) = off_policy(Recorder(), scripted(terminate=terminate), replay, steps=8, seed=0, learning_starts=0)
    rows = stored(replay)
    assert rows["next_obs"].tolist() == [[e, t] for t in (1, 2, 3, 4) for e in (0, 1)]
    assert rows["obs"].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2], [0, 1003], [1, 3]]
    assert rows["terminated"].tolist() == [0, 0, 0, 0, float(terminate), 0, 0, 0]
    assert last.episodes == [{"r": 3.0, "l": 3, "is_success": True}]


def test_a_dict_observation_keeps_its_privileged_part(scripted):
    replay = Replay(100, 2, 1, privileged_size=1)
    list(off_policy(Recorder(), scripted(privileged=True), replay, steps=8, seed=0))
    rows = stored(replay)
    assert rows["next_privileged"][:, 0].tolist() == [10, 10, 20, 20, 30, 30, 40, 40]
    assert rows["privileged"][6].tolist() == [10030]


@pytest.mark.parametrize(("ratio", "updates"), [(0.25, 8), (1.0, 32), (2.0, 64)])
def test_updates_follow_their_ratio_of_environment_steps(scripted, ratio, updates):
    agent = Recorder()
    arguments = {"steps": 40, "seed": 0, "learning_starts": 10, "updates_per_step": ratio, "report_every": 20}
    reports = list(off_policy(agent, scripted(), Replay(100, 2, 1), **arguments))
    assert agent.updates == updates  # 40 - 8 environment steps, the first earned at step 10
    assert [report.step for report in reports] == [20, 40]
    first = round(12 * ratio)
    assert reports[0].metrics["loss"] == pytest.approx((first + 1) / 2)
    assert reports[1].metrics["loss"] == pytest.approx((first + 1 + updates) / 2)


def test_actions_before_learning_starts_are_uniform_and_follow_the_seed(scripted):
    taken = []
    for seed in (1, 1, 2):
        envs = scripted()
        list(off_policy(Recorder(), envs, Replay(5_000, 2, 1), steps=4_000, seed=seed, learning_starts=4_000))
        taken.append(np.array(envs.actions))
    assert np.array_equal(taken[0], taken[1])
    assert not np.array_equal(taken[0], taken[2])
    assert np.histogram(taken[0], 4, (-1, 1))[0] == pytest.approx([1000] * 4, abs=110)


def test_an_invalid_transition_is_counted_and_not_stored(scripted):
    def invalid(obs, reward, terminated, truncated, infos):
        return obs, reward, terminated, truncated, infos | {"valid": np.array([True, False])}

    replay = Replay(100, 2, 1)
    (last,) = off_policy(Recorder(), scripted({2: invalid}), replay, steps=8, seed=0)
    assert last.faults == 1
    assert stored(replay)["next_obs"].tolist() == [[0, 1], [1, 1], [0, 2], [0, 3], [1, 3], [0, 4], [1, 4]]


def test_what_was_lost_with_a_worker_is_neither_stored_nor_a_fault(scripted):
    def lost(obs, reward, terminated, truncated, infos):
        valid = np.array([True, False])
        return obs, reward, terminated, truncated, infos | {"valid": valid, "lost": ~valid}

    replay = Replay(100, 2, 1)
    (last,) = off_policy(Recorder(), scripted({2: lost}), replay, steps=8, seed=0)
    assert last.faults == 0
    assert stored(replay)["next_obs"].tolist() == [[0, 1], [1, 1], [0, 2], [0, 3], [1, 3], [0, 4], [1, 4]]


def test_a_non_finite_observation_reaches_neither_replay_statistics_nor_policy(scripted):
    def broken(obs, reward, terminated, truncated, infos):
        obs[1, 1] = np.nan
        return obs, reward, terminated, truncated, infos

    agent, replay = Recorder(), Replay(100, 2, 1)
    (last,) = off_policy(agent, scripted({2: broken}), replay, steps=8, seed=0, learning_starts=0)
    assert last.faults == 2  # into the broken observation and out of it
    assert len(replay) == 6
    assert all(np.isfinite(obs).all() for obs in agent.acted_on + agent.observed)


@pytest.mark.parametrize("part", ["obs", "reward"])
def test_what_float32_does_not_hold_is_not_finite(scripted, part):
    def huge(obs, reward, terminated, truncated, infos):
        if part == "obs":
            return obs + np.array([[0.0], [1e39]]), reward, terminated, truncated, infos
        return obs, reward * [1.0, -1e39], terminated, truncated, infos

    agent, replay = Recorder(), Replay(100, 2, 1)
    (last,) = off_policy(agent, scripted({2: huge}), replay, steps=8, seed=0, learning_starts=0)
    assert last.faults == (2 if part == "obs" else 1)
    assert len(replay) == 8 - last.faults
    assert all((np.abs(obs) < 1e30).all() for obs in agent.acted_on + agent.observed)


def test_too_many_faults_end_the_training(scripted):
    def broken(obs, reward, terminated, truncated, infos):
        return obs, reward * np.nan, terminated, truncated, infos

    envs = scripted({t: broken for t in range(0, 1000, 4)})
    with pytest.raises(FaultRateError, match="50 of 200 transitions were invalid, more than 5%"):
        list(off_policy(Recorder(), envs, Replay(1000, 2, 1), steps=1000, seed=0))


def test_an_augmented_transition_is_stored_too(scripted):
    replay = Replay(100, 2, 1)
    mirror = lambda rows, infos: rows | {"obs": -rows["obs"], "next_obs": -rows["next_obs"]}  # noqa: E731
    list(off_policy(Recorder(), scripted(), replay, steps=2, seed=0, augment=mirror))
    assert stored(replay)["next_obs"].tolist() == [[0, 1], [1, 1], [0, -1], [-1, -1]]


@pytest.mark.parametrize("several", [1, 3])
def test_mirror_images_are_stored_as_if_other_environments_had_made_them(several, scripted):
    def image(rows):
        return {name: -value if "obs" in name or name == "action" else value for name, value in rows.items()}

    def broken(obs, reward, terminated, truncated, infos):
        return obs, reward * np.array([1, np.nan]), terminated, truncated, infos

    found = []
    for mirror in (None, image):
        replay = Replay(100, 2, 1, discounted=several > 1)
        n_step = NStep(several, 0.5) if several > 1 else None
        (last,) = off_policy(
            Recorder(),
            scripted({4: broken}),
            replay,
            steps=20,
            seed=0,
            mirror=mirror,
            n_step=n_step,
            max_fault_rate=1.0,
        )
        assert last.faults == 1
        found.append(stored(replay))
    one, both = found
    images = image(one)
    assert len(both["reward"]) > 20
    assert whole_rows(both) == sorted([*whole_rows(one), *whole_rows(images)])


def whole_rows(columns):
    """In whatever order."""
    return sorted(np.concatenate([column.reshape(len(column), -1) for column in columns.values()], axis=1).tolist())


def test_environments_that_reset_a_step_late_are_refused(toy):
    envs = SyncVectorEnv([toy], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="SAME_STEP"):
        next(off_policy(Recorder(), envs, Replay(10, 1, 1), steps=10, seed=0))


def test_a_gymnasium_vector_environment_reports_episodes(vectorized):
    (last,) = off_policy(
        Recorder(), vectorized(2, length=4, bonus=1.0, action_reward=0.0), Replay(100, 1, 1), steps=16, seed=0
    )
    assert [(e["r"], e["l"]) for e in last.episodes] == [(4.0, 4)] * 4
    assert all(isinstance(e["is_success"], bool) for e in last.episodes)


def test_a_nan_in_learning_ends_it(vectorized):
    agent = SAC(1, 1, config=TINY)
    loop = off_policy(
        agent, vectorized(2), Replay(100, 1, 1), steps=200, seed=0, learning_starts=20, batch_size=16, report_every=50
    )
    next(loop)
    agent.critics[0].head.bias.data[0] = float("nan")
    with pytest.raises(NonFiniteError):
        next(loop)


@pytest.mark.parametrize("history", [1, 3])
def test_resuming_from_a_checkpoint_equals_no_break(vectorized, tmp_path, history):
    """Everything goes through the disk; the environments stand where they stood, as the caller promises."""
    arguments = {"steps": 120, "seed": 5, "learning_starts": 20, "batch_size": 16, "report_every": 30}
    arguments["history"] = history
    config = dataclasses.replace(TINY, history=history)
    make = lambda: (SAC(1, 1, config=config, seed=5), Replay(70, history, 1))  # noqa: E731
    agent, replay = make()
    state = LoopState.start(5)
    envs = vectorized(2, length=7, truncate=True)
    loop = off_policy(agent, envs, replay, state=state, **arguments)
    next(loop)
    next(loop)
    parts = {
        "agent": agent.state_dict(),
        "replay": replay.rows(replay.oldest, replay.added),
        "loop": state.state_dict(),
    }
    save_checkpoint(
        tmp_path / "60", {k: v for name, part in parts.items() for k, v in prefixed(name, part).items()}, {}
    )
    twin_envs, replay_from = copy.deepcopy(envs), replay.oldest
    first = list(loop)

    tensors, _ = load_checkpoint(tmp_path / "60")
    twin, twin_replay = make()
    twin.load_state_dict(under("agent", tensors))
    twin_replay.restore(replay_from, [under("replay", tensors)])
    twin_state = LoopState.from_state_dict(under("loop", tensors))
    second = list(off_policy(twin, twin_envs, twin_replay, state=twin_state, **arguments))

    held, theirs = (each.rows(each.oldest, each.added) for each in (replay, twin_replay))
    assert all(torch.equal(rows, theirs[name]) for name, rows in held.items())
    for a, b in ((agent, twin), (state, twin_state)):
        assert all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())
    assert [(p.step, p.episodes, p.metrics) for p in first] == [(p.step, p.episodes, p.metrics) for p in second]


def test_training_with_one_seed_is_the_same_twice(vectorized):
    def train() -> dict[str, torch.Tensor]:
        agent = SAC(1, 1, config=TINY, seed=1)
        list(off_policy(agent, vectorized(2), Replay(100, 1, 1), steps=100, seed=1, learning_starts=20, batch_size=16))
        return agent.state_dict()

    one, two = train(), train()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
