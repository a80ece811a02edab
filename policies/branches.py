"""Works that do not need one another, at the same time on streams of a GPU: its kernels in a gradient step are too
small to fill it. On a CPU one after the other; a second thread there gains less than it does inside each product."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def alongside(device: torch.device, works: Sequence[Callable[[], T]]) -> list[T]:
    """What each of the `works` gives, which may call this in turn. What they are given must stay until all are done.

    The first goes on this stream, each other on one of its own, which begins when what was begun here is done and for
    which this one waits at the end: so memory that a stream gets back is written again only after it was read here.
    Torch has a limited number of streams: two of ours may be the same one. So what a nested work gives stays until the
    outermost ends; else its memory could be taken by a work that began before it was read.
    """
    if device.type != "cuda" or len(works) < 2:
        return [work() for work in works]
    here, path = torch.cuda.current_stream(device), _within.path
    others = [_stream(here.device_index, (*path, i)) for i in range(1, len(works))]
    for other in others:
        other.wait_stream(here)
    try:
        _within.path = (*path, 0)
        found = [works[0]()]
        for i, (other, work) in enumerate(zip(others, works[1:], strict=True), start=1):
            _within.path = (*path, i)
            with torch.cuda.stream(other):
                found.append(work())
    finally:
        _within.path = path
        for other in others:
            here.wait_stream(other)
        if not path:
            _within.kept.clear()
    if path:
        _within.kept.append(found)
    return found


class _Within(threading.local):
    """Of each thread: which work of which we are in, outermost first, and what nested ones gave."""

    def __init__(self) -> None:
        self.path: tuple[int, ...] = ()
        self.kept: list[Any] = []


_within = _Within()


@cache
def _stream(device_index: int, path: tuple[int, ...]) -> torch.cuda.Stream:
    return torch.cuda.Stream(device_index)
