"""Running mean and variance of observations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

CLIP = 10.0
"""Normalized observations are clipped to +-10 standard deviations."""

CONSTANT = 1e-12
"""An element whose variance is below this has never varied: it is centred, not scaled, so noise is not blown up."""


class Normalizer(nn.Module):
    """Raw observation [..., n] -> (x - mean) / std, clipped to +-10; of a stack [..., k n] each frame alike.

    Statistics are kept in float64 and merged a batch at a time (Chan, Golub, LeVeque 1979, eq. 2.1); the float32
    pair that `forward` uses is a buffer too, so a module that travels holds all it needs. Before the first update
    it is the identity, and of size 0, for images, always. In numpy, whose calls cost a fraction of torch's: most
    batches are one observation, and what is merged comes from the CPU. So there the statistics stay, on whatever device
    the pair is. The last `scaled` numbers come scaled and stay as they are: what changes only from episode to episode
    has statistics of a few episodes, and at a deviation of 1 tells a network these episodes apart, not what they mean.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, size: int, scaled: int = 0) -> None:
        super().__init__()
        self._running = size - scaled
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def update(self, x: Tensor | np.ndarray) -> None:
        """Merge a batch [B, n] into the statistics. Raises ValueError on NaN or infinity."""
        batch = np.asarray(x.cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
        if not len(batch):
            return
        if not np.isfinite(batch).all():
            raise ValueError("a non-finite observation cannot enter the normalizer's statistics")
        mean, m2 = self.mean.numpy(), self.m2.numpy()  # the statistics themselves
        before, new = self.count.item(), len(batch)
        total = before + new
        middle = batch[0]
        if new > 1:
            middle = batch.mean(axis=0)
            m2 += ((batch - middle) ** 2).sum(axis=0)
        delta = middle - mean
        m2 += delta**2 * (before * new / total)
        mean += delta * (new / total)
        self.count.fill_(total)
        variance = m2 / total
        self.shift.copy_(self.mean)
        self.scale.copy_(torch.from_numpy(1.0 / np.sqrt(np.where(variance > CONSTANT, variance, 1.0))))
        self.shift[self._running :], self.scale[self._running :] = 0.0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        return _normalized(x, self.shift, self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Normalizer:
        self.shift, self.scale = fn(self.shift), fn(self.scale)
        return self


class FrozenNormalizer(nn.Module):
    """The float32 half of a Normalizer: what an actor carries out of training."""

    shift: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def copy_from(self, source: Normalizer) -> None:
        self.shift.copy_(source.shift)
        self.scale.copy_(source.scale)

    def forward(self, x: Tensor) -> Tensor:
        return _normalized(x, self.shift, self.scale)


def _normalized(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Every frame [n] of `x` [..., k n] by the same `shift` and `scale` [n]."""
    if not len(shift):
        return x
    frames = x.shape[-1] // shift.shape[-1]
    if frames > 1:
        shift, scale = shift.repeat(frames), scale.repeat(frames)
    return ((x - shift) * scale).clamp(-CLIP, CLIP)
