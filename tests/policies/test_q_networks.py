import numpy as np
import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies.q_networks import Atoms, NoisyLinear, QHead, QNetwork, expected, projected


@pytest.mark.parametrize(
    ("reward", "discount", "wanted"),
    [
        (0.0, 1.0, [0.2, 0.3, 0.5]),  # what was there stays
        (0.5, 1.0, [0.1, 0.25, 0.65]),  # -1, 0, 1 go to -.5, .5, and 1.5, which is the last atom
        (0.25, 0.0, [0.0, 0.75, 0.25]),  # after an end only the reward is left
        (-0.5, 0.5, [0.35, 0.65, 0.0]),  # .2 goes to -1, .3 to -.5, which is half each, .5 to 0
        (7.0, 1.0, [0.0, 0.0, 1.0]),
        (-7.0, 1.0, [1.0, 0.0, 0.0]),
    ],
)
def test_a_distribution_is_projected_on_the_atoms_as_c51_has_it(reward, discount, wanted):
    """Atoms -1, 0, 1 with .2, .3 and .5, worked out by hand."""
    p = torch.tensor([[0.2, 0.3, 0.5]])
    found = projected(p, torch.tensor([reward]), torch.tensor([discount]), Atoms(3, -1.0, 1.0))
    assert_close(found, torch.tensor([wanted]))


def test_projection_keeps_the_mean_of_what_the_atoms_reach():
    torch.manual_seed(0)
    atoms = Atoms(51, -10.0, 10.0)
    p = torch.randn(200, 51).softmax(-1)
    reward, discount = torch.rand(200) - 0.5, torch.rand(200) * 0.9
    found = projected(p, reward, discount, atoms)
    assert_close(found.sum(1), torch.ones(200))
    assert_close(found @ atoms.values(), reward + discount * (p @ atoms.values()), atol=1e-5, rtol=1e-5)


def test_no_share_of_a_distribution_is_below_nothing():
    """Rounding may put the highest return a little beyond the last atom; the logarithm of such a share is no number."""
    for high in np.linspace(0.1, 400, 400):
        atoms = Atoms(51, -400.0, float(high))
        p = torch.full((2, 51), 1 / 51)
        assert projected(p, torch.tensor([1e6, -1e6]), torch.ones(2), atoms).min() >= 0


def test_the_expected_return_of_logits():
    logits = torch.log(torch.tensor([[[0.2, 0.3, 0.5], [1.0, 1e-30, 1e-30]]]))
    assert_close(expected(logits, Atoms(3, -1.0, 1.0).values()), torch.tensor([[0.3, -1.0]]))


def test_dueling_streams_are_told_apart():
    """What all advantages have in common is the value's: V is the mean of Q, Q - V sums to 0 (the paper's eq. 9)."""
    torch.manual_seed(0)
    head = QHead(4, 8, 3, dueling=True)
    x = torch.randn(6, 4)
    q = head(x)[..., 0]
    advantage, value = head.streams
    assert_close(q.mean(1), value(x)[:, 0])
    assert_close(q - value(x), advantage(x) - advantage(x).mean(1, keepdim=True))
    with torch.no_grad():
        advantage.output.bias += 5.0
    assert_close(head(x)[..., 0], q)


def test_noise_is_factorised_and_the_papers_function_of_a_normal_number():
    head = QHead(3, 2, 2, deviation=0.5)
    rng = torch.Generator().manual_seed(1)
    noise = head.draw(rng)
    e = torch.randn(head.noise_size, generator=torch.Generator().manual_seed(1))
    assert head.noise_size == (3 + 2) + (2 + 2)
    assert_close(noise.square() * noise.sign(), e)

    layer = NoisyLinear(2, 3, 0.5)
    assert_close(layer.weight_deviation, torch.full((3, 2), 0.5 / 2**0.5))
    drawn = layer.drawn(torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0]))
    sigma = 0.5 / 2**0.5
    wanted = torch.tensor([[0.5, -1.0], [3.0, -6.0], [0.0, 0.0]]) * sigma  # f(e_out) times f(e_in)
    assert_close(drawn.weight - layer.weight, wanted, atol=1e-6, rtol=1e-5)
    assert_close(drawn.bias - layer.bias, torch.tensor([0.5, 3.0, 0.0]) * sigma, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("hidden", [(8,), (16, 8), (16, 12, 8)])
@pytest.mark.parametrize("image", [None, (3, 36, 40), (40, 36, 2), (10, 10, 4)])
def test_the_gradient_of_a_whole_network_is_autograds(hidden, image):
    torch.manual_seed(0)
    size = 5
    network = QNetwork(size, hidden, 3, 4, dueling=True, image=image)
    x = torch.randn(6, size) if image is None else torch.randint(0, 256, (6, *image), dtype=torch.uint8)
    outputs, trace = network.trace(x, None)
    g = torch.randn_like(outputs)
    latent = network.body(x) if image is None else network.body.hidden(network.body.convolutions(x))
    whole = network.head(latent)
    assert_close(outputs, whole, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad((whole * g).sum(), list(network.parameters()))
    for mine, theirs in zip(network.weight_gradients(trace, g), wanted, strict=True):
        assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
