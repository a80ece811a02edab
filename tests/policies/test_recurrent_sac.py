"""SAC with a recurrent layer: its sequences, its gradients through time, and what it can do that others cannot."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn
from torch.testing import assert_close

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.loop_state import LoopState
from simtoreal.policies.loops import off_policy
from simtoreal.policies.recurrent import Sequences
from simtoreal.policies.recurrent_sac import RecurrentSAC
from simtoreal.policies.replay import Batch, Replay
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.sequences import SequenceReplay

sys.path.insert(0, str(Path(__file__).parent))
from recalling import Recall, remembered, stir

SMALL = {"hidden": (16,), "batch_size": 32, "sequence_length": 8, "recurrent": 8}


def replay_of(agent, envs, capacity=10_000, n=2, privileged=0):
    length = agent.config.sequence_length
    w = agent.hidden_state_size
    return SequenceReplay(capacity, n, 1, privileged, envs=envs, length=length, hidden_state_size=w)


def learn(agent, envs, steps, replay=None, state=None, seed=0, **options):
    c = agent.config
    settings = {"learning_starts": c.learning_starts, "batch_size": c.batch_size, "updates_per_step": 0.25}
    replay = replay_of(agent, envs.num_envs) if replay is None else replay
    return list(off_policy(agent, envs, replay, steps=steps, seed=seed, state=state, **settings | options))


def counted(steps, envs, capacity, length):
    """A replay of rows whose observation says which environment's and which step they are."""
    replay = SequenceReplay(capacity, 2, 1, envs=envs, length=length, hidden_state_size=3)
    for t in range(steps):
        obs = np.array([[e, t] for e in range(envs)], np.float32)
        row = {"obs": obs, "next_obs": obs + np.array([0, 1]), "action": obs[:, :1], "reward": obs[:, 1]}
        flags = {"terminated": np.zeros(envs), "begins": np.full(envs, t % 4 == 0), "valid": np.full(envs, t % 3 > 0)}
        replay.add(**row, **flags, hidden_state=np.full((envs, 3), t))
    return replay


@pytest.mark.parametrize(("steps", "held"), [(4, 0), (5, 1), (7, 3), (50, 8)])
def test_sequences_are_of_one_environment_without_a_gap(steps, held):
    """Whatever is over of the capacity, 38 rows of 3 environments, is not used; all starts are met."""
    replay = counted(steps, 3, 38, 5)
    assert (replay.capacity, len(replay)) == (36, 3 * held)
    rng = torch.Generator().manual_seed(0)
    if not held:
        with pytest.raises(ValueError, match="fewer than 5 steps, and so no sequence"):
            replay.sample(20, rng)
        return
    seen = set()
    for _ in range(100):
        batch = replay.sample(20, rng)
        assert batch.sequences.envs == 4
        env, t = batch.obs.unflatten(0, (5, 4)).unbind(2)
        assert (env == env[0]).all()
        assert (t == t[0] + torch.arange(5)[:, None]).all()
        assert (batch.next_obs == batch.obs + torch.tensor([0, 1])).all()
        assert (batch.sequences.hidden_state == t.flatten()[:, None]).all()
        assert (batch.sequences.begins == (t.flatten() % 4 == 0)).all()
        assert (batch.sequences.valid == (t.flatten() % 3 > 0)).all()
        seen |= set(zip(env[0].tolist(), t[0].tolist(), strict=True))
    first = max(0, steps - 12)
    assert seen == {(e, t) for e in range(3) for t in range(first, first + held)}


def test_a_restored_replay_gives_the_same_sequences():
    replay, twin = counted(50, 3, 36, 5), counted(0, 3, 36, 5)
    parts = [replay.rows(first, min(first + 10, 150)) for first in range(replay.oldest, 150, 10)]
    twin.restore(replay.oldest, parts)
    one, other = (each.sample(40, torch.Generator().manual_seed(3)) for each in (replay, twin))
    assert torch.equal(one.obs, other.obs)
    assert torch.equal(one.sequences.hidden_state, other.sequences.hidden_state)


def test_a_replay_without_room_for_a_sequence_is_refused():
    with pytest.raises(ValueError, match="at least 15, 5 steps of 3 environments, got 14"):
        SequenceReplay(14, 2, 1, envs=3, length=5, hidden_state_size=3)


