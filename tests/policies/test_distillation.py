"""A teacher that sees a robot's parameters, and a student that tells them from what it has seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simtoreal.policies.checkpoint import build_actor
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.distillation import DistillConfig, Distiller
from simtoreal.policies.replay import Batch
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.td3 import TD3, TD3Config

N, P, M = 4, 3, 2


def teacher_of(seed=0, hidden=(16, 8), n=N, p=P, m=M):
    """An actor of observations [n] with parameters [p] behind them, its normalizer none of the identity."""
    torch.manual_seed(seed)
    actor = DeterministicActor(n + p, m, hidden)
    actor.normalizer.shift.copy_(torch.linspace(-0.5, 0.5, n + p))
    actor.normalizer.scale.copy_(torch.linspace(0.5, 2.0, n + p))
    return actor.eval()


def test_without_a_clue_the_student_acts_as_its_teacher_does_for_the_mean_robot():
    teacher = teacher_of()
    student = Distiller(teacher, N, 10, DistillConfig(history=3), seed=0).actor()
    stacks = torch.randn(5, 3 * N)
    mean = teacher.normalizer.shift[N:].expand(5, P)
    expected = teacher(torch.cat([stacks[:, -N:], mean], dim=-1))
    assert torch.equal(student(stacks), expected)


def test_what_is_predicted_is_what_the_parameters_add_to_the_first_layer():
    teacher = teacher_of()
    distiller = Distiller(teacher, N, 10, DistillConfig(history=2), seed=0)
    stacks, known = torch.randn(6, 2 * N), torch.randn(6, P)
    action, z = distiller._taught(stacks, known)
    normal = (torch.cat([stacks[:, -N:], known], dim=-1) - teacher.normalizer.shift) * teacher.normalizer.scale
    weight = teacher.body[0].weight
    torch.testing.assert_close(z, normal[:, N:] @ weight[:, N:].T)
    torch.testing.assert_close(
        torch.relu(normal[:, :N] @ weight[:, :N].T + z + teacher.body[0].bias), teacher.body[:2](normal)
    )
    told = distiller.student.head(distiller._layers.after(distiller.student.normalizer(stacks), z)).tanh()
    torch.testing.assert_close(told, action)


def test_a_parameter_that_past_observations_tell_is_learned_and_one_that_they_do_not_is_not():
    """Frame: its first number is a random signal, its second the first of the frame before times the parameter."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    teacher = DeterministicActor(3, 1, (8,))
    with torch.no_grad():
        teacher.body[0].weight.zero_()
        teacher.body[0].weight[0, 2], teacher.body[0].weight[1, 2] = 1.0, -1.0  # |e|'s two sides
        teacher.head.weight.zero_()
        teacher.head.weight[0, 0], teacher.head.weight[0, 1] = 1.0, -1.0  # a = tanh(e)
        teacher.head.bias.zero_()
        teacher.body[0].bias.zero_()

    def states(count, told):
        e, signal = rng.uniform(-1, 1, (count, 1)), rng.normal(size=(count, 4))
        echo = (
            np.concatenate([np.zeros((count, 1)), e * signal[:, :-1]], axis=1) if told else rng.normal(size=(count, 4))
        )
        return np.stack([signal, echo], axis=-1).reshape(count, 8).astype(np.float32), e.astype(np.float32)

    errors = {}
    for told in (True, False):
        config = DistillConfig(history=4, encoder=(64, 64), learning_rate=2e-3)
        distiller = Distiller(teacher, 2, 20_000, config, seed=1)
        distiller.add(*states(20_000, told))
        for _ in range(1500):
            distiller.update()
        stacks, e = states(2000, told)
        errors[told] = float(np.abs(distiller.act(stacks) - np.tanh(e)).mean())
    assert errors[True] < 0.08
    assert errors[False] > 0.3  # the mean of |tanh(e)| is .4


def test_only_the_encoder_learns():
    distiller = Distiller(teacher_of(), N, 30, DistillConfig(history=2, batch_size=30), seed=0)
    before = {name: value.clone() for name, value in distiller.student.state_dict().items()}
    rng = np.random.default_rng(0)
    distiller.add(rng.normal(size=(30, 2 * N)), rng.normal(size=(30, P)))
    found = [distiller.update() for _ in range(300)]
    assert found[-1]["latent_error"] < 0.3 * found[0]["latent_error"], "thirty states are learned by heart"
    changed = {name for name, value in distiller.student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("body.encoder.", "body.latent.")) for name in changed)


