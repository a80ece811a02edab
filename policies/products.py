"""Matrix products of float32 by oneDNN on the CPU, where torch itself calls a BLAS.

On processors for which that BLAS takes a slow path oneDNN is twice as fast (256x256x256 on one AMD core: 150 against
345 us), with the same precision; it is what torch's own compiler calls for a linear layer. Small products stay with
torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIBRARIES = ("torch", "onednn")
FEWEST, NARROWEST = 2**20, 32  # multiplications and widths from which oneDNN is faster
_linear = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None


_by = "torch"


@contextmanager
def products_by(library: str) -> Iterator[None]:
    """Which of `LIBRARIES` large float32 products on the CPU are made by within the block; outside it is torch."""
    global _by
    before, _by = _by, library
    try:
        yield
    finally:
        _by = before


def by_onednn(rows: int, fan_in: int, fan_out: int, device: torch.device) -> bool:
    """Is the product [rows, fan_in] [fan_in, fan_out] one for oneDNN?"""
    narrow = min(rows, fan_in, fan_out) < NARROWEST
    large = not narrow and rows * fan_in * fan_out >= FEWEST
    return _by == "onednn" and _linear is not None and device.type == "cpu" and large


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """a [B, n] b [n, m] + `bias` [m], then `activation` ("none" or "relu"); no gradient is recorded."""
    if _linear is not None and by_onednn(a.shape[0], a.shape[1], b.shape[1], a.device):
        found: Tensor = _linear(a, b.t(), bias, activation, [], "")
        return found
    found = a @ b if bias is None else torch.addmm(bias, a, b)
    return found.relu_() if activation == "relu" else found


def stacked_product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """`product` for each of C: [C, B, n] [C, n, m], bias [C, 1, m]. Without oneDNN one batched product."""
    if by_onednn(a.shape[1], a.shape[2], b.shape[2], a.device):
        biases: Any = [None] * len(b) if bias is None else bias[:, 0]
        return torch.stack([product(a[c], b[c], biases[c], activation) for c in range(len(b))])
    found = torch.bmm(a, b) if bias is None else torch.baddbmm(bias, a, b)
    return found.relu_() if activation == "relu" else found


class _Affine(torch.autograd.Function):
    """x W^T + b with all three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x = product(g, weight) if ctx.needs_input_grad[0] else None
        to_weight = product(g.t(), x) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, g.sum(0) if ctx.needs_input_grad[2] else None


class FastLinear(nn.Linear):
    """nn.Linear whose products are oneDNN's where these are faster."""

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.ndim == 2
            and x.dtype == torch.float32
            and by_onednn(len(x), self.in_features, self.out_features, x.device)
        ):
            found: Tensor = _Affine.apply(x, self.weight, self.bias)
            return found
        return F.linear(x, self.weight, self.bias)
