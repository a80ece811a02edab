"""PPO with a recurrent layer: its arithmetic, its gradients through time, and what it can do that others cannot."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn
from torch.testing import assert_close

from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.history import Driver
from simtoreal.policies.loop_state import LoopState
from simtoreal.policies.on_policy import on_policy
from simtoreal.policies.ppo import PPO, PPOConfig
from simtoreal.policies.recurrent import RecurrentLayers, Sequences, Steps, unroll
from simtoreal.policies.reinforce import ReinforceConfig
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.td3 import TD3Config

sys.path.insert(0, str(Path(__file__).parent))
from recalling import Recall, remembered, stir

SMALL = {"hidden": (16,), "rollout": 32, "batch_size": 64, "sequence_length": 16, "epochs": 4}


def learn(agent, envs, steps, seed=0, state=None):
    c = agent.config
    settings = {"rollout": c.rollout, "gamma": c.gamma, "gae_lambda": c.gae_lambda, "state": state}
    return list(on_policy(agent, envs, steps=steps, seed=seed, **settings))


def test_the_layer_is_the_gru_of_onnx():
    """Over a sequence: onnxruntime's own operator, whose gates stand in another order (z, r, n)."""
    torch.manual_seed(0)
    layers, steps, batch = RecurrentLayers(3, 5, (4,), "tanh"), 6, 2
    stir(layers)
    turned = [
        torch.cat([part.chunk(3)[i] for i in (1, 0, 2)]).detach()
        for part in (layers.gru.weight_ih, layers.gru.weight_hh, layers.gru.bias_ih, layers.gru.bias_hh)
    ]
    constants = {"W": turned[0][None], "R": turned[1][None], "B": torch.cat(turned[2:])[None]}
    node = onnx.helper.make_node(
        "GRU", ["X", "W", "R", "B", "", "H"], ["Y"], hidden_size=5, linear_before_reset=1, direction="forward"
    )
    shapes = {"X": (steps, batch, 3), "H": (1, batch, 5), "Y": (steps, 1, batch, 5)}
    x, h, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in shapes.items())
    weights = [onnx.numpy_helper.from_array(tensor.numpy(), name) for name, tensor in constants.items()]
    graph = onnx.helper.make_graph([node], "gru", [x, h], [y], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    inputs, first = torch.randn(steps, batch, 3), torch.randn(batch, 5).tanh()
    (expected,) = session.run(None, {"X": inputs.numpy(), "H": first[None].numpy()})
    none = torch.zeros(steps, batch, dtype=torch.bool)
    found = unroll(layers.gru, Steps(inputs, first, none, ~none.flatten())).after
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-6)
    h, each = first, []
    for t in range(steps):
        latent, h = layers(inputs[t], h)
        each.append(h)
    assert_close(found, torch.stack(each))
    assert_close(latent, layers.hidden(h))


def unrolled(layers, rows, hidden_state, begins, length):
    """What the hidden layers give for rows [T, E, n] of a rollout, one environment and one step after the other."""
    found = torch.empty(*rows.shape[:2], layers.hidden[-2].out_features)
    w = layers.gru
    for e in range(rows.shape[1]):
        h = torch.zeros(w.hidden_size)
        for t in range(rows.shape[0]):
            if t % length == 0:
                h = hidden_state[t, e]
            elif begins[t, e]:
                h = torch.zeros(w.hidden_size)
            x = rows[t, e]
            r, z, n = (w.weight_ih @ x + w.bias_ih).chunk(3)
            hr, hz, hn = (w.weight_hh @ h + w.bias_hh).chunk(3)
            z, n = torch.sigmoid(z + hz), torch.tanh(n + torch.sigmoid(r + hr) * hn)
            h = (1 - z) * n + z * h
            found[t, e] = nn.Sequential(*layers.hidden)(h)
    return found


