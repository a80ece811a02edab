import pytest
import torch
from torch import nn
from torch.testing import assert_close

from simtoreal.policies.products import FastLinear, by_onednn, product, products_by, stacked_product


@pytest.fixture(autouse=True, params=["onednn", "torch"])
def library(request):
    with products_by(request.param):
        yield request.param


CPU = torch.device("cpu")
SHAPES = [(256, 60, 256), (256, 256, 256), (256, 256, 24), (300, 33, 130), (8, 48, 256), (1, 3, 2)]


def test_large_products_are_onednns_where_that_is_asked_for_and_small_ones_torchs(library):
    assert by_onednn(256, 256, 256, CPU) == (library == "onednn" and torch.backends.mkldnn.is_available())
    assert not by_onednn(64, 64, 64, CPU)
    assert not by_onednn(4096, 4096, 1, CPU)
    assert not by_onednn(256, 256, 256, torch.device("cuda"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_product_is_that_of_float64(shape, activation):
    b, n, m = shape
    torch.manual_seed(0)
    x, w, bias = torch.randn(b, n), torch.randn(n, m), torch.randn(m)
    expected = x.double() @ w.double() + bias.double()
    expected = expected.relu() if activation == "relu" else expected
    assert_close(product(x, w, bias, activation).double(), expected, atol=1e-4, rtol=1e-5)
    assert_close(
        product(x.T.contiguous().T, w.T.contiguous().T).double(), x.double() @ w.double(), atol=1e-4, rtol=1e-5
    )
    xs, ws, biases = torch.randn(3, b, n), torch.randn(3, n, m), torch.randn(3, 1, m)
    expected = torch.baddbmm(biases.double(), xs.double(), ws.double())
    expected = expected.relu() if activation == "relu" else expected
    assert_close(stacked_product(xs, ws, biases, activation).double(), expected, atol=1e-4, rtol=1e-5)
    shared = xs[:1].expand(3, b, n)
    assert_close(stacked_product(shared, ws).double(), torch.bmm(shared.double(), ws.double()), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fast_linear_layer_is_a_linear_layer(shape):
    """Output and all three gradients."""
    b, n, m = shape
    torch.manual_seed(0)
    fast, plain = FastLinear(n, m), nn.Linear(n, m).double()
    plain.load_state_dict(fast.state_dict())
    x, g = torch.randn(b, n, requires_grad=True), torch.randn(b, m)
    wide = x.detach().double().requires_grad_()
    y, expected = fast(x), plain(wide)
    assert_close(y.double(), expected, atol=1e-4, rtol=1e-5)
    y.backward(g)
    expected.backward(g.double())
    for ours, theirs in ((x.grad, wide.grad), (fast.weight.grad, plain.weight.grad), (fast.bias.grad, plain.bias.grad)):
        assert_close(ours.double(), theirs, atol=2e-4, rtol=1e-5)


def test_the_same_product_is_the_same_to_the_last_bit():
    x, w = torch.randn(256, 256), torch.randn(256, 256)
    assert torch.equal(product(x, w), product(x.clone(), w.clone()))


def test_outside_of_a_block_products_are_torchs(library):
    with products_by("torch"):
        assert not by_onednn(256, 256, 256, CPU)
    assert by_onednn(256, 256, 256, CPU) == (library == "onednn" and torch.backends.mkldnn.is_available())
