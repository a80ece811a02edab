import copy
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from simtoreal.policies import products
from simtoreal.policies.adam import Adam
from simtoreal.policies.products import arithmetic, made_in, operand, product

CPU = torch.device("cpu")
SHAPES = [(256, 60, 256), (256, 256, 256), (256, 256, 24), (300, 33, 130), (8, 48, 256), (1, 3, 2)]
ROUNDED = 2**-8  # relative, of a number in bf16


@pytest.fixture(autouse=True, params=["onednn", "torch"])
def library(request, monkeypatch):
    """With oneDNN, and as where torch has none."""
    if request.param == "torch":
        monkeypatch.setattr(products, "_linear", None)
    return request.param


@pytest.fixture(params=["highest", "medium"])
def precision(request):
    with arithmetic(request.param, CPU):
        yield request.param


def test_large_products_are_onednns_and_small_ones_torchs(library):
    assert made_in(256, 256, 256, CPU) == (torch.float32 if library == "onednn" else None)
    for shape in ((64, 64, 64), (4096, 4096, 1)):
        assert made_in(*shape, CPU) is None
    assert made_in(256, 256, 256, torch.device("cuda")) is None


@pytest.mark.parametrize("instructions", [False, True])
def test_bf16_is_for_medium_precision_and_processors_that_have_it(library, instructions, monkeypatch):
    monkeypatch.setattr(products, "_bf16", instructions)
    found = []
    for precision in products.PRECISIONS:
        with arithmetic(precision, CPU):
            found.append(made_in(256, 256, 256, CPU))
            assert made_in(64, 64, 64, CPU) is None
    plain = torch.float32 if library == "onednn" else None
    assert found == [plain, plain, torch.bfloat16 if instructions and library == "onednn" else plain]


def test_precision_ends_with_its_block_and_is_torchs_on_a_gpu():
    for device, inside in ((CPU, "highest"), (torch.device("cuda"), "medium")):
        with suppress(RuntimeError), arithmetic("medium", device):
            assert torch.get_float32_matmul_precision() == inside
            raise RuntimeError("enough")
        assert torch.get_float32_matmul_precision() == "highest"
    assert made_in(256, 256, 256, CPU) is not torch.bfloat16


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_product_is_that_of_float64(shape, activation, precision):
    """In bf16 as exact as its operands and its result, which are rounded: of sums of n products of numbers about 1."""
    b, n, m = shape
    torch.manual_seed(0)
    dtype = made_in(b, n, m, CPU)
    bound = 4 * ROUNDED * n**0.5 if dtype is torch.bfloat16 else 1e-4
    close = {"atol": bound, "rtol": ROUNDED if dtype is torch.bfloat16 else 1e-5}

    def check(found, expected, activation="none"):
        assert found.dtype == (dtype or torch.float32)
        assert_close(found.double(), expected.relu() if activation == "relu" else expected, **close)

    x, w, bias = torch.randn(b, n), torch.randn(n, m), torch.randn(m)
    check(product(x, w, bias, activation), x.double() @ w.double() + bias.double(), activation)
    check(product(x.T.contiguous().T, w.T.contiguous().T), x.double() @ w.double())


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_in_bf16_is_taken_by_any_product(shape, precision):
    b, n, m = shape
    x, w = torch.randn(b, n).bfloat16(), torch.randn(n, m)
    close = {"atol": 4 * ROUNDED * n**0.5, "rtol": ROUNDED}
    assert_close(product(x, w).double(), x.double() @ w.double(), **close)


def test_the_same_product_is_the_same_to_the_last_bit(precision):
    x, w = torch.randn(256, 256), torch.randn(256, 256)
    assert torch.equal(product(x, w), product(x.clone(), w.clone()))


def test_a_weight_in_bf16_is_kept_until_it_changes(precision, monkeypatch):
    monkeypatch.setattr(products, "_bf16", True)
    weight = nn.Parameter(torch.randn(256, 256))
    first = operand(weight, 256)
    if made_in(256, 256, 256, CPU) is not torch.bfloat16:
        assert first is weight
        return
    assert torch.equal(first, weight.bfloat16())
    assert operand(weight, 256) is first
    assert operand(weight, 8) is weight  # a small product's is exact
    for change in (
        lambda: torch._foreach_lerp_([weight], [torch.zeros_like(weight)], 0.5),
        lambda: Adam([weight], 0.1).step([torch.ones_like(weight)]),
        lambda: weight.copy_(torch.randn(256, 256)),
        lambda: nn.ParameterList([weight]).load_state_dict({"0": torch.randn(256, 256)}),
    ):
        with torch.no_grad():
            change()
        assert torch.equal(operand(weight, 256), weight.bfloat16())
    assert operand(copy.deepcopy(weight), 256) is not operand(weight, 256)