@pytest.mark.parametrize(
    ("options", "choices", "privileged"),
    [
        ({}, 0, 0),
        ({"clip_value": 0.3, "distribution": "squashed"}, 0, 3),
        ({"shared": True, "distribution": "sde"}, 0, 0),
        ({"shared": True}, 4, 3),
    ],
)
def test_gradients_through_time_are_those_of_a_plain_loop(options, choices, privileged):
    """Of the loss as the paper writes it; episodes begin in mid-sequence, and some steps are not learned from."""
    torch.manual_seed(0)
    steps, envs, length, h, n = 8, 3, 4, 6, 5
    config = PPOConfig(
        hidden=(8, 7), recurrent=h, sequence_length=length, rollout=steps, batch_size=2 * length, entropy_weight=0.3,
        value_weight=0.7, normalize_observations=False, epochs=1, **options,
    )  # fmt: skip
    agent = PPO(n, 1 if choices else 2, privileged, config=config, choices=choices, seed=1)
    stir(nn.ModuleList([agent.policy, agent.value]))
    w = agent.hidden_state_size
    assert w == (h if config.shared else 2 * h)
    obs, extra = torch.randn(steps, envs, n), torch.randn(steps, envs, privileged)
    hidden = torch.randn(steps, envs, w).tanh()
    begins, valid = torch.rand(steps, envs) < 0.2, torch.rand(steps, envs) < 0.8
    begins[2, 0] = begins[6, 2] = begins[4, 1] = True
    hidden[begins] = 0.0
    u = torch.randint(choices, (steps, envs, 1)).float() if choices else torch.randn(steps, envs, 2)
    log_prob, value, advantage, returns = torch.randn(4, steps, envs)
    log_prob = log_prob * 0.3 - 2.0

    mine = unrolled(agent.policy.body, obs, hidden[..., :h], begins, length)
    sees = torch.cat([obs, extra], dim=-1) if privileged and not config.shared else obs
    theirs = mine if config.shared else unrolled(agent.value[0], sees, hidden[..., -h:], begins, length)

    seen = []
    agent._step = lambda parts, gradients: seen.append(gradients)  # the weights stay
    flat = [tensor.flatten(0, 1) for tensor in (u, log_prob, value, advantage, returns)]
    sequences = Sequences(envs, hidden.flatten(0, 1), begins.flatten(), valid.flatten())
    agent.update(Rollout(obs.flatten(0, 1), extra.flatten(0, 1) if privileged else None, *flat, sequences))

    count = envs * steps // length
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(1)).split(2)
    assert len(seen) == len(chosen) == count // 2
    for found, sequence in zip(seen, chosen, strict=True):
        which = torch.zeros(steps, envs, dtype=torch.bool)
        for s in sequence.tolist():
            which[s // envs * length : (s // envs + 1) * length, s % envs] = True
        which &= valid
        new_log_prob, entropy, _ = agent.policy.head.evaluate(mine[which], u[which])
        a = (advantage[which] - advantage[which].mean()) / (advantage[which].std() + 1e-8)
        ratio = (new_log_prob - log_prob[which]).exp()
        gain = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
        v = agent.value[1](theirs[which])[:, 0]
        if config.clip_value:
            v = value[which] + (v - value[which]).clamp(-0.3, 0.3)
        loss = -gain - 0.3 * entropy + 0.7 * (v - returns[which]).square().mean()
        expected = torch.autograd.grad(loss, agent._parameters, retain_graph=True)
        assert len(found) == len(expected)
        for ours, reference in zip(found, expected, strict=True):
            assert_close(ours, reference, atol=1e-5, rtol=1e-4)


class Counter:
    """An agent that remembers how many steps of an episode it has seen, and values it at that."""

    device, hidden_state_size = torch.device("cpu"), 1

    def __init__(self):
        self.seen = []

    def begin(self, n):
        pass

    def observe(self, obs):
        pass

    def try_out(self, obs, hidden_state):
        return np.zeros((2, 1), np.float32), torch.zeros(2, 1), torch.zeros(2), hidden_state + 1

    def values(self, obs, privileged, hidden_state):
        return 10 * (hidden_state[:, 0] + 1)

    def update(self, rollout):
        self.seen.append(rollout)
        return {}


@pytest.mark.parametrize("terminate", [False, True])
def test_what_is_remembered_of_an_episode_ends_with_it_but_for_the_value_of_its_end(scripted, terminate):
    """Environment 0 ends every third step. Rewards 1, gamma .5, lambda 0: returns are 1 + .5 V(next)."""
    agent, state = Counter(), LoopState.start(0)
    settings = {"steps": 8, "seed": 0, "rollout": 4, "gamma": 0.5, "gae_lambda": 0.0}
    for _ in on_policy(agent, scripted(terminate=terminate), state=state, **settings):
        break
    (rollout,) = agent.seen
    first, second = rollout.sequences.hidden_state.view(4, 2).T.tolist()
    assert (first, second) == ([0, 1, 2, 0], [0, 1, 2, 3])
    assert rollout.sequences.begins.view(4, 2).T.tolist() == [[True, False, False, True], [True, False, False, False]]
    assert rollout.value.view(4, 2).T.tolist() == [[10, 20, 30, 10], [10, 20, 30, 40]]
    of_the_end = 1.0 if terminate else 1.0 + 0.5 * 40  # the fourth observation of an episode of three steps
    assert rollout.returns.view(4, 2).T.tolist() == [[11, 16, of_the_end, 11], [11, 16, 21, 26]]
    assert state.hidden_state.tolist() == [[1], [4]]


def test_an_invalid_step_says_nothing_of_those_before_it(scripted):
    """Of environment 1 the third step. Rewards 1, gamma .5, lambda 1: what is known ends with the value 30 there."""

    def invalid(obs, reward, terminated, truncated, infos):
        return obs, reward, terminated, truncated, infos | {"valid": np.array([True, False])}

    agent, settings = Counter(), {"steps": 8, "seed": 0, "rollout": 4, "gamma": 0.5, "gae_lambda": 1.0}
    next(on_policy(agent, scripted({3: invalid}), **settings))
    returns = agent.seen[0].returns.view(4, 2).T.tolist()
    assert returns[1] == [1 + 0.5 * 16, 1 + 0.5 * 30, pytest.approx(0.5 * 40), 1 + 0.5 * 50]
    assert returns[0] == [1.75, 1.5, 1.0, 11.0]  # and of the other nothing changes


def test_a_step_that_is_not_learned_from_stays_in_its_sequence(scripted):
    def broken(obs, reward, terminated, truncated, infos):
        return obs, reward * np.array([1, np.nan]), terminated, truncated, infos

    seen = []
    agent = PPO(2, 1, config=PPOConfig(**SMALL, recurrent=8))
    gradients, update = agent.gradients, agent.update
    agent.update = lambda rollout: seen.append(rollout) or update(rollout)
    rows = []
    agent.gradients = lambda batch: rows.append(len(batch.returns)) or gradients(batch)
    (report,) = learn(agent, scripted({5: broken}), 64)
    assert report.faults == 1
    assert (len(seen[0].returns), seen[0].sequences.valid.sum().item()) == (64, 63)
    assert rows == [63] * 4


@pytest.mark.parametrize("shared", [False, True])
def test_before_the_first_step_of_an_update_it_would_act_and_judge_as_it_did(scripted, shared):
    """Over a second rollout, with episodes that end in mid-sequence: ratios are 1, values those that were recorded."""
    config = PPOConfig(**SMALL | {"sequence_length": 8}, recurrent=8, shared=shared)
    agent, checked = PPO(2, 1, 1, config=config), 0
    stir(nn.ModuleList([agent.policy, agent.value]))
    gradients, update = agent.gradients, agent.update

    def compared(batch):
        nonlocal checked
        parts, found = gradients(batch)
        if new:
            checked += len(batch.returns)
            assert_close(parts.log_ratio, torch.zeros_like(parts.log_ratio), atol=1e-5, rtol=0)
            assert_close(parts.value_error, batch.value - batch.returns, atol=1e-5, rtol=1e-5)
            new.clear()
        return parts, found

    new = []
    agent.gradients, agent.update = compared, lambda rollout: new.append(1) or update(rollout)
    learn(agent, scripted(privileged=True, terminate=False), 128)
    assert checked == 2 * 64


def recalled(seed, **options):
    """Training returns at the end, and how often the exported actor is right."""
    envs = SyncVectorEnv([Recall] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
    settings = SMALL | {"rollout": 64, "batch_size": 256, "learning_rate": 3e-3, "gamma": 0.95} | options
    agent = PPO(2, 1, config=PPOConfig(**settings), seed=seed)
    returns = [episode["r"] for report in learn(agent, envs, 16_000, seed) for episode in report.episodes]
    return np.mean(returns[-200:]), remembered(agent.actor())


@pytest.mark.parametrize(("seed", "shared"), [(0, False), (1, False), (2, False), (0, True)])
def test_it_remembers_what_it_saw_ten_steps_ago(seed, shared):
    trained, exported = recalled(seed, recurrent=32, shared=shared)
    assert trained > 0.9
    assert exported == 1.0


def test_without_a_recurrent_layer_that_is_beyond_it():
    trained, _ = recalled(0)
    assert trained < 0.65


@pytest.mark.parametrize("shared", [False, True])
def test_it_goes_on_bit_for_bit_in_mid_episode(shared):
    def make():
        envs = SyncVectorEnv([Recall] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
        return PPO(2, 1, config=PPOConfig(**SMALL, recurrent=8, shared=shared), seed=4), envs

    whole, envs = make()
    expected = [(report.metrics, report.episodes) for report in learn(whole, envs, 96 * 4)]
    (first, envs), state = make(), LoopState.start(0)
    learn(first, envs, 96 * 2, state=state)
    assert state.lengths.all()
    assert state.hidden_state.abs().min() > 0
    second = make()[0]
    second.load_state_dict(first.state_dict())
    state = LoopState.from_state_dict(state.state_dict())
    again = [(report.metrics, report.episodes) for report in learn(second, envs, 96 * 4, state=state)]
    assert again == expected[2:]
    one, other = whole.state_dict(), second.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_hidden_state_of_another_agent_is_refused(vectorized):
    state = LoopState.start(0)
    learn(PPO(1, 1, config=PPOConfig(**SMALL, recurrent=8)), vectorized(2), 64, state=state)
    for options in ({"recurrent": 16}, {"recurrent": 0}):
        with pytest.raises(ValueError, match=r"the loop's hidden state has shape \[2, 16\], expected \[2, "):
            learn(PPO(1, 1, config=PPOConfig(**SMALL, **options)), vectorized(2), 128, state=state)


def test_the_exported_actor_does_what_the_policy_does_over_an_episode(vectorized):
    agent = PPO(1, 1, config=PPOConfig(**SMALL, recurrent=8), seed=3)
    learn(agent, vectorized(4), 512)
    actor, driver = agent.actor(), Driver(agent.actor())
    again = DeterministicActor.from_description(actor.describe())
    again.load_state_dict(actor.state_dict())
    assert actor.describe() | {"kind": "gru", "recurrent": 8} == actor.describe()
    state = None
    for t in range(5):
        obs = np.random.default_rng(t).normal(size=(1, 1)).astype(np.float32)
        before = torch.zeros(1, 8) if state is None else state[:, :8]
        with torch.inference_mode():
            latent, state = agent._latent(obs, state)
            expected = agent.policy.head.bounded(agent.policy.head.mode(latent))
            found, following = actor(torch.from_numpy(obs), before)
            assert torch.equal(again(torch.from_numpy(obs), before)[1], following)
        assert_close(found, expected, atol=1e-6, rtol=0)
        assert_close(following, state[:, :8], atol=1e-6, rtol=0)
        np.testing.assert_allclose(driver.act(obs[0]), expected[0], atol=1e-6)
        np.testing.assert_allclose(driver.stack, [*before[0], *obs[0]], atol=1e-6)
    driver.reset()
    np.testing.assert_allclose(driver.act(obs[0]), agent.act(obs, explore=False)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recurrent": 0}, "sizes must be whole numbers from 1"),
        ({"recurrent": True}, "sizes must be whole numbers from 1"),
        ({"recurrent": 65536}, "at most 4096 units"),
        ({"history": 3}, "sees one vector at a time"),
        ({"kind": "mlp"}, "actor description has keys"),
    ],
)
def test_a_description_of_no_recurrent_actor_is_refused(change, words):
    description = DeterministicActor(2, 1, (8,), recurrent=4).describe()
    with pytest.raises(ValueError, match=words):
        DeterministicActor.from_description(description | change)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"recurrent": -1}, "recurrent must be from 0 to 4096, got -1"),
        ({"recurrent": 5000}, "recurrent must be from 0 to 4096, got 5000"),
        ({"recurrent": 8, "history": 3}, "history must be 1 with a recurrent layer, which remembers by itself, got 3"),
        (
            {"recurrent": 8, "rollout": 40},
            "rollout must be a multiple of sequence_length 16 with a recurrent layer, got",
        ),
        ({"recurrent": 8, "batch_size": 8}, "batch_size must be a multiple of sequence_length 16 up to 65536 with a"),
        ({"recurrent": 8, "sequence_length": 0}, "sequence_length must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        PPOConfig(**SMALL | setting)


def test_images_go_with_no_recurrent_layer():
    config = PPOConfig(recurrent=8, normalize_observations=False)
    with pytest.raises(ValueError, match="images go with no recurrent layer here; set recurrent to 0"):
        PPO(3 * 36 * 36, 1, config=config, image=(3, 36, 36))


@pytest.mark.parametrize("kind", [TD3Config, ReinforceConfig])
def test_others_have_no_such_setting(kind):
    with pytest.raises(TypeError, match="unexpected keyword argument 'recurrent'"):
        kind(recurrent=8)
