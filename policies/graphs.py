"""Work of one shape, done again and again on tensors that stay where they are: on a GPU as one launch (a CUDA graph),
on a CPU as machine code (`compiled`), if so asked.

A gradient step is some two hundred small kernels, and what takes the time is to launch them one by one and to wait for
a loss on the way. So there the whole step is captured once and replayed, and nothing waits for the device: where a
batch lies is drawn on it, a loss is judged there, and a step whose loss is not finite is skipped, as are all after it,
until somebody asks (`Skip.check`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from simtoreal.policies.agent import NonFiniteError

WARM_UP = 3  # times that work is done before it is captured, so that libraries have set themselves up


class Skip:
    """Whether optimizers are to skip their steps, as a number on the device that nobody waits for: 1 from the first
    loss on that was not finite. `losses` says which there are."""

    def __init__(self, losses: tuple[str, ...], device: torch.device) -> None:
        self.flag = torch.zeros((), device=device)
        self._bad = {name: torch.zeros((), device=device) for name in losses}

    def note(self, name: str, loss: Tensor) -> None:
        """A loss before its step."""
        bad = (loss - loss).ne(0.0)  # of infinity and NaN it is NaN
        for flag in (self._bad[name], self.flag):
            torch.maximum(flag, bad, out=flag)

    def check(self) -> None:
        """Wait for the device. Raises NonFiniteError naming the losses that were not finite."""
        if self.flag.item():
            bad = [name for name, flag in self._bad.items() if flag.item()]
            for flag in (self.flag, *self._bad.values()):
                flag.zero_()
            raise NonFiniteError(f"not finite: {', '.join(bad)}")


def captured(
    work: Callable[[], None],
    device: torch.device,
    generators: tuple[torch.Generator, ...],
    keep: Callable[[], Callable[[], None]],
    compiled: bool,
) -> Callable[[], None]:
    """`work()` without arguments, which reads and writes tensors that stay where they are, in the fastest way there is:
    on a GPU as a graph; on a CPU, if it is to be `compiled`, as machine code (raises CompilerError), else as it is.

    Args:
        generators: those of random numbers that it draws from, of that device.
        keep: gives what puts back whatever of `work`'s doing goes on counting: it is done some times before it is
            captured or compiled.
    """
    if device.type == "cuda":
        return _graph(work, device, generators, keep()).replay
    if compiled:
        from simtoreal.policies.compiled import Compiled

        return Compiled(work, keep())
    return work


def _graph(
    work: Callable[[], None],
    device: torch.device,
    generators: tuple[torch.Generator, ...],
    put_back: Callable[[], None],
) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
            put_back()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        work()  # is noted, not done
    return graph
