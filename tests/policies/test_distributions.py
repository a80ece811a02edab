import json
import math

import pytest
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch.testing import assert_close

from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.distributions import Categorical, Gaussian, SquashedGaussian, StateDependentGaussian
from simtoreal.policies.levels import grid

B, H, M = 6, 5, 3


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def latent():
    return torch.randn(B, H, generator=torch.Generator().manual_seed(1))


def test_a_gaussian_is_torch_s(latent, rng):
    head = Gaussian(H, M, -0.3)
    torch.nn.init.normal_(head.log_std)
    u, log_prob = head.sample(latent, rng)
    theirs = torch.distributions.Normal(head(latent), head.log_std.exp())
    assert_close(log_prob, theirs.log_prob(u).sum(-1))
    found, entropy, _ = head.evaluate(latent, u)
    assert_close(found, log_prob)
    assert_close(entropy, theirs.entropy().sum(-1).mean())
    assert_close(head.bounded(torch.tensor([[-3.0, 0.5, 2.0]])), torch.tensor([[-1.0, 0.5, 1.0]]))


def test_a_squashed_gaussian_is_torch_s_but_for_the_map_that_no_weight_moves(latent, rng):
    head = SquashedGaussian(H, M, -0.3)
    u, log_prob = head.sample(latent, rng)
    normal = torch.distributions.Normal(head(latent), head.log_std.exp())
    theirs = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    density = theirs.log_prob(head.bounded(u)).sum(-1)
    assert_close(-head.evaluate(latent, u)[1], density.mean(), atol=1e-4, rtol=1e-4)
    assert_close(log_prob, normal.log_prob(u).sum(-1))


def test_choices_are_torch_s_categorical(latent, rng):
    head = Categorical(H, 4)
    theirs = torch.distributions.Categorical(logits=head(latent))
    u, log_prob = head.sample(latent, rng)
    assert_close(log_prob, theirs.log_prob(u[:, 0].long()))
    found, entropy, _ = head.evaluate(latent, u)
    assert_close(found, log_prob)
    assert_close(entropy, theirs.entropy().mean())
    assert head.mode(latent)[:, 0].tolist() == theirs.probs.argmax(-1).tolist()


def test_choices_are_drawn_as_often_as_they_are_likely(rng):
    head = Categorical(1, 3)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.tensor([0.2, 0.5, 0.3]).log())
    drawn = head.sample(torch.zeros(50_000, 1), rng)[0][:, 0].long()
    assert_close(torch.bincount(drawn) / 50_000, torch.tensor([0.2, 0.5, 0.3]), atol=0.01, rtol=0)


def test_choices_become_evenly_spaced_actions():
    head = Categorical(1, 5)
    assert head.bounded(torch.arange(5.0)[:, None])[:, 0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    actor = DeterministicActor(2, 1, [3], "tanh", "choice", choices=5)
    with torch.no_grad():
        actor.head.weight.zero_()
        actor.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 2.0, 1.0]))
    assert actor(torch.zeros(2, 2)).tolist() == [[0.5], [0.5]]


def test_state_dependent_exploration_is_sb3_s(latent, rng):
    """Density, entropy and the exploration itself, from the same matrices."""
    head = StateDependentGaussian(H, M, -1.0)
    torch.nn.init.normal_(head.log_std, std=0.3)
    theirs = StateDependentNoiseDistribution(M)
    theirs.latent_sde_dim = H
    theirs.sample_weights(head.log_std, batch_size=B)
    head._matrices = theirs.exploration_matrices
    theirs.proba_distribution(head(latent), head.log_std, latent)
    u, log_prob = head.sample(latent, rng)
    assert_close(u, theirs.sample())
    assert_close(log_prob, theirs.log_prob(u))
    found, entropy, _ = head.evaluate(latent, u)
    assert_close(found, log_prob)
    assert_close(entropy, theirs.entropy().mean())


