import numpy as np
import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies import prioritized
from simtoreal.policies.prioritized import BRANCHES, PrioritizedReplay, SumTree
from simtoreal.policies.replay import Replay

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("compiled", [True, False])


def rows(first, n):
    """Transitions that tell their number."""
    number = np.arange(first, first + n, dtype=np.float32)
    return {
        "obs": number[:, None],
        "action": np.zeros((n, 1)),
        "reward": number,
        "next_obs": number[:, None],
        "terminated": np.zeros(n),
    }


def filled(n, capacity=100, exponent=1.0):
    replay = PrioritizedReplay(Replay(capacity, 1, 1), exponent)
    replay.add(**rows(0, n))
    return replay


def judge_all(replay, errors):
    """Give each transition that is held its error."""
    replay._last = torch.arange(len(errors))
    replay.judge(torch.tensor(errors))


def test_the_loops_are_compiled_here():
    assert prioritized.COMPILED


@BOTH
@pytest.mark.parametrize("capacity", [1, BRANCHES, BRANCHES + 1, BRANCHES**2 + 7])
def test_a_sum_tree_adds_up_and_finds(compiled, capacity):
    tree, rng = SumTree(capacity, CPU, compiled), np.random.default_rng(0)
    values = torch.zeros(capacity, dtype=torch.float64)
    for _ in range(3):
        slots = torch.from_numpy(rng.permutation(capacity)[: max(1, capacity // 2)])
        values[slots] = torch.from_numpy(rng.exponential(size=len(slots)))
        tree.set(slots, values[slots])
    assert_close(tree._levels[-1].sum(), values.sum())
    u = torch.from_numpy(rng.random(500))
    found, likelihood = torch.zeros(500, dtype=torch.int64), torch.zeros(500)
    tree.draw(u, torch.tensor(3.0, dtype=torch.float64), found, likelihood)
    shares = (torch.arange(500) + u) / 500 * values.sum()
    wanted = np.searchsorted(values.cumsum(0).numpy(), shares.numpy(), side="right").clip(max=capacity - 1)
    assert np.array_equal(found.numpy(), wanted)
    assert_close(likelihood, (3 * values[found] / values.sum()).float())


@BOTH
def test_a_slot_of_no_weight_is_never_found_whatever_rounding_does(compiled):
    tree = SumTree(BRANCHES * 3, CPU, compiled)
    tree.set(torch.tensor([5, 40]), torch.tensor([1e-300, 1.0], dtype=torch.float64))
    found, likelihood = torch.zeros(4, dtype=torch.int64), torch.zeros(4)
    for u in (0.0, 0.5, np.nextafter(1.0, 0.0)):
        tree.draw(torch.full((4,), u, dtype=torch.float64), torch.ones((), dtype=torch.float64), found, likelihood)
        assert set(found.tolist()) <= {5, 40}


def test_probabilities_are_the_papers():
    """Errors 1, 2, 3 and 4 with alpha 1/2: P = sqrt(p) / sum; N P(i) is what importance weights are of."""
    replay = filled(4, exponent=0.5)
    judge_all(replay, [1.0, -2.0, 3.0, -4.0])
    counts, rng = np.zeros(4), torch.Generator().manual_seed(0)
    wanted = np.sqrt([1.0, 2.0, 3.0, 4.0])
    wanted /= wanted.sum()  # .163, .230, .282, .325
    for _ in range(400):
        batch = replay.sample(20, rng)
        number = batch.reward.long()
        counts += np.bincount(number, minlength=4)
        assert_close(batch.likelihood, torch.from_numpy(4 * wanted)[number].float(), atol=1e-5, rtol=1e-5)
    assert counts / 8000 == pytest.approx(wanted, abs=0.002)  # a batch has its share of each, less than one apart


def test_what_is_new_is_as_likely_as_what_was_told_worst():
    replay = filled(3)
    judge_all(replay, [5.0, 0.5, 0.1])
    replay.add(**rows(3, 1))
    assert_close(replay._tree.values[:4], torch.tensor([5.0, 0.5, 0.1, 5.0], dtype=torch.float64), atol=1e-5, rtol=0)
    judge_all(replay, [0.1, 0.5, 0.1])  # the highest so far stays so
    replay.add(**rows(4, 1))
    assert float(replay._tree.values[4]) == pytest.approx(5.0, abs=1e-5)


def test_what_is_overwritten_loses_its_priority():
    replay = filled(4, capacity=4)
    judge_all(replay, [9.0, 0.0, 0.0, 0.0])
    replay.add(**rows(4, 1))
    judge_all(replay, [0.0])
    drawn = replay.sample(64, torch.Generator().manual_seed(0)).reward
    assert set(drawn.tolist()) <= {1.0, 2.0, 3.0, 4.0}


def test_what_is_drawn_into_a_room_is_what_is_sampled():
    replay = filled(50)
    judge_all(replay, np.linspace(0.1, 5, 50).tolist())
    room, rngs = replay.room(16), [torch.Generator().manual_seed(3) for _ in range(2)]
    replay.draw(room, rngs[0])
    one, other = replay.batch(room), replay.sample(16, rngs[1])
    for name in ("obs", "reward", "likelihood"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("added", [30, 250])
def test_a_restored_replay_draws_the_same(added):
    replay, rng = filled(added if added < 100 else 100), torch.Generator().manual_seed(0)
    for first in range(100, added, 50):
        replay.add(**rows(first, 50))
    for _ in range(20):
        replay.sample(16, rng)
        replay.judge(torch.randn(16, generator=rng))
    other = PrioritizedReplay(Replay(100, 1, 1), 1.0)
    other.load_state_dict(replay.state_dict())
    other.restore(replay.oldest, [replay.rows(replay.oldest, replay.added)])
    draws = [r.sample(64, torch.Generator().manual_seed(5)) for r in (replay, other)]
    assert torch.equal(draws[0].reward, draws[1].reward)
    assert torch.equal(draws[0].likelihood, draws[1].likelihood)


def test_priorities_of_another_replay_are_refused():
    replay, other = filled(30), PrioritizedReplay(Replay(100, 1, 1), 1.0)
    with pytest.raises(ValueError, match="missing"):
        other.load_state_dict({})
    other.load_state_dict(replay.state_dict())
    with pytest.raises(ValueError, match="priorities of 30"):
        other.restore(0, [replay.rows(0, 20)])


def test_an_empty_replay_is_not_sampled_and_nothing_is_judged_before():
    replay = PrioritizedReplay(Replay(10, 1, 1), 1.0)
    with pytest.raises(ValueError, match="empty"):
        replay.sample(2, torch.Generator())
    with pytest.raises(ValueError, match="nothing was drawn"):
        replay.judge(torch.ones(2))
    assert len(replay) == replay.added == replay.oldest == 0


@BOTH
def test_an_error_that_is_no_number_counts_as_the_highest_so_far(compiled):
    """The learner stops for it; until it is asked, what is drawn must still be there."""
    tree = SumTree(3, CPU, compiled)
    tree.judge(torch.arange(3), torch.tensor([2.0, torch.nan, torch.inf]), 1.0)
    assert_close(tree.values[:3], torch.full((3,), 2.0, dtype=torch.float64), atol=1e-5, rtol=0)


@BOTH
def test_slots_beyond_a_tree_are_refused(compiled):
    tree = SumTree(4, CPU, compiled)
    with pytest.raises(IndexError):
        tree.set(torch.tensor([BRANCHES]), torch.ones(1, dtype=torch.float64))
