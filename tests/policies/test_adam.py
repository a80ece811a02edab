"""Adam against torch's own, and its state."""

import pytest
import torch

from simtoreal.policies.adam import Adam

SHAPES = [(3, 4), (4,), (), (2, 1, 5)]


def weights():
    stream = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=stream) for shape in SHAPES]


@pytest.mark.parametrize(("lr", "eps"), [(3e-4, 1e-8), (1e-2, 1e-5)])
def test_the_same_numbers_as_torch(lr, eps):
    mine, theirs = weights(), [w.requires_grad_() for w in weights()]
    a, b = Adam(mine, lr, eps), torch.optim.Adam(theirs, lr=lr, eps=eps, fused=True)
    stream = torch.Generator().manual_seed(1)
    for _ in range(50):
        gradients = [torch.randn(shape, generator=stream) for shape in SHAPES]
        for weight, gradient in zip(theirs, gradients, strict=True):
            weight.grad = gradient.clone()
        a.step(gradients)
        b.step()
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    tensors = a.tensors("o")
    for i, weight in enumerate(theirs):
        for name, value in b.state[weight].items():
            assert torch.equal(tensors[f"o.{i}.{name}"], value)


def test_two_steps_by_hand():
    weight = torch.tensor([1.0])
    optimizer = Adam([weight], 0.1)
    optimizer.step([torch.tensor([2.0])])  # m / (1 - .9) = 2, v / (1 - .999) = 4: a step of 0.1 * 2 / 2
    assert weight.item() == pytest.approx(0.9)
    optimizer.step(
        [torch.tensor([-1.0])]
    )  # (.9 * .2 - .1) / (1 - .81) = .42105; (.999 * .004 + .001) / .001999 = 2.49925
    assert weight.item() == pytest.approx(0.9 - 0.1 * 0.0800 / 0.19 / (0.004996 / 0.001999) ** 0.5, abs=1e-6)


def test_its_state_goes_on_where_it_was():
    mine, other = weights(), weights()
    a, b = Adam(mine, 1e-2), Adam(other, 1e-2)
    gradients = [torch.ones(shape) for shape in SHAPES]
    a.step(gradients)
    for weight, copy in zip(other, mine, strict=True):
        weight.copy_(copy)
    b.load("x.y", a.tensors("x.y") | {"another": torch.zeros(7)})
    a.step(gradients)
    b.step(gradients)
    assert all(torch.equal(x, y) for x, y in zip(mine, other, strict=True))
    b.load("x.y", {})  # as before the first step
    assert all(not tensor.any() for tensor in b.tensors("x.y").values())


def test_a_state_that_does_not_fit_is_refused():
    optimizer = Adam(weights(), 1e-2)
    with pytest.raises(ValueError, match=r"o\.4\.step: no such tensor; the optimizer has 4 parameters"):
        optimizer.load("o", {"o.4.step": torch.zeros(())})
    with pytest.raises(ValueError, match=r"o\.0\.exp_avg: shape \[3, 3\], expected \[3, 4\]"):
        optimizer.load("o", {"o.0.exp_avg": torch.zeros(3, 3)})


def test_gradients_may_lie_in_memory_as_they_like():
    mine, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    gradient = torch.randn(2, 3, 4, 4)
    Adam([mine], 0.1).step([gradient])
    Adam([other], 0.1).step([gradient.contiguous(memory_format=torch.channels_last)])
    assert torch.equal(mine, other)
