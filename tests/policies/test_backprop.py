"""Hidden layers by hand against autograd in float64."""

import copy
import gc
import weakref
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from simtoreal.policies.backprop import HiddenLayers
from simtoreal.policies.networks import ACTIVATIONS, mlp
from simtoreal.policies.products import arithmetic, made_in

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4), (5, 64, 64), (60, 256, 256), (256, 300, 40)])
def test_output_and_all_gradients_are_those_of_autograd(sizes, layer_norm, activation, precision):
    torch.manual_seed(0)
    mine = mlp(sizes, activation, HiddenLayers, layer_norm)
    plain = mlp(sizes, activation, nn.Sequential, layer_norm).double()
    plain.load_state_dict(mine.state_dict())
    x, g = torch.randn(256, sizes[0], requires_grad=True), torch.randn(256, sizes[-1])
    wide = x.detach().double().requires_grad_()
    expected = plain(wide)
    expected.backward(g.double())
    with arithmetic(precision, CPU):
        rounded = any(made_in(256, *pair, CPU) is torch.bfloat16 for pair in pairwise(sizes))
        found = mine(x)
        with torch.no_grad():
            assert torch.equal(mine(x), found)
        found.backward(g)
    pairs = [(found, expected), (x.grad, wide.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(mine.parameters(), plain.parameters(), strict=True)]
    for ours, theirs in pairs:
        assert ours.dtype == torch.float32
        if rounded:  # one ReLU in some hundred is so near 0 that rounding opens or shuts it
            assert (ours.double() - theirs).norm() < 0.1 * theirs.norm()
        else:
            assert_close(ours.double(), theirs, atol=2e-4, rtol=1e-5)


def test_its_weights_are_named_as_those_of_a_plain_sequence():
    assert (
        mlp([3, 4, 5], "tanh", HiddenLayers).state_dict().keys()
        == mlp([3, 4, 5], "relu", nn.Sequential).state_dict().keys()
    )


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(2, 3)],
        [nn.ReLU()],
        [nn.Linear(2, 3), nn.Linear(3, 3), nn.ReLU()],
        [nn.LayerNorm(3), nn.Linear(2, 3), nn.ReLU()],
        [nn.Linear(2, 3), nn.LayerNorm(3), nn.LayerNorm(3), nn.ReLU()],
        [nn.Linear(2, 3), nn.GELU()],
    ],
)
def test_what_are_no_hidden_layers_is_an_error(layers):
    with pytest.raises(ValueError, match="hidden layers"):
        HiddenLayers(*layers)


def test_a_copy_has_its_own_weights_and_follows_what_is_loaded_into_it():
    mine = mlp([3, 4], "relu", HiddenLayers)
    other = copy.deepcopy(mine)
    other.load_state_dict({"0.weight": torch.zeros(4, 3), "0.bias": torch.ones(4)})
    x = torch.randn(5, 3)
    assert torch.equal(other(x), torch.ones(5, 4))
    assert_close(mine(x), torch.relu(x @ mine[0].weight.T + mine[0].bias))


def test_a_pass_leaves_nothing_to_the_garbage_collector():
    body, x = mlp([3, 4, 4], "relu", HiddenLayers), torch.randn(5, 3)
    gc.disable()
    try:
        y = body(x)
        alive = weakref.ref(y)
        torch.autograd.grad(y.sum(), list(body.parameters()))
        del y
        assert alive() is None
    finally:
        gc.enable()
