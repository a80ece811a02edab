import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.testing import assert_close

from simtoreal.policies.actors import (
    SquashedGaussianActor,
    StateDependentTanhActor,
    StochasticTanhActor,
    squash,
)
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.networks import Critic, Critics, mlp


def plain(critic: Critic) -> nn.Sequential:
    """A critic as torch's own layers in float64."""
    sizes = [critic.body[0].in_features, *(len(layer.bias) for layer in critic.body.layers)]
    body = mlp(sizes, "relu", nn.Sequential, layer_norm=critic.body.layers[0].norm is not None)
    body.load_state_dict(critic.body.state_dict())
    head = nn.Linear(sizes[-1], 1)
    head.load_state_dict(critic.head.state_dict())
    return nn.Sequential(*body, head).double()


def with_any_norms(critics: Critics) -> Critics:
    """LayerNorms begin with gains of 1 and shifts of 0, which hide mistakes."""
    for layer in critics.modules():
        if isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return critics


@pytest.mark.parametrize("layer_norm", [False, True])
def test_critics_are_torchs_layers(layer_norm):
    torch.manual_seed(0)
    critics = with_any_norms(Critics(7, (16, 8), n_critics=3, layer_norm=layer_norm))
    x = torch.randn(5, 7, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    ours, theirs = critics(x), torch.stack([plain(critic)(wide)[:, 0] for critic in critics])
    assert_close(ours.double(), theirs)
    expected = torch.autograd.grad(theirs.square().sum(), wide)[0]
    assert_close(torch.autograd.grad(ours.square().sum(), x)[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_critics_start_unlike_each_other():
    one, other = Critics(100, (400,))
    assert not torch.equal(one.body[0].weight, other.body[0].weight)


def test_log_probability_is_that_of_torchs_tanh_distribution():
    torch.manual_seed(0)
    mean, log_std, noise = torch.randn(64, 3), torch.randn(64, 3) * 0.3, torch.randn(64, 3)
    action, log_prob, _ = squash(mean.double(), log_std.double(), noise.double())
    reference = TransformedDistribution(Independent(Normal(mean.double(), log_std.double().exp()), 1), TanhTransform())
    assert_close(log_prob, reference.log_prob(action), atol=1e-6, rtol=1e-6)


def test_log_probability_integrates_to_one():
    log_std = torch.full((200_001, 1), -0.5, dtype=torch.float64)
    mean, noise = torch.full_like(log_std, 0.4), torch.linspace(-8, 8, 200_001, dtype=torch.float64)[:, None]
    action, log_prob, _ = squash(mean, log_std, noise)
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1, abs=1e-6)


def test_a_saturated_action_has_a_finite_log_probability_and_gradient():
    mean = torch.tensor([[30.0], [-30.0]], requires_grad=True)
    _, log_prob, _ = squash(mean, torch.zeros(2, 1), torch.zeros(2, 1))
    # log of the normal density at its mean, less log(1 - tanh(30)^2) = 2 log 2 - 60
    assert_close(log_prob, torch.full((2,), -0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 60))
    log_prob.sum().backward()
    assert_close(mean.grad, torch.tensor([[2.0], [-2.0]]))


def test_the_log_standard_deviation_is_clamped():
    actor = SquashedGaussianActor(2, 1, (4,))
    actor.head.bias.data = torch.tensor([0.0, 1e6])
    drawn = actor.draw(torch.zeros(1, 2), torch.ones(1, 1))
    assert_close(drawn.spread, torch.tensor([[math.exp(2.0)]]))
    none = torch.zeros(1, 1)
    assert actor.gradients(drawn, none, torch.ones(1))[-1][1] == 0.0


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


def reference(actor: StochasticTanhActor, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, action and log-probability by torch's own layers and distributions in float64, differentiable."""
    m, latent = actor.action_size, nn.Sequential(*actor.body)(obs)
    outputs = actor.head(latent)
    if isinstance(actor, StateDependentTanhActor):
        mean, each = outputs, actor.log_std.exp()
        std = (latent.square() @ each.square() + 1e-6).sqrt()
        u = mean + latent @ (each * noise)
    else:
        mean, std = outputs[:, :m], outputs[:, m:].clamp(-20, 2).exp()
        u = mean + std * noise
    action = u.tanh()
    slope = TanhTransform().log_abs_det_jacobian(u, action).sum(-1)
    return mean, action, Independent(Normal(mean, std), 1).log_prob(u) - slope


@pytest.mark.parametrize("with_means", [False, True])
@pytest.mark.parametrize("kind", [SquashedGaussianActor, StateDependentTanhActor])
def test_an_actors_gradients_are_those_of_autograd(kind, with_means):
    torch.manual_seed(0)
    sizes = (5, 3, (16, 8))
    actor = kind(*sizes) if kind is SquashedGaussianActor else kind(*sizes, -1.0)
    actor = actor.double()
    obs, n = torch.randn(12, 5).double(), 7
    noise = actor.noise(12, torch.Generator().manual_seed(1)).double()
    to_action, to_log_prob, to_mean = torch.randn(n, 3), torch.randn(n), torch.randn(12, 3)
    if kind is SquashedGaussianActor:
        with torch.no_grad():
            actor.head.bias[3] = 3.0  # beyond the bound of a standard deviation
    mean, action, log_prob = reference(actor, obs, noise)
    loss = (action[:n] * to_action).sum() + (log_prob[:n] * to_log_prob).sum() + with_means * (mean * to_mean).sum()
    expected = torch.autograd.grad(loss, list(actor.parameters()))
    with torch.no_grad():
        drawn = actor.draw(obs, noise)
        found = actor.gradients(
            drawn, to_action.double(), to_log_prob.double(), to_mean.double() if with_means else None
        )
    assert_close([drawn.mean, drawn.action, drawn.log_prob], [mean, action, log_prob])
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("n_critics", [1, 2, 3])
def test_gradients_by_hand_are_those_of_autograd(layer_norm, n_critics):
    torch.manual_seed(0)
    critics = with_any_norms(Critics(7, (16, 8), n_critics, layer_norm)).double()
    x, dq = torch.randn(20, 7).double().requires_grad_(), torch.randn(n_critics, 20).double()
    separate = [plain(critic) for critic in critics]
    theirs = torch.stack([one(x)[:, 0] for one in separate])
    q, traces = critics.trace(x)
    assert_close(q, theirs)
    expected = torch.autograd.grad(theirs, [p for one in separate for p in one.parameters()], dq, retain_graph=True)
    for ours, other in zip(critics.weight_gradients(traces, dq), expected, strict=True):
        assert_close(ours, other)
    slope = torch.autograd.grad(theirs.amin(dim=0).sum(), x)[0]
    assert_close(critics.min_gradient(q, traces, 3), slope[:, -3:])


def test_the_least_of_equal_critics_has_the_gradient_of_one():
    torch.manual_seed(0)
    critics = Critics(7, (16,), 2)
    critics[1].load_state_dict(critics[0].state_dict())
    x = torch.randn(20, 7, requires_grad=True)
    slope = torch.autograd.grad(critics[0](x).sum(), x)[0]
    assert_close(critics.min_gradient(*critics.trace(x), 7), slope)


class Dropped(nn.Module):
    """A layer that multiplies with what is given."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


@pytest.mark.parametrize("layer_norm", [False, True])
def test_gradients_by_hand_go_through_the_units_that_did_not_drop_out(layer_norm):
    torch.manual_seed(0)
    critics = with_any_norms(Critics(7, (16, 8), 2, layer_norm, dropout=0.3)).double()
    x, dq = torch.randn(20, 7).double().requires_grad_(), torch.randn(2, 20).double()
    q, traces = critics.trace(x, rng=torch.Generator().manual_seed(3))
    separate = []
    for critic, trace in zip(critics, traces, strict=True):
        layers = list(plain(critic))
        for i, step in reversed(list(enumerate(trace.steps))):
            assert 0 < (step.mask == 0).double().mean() < 0.6
            layers.insert(i * (3 if layer_norm else 2) + 1, Dropped(step.mask))
        separate.append(nn.Sequential(*layers))
    theirs = torch.stack([one(x)[:, 0] for one in separate])
    assert_close(q, theirs)
    expected = torch.autograd.grad(theirs, [p for one in separate for p in one.parameters()], dq, retain_graph=True)
    for ours, other in zip(critics.weight_gradients(traces, dq), expected, strict=True):
        assert_close(ours, other)
    slope = torch.autograd.grad(theirs.amin(dim=0).sum(), x)[0]
    assert_close(critics.min_gradient(q, traces, 3), slope[:, -3:])


def test_dropout_is_torchs():
    """Of one unit in ten nothing is left, the others are scaled by 10 / 9; without a stream none drops out."""
    critics = Critics(1, (20_000,), 1, dropout=0.1)
    with torch.no_grad():
        critics[0].body[0].weight.fill_(1.0)
        critics[0].body[0].bias.zero_()
    x = torch.ones(1, 1)
    values = critics.trace(x, rng=torch.Generator().manual_seed(0))[1][0].output.unique(return_counts=True)
    theirs = nn.functional.dropout(torch.ones(20_000), 0.1).unique()
    assert_close(values[0], theirs)
    assert_close(values[1] / 20_000, torch.tensor([0.1, 0.9]), atol=0.01, rtol=0)
    assert torch.equal(critics.trace(x)[1][0].output.unique(), torch.ones(1))
