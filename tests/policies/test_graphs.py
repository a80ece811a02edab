"""Gradient steps as they are captured for a GPU: the same numbers as one by one. Without a GPU the same code runs on
the CPU, where nothing is captured."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies import minibatches
from simtoreal.policies import updates as updates_module
from simtoreal.policies.adam import Adam
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.compiled import _Calls
from simtoreal.policies.dqn import DQN, DQNConfig, RainbowConfig
from simtoreal.policies.frames import FrameReplay
from simtoreal.policies.graphs import WARM_UP, Skip
from simtoreal.policies.loops import off_policy
from simtoreal.policies.normalizer import Normalizer
from simtoreal.policies.ppo import PPO, PPOConfig
from simtoreal.policies.prioritized import PrioritizedReplay
from simtoreal.policies.replay import Replay
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.td3 import TD3, TD3Config
from simtoreal.policies.updates import CapturedUpdates


class Emulated:
    """What `captured` does with the state on a GPU: the work is done some times and put back before it counts."""

    def __init__(self, work, device, generators, keep, compiled):
        put_back = keep()
        for _ in range(WARM_UP):
            work()
            put_back()
        self._work = work

    def __call__(self):
        self._work()


@pytest.fixture(autouse=True)
def _emulated(monkeypatch, request):
    """On the CPU works are captured as far as can be."""
    if "cpu" in request.node.name:
        monkeypatch.setattr(updates_module, "captured", Emulated)
        monkeypatch.setattr(minibatches, "captured", Emulated)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
N, M, P, SIZE = 6, 2, 3, 32
SMALL = {"hidden": (32, 16), "batch_size": SIZE, "buffer_size": 10_000}
FOLLOW = ("target_critics", "target_policy", "average")  # go on towards weights that stand still
LEARNERS = {
    "sac": lambda **more: (SAC, SACConfig(**SMALL, **more)),
    "td3": lambda **more: (TD3, TD3Config(**SMALL, **more)),
}


def filled(device, n=200, reward=None):
    rng = np.random.default_rng(0)
    replay = Replay(1_000, N, M, P, device=device)
    replay.add(
        rng.standard_normal((n, N)),
        rng.uniform(-1, 1, (n, M)),
        rng.standard_normal(n) if reward is None else reward,
        rng.standard_normal((n, N)),
        rng.random(n) < 0.2,
        rng.standard_normal((n, P)),
        rng.standard_normal((n, P)),
    )
    return replay


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sac", {}),
        ("sac", {"layer_norm": True, "dropout": 0.05, "smoothness": 0.1, "actor_average": 0.01}),
        ("sac", {"sde": True}),
        ("sac", {"policy_delay": 3, "smoothness": 0.1}),
        ("td3", {}),
        ("td3", {"smoothness": 0.1, "policy_delay": 3}),
    ],
)
def test_captured_steps_are_those_made_one_by_one(device, name, options):
    kind, config = LEARNERS[name](**options)
    one, other = (kind(N, M, P, config, seed=3, device=device) for _ in range(2))
    replays = [filled(device) for _ in range(2)]
    for agent in (one, other):
        agent.observe({"policy": np.ones((4, N)) * np.arange(4)[:, None], "privileged": np.zeros((4, P))})
    updates = CapturedUpdates(other, replays[1], SIZE)
    expected: dict[str, list[float]] = {}
    rows = replays[0].room(SIZE)
    for _ in range(7):
        replays[0].draw(rows, one.rng)
        for key, value in one.update(replays[0].batch(rows)).items():
            expected.setdefault(key, []).append(float(value))
        updates.step(torch.Generator())
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine:
        assert_close(theirs[key], mine[key], atol=1e-5, rtol=1e-5, msg=key)
    found = updates.means()
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(np.mean(values), abs=1e-4), key
    assert updates.means() == {}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LEARNERS)
def test_from_a_loss_that_is_not_finite_on_no_step_is_made(device, name):
    kind, config = LEARNERS[name]()
    agent, replay = kind(N, M, P, config, device=device), filled(device)
    updates = CapturedUpdates(agent, replay, SIZE)
    for _ in range(4):
        updates.step(torch.Generator())
    good, held = agent.state_dict(), replay._table.clone()
    with torch.no_grad():
        replay._table.fill_(torch.nan)
    for _ in range(4):
        updates.step(torch.Generator())
    found = agent.state_dict()
    changed = {name for name in good if not torch.equal(good[name], found[name])}
    assert {name.partition(".")[0] for name in changed} <= {"rng", "updates", "actor_loss", *FOLLOW}
    with pytest.raises(NonFiniteError, match=r"not finite: .*critic loss"):
        updates.means()
    agent.load_state_dict(good)
    replay._table.copy_(held)
    updates._sums.zero_()
    updates.step(torch.Generator())
    assert np.isfinite(list(updates.means().values())).all()


def test_an_optimizer_that_skips_changes_nothing():
    weight = torch.ones(3)
    optimizer = Adam([weight], 0.1)
    optimizer.step([torch.ones(3)])
    before = {"weight": weight.clone()} | optimizer.tensors("adam")
    optimizer.step([torch.ones(3)], skip=torch.ones(()))
    after = {"weight": weight} | optimizer.tensors("adam")
    assert all(torch.equal(before[name], after[name]) for name in before)
    optimizer.step([torch.ones(3)], skip=torch.zeros(()))
    assert float(optimizer.tensors("adam")["adam.0.step"]) == 2


def test_statistics_of_observations_stay_on_the_cpu():
    normalizer = Normalizer(3).to("meta")
    assert (normalizer.shift.device.type, normalizer.scale.device.type) == ("meta", "meta")
    assert {normalizer.mean.device.type, normalizer.m2.device.type, normalizer.count.device.type} == {"cpu"}


def test_the_losses_that_were_not_finite_are_named_once():
    skip = Skip(("critic loss", "actor loss"), torch.device("cpu"))
    for value in (1.0, torch.inf, 2.0):
        skip.note("critic loss", torch.tensor(value))
        skip.note("actor loss", torch.tensor(3.0))
    assert skip.flag == 1
    with pytest.raises(NonFiniteError, match=r"^not finite: critic loss$"):
        skip.check()
    skip.check()


@pytest.mark.parametrize("device", DEVICES)
def test_a_draw_on_the_device_is_uniform_over_what_is_held(device):
    replay = Replay(100, 1, 1, device=device)
    zero = np.zeros((10, 1))
    replay.add(zero, zero, np.arange(10.0), zero, np.zeros(10))
    rows = replay.room(20_000)
    replay.draw(rows, torch.Generator(device).manual_seed(0))
    drawn = replay.batch(rows).reward.cpu().long()
    counts = torch.bincount(drawn, minlength=10)
    assert len(counts) == 10
    assert ((counts - 2000).abs() < 5 * 42.4).all()  # sqrt(20000 .1 .9) = 42.4


@pytest.mark.parametrize("ahead", [True, False])
def test_updates_that_are_made_ahead_come_between_the_choice_of_actions_and_the_step(ahead, scripted):
    said: list[str] = []

    class Noted:
        def step(self, rng):
            said.append("update")

        def means(self):
            return {}

    class Agent:
        device = torch.device("cpu")

        def act(self, obs, explore):
            said.append("act")
            return np.zeros((2, 1), np.float32)

        def observe(self, obs):
            pass

    envs = scripted()
    step = envs.step
    envs.step = lambda action: (said.append("envs"), step(action))[1]
    settings = {"steps": 8, "seed": 0, "learning_starts": 2, "updates_per_step": 0.5, "ahead": ahead}
    for _ in off_policy(Agent(), envs, Replay(100, 2, 1), updates=Noted(), **settings):
        pass
    late = ["envs", "update"] + ["act", "envs", "update"] * 3
    early = ["envs"] + ["act", "update", "envs"] * 3 + ["update"]
    assert said == (early if ahead else late)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_toy_is_learned_while_the_environments_step(device, name, vectorized):
    kind, config = LEARNERS[name](actor_lr=3e-3, critic_lr=3e-3, tau=0.05)
    agent, replay = kind(1, 1, config=config, device=device), Replay(10_000, 1, 1, device=device)
    settings = {"steps": 1_500, "seed": 0, "batch_size": 64, "learning_starts": 200, "ahead": True}
    reports = list(off_policy(agent, vectorized(), replay, updates=CapturedUpdates(agent, replay, 64), **settings))
    x = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    assert np.abs(agent.act(x, explore=False) - x / 2).max() < 0.15
    assert reports[-1].metrics["critic_loss"] > 0


def rollout(device, n):
    rng = torch.Generator().manual_seed(0)
    columns = [torch.randn(n, N, generator=rng), torch.randn(n, P, generator=rng), torch.randn(n, M, generator=rng)]
    columns += [torch.randn(n, generator=rng) - shift for shift in (3.0, 0.0, 0.0, 0.0)]
    return Rollout(*(column.to(device) for column in columns))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [{}, {"distribution": "sde", "shared": True}, {"clip_value": 0.1, "entropy_weight": 0.01}, {"target_kl": 0.02}],
)
def test_captured_epochs_are_those_made_one_by_one(device, options, monkeypatch):
    """Over two rollouts, minibatches of two sizes; with a bound on KL both end at the same one."""
    config = PPOConfig(hidden=(16, 16), batch_size=24, epochs=3, learning_rate=3e-3, **options)
    one, other = (PPO(N, M, P, config, seed=5, device=device) for _ in range(2))
    monkeypatch.setattr(PPO, "captures", property(lambda self: self is other))
    for k in range(2):
        given = rollout(device, 100)
        mine, theirs = one.update(given), other.update(given)
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert_close(theirs[key], mine[key], atol=1e-4, rtol=1e-4, msg=f"{key} in update {k}")
        for a, b in zip(one._parameters, other._parameters, strict=True):
            assert_close(a, b, atol=1e-5, rtol=1e-5)
        one.rng.set_state(other.rng.get_state())  # of orders not asked for after the bound


@pytest.mark.parametrize("device", DEVICES)
def test_after_the_bound_on_kl_no_gradient_is_judged(device, monkeypatch):
    given = rollout(device, 60)
    given.log_prob[:20], given.advantage[:20] = -200.0, -1.0  # the ratio overflows
    config = PPOConfig(hidden=(16,), batch_size=60, target_kl=0.02, normalize_advantage=False)
    agent = PPO(N, M, P, config, device=device)
    for captures in (False, True):
        monkeypatch.setattr(PPO, "captures", captures)
        assert agent.update(given) == {}


@pytest.mark.parametrize("device", DEVICES)
def test_a_smaller_rollout_goes_through_the_same_memory(device, monkeypatch):
    """As where a transition was invalid."""
    config = PPOConfig(hidden=(16, 16), batch_size=24, epochs=2, learning_rate=3e-3)
    one, other = (PPO(N, M, P, config, seed=5, device=device) for _ in range(2))
    monkeypatch.setattr(PPO, "captures", property(lambda self: self is other))
    kept = set()
    for n in (100, 93, 100):
        for agent in (one, other):
            agent.update(rollout(device, n))
        kept.add(id(other._captured))
    assert len(kept) == 1
    for a, b in zip(one._parameters, other._parameters, strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_ppo_makes_no_step_from_a_gradient_that_is_not_finite_on(device, monkeypatch):
    agent = PPO(N, M, P, PPOConfig(hidden=(16,), batch_size=20), device=device)
    monkeypatch.setattr(PPO, "captures", True)
    agent.update(rollout(device, 60))
    before, bad = [p.clone() for p in agent._parameters], rollout(device, 60)
    bad.returns[:] = torch.nan
    with pytest.raises(NonFiniteError, match="not finite: the gradient's norm"):
        agent.update(bad)
    assert all(torch.equal(a, b) for a, b in zip(before, agent._parameters, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_priorities_are_judged_by_the_steps_that_count_alone(device):
    """And not by those that are made before a capture, of which a resumed training makes some more."""
    config = RainbowConfig(hidden=(16, 8), batch_size=16, buffer_size=300, n_step=1)
    agents = [DQN(N, 1, config=config, choices=3, seed=3, device=device) for _ in range(2)]
    rng = np.random.default_rng(0)
    rows = {
        "obs": rng.standard_normal((200, N)),
        "action": rng.integers(0, 3, (200, 1)) - 1.0,
        "reward": rng.standard_normal(200),
        "next_obs": rng.standard_normal((200, N)),
        "terminated": rng.random(200) < 0.2,
    }
    replays = [PrioritizedReplay(Replay(300, N, 1, device=device), 0.5) for _ in agents]
    for replay in replays:
        replay.add(**rows)
    updates, room = CapturedUpdates(agents[1], replays[1], 16), replays[0].room(16)
    for _ in range(5):
        replays[0].draw(room, agents[0].rng)
        agents[0].update(replays[0].batch(room))
        replays[0].judge(agents[0].errors)
        updates.step(torch.Generator())
    mine, theirs = (replay.state_dict() for replay in replays)
    assert len(mine["priorities"].unique()) > 40
    for name in mine:
        assert_close(theirs[name], mine[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prioritized", [False, True])
def test_a_captured_step_on_images_reads_no_pool_that_may_grow(device, prioritized, monkeypatch):
    """On a GPU a graph reads the memory that it was captured with, whatever a replay has since."""
    works = []

    def captured(work, device, generators, keep, compiled):
        works.append(work)
        return work

    monkeypatch.setattr(updates_module, "captured", captured)
    config = DQNConfig(hidden=(8,), batch_size=4, buffer_size=100, normalize_observations=False)
    agent = DQN(4 * 36 * 36, 1, config=config, choices=2, image=(4, 36, 36), device=device)
    frames = FrameReplay(100, (4, 36, 36), 1, device=device)
    replay = PrioritizedReplay(frames, 0.6) if prioritized else frames
    rng = np.random.default_rng(0)
    obs, next_obs = rng.integers(0, 256, (2, 8, 4, 36, 36), np.uint8)
    replay.add(obs=obs, action=np.ones((8, 1)), reward=np.ones(8), next_obs=next_obs, terminated=np.zeros(8))
    updates = CapturedUpdates(agent, replay, 4)
    updates.step(torch.Generator())
    with _Calls() as calls:
        works[0]()
    read = {tensor.data_ptr() for tensor in calls.read}
    assert agent.network.head.streams[0].hidden.weight.data_ptr() in read
    assert frames._pool.data_ptr() not in read
