import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.testing import assert_close

from simtoreal.policies.actors import DeterministicActor, SquashedGaussianActor, squash
from simtoreal.policies.networks import StackedCritics


def separate(critics: StackedCritics, which: int) -> nn.Sequential:
    """One of the stacked critics as torch's own layers."""
    layers: list[nn.Module] = []
    for i, (weight, bias) in enumerate(zip(critics.weights, critics.biases, strict=True)):
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight[which].T.clone(), bias[which, 0].clone()
        layers.append(linear)
        if len(critics.gains):
            norm = nn.LayerNorm(weight.shape[2])
            norm.weight.data, norm.bias.data = critics.gains[i][which, 0].clone(), critics.shifts[i][which, 0].clone()
            layers.append(norm)
        layers.append(nn.ReLU())
    head = nn.Linear(critics.head_weight.shape[-1], 1)
    head.weight.data, head.bias.data = critics.head_weight[which].clone(), critics.head_bias[which].clone()
    return nn.Sequential(*layers, head)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_stacked_critics_are_the_same_as_separate_networks(layer_norm):
    torch.manual_seed(0)
    critics = StackedCritics(7, (16, 8), n_critics=3, layer_norm=layer_norm)
    for parameter in [*critics.gains, *critics.shifts]:
        nn.init.normal_(parameter)
    x = torch.randn(5, 7, requires_grad=True)
    stacked = critics(x)
    single = torch.stack([separate(critics, i)(x)[:, 0] for i in range(3)])
    assert_close(stacked, single)
    assert_close(*(torch.autograd.grad(q.square().sum(), x)[0] for q in (stacked, single)))


def test_critics_start_as_linear_layers_do_and_unlike_each_other():
    torch.manual_seed(0)
    critics = StackedCritics(100, (400,))
    ours, torchs = critics.weights[0], nn.Linear(100, 400).weight
    assert ours.abs().max() <= 0.1  # 1 / sqrt(100)
    assert ours.std().item() == pytest.approx(torchs.std().item(), rel=0.02)
    assert not torch.equal(ours[0], ours[1])


def test_log_probability_is_that_of_torchs_tanh_distribution():
    torch.manual_seed(0)
    mean, log_std, noise = torch.randn(64, 3), torch.randn(64, 3) * 0.3, torch.randn(64, 3)
    action, log_prob = squash(mean.double(), log_std.double(), noise.double())
    reference = TransformedDistribution(Independent(Normal(mean.double(), log_std.double().exp()), 1), TanhTransform())
    assert_close(log_prob, reference.log_prob(action), atol=1e-6, rtol=1e-6)


def test_log_probability_integrates_to_one():
    log_std = torch.full((200_001, 1), -0.5, dtype=torch.float64)
    mean, noise = torch.full_like(log_std, 0.4), torch.linspace(-8, 8, 200_001, dtype=torch.float64)[:, None]
    action, log_prob = squash(mean, log_std, noise)
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1, abs=1e-6)


def test_a_saturated_action_has_a_finite_log_probability_and_gradient():
    mean = torch.tensor([[30.0], [-30.0]], requires_grad=True)
    _, log_prob = squash(mean, torch.zeros(2, 1), torch.zeros(2, 1))
    # log of the normal density at its mean, less log(1 - tanh(30)^2) = 2 log 2 - 60
    assert_close(log_prob, torch.full((2,), -0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 60))
    log_prob.sum().backward()
    assert_close(mean.grad, torch.tensor([[2.0], [-2.0]]))


def test_the_log_standard_deviation_is_clamped():
    actor = SquashedGaussianActor(2, 1, (4,))
    actor.head.bias.data = torch.tensor([0.0, 1e6])
    assert actor(torch.zeros(1, 2))[1].item() == 2.0


@pytest.mark.parametrize(("activation", "output"), [("relu", "tanh"), ("tanh", "clip"), ("elu", "tanh")])
def test_an_actor_is_rebuilt_from_its_description(activation, output):
    actor = DeterministicActor(4, 2, (8, 6), activation, output)
    actor.head.weight.data *= 100
    again = DeterministicActor.from_description(actor.describe())
    again.load_state_dict(actor.state_dict())
    x = torch.randn(10, 4)
    assert torch.equal(actor(x), again(x))
    assert actor(x).abs().max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "lstm"},
        {"hidden": [10**9]},
        {"hidden": "ab"},
        {"action_size": True},
        {"activation": "gelu"},
        {"activation": ["relu"]},
        {"kind": ["mlp"]},
        {"more": 1},
    ],
)
def test_a_foreign_description_is_refused(change):
    with pytest.raises(ValueError, match=r"actor|activation"):
        DeterministicActor.from_description(DeterministicActor(4, 2, (8,)).describe() | change)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("n_critics", [1, 2, 3])
def test_gradients_by_hand_are_those_of_autograd(layer_norm, n_critics):
    torch.manual_seed(0)
    critics = StackedCritics(7, (16, 8), n_critics, layer_norm).double()
    for parameter in [*critics.gains, *critics.shifts]:
        nn.init.normal_(parameter)
    x, dq = torch.randn(20, 7).double().requires_grad_(), torch.randn(n_critics, 20).double()
    with torch.no_grad():
        q, layers = critics.trace(x)
    assert_close(q, critics(x))
    expected = torch.autograd.grad(critics(x), list(critics.parameters()), dq)
    for ours, theirs in zip(critics.weight_gradients(layers, dq), expected, strict=True):
        assert_close(ours, theirs)
    slope = torch.autograd.grad(critics(x).min(dim=0).values.sum(), x)[0]
    assert_close(critics.min_gradient(q, layers, 3), slope[:, -3:])


@pytest.mark.parametrize("layer_norm", [False, True])
def test_gradients_by_hand_go_through_the_units_that_did_not_drop_out(layer_norm):
    torch.manual_seed(0)
    critics = StackedCritics(7, (16, 8), 2, layer_norm, dropout=0.3).double()
    x, dq = torch.randn(20, 7).double().requires_grad_(), torch.randn(2, 20).double()

    def dropped():
        return critics.trace(x, rng=torch.Generator().manual_seed(3))

    with torch.no_grad():
        q, layers = dropped()
    expected = torch.autograd.grad(dropped()[0], list(critics.parameters()), dq)
    for ours, theirs in zip(critics.weight_gradients(layers, dq), expected, strict=True):
        assert_close(ours, theirs)
    slope = torch.autograd.grad(dropped()[0].min(dim=0).values.sum(), x)[0]
    assert_close(critics.min_gradient(q, layers, 3), slope[:, -3:])


def test_dropout_is_torchs():
    """Of one unit in ten nothing is left, the others are scaled by 10 / 9; without a stream none drops out."""
    critics = StackedCritics(1, (20_000,), 1, dropout=0.1)
    with torch.no_grad():
        critics.weights[0].fill_(1.0)
        critics.biases[0].zero_()
    x = torch.ones(1, 1)
    values = critics.trace(x, rng=torch.Generator().manual_seed(0))[1][0].y.unique(return_counts=True)
    theirs = nn.functional.dropout(torch.ones(20_000), 0.1).unique()
    assert_close(values[0], theirs)
    assert_close(values[1] / 20_000, torch.tensor([0.1, 0.9]), atol=0.01, rtol=0)
    assert torch.equal(critics.trace(x)[1][0].y.unique(), torch.ones(1))
