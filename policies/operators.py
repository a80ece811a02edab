"""oneDNN's product under a name of our own. Under torch's its compiler wants weights that never change; under ours it
leaves it alone, and calls the same kernel. Only what is being compiled calls it so (`torch.ops.simtoreal`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

C_FUNCTIONS: dict[Any, list[str]] = {}
"""The functions of torch's that machine code calls for operators of ours; none where torch has no oneDNN."""


def _product(
    x: Tensor, w: Tensor, b: Tensor | None, attr: str, scalars: Sequence[float], algorithm: str | None
) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, b, attr, scalars, algorithm)
    return found


if torch.backends.mkldnn.is_available():
    _operator = torch.library.custom_op(
        "simtoreal::_linear_pointwise",  # the part after the colons is how the compiler finds the function below
        _product,
        mutates_args=(),
        schema="(Tensor x, Tensor w, Tensor? b, str attr, Scalar?[] scalars, str? algorithm) -> Tensor",
    )
    _operator.register_fake(lambda x, w, *others: x.new_empty(len(x), len(w)))
    C_FUNCTIONS[torch.ops.simtoreal._linear_pointwise.default] = [
        "AOTITorchError aoti_torch_cpu__linear_pointwise(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*, "
        "const char*, const double**, int64_t, const char**, AtenTensorHandle*)"
    ]