def test_state_dependent_exploration_stays_until_it_begins_anew(latent, rng):
    head = StateDependentGaussian(H, M, 0.0)
    head.begin(B, rng)
    first, again = (head.sample(latent, rng)[0] for _ in range(2))
    head.begin(B, rng)
    assert torch.equal(first, again)
    assert not torch.equal(first, head.sample(latent, rng)[0])


def test_no_gradient_reaches_the_hidden_layer_through_state_dependent_deviations(latent):
    head = StateDependentGaussian(H, M, 0.0)
    with torch.no_grad():
        head.linear.weight.zero_()
    seen = latent.clone().requires_grad_()
    head.evaluate(seen, torch.ones(B, M))[0].sum().backward()
    assert seen.grad is None or not seen.grad.any()
    assert bool(head.log_std.grad.abs().sum() > 0)


@pytest.mark.parametrize(("output", "choices", "size"), [("choice", 0, 1), ("clip", 3, 1), ("choice", 3, 2)])
def test_choices_that_do_not_go_with_their_output_are_refused(output, choices, size):
    with pytest.raises(ValueError, match="choices do not go with"):
        DeterministicActor(2, size, [3], "tanh", output, choices=choices)


def test_an_actor_of_choices_is_rebuilt_from_its_description():
    actor = DeterministicActor(2, 1, [3], "tanh", "choice", choices=4)
    again = DeterministicActor.from_description(actor.describe())
    again.load_state_dict(actor.state_dict())
    obs = torch.randn(9, 2)
    assert torch.equal(again(obs), actor(obs))
    assert math.isclose(float(actor(obs).abs().max()), 1.0) or float(actor(obs).abs().max()) == pytest.approx(1 / 3)


SIX = [[-1.0, -1.0], [-1.0, 1.0], [0.0, -1.0], [0.0, 1.0], [1.0, -1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("levels", "rows"),
    [
        ([3, 2], SIX),
        ([5], [[-1.0], [-0.5], [0.0], [0.5], [1.0]]),
        ([1, 2], [[0.0, -1.0], [0.0, 1.0]]),
    ],
)
def test_levels_are_every_combination_the_last_number_fastest(levels, rows):
    assert grid(levels).tolist() == rows


def test_an_actor_of_levels_gives_the_row_of_its_likeliest_choice():
    actor = DeterministicActor(6, 2, [6], "relu", "choice", choices=6, levels=[3, 2])
    with torch.no_grad():
        for layer in (actor.body[0], actor.head):
            layer.weight.copy_(torch.eye(6))
            layer.bias.zero_()
    assert actor(torch.eye(6)).tolist() == SIX
    told = json.loads(json.dumps(actor.describe()))
    again = DeterministicActor.from_description(told)
    again.load_state_dict(actor.state_dict())
    assert again(torch.eye(6)).tolist() == SIX
    del told["levels"]
    with pytest.raises(ValueError, match="6 choices do not go with the output 'choice' of size 2"):
        DeterministicActor.from_description(told)


@pytest.mark.parametrize(
    ("output", "choices", "size", "levels", "words"),
    [
        ("choice", 6, 2, [3, 3], r"levels \[3, 3\] are 9 combinations, got 6 choices"),
        ("choice", 6, 1, [3, 2], "6 choices do not go with the output 'choice' of size 1"),
        ("tanh", 0, 2, [3, 2], r"levels \[3, 2\] are 6 combinations, got 0 choices"),
    ],
)
def test_levels_that_do_not_go_with_the_choices_are_refused(output, choices, size, levels, words):
    with pytest.raises(ValueError, match=words):
        DeterministicActor(2, size, [3], "tanh", output, choices=choices, levels=levels)


@pytest.mark.parametrize("levels", [[3, 0], [6.0], "six", [True, 6]])
def test_a_description_of_other_levels_is_refused(levels):
    told = DeterministicActor(2, 2, [3], "tanh", "choice", choices=6, levels=[3, 2]).describe()
    with pytest.raises(ValueError, match="actor sizes must be whole numbers"):
        DeterministicActor.from_description(told | {"levels": levels})