def test_a_student_is_rebuilt_from_its_description():
    student = Distiller(teacher_of(hidden=(8,)), N, 10, DistillConfig(history=3, encoder=(5,)), seed=0).actor()
    about = student.describe()
    assert (about["kind"], about["encoder"], about["history"]) == ("adapted", [5], 3)
    tensors = {f"actor.{name}": value for name, value in student.state_dict().items()}
    again = build_actor({"actor": about}, tensors)
    stacks = torch.randn(4, 3 * N)
    assert torch.equal(again(stacks), student(stacks))
    with pytest.raises(ValueError, match="actor sizes must be whole numbers"):
        DeterministicActor.from_description(about | {"encoder": ["wide"]})


def test_who_is_no_teacher_is_refused():
    with pytest.raises(ValueError, match="a teacher is an actor of one observation and the parameters behind it"):
        Distiller(DeterministicActor(N, M, (8,)), N, 10, DistillConfig(), seed=0)
    with pytest.raises(ValueError, match="there is room for 10 states, not for 12"):
        Distiller(teacher_of(), N, 10, DistillConfig(history=2), seed=0).add(np.zeros((12, 2 * N)), np.zeros((12, P)))
    for wrong, said in (
        ({"history": 1}, "history"), ({"encoder": ()}, "encoder"), ({"learning_rate": 2.0}, "learning_rate"),
        ({"updates_per_step": 0.0}, "updates_per_step"), ({"latent_weight": -1.0}, "latent_weight"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            DistillConfig(**wrong)


def batch_of(rng, size, privileged=None):
    def rows(*shape):
        return torch.as_tensor(rng.normal(size=shape), dtype=torch.float32)

    obs, next_obs, state, next_state = rows(size, N), rows(size, N), rows(size, P), rows(size, P)
    rest = {"action": rows(size, M).tanh(), "reward": rows(size), "terminated": torch.zeros(size)}
    apart = Batch(obs=obs, next_obs=next_obs, privileged=state, next_privileged=next_state, **rest)
    joined = Batch(obs=torch.cat([obs, state], 1), next_obs=torch.cat([next_obs, next_state], 1), **rest)
    return apart, joined


@pytest.mark.parametrize(("kind", "config"), [(SAC, SACConfig), (TD3, TD3Config)])
@pytest.mark.parametrize("smoothness", [0.0, 0.3])
def test_a_teacher_learns_as_if_the_parameters_were_observed(kind, config, smoothness):
    """Bit for bit: of a privileged observation that is the parameters alone, critics see the same too."""
    settings = {"hidden": (16, 16), "batch_size": 32, "smoothness": smoothness}
    teacher = kind(N, M, P, config(**settings, teacher_inputs=P), seed=3)
    other = kind(N + P, M, 0, config(**settings), seed=3)
    rng = np.random.default_rng(0)
    seen, known = rng.normal(size=(50, N)).astype(np.float32), rng.normal(size=(50, P)).astype(np.float32)
    teacher.observe({"policy": seen, "privileged": known})
    other.observe(np.concatenate([seen, known], axis=1))
    for _ in range(6):
        apart, joined = batch_of(rng, 32)
        assert {k: v.item() for k, v in teacher.update(apart).items()} == {
            k: v.item() for k, v in other.update(joined).items()
        }
    obs = {"policy": seen[:5], "privileged": known[:5]}
    both = np.concatenate([seen[:5], known[:5]], axis=1)
    assert (teacher.act(obs, explore=False) == other.act(both, explore=False)).all()
    assert (teacher.act(obs, explore=True) == other.act(both, explore=True)).all()
    assert torch.equal(teacher.actor()(torch.from_numpy(both)), other.actor()(torch.from_numpy(both)))


def test_a_teacher_needs_so_many_privileged_numbers_and_no_memory():
    with pytest.raises(ValueError, match="the privileged observation has 3 numbers"):
        SAC(N, M, P, SACConfig(teacher_inputs=P + 1))
    with pytest.raises(ValueError, match="teacher_inputs"):
        SACConfig(teacher_inputs=2, history=3)
    with pytest.raises(ValueError, match="teacher_inputs"):
        SACConfig(teacher_inputs=2, recurrent=8)
