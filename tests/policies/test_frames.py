import numpy as np
import pytest
import torch

from simtoreal.policies.frames import FrameReplay
from simtoreal.policies.prioritized import PrioritizedReplay
from simtoreal.policies.replay import Batch

SIDES = (36, 40)


def episodes(lengths, stack=4, first=False, envs=1):
    """Rows of a vector step each, of pictures that are all different, in stacks [stack, H, W] or [H, W, stack]."""
    rng = np.random.default_rng(0)
    for length in lengths:
        frames = rng.integers(0, 256, (envs, length + stack, *SIDES), np.uint8)
        frames[:, :stack] = frames[:, stack - 1 : stack]  # an episode begins with as many of its first
        for t in range(length):
            obs, next_obs = frames[:, t : t + stack], frames[:, t + 1 : t + 1 + stack]
            if not first:
                obs, next_obs = obs.transpose(0, 2, 3, 1), next_obs.transpose(0, 2, 3, 1)
            yield {
                "obs": obs,
                "action": rng.uniform(-1, 1, (envs, 1)).astype(np.float32),
                "reward": rng.standard_normal(envs).astype(np.float32),
                "next_obs": next_obs,
                "terminated": np.full(envs, float(t == length - 1)),
            }


def shape(first, stack=4):
    return (stack, *SIDES) if first else (*SIDES, stack)


@pytest.mark.parametrize("first", [True, False])
def test_each_frame_is_stored_once_and_comes_back_as_it_was(first):
    replay, kept = FrameReplay(100, shape(first), 1), []
    for row in episodes([7, 5], first=first, envs=2):
        replay.add(**row)
        kept.append(row)
    assert replay.planes == 2 * (7 + 1) + 2 * (5 + 1)  # of each episode its first frame and one a step
    batch = replay.at(torch.arange(24))
    assert isinstance(batch, Batch)
    for name in ("obs", "next_obs"):
        found = getattr(batch, name)
        assert found.dtype == torch.uint8
        assert np.array_equal(found.numpy(), np.concatenate([row[name] for row in kept]))
    assert np.array_equal(batch.reward.numpy(), np.concatenate([row["reward"] for row in kept]))


def test_what_is_overwritten_is_forgotten_with_its_frames():
    replay = FrameReplay(6, shape(True), 1)
    all_rows = list(episodes([40, 3, 30], first=True))
    for row in all_rows:
        replay.add(**row)
    assert replay.planes == 6 + 4  # six steps of one episode
    assert int((replay._uses > 0).sum()) == 10
    found = replay.at(torch.tensor([(len(all_rows) - 1) % 6]))
    assert np.array_equal(found.obs.numpy(), all_rows[-1]["obs"])


def test_a_plane_that_colours_or_environments_share_is_stored_once():
    replay = FrameReplay(10, shape(True, 6), 1)
    black, none = np.zeros((3, 6, *SIDES), np.uint8), np.zeros(3)
    replay.add(obs=black, next_obs=black, action=none[:, None], reward=none, terminated=none)
    assert replay.planes == 1


def test_the_pool_grows_as_it_must(monkeypatch):
    monkeypatch.setattr("simtoreal.policies.frames.FIRST_PLANES", 4)
    replay, kept = FrameReplay(100, shape(True), 1), list(episodes([30], first=True))
    for row in kept:
        replay.add(**row)
    assert replay.planes == 31
    found = replay.at(torch.arange(30)).next_obs.numpy()
    assert np.array_equal(found, np.concatenate([row["next_obs"] for row in kept]))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("capacity", [50, 8])
def test_a_restored_replay_holds_the_same(first, capacity):
    replay = FrameReplay(capacity, shape(first), 1)
    for row in episodes([9, 4], first=first):
        replay.add(**row)
    other = FrameReplay(capacity, shape(first), 1)
    middle = (replay.oldest + replay.added) // 2
    parts = [replay.rows(replay.oldest, middle), replay.rows(middle, replay.added)]
    assert parts[1]["planes"].shape[1:] == SIDES
    other.restore(replay.oldest, parts)
    draws = [r.sample(32, torch.Generator().manual_seed(0)) for r in (replay, other)]
    for name in ("obs", "next_obs", "action", "reward", "terminated"):
        assert torch.equal(getattr(draws[0], name), getattr(draws[1], name))
    assert other.planes == replay.planes


def test_images_of_another_kind_are_refused_and_leave_nothing_behind():
    replay = FrameReplay(10, shape(True), 1)
    (row,) = episodes([1], first=True)
    for change, words in (
        ({"obs": row["obs"].astype(np.float32)}, "obs is float32"),
        ({"next_obs": row["next_obs"][:, :3]}, "next_obs is uint8"),
        ({"reward": np.array([np.nan])}, "reward is not finite"),
        ({"action": np.zeros((1, 2))}, "action has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            replay.add(**row | change)
        assert replay.planes == len(replay) == 0


def test_frames_by_priority():
    replay = PrioritizedReplay(FrameReplay(20, shape(True), 1), 1.0)
    kept = list(episodes([10], first=True))
    for row in kept:
        replay.add(**row)
    replay._last = torch.arange(10)
    replay.judge(torch.tensor([0.0] * 9 + [1.0]))
    room = replay.room(8)
    replay.draw(room, torch.Generator().manual_seed(0))
    assert np.array_equal(replay.batch(room).obs.numpy(), np.repeat(kept[9]["obs"], 8, axis=0))


@pytest.mark.parametrize("first", [True, False])
def test_what_was_drawn_stays_in_its_room_whatever_comes_after(first, monkeypatch):
    monkeypatch.setattr("simtoreal.policies.frames.FIRST_PLANES", 8)
    replay, (*kept, last) = FrameReplay(6, shape(first), 1), episodes([6, 40], first=first)
    for row in kept[:6]:
        replay.add(**row)
    room = replay.room(16)
    replay.draw(room, torch.Generator().manual_seed(0))
    found = replay.batch(room)
    which = [row["reward"].item() for row in kept[:6]]
    before = [which.index(reward) for reward in found.reward.tolist()]
    for row in [*kept[6:], last]:
        replay.add(**row)
    assert len(replay._pool) == 16
    for name in ("obs", "next_obs"):
        expected = np.concatenate([kept[number][name] for number in before])
        assert np.array_equal(getattr(replay.batch(room), name).numpy(), expected)
