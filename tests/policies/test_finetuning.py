"""Fine-tuning on one-step robots whose best action is known."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.finetuning import NEW, OLD, FineTuner, FineTuningConfig
from simtoreal.policies.history import Driver

QUICK = {
    "batch_size": 64,
    "hidden": (32, 32),
    "actor_lr": 1e-3,
    "critic_lr": 3e-3,
    "beta_lr": 0.02,
    "actor_average": 0.05,
}


def still_actor(size=3, m=2):
    """An actor whose action is 0 whatever it sees."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        actor = DeterministicActor(size, m, (16,))
    torch.nn.init.zeros_(actor.head.weight)
    torch.nn.init.zeros_(actor.head.bias)
    return actor


def one_step(best, n=400, seed=0):
    """Transitions that end at once with reward -|a - best|^2, over uniform actions."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (n, 2))
    return {
        "obs": rng.normal(size=(n, 3)),
        "action": action,
        "reward": -np.square(action - np.array(best)).sum(axis=1),
        "next_obs": rng.normal(size=(n, 3)),
        "terminated": np.ones(n),
    }


def tuner(**settings):
    return FineTuner(still_actor(), FineTuningConfig(**QUICK, **settings), old=1000, new=1000, seed=0)


def mean_action(actor):
    return actor(torch.from_numpy(np.random.default_rng(9).normal(size=(200, 3)).astype(np.float32))).mean(dim=0)


def test_smoothness_adds_the_gradient_of_the_squared_change_of_the_action():
    plain, smooth = tuner(), tuner(smoothness=0.4)
    gradients = []
    for learner in (plain, smooth):
        with torch.no_grad():
            learner.actor.head.weight.copy_(torch.linspace(-1, 1, 32).reshape(2, 16))
        learner.add(one_step([0.3, -0.2]), robot=NEW)
        batch = learner._batch()
        learner._actor_step(batch)
        gradients.append([parameter.grad.clone() for parameter in learner.actor.parameters()])
    reference = tuner()
    reference.actor.load_state_dict(plain.base.state_dict())
    with torch.no_grad():
        reference.actor.head.weight.copy_(torch.linspace(-1, 1, 32).reshape(2, 16))
    action = reference.actor(batch.obs)
    q = reference.critics(torch.cat([reference._state(batch.obs, batch.privileged), action], -1)).min(dim=0).values
    change = (action - reference.actor(batch.next_obs)).square().sum(-1).mean()
    (0.4 * change / (q.detach().abs().mean() + 1e-6)).backward()
    for without, found, parameter in zip(*gradients, reference.actor.parameters(), strict=True):
        assert_close(found - without, parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_actor_finds_the_new_robots_best_action_though_the_old_ones_was_elsewhere():
    learner = tuner(first_radius=0.5, max_radius=0.5)
    learner.add(one_step([-0.3, 0.3]), robot=OLD)
    learner.add(one_step([0.3, -0.2], seed=1), robot=NEW)
    learner.update(300, move_actor=False)
    learner.update(300, move_actor=True)
    assert_close(mean_action(learner.candidate()), torch.tensor([0.3, -0.2]), atol=0.15, rtol=0)


def test_the_actor_stays_within_its_radius_and_goes_on_when_that_widens():
    learner = tuner(first_radius=0.1, max_radius=0.25)
    learner.add(one_step([0.9, 0.9]), robot=NEW)
    learner.update(1000, move_actor=True)
    seen = torch.from_numpy(one_step([0, 0])["obs"]).float()
    assert learner.distance(seen) == pytest.approx(0.1, rel=0.2)
    for _ in range(10):
        learner.widen(1.5)
    assert learner.radius == 0.25
    learner.update(500, move_actor=True)
    assert learner.distance(seen) == pytest.approx(0.25, rel=0.2)


@pytest.mark.parametrize(("factor", "pulled"), [(1.0, True), (1.5, True), (4.0, False), (9.0, False)])
def test_the_pull_back_grows_beyond_the_radius_of_now_and_weakens_within_it(factor, pulled):
    """The actor is 0.2 from where it started; its radius is 0.1 at first and may become 0.5."""
    learner = tuner(first_radius=0.1, max_radius=0.5)
    learner.add(one_step([0.9, 0.9]), robot=NEW)
    with torch.no_grad():
        learner.actor.head.bias.fill_(np.arctanh(0.2))
    learner.widen(factor)
    seen = learner.update(2, move_actor=True)  # one of them is the actor's
    assert (seen["distance"], seen["beta"]) == (pytest.approx(0.2), 1.0)
    assert seen["radius"] == pytest.approx(min(0.1 * factor, 0.5))
    assert (learner.log_beta.item() > 0) is pulled


def test_the_critics_warm_up_while_the_actor_stands():
    learner = tuner()
    learner.add(one_step([0.5, 0.5]), robot=NEW)
    before, critics = learner.snapshot(), learner.critics[0].head.weight.detach().clone()
    first = learner.update(20, move_actor=False)["critic_loss"]
    later = learner.update(200, move_actor=False)["critic_loss"]
    assert later < first / 2
    assert not torch.equal(critics, learner.critics[0].head.weight)
    for name, value in learner.snapshot().items():
        assert torch.equal(value, before[name]), name


def test_a_snapshot_brings_actor_and_average_back_bit_for_bit():
    learner = tuner()
    learner.add(one_step([0.5, 0.5]), robot=NEW)
    before = learner.snapshot()
    learner.update(20, move_actor=True)
    assert any(not torch.equal(value, before[name]) for name, value in learner.snapshot().items())
    learner.restore(before)
    assert all(torch.equal(value, before[name]) for name, value in learner.snapshot().items())
    assert all(torch.equal(a, b) for a, b in zip(still_actor().parameters(), learner.base.parameters(), strict=True))


def test_old_and_new_transitions_are_mixed_as_asked(monkeypatch):
    learner = tuner(old_share=0.25)
    learner.add(one_step([0, 0]), robot=OLD)
    drawn = {"old": [], "new": []}
    for name in drawn:
        replay = getattr(learner, name)
        monkeypatch.setattr(
            replay, "sample", lambda n, rng, name=name, draw=replay.sample: drawn[name].append(n) or draw(n, rng)
        )
    learner.update(1, move_actor=False)
    assert drawn == {"old": [64], "new": []}, "before there is a new transition, the critics learn from old ones"
    learner.add(one_step([0, 0]), robot=NEW)
    learner.update(1, move_actor=True)
    assert drawn == {"old": [64, 16], "new": [48]}


def test_the_same_seed_learns_the_same():
    ends = []
    for _ in range(2):
        learner = tuner()
        learner.add(one_step([0.5, 0.5]), robot=NEW)
        learner.update(30, move_actor=True)
        ends.append(learner.snapshot())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_exploration_is_noise_around_the_actor_within_the_actions():
    learner = tuner()
    actions = np.stack([learner.act(Driver(learner.actor), np.zeros(3, np.float32), 0.2) for _ in range(500)])
    assert actions.std(axis=0) == pytest.approx([0.2, 0.2], rel=0.15)
    assert np.abs(learner.act(Driver(learner.actor), np.zeros(3, np.float32), 50.0)).max() <= 1
    assert learner.act(Driver(learner.actor), np.zeros(3, np.float32), 0.0).tolist() == [0.0, 0.0]


def test_what_is_not_finite_is_refused():
    learner = tuner()
    with torch.no_grad():
        learner.actor.head.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="action is not finite"):
        learner.act(Driver(learner.actor), np.zeros(3, np.float32), 0.0)
    learner.add(one_step([0, 0]), robot=NEW)
    with torch.no_grad():
        learner.critics[0].head.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="critic loss is nan"):
        learner.update(1, move_actor=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"gamma": 1.0},
        {"old_share": 1.0},
        {"first_radius": 0.4},
        {"noise": -0.1},
        {"batch_size": 1},
        {"batch_size": 65_537},
        {"n_critics": 0},
        {"n_critics": 17},
        {"tau": 0.0},
        {"slack": -0.1},
        {"slack": 1.5},
        {"hidden": (16_385,)},
        {"hidden": (4,) * 33},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FineTuningConfig(**bad)
