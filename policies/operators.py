"""oneDNN's product under a name of our own. Under torch's its compiler wants weights that never change; under ours it
leaves it alone, and calls the same kernel. Only what is being compiled calls it so (`torch.ops.simtoreal`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_product = torch.library.custom_op(
    "simtoreal::_linear_pointwise",  # the part after the colons is how the compiler finds the function below
    torch.ops.mkldnn._linear_pointwise.default,
    mutates_args=(),
    schema="(Tensor x, Tensor w, Tensor? b, str attr, Scalar?[] scalars, str? algorithm) -> Tensor",
)


@_product.register_fake
def _(x: Tensor, w: Tensor, b: Tensor | None, attr: str, scalars: Sequence[float], algorithm: str | None) -> Tensor:
    return x.new_empty(len(x), len(w))


C_FUNCTIONS = {
    torch.ops.simtoreal._linear_pointwise.default: [
        "AOTITorchError aoti_torch_cpu__linear_pointwise(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*, "
        "const char*, const double**, int64_t, const char**, AtenTensorHandle*)"
    ]
}
"""The functions of torch's that machine code calls for them."""
