"""Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1) on gradients that are given, all weights in one kernel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

BETAS = (0.9, 0.999)


class Adam:
    """The same numbers as `torch.optim.Adam(parameters, lr, eps=eps, fused=True)`, a fifth of a millisecond sooner:
    torch's own spends more time on finding its lists again in each step than on the arithmetic.

    Steps and moments are there from the start, so `state_dict` has all tensors at any time.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, eps: float = 1e-8) -> None:
        self.parameters, self._lr, self._eps = list(parameters), lr, eps
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._step = torch.zeros((), device=self.parameters[0].device)  # the same for all

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], skip: Tensor | None = None, shrink: Tensor | None = None) -> None:
        """One step along `gradients`, in the order of the parameters, whose shapes they have; none where the number
        `skip` is 1; along them divided by the number `shrink`. The kernel goes through memory: it would pair what lies
        in another order there with the wrong weights; and it may write over the gradients."""
        self._step += 1.0 if skip is None else 1.0 - skip
        if torch.compiler.is_exporting():
            self._written_out(gradients, skip, shrink)
            return
        torch._fused_adam_(
            self.parameters, [g.contiguous() for g in gradients], self._means, self._squares, [],
            [self._step] * len(self.parameters),
            lr=self._lr, beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=self._eps, amsgrad=False, maximize=False,
            grad_scale=shrink, found_inf=skip,
        )  # fmt: skip
        increment_version(self.parameters)  # which the kernel does not do, and who keeps what is made of weights needs

    def _written_out(self, gradients: Sequence[Tensor], skip: Tensor | None, shrink: Tensor | None) -> None:
        """The kernel's arithmetic for torch's compiler, which makes one loop of it; the kernel it could only call."""
        good = None if skip is None else skip == 0
        # 1 - beta^step: each loop that is made of this works it out again, and powers take their time
        corrections = [-torch.expm1(self._step * math.log(beta)) for beta in BETAS]
        for weight, g, mean, square in zip(self.parameters, gradients, self._means, self._squares, strict=True):
            g = g if shrink is None else g / shrink
            new_mean = mean + (g - mean) * (1 - BETAS[0])
            new_square = square * BETAS[1] + g * g * (1 - BETAS[1])
            scale = (new_square / corrections[1]).sqrt() + self._eps
            new_weight = weight - self._lr / corrections[0] * new_mean / scale
            for old, new in ((mean, new_mean), (square, new_square), (weight, new_weight)):
                old.copy_(new if good is None else torch.where(good, new, old))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Moments and step counts, as `prefix.<parameter index>.<torch's name of it>`, cloned."""
        return {name: tensor.clone() for name, tensor in self._named(prefix).items()}

    def load(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """The inverse; of a parameter with no tensors among them no step was made. Raises ValueError on an unknown name
        that begins so, or another shape."""
        named = self._named(prefix)
        for name, tensor in tensors.items():
            if not name.startswith(f"{prefix}."):
                continue
            if name not in named:
                raise ValueError(f"{name}: no such tensor; the optimizer has {len(self.parameters)} parameters")
            if tensor.shape != named[name].shape:
                raise ValueError(f"{name}: shape {list(tensor.shape)}, expected {list(named[name].shape)}")
        self._step.zero_()
        for name, mine in named.items():
            if name in tensors:
                mine.copy_(tensors[name])
            elif mine is not self._step:
                mine.zero_()

    def _named(self, prefix: str) -> dict[str, Tensor]:
        named = {}
        for i, (mean, square) in enumerate(zip(self._means, self._squares, strict=True)):
            for name, tensor in (("step", self._step), ("exp_avg", mean), ("exp_avg_sq", square)):
                named[f"{prefix}.{i}.{name}"] = tensor
        return named


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Of all of them together."""
    if torch.compiler.is_exporting():  # torch's compiler could only call the other
        return torch.stack([g.norm() for g in gradients]).norm()
    return torch.stack(torch._foreach_norm(list(gradients))).norm()


def shrinkage(norm: Tensor, most: float) -> Tensor:
    """What gradients of that norm are to be divided by, so that it is `most` at most."""
    return ((norm + 1e-6) / most).clamp_(min=1.0)
