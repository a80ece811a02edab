"""Matrix products of float32 on the CPU, each by the fastest way there is for its size.

In float32 large ones are oneDNN's, with the same precision as torch's: where the BLAS that torch itself calls takes a
slow path it is twice as fast (256x256x256 on one AMD core: 150 against 300 us). At precision "medium" large ones are
made in bf16 (80 us), if the processor has instructions for it; what they give is bf16 too, for the next product to take
as it is. Small products stay with torch, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PRECISIONS = ("highest", "high", "medium")  # as torch.set_float32_matmul_precision has them
FEWEST, NARROWEST = 3 * 2**19, 32  # multiplications and widths from which a product is large
FEWEST_BF16 = 3 * 2**20  # from which it pays to round what is multiplied
_linear = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None
_bf16 = _linear is not None and torch.cpu._is_avx512_bf16_supported()
_precision = "highest"


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Within the block: of which of `PRECISIONS` float32 products are. On a GPU "high" and "medium" are tf32."""
    global _precision
    before, torchs = _precision, torch.get_float32_matmul_precision()
    _precision = precision
    torch.set_float32_matmul_precision("highest" if device.type == "cpu" else precision)
    try:
        yield
    finally:
        _precision = before
        torch.set_float32_matmul_precision(torchs)


def made_in(rows: int, fan_in: int, fan_out: int, device: torch.device) -> torch.dtype | None:
    """How the product [rows, fan_in] [fan_in, fan_out] is made: in bf16, in float32 by oneDNN, or (None) by torch."""
    if rows * fan_in * fan_out < FEWEST or min(rows, fan_in, fan_out) < NARROWEST:
        return None
    if _linear is None or device.type != "cpu":
        return None
    rounded = _bf16 and _precision == "medium" and rows * fan_in * fan_out >= FEWEST_BF16
    return torch.bfloat16 if rounded else torch.float32


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """a [B, n] b [n, m] + `bias` [m], then `activation` ("none" or "relu"), in float32 or bf16, whichever way it was
    made. For where autograd is off."""
    (rows, fan_in), fan_out = a.shape, b.shape[1]
    if rows * fan_in * fan_out < FEWEST and a.dtype is b.dtype is torch.float32:  # what follows takes its time, too
        found = torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)
        return found.relu_() if activation == "relu" else found
    dtype = made_in(rows, fan_in, fan_out, a.device)
    if dtype is torch.float32:
        by: Any = torch.ops.simtoreal._linear_pointwise if torch.compiler.is_exporting() else _linear
        given: Tensor = by(widened(a), widened(b).t(), bias, activation, [], "")
        return given
    if dtype is not None or a.dtype is not torch.float32 or b.dtype is not torch.float32:
        a, b, bias = _alike(dtype, a, b, bias)
    if activation == "relu" and bias is not None and a.is_cuda:
        return torch._addmm_activation(bias, a, b)  # one kernel
    found = torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)
    return found.relu_() if activation == "relu" else found


def operand(weight: Tensor, rows: int) -> Tensor:
    """A weight [n, m] as a product with so many rows takes it. What is bf16 is kept until the weight changes, so
    that it need not be made again for the way back and for the next update."""
    if _precision == "highest" or made_in(rows, weight.shape[0], weight.shape[1], weight.device) is not torch.bfloat16:
        return weight
    if torch.compiler.is_exporting():
        return weight.detach().bfloat16()
    kept: tuple[int, Tensor] | None = getattr(weight, "_in_bf16", None)
    if kept is None or kept[0] != weight._version:
        kept = weight._version, weight.detach().bfloat16()
        weight._in_bf16 = kept  # type: ignore[attr-defined]
    return kept[1]


def widened(x: Tensor) -> Tensor:
    """`x`, in float32 if it is in bf16."""
    return x.float() if x.dtype is torch.bfloat16 else x


def _alike(
    dtype: torch.dtype | None, a: Tensor, b: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All of one `dtype`; None: of the widest among them, float32 at least."""
    if dtype is None:
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype), None if bias is None else bias.to(dtype)