class Counter:
    """An agent that remembers how many steps of an episode it has seen."""

    device, hidden_state_size = torch.device("cpu"), 1

    def __init__(self):
        self.observed = []

    def try_out(self, obs, hidden_state):
        return np.zeros((2, 1), np.float32), hidden_state + 1

    def observe(self, obs):
        self.observed.append(obs)

    def update(self, batch):
        return {"valid": batch.sequences.valid.float().mean()}


def test_every_step_is_kept_with_what_was_remembered_before_it(scripted):
    """Environment 0 ends every third step; of environment 1 the second is broken."""

    def broken(obs, reward, terminated, truncated, infos):
        obs[1] = np.nan
        return obs, reward, terminated, truncated, infos

    agent, state = Counter(), LoopState.start(0)
    replay = SequenceReplay(100, 2, 1, envs=2, length=2, hidden_state_size=1)
    loop = off_policy(agent, scripted({2: broken}), replay, steps=10, seed=0, learning_starts=0, state=state)
    (report,) = list(loop)
    rows = {name: column.view(5, 2, -1) for name, column in replay.rows(0, 10).items()}
    assert rows["hidden_state"][:, :, 0].T.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
    assert rows["begins"][:, :, 0].T.tolist() == [[1, 0, 0, 1, 0], [1, 0, 0, 0, 0]]
    assert rows["valid"][:, :, 0].T.tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 1, 1]]  # the NaN is an end, then a start
    assert rows["next_obs"][1, 1].tolist() == rows["obs"][2, 1].tolist() == [0, 0]
    assert report.faults == 2
    assert np.isfinite(np.concatenate(agent.observed)).all()
    assert state.hidden_state.tolist() == [[2], [5]]


def test_what_derives_transitions_does_not_go_with_sequences(scripted):
    replay = SequenceReplay(100, 2, 1, envs=2, length=2, hidden_state_size=1)
    loop = off_policy(Counter(), scripted(), replay, steps=10, seed=0, mirror=lambda rows: rows)
    with pytest.raises(ValueError, match="learns without augment, mirror and n_step"):
        next(loop)


def drawn_batch(steps, sequences, n, privileged, w):
    """With episodes that begin and end in mid-sequence, and steps that may not be learned from."""
    count = steps * sequences
    columns = {
        "obs": torch.randn(count, n), "next_obs": torch.randn(count, n), "action": torch.rand(count, 2) * 2 - 1,
        "reward": torch.randn(count), "terminated": (torch.rand(count) < 0.2).float(),
    }  # fmt: skip
    if privileged:
        columns |= {"privileged": torch.randn(count, privileged), "next_privileged": torch.randn(count, privileged)}
    begins, valid = torch.rand(count) < 0.2, torch.rand(count) < 0.8
    begins[2 * sequences] = True
    hidden = torch.randn(count, w).tanh()
    return Batch(**columns, sequences=Sequences(sequences, hidden, begins, valid))


def along(gru, batch, rows, first):
    """What a GRU remembers after each step [L B, h], one step after the other, by torch's own module and autograd."""
    s, h, found = batch.sequences, first, []
    for x, begins in zip(rows.split(s.envs), s.begins.split(s.envs), strict=True):
        h = gru(x, torch.where(begins[:, None], torch.zeros_like(h), h))
        found.append(h)
    return torch.cat(found)


