"""Works that do not need one another, at the same time on streams of a GPU: its kernels in a gradient step are too
small to fill it. On a CPU one after the other; a second thread there gains less than it does inside each product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
Work = Callable[[], T]


def alongside(device: torch.device, works: Sequence[Work[T]]) -> list[T]:
    """What each of the `works` gives. What they are given must stay until all are done."""
    if device.type != "cuda" or len(works) < 2:
        return [work() for work in works]
    # The first goes on this stream, each other on one of its own, which begins when what was begun here is done and for
    # which this one waits at the end: so memory that a stream gets back is written again only after it was read here.
    here = torch.cuda.current_stream(device)
    others = [_stream(device, here.cuda_stream, _nested.depth, i) for i in range(1, len(works))]
    for other in others:
        other.wait_stream(here)
    with _nested:
        found = [works[0]()]
        for other, work in zip(others, works[1:], strict=True):
            with torch.cuda.stream(other):
                found.append(work())
    for other in others:
        here.wait_stream(other)
    return found


class _Nested:
    """How many calls of `alongside` we are in."""

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


_nested = _Nested()


@cache
def _stream(device: torch.device, parent: int, depth: int, i: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
