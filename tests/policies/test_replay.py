import numpy as np
import pytest
import torch

from simtoreal.policies.replay import Replay


def rows(first: int, n: int, **changes) -> dict[str, np.ndarray]:
    """Transitions numbered from `first`: every number of number k is k."""
    k = np.arange(first, first + n, dtype=np.float32)
    columns = {"obs": (n, 2), "action": (n, 1), "reward": (n,), "next_obs": (n, 2), "terminated": (n,)}
    return {name: np.broadcast_to(k.reshape(n, *[1] * (len(s) - 1)), s).copy() for name, s in columns.items()} | changes


def test_the_oldest_transitions_are_overwritten():
    replay = Replay(5, 2, 1)
    for first in (0, 3, 6):
        replay.add(**rows(first, 3))
    batch = replay.sample(500, torch.Generator().manual_seed(0))
    assert len(replay) == 5
    assert set(batch.reward.tolist()) == {4.0, 5.0, 6.0, 7.0, 8.0}
    assert torch.equal(batch.obs[:, 0], batch.reward)
    assert torch.equal(batch.next_obs[:, 1], batch.terminated)


def test_sampling_is_uniform_and_follows_its_generator():
    replay = Replay(10, 2, 1)
    replay.add(**rows(0, 10))
    first, again = (replay.sample(20_000, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.reward, again.reward)
    counts = torch.bincount(first.reward.long(), minlength=10)
    assert ((counts - 2000).abs() < 5 * 42.4).all()  # sqrt(20000 .1 .9) = 42.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.array([1.0, np.nan])}, "reward is not finite"),
        ({"next_obs": np.full((2, 2), np.inf)}, "next_obs is not finite"),
        ({"obs": np.zeros((2, 3))}, r"obs has shape \[2, 3\], expected \[2, 2\]"),
        ({"privileged": np.zeros((2, 1))}, "privileged"),
    ],
)
def test_a_bad_transition_is_refused_whole(change, message):
    replay = Replay(5, 2, 1)
    with pytest.raises(ValueError, match=message):
        replay.add(**rows(0, 2, **change))
    assert len(replay) == 0


def test_the_privileged_part_travels_along():
    replay = Replay(4, 2, 1, privileged_size=3)
    replay.add(**rows(0, 2), privileged=np.ones((2, 3)), next_privileged=np.full((2, 3), 2.0))
    batch = replay.sample(4, torch.Generator())
    assert batch.privileged is not None
    assert batch.next_privileged is not None
    assert batch.privileged.eq(1).all()
    assert batch.next_privileged.eq(2).all()
    with pytest.raises(ValueError, match="privileged"):
        replay.add(**rows(0, 2))


@pytest.mark.parametrize("n", [3, 5, 8, 13])
@pytest.mark.parametrize("early", [0, 1])
def test_a_restored_replay_goes_on_alike(n, early):
    """Also when what was stored begins before the oldest that is still held."""
    one, two = Replay(5, 2, 1), Replay(5, 2, 1)
    for k in range(n):
        one.add(**rows(k, 1))
    assert (one.added, one.oldest) == (n, max(0, n - 5))
    first = max(0, one.oldest - early)
    missed = [rows(k, 1) for k in range(first, one.oldest)]
    held = [one.rows(one.oldest, n - 1), one.rows(n - 1, n)]
    two.restore(first, [*({name: torch.from_numpy(v) for name, v in part.items()} for part in missed), *held])
    assert (two.added, two.oldest, len(two)) == (one.added, one.oldest, len(one))
    for replay in (one, two):
        replay.add(**rows(20, 2))
    batches = [replay.sample(50, torch.Generator().manual_seed(1)) for replay in (one, two)]
    assert torch.equal(batches[0].obs, batches[1].obs)


def test_rows_come_in_the_order_in_which_they_were_added():
    replay = Replay(5, 2, 1)
    for first in (0, 3, 6):
        replay.add(**rows(first, 3))
    assert replay.rows(4, 9)["reward"].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0]
    for first, last in ((3, 9), (4, 10), (6, 5)):
        with pytest.raises(IndexError, match="4 to 9 are held"):
            replay.rows(first, last)


def test_a_foreign_state_is_refused():
    one = Replay(5, 2, 1)
    one.add(**rows(0, 3))
    with pytest.raises(ValueError, match="expected"):
        Replay(5, 3, 1).restore(0, [one.rows(0, 3)])
    with pytest.raises(ValueError, match="begins at 4 and does not fill 5"):
        Replay(5, 2, 1).restore(4, [one.rows(0, 3)])
    with pytest.raises(ValueError, match="empty"):
        Replay(5, 2, 1).sample(1, torch.Generator())
    with pytest.raises(ValueError, match="capacity"):
        Replay(0, 2, 1)