@pytest.mark.parametrize(
    ("privileged", "burn_in", "options"),
    [
        (0, 0, {}),
        (0, 2, {"layer_norm": True, "n_critics": 3}),
        (3, 1, {}),
        (3, 0, {"critic_inputs": "privileged", "n_critics": 1}),
    ],
)
def test_gradients_through_time_are_those_of_a_plain_loop(privileged, burn_in, options):
    """Of both losses as the paper writes them, by autograd over torch's GRUCell."""
    torch.manual_seed(0)
    steps, sequences, n, h = 6, 4, 5, 7
    config = SACConfig(
        hidden=(9, 8), recurrent=h, sequence_length=steps, burn_in=burn_in, batch_size=steps * sequences, tau=1e-9,
        normalize_observations=False, gamma=0.9, initial_alpha=0.3, **options,
    )  # fmt: skip
    agent = RecurrentSAC(n, 2, privileged, config=config, seed=1)
    stir(nn.ModuleList(agent._networks().values()))
    assert agent.hidden_state_size == (h if privileged else 2 * h)
    batch = drawn_batch(steps, sequences, n, privileged, agent.hidden_state_size)
    s = batch.sequences
    learned = s.valid.clone()
    learned[: burn_in * sequences] = False
    noise = [torch.randn(int(learned.sum()), 2) for _ in range(2)]
    given = iter(noise)
    before = copy.deepcopy(agent)
    agent.policy.noise = lambda count, rng: next(given)
    agent.update(batch)

    policy, critics, gamma, alpha = before.policy, before.critics, 0.9, torch.tensor(0.3)

    def tried(rows, memory, eps):
        mean, log_std = policy.head(nn.Sequential(*policy.body.hidden)(memory)).chunk(2, dim=1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + normal.stddev * eps
        return u.tanh(), (normal.log_prob(u) - torch.log(1 - u.tanh().square())).sum(1)

    mine = along(policy.body.gru, batch, batch.obs, s.hidden_state[:sequences, :h])[learned]
    action, log_prob = tried(batch.obs, mine, noise[0])
    with torch.no_grad():
        next_action, next_log_prob = tried(batch.next_obs, policy.body.gru(batch.next_obs[learned], mine), noise[1])
    state, next_state = batch.obs[learned], batch.next_obs[learned]
    if privileged:
        seen, later = batch.privileged[learned], batch.next_privileged[learned]
        alone = config.critic_inputs == "privileged"
        state, next_state = (seen, later) if alone else (torch.cat([state, seen], 1), torch.cat([next_state, later], 1))
        weights = list(critics.parameters())
    else:
        theirs = along(before.memory, batch, batch.obs, s.hidden_state[:sequences, h:])[learned]
        state = torch.cat([theirs, state], dim=1)
        with torch.no_grad():
            slow = along(before.target_memory, batch, batch.obs, s.hidden_state[:sequences, h:])[learned]
            next_state = torch.cat([before.target_memory(next_state, slow), next_state], dim=1)
        weights = [*critics.parameters(), *before.memory.parameters()]
    with torch.no_grad():
        next_q = before.target_critics(torch.cat([next_state, next_action], dim=1)).amin(0)
        target = batch.reward[learned] + gamma * (1 - batch.terminated[learned]) * (next_q - alpha * next_log_prob)
    loss = 0.5 * (critics(torch.cat([state, batch.action[learned]], dim=1)) - target).square().mean(1).sum()
    expected = torch.autograd.grad(loss, weights)
    found = [parameter.grad for parameter in agent.optimizers["critic"].parameters]
    assert len(found) == len(expected)
    for ours, reference in zip(found, expected, strict=True):
        assert_close(ours, reference, atol=1e-5, rtol=1e-4)

    q = agent.critics(torch.cat([state.detach(), action], dim=1)).amin(0)  # after their step
    expected = torch.autograd.grad((alpha * log_prob - q).mean(), list(policy.parameters()))
    for ours, reference in zip(agent.policy.parameters(), expected, strict=True):
        assert_close(ours.grad, reference, atol=1e-5, rtol=1e-4)


def recalled(seed, agent_class, steps=5_000, **options):
    """Training returns at the end, and how often the exported actor is right."""
    envs = SyncVectorEnv([Recall] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    rates = dict.fromkeys(("actor_lr", "critic_lr", "alpha_lr"), 3e-3)
    config = SACConfig(
        **{"hidden": (32,), "batch_size": 128, "learning_starts": 400, "gamma": 0.95, "tau": 0.02,
           "initial_alpha": 0.1} | rates | options
    )  # fmt: skip
    agent = agent_class(2, 1, config=config, seed=seed)
    replay = replay_of(agent, 4, steps) if config.recurrent else Replay(steps, 2, 1)
    returns = [episode["r"] for report in learn(agent, envs, steps, replay, seed=seed) for episode in report.episodes]
    return np.mean(returns[-100:]), remembered(agent.actor())


@pytest.mark.parametrize(
    ("seed", "burn_in"),
    [(0, 0), *(pytest.param(*case, marks=pytest.mark.soak) for case in ((1, 0), (2, 0), (0, 4)))],
)
def test_it_remembers_what_it_saw_ten_steps_ago(seed, burn_in):
    trained, exported = recalled(seed, RecurrentSAC, recurrent=16, sequence_length=16, burn_in=burn_in)
    assert trained > 0.9
    assert exported == 1.0


def test_without_a_recurrent_layer_that_is_beyond_it():
    trained, _ = recalled(0, SAC)
    assert trained < 0.65


@pytest.mark.parametrize("average", [0.0, 0.01])
def test_the_actor_that_leaves_training_acts_as_the_agent(average):
    agent = RecurrentSAC(2, 1, config=SACConfig(**SMALL, actor_average=average), seed=3)
    stir(nn.ModuleList([agent.policy, agent.average]))
    agent.observe(np.random.default_rng(0).normal(size=(50, 2)))
    actor, state = agent.actor(), torch.zeros(1, 8)
    obs = np.random.default_rng(1).normal(size=(5, 1, 2)).astype(np.float32)
    found, _ = actor(torch.from_numpy(obs[0]), None)
    np.testing.assert_allclose(found, agent.act(obs[0], explore=False), atol=1e-6)
    for one in obs:  # and, where nothing is averaged, remembers what the agent does
        _, following = actor(torch.from_numpy(one), state)
        if not average:
            full = torch.cat([state, torch.zeros(1, 8)], dim=1)
            assert_close(following, agent.try_out(one, full)[1][:, :8], atol=1e-6, rtol=0)
        state = following


def test_it_goes_on_bit_for_bit_in_mid_episode():
    def make():
        envs = SyncVectorEnv([Recall] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
        agent = RecurrentSAC(2, 1, config=SACConfig(**SMALL, learning_starts=40), seed=4)
        return agent, envs, replay_of(agent, 3, 120)

    whole, envs, replay = make()
    state = LoopState.start(0)
    loop = off_policy(
        whole, envs, replay, steps=252, seed=0, learning_starts=40, batch_size=32, report_every=126, state=state
    )
    next(loop)
    second, _, second_replay = make()
    second.load_state_dict(whole.state_dict())
    second_replay.restore(replay.oldest, [replay.rows(replay.oldest, replay.added)])
    kept, twin_envs = LoopState.from_state_dict(state.state_dict()), copy.deepcopy(envs)
    assert kept.hidden_state.abs().min() > 0
    (expected,) = list(loop)
    options = {"learning_starts": 40, "batch_size": 32, "report_every": 126}
    (again,) = list(off_policy(second, twin_envs, second_replay, steps=252, seed=0, state=kept, **options))
    assert (again.metrics, again.episodes) == (expected.metrics, expected.episodes)
    one, other = whole.state_dict(), second.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {"memory.weight_hh", "target_memory.weight_hh"} <= one.keys()


@pytest.mark.parametrize(
    ("network", "words"),
    [("critics", "critic loss is nan"), ("memory", "what the policy remembers is not finite"), ("policy", "is not")],
)
def test_a_nan_in_learning_ends_it(network, words):
    envs = SyncVectorEnv([Recall] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = RecurrentSAC(2, 1, config=SACConfig(**SMALL, learning_starts=40), seed=4)
    with torch.no_grad():
        next(getattr(agent, network).parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=words):
        learn(agent, envs, 100)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"recurrent": -1}, "recurrent must be from 0 to 4096, got -1"),
        ({"history": 3}, "history must be 1 with a recurrent layer, which remembers by itself, got 3"),
        ({"batch_size": 20}, "batch_size must be a multiple of sequence_length 8 up to 65536 with a recurrent"),
        ({"sequence_length": 0}, "sequence_length must be at least 1, got 0"),
        ({"burn_in": 8}, "burn_in must be at least 0 and below sequence_length 8, got 8"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
        ({"n_step": 3}, "n_step must be 1 with a recurrent layer"),
        ({"smoothness": 0.1}, "smoothness must be 0 with a recurrent layer"),
        ({"sde": True}, "sde must be false with a recurrent layer"),
        ({"compile": True}, "compile must be false with a recurrent layer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        SACConfig(**SMALL | setting)


def test_each_learner_is_for_its_own_settings():
    for kind, recurrent in ((SAC, 8), (RecurrentSAC, 0)):
        with pytest.raises(ValueError, match="RecurrentSAC learns with such a layer, SAC without"):
            kind(2, 1, config=SACConfig(**SMALL | {"recurrent": recurrent}))
    agent = RecurrentSAC(2, 1, config=SACConfig(**SMALL))
    rows = torch.zeros(32, 2)
    with pytest.raises(ValueError, match="needs the batches of a SequenceReplay"):
        agent.update(Batch(rows, rows[:, :1], rows[:, 0], rows, rows[:, 0]))
