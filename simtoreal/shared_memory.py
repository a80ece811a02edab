"""Arrays that processes share, and the pipe on which they wake each other."""

from __future__ import annotations

import mmap
import os
import pickle
import select
import struct
import time
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64  # [bytes] of a cache line: what two processes write never shares one


class SharedBlock:
    """Named arrays in one piece of memory. It has no name in the file system, so it ends with the last process in it.

    Args:
        fields: name -> (shape, dtype); every array starts as zeros.

    Raises:
        OSError: there is not enough memory.
    """

    def __init__(self, fields: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        self._fields = {name: (tuple(shape), np.dtype(dtype).str) for name, (shape, dtype) in fields.items()}
        self._fd = os.memfd_create("simtoreal")
        size = sum(_padded(shape, dtype) for shape, dtype in self._fields.values())
        os.posix_fallocate(self._fd, 0, max(size, LINE))  # now, or a full memory would be a SIGBUS later
        self._map()

    def _map(self) -> None:
        memory = mmap.mmap(self._fd, 0)
        self.arrays: dict[str, NDArray[Any]] = {}
        start = 0
        for name, (shape, dtype) in self._fields.items():
            self.arrays[name] = np.ndarray(shape, dtype, buffer=memory, offset=start)
            start += _padded(shape, dtype)

    def rows(self, part: slice) -> dict[str, NDArray[Any]]:
        """Views of rows `part` of every array."""
        return {name: array[part] for name, array in self.arrays.items()}

    def close(self) -> None:
        """No process can join any more; the arrays live as long as someone holds one."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __getstate__(self) -> tuple[Any, Any]:
        return self._fields, DupFd(self._fd)

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self._fields, descriptor = state
        self._fd = descriptor.detach()
        self._map()


def _padded(shape: tuple[int, ...], dtype: str) -> int:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return -(-size // LINE) * LINE


class ChannelClosed(Exception):
    """The other end is gone."""


class ChannelTimeout(Exception):
    """The other end did not answer in time."""


class Channel:
    """One end of a pair of pipes. A message is one byte, its kind, or a kind with a pickled payload after it.

    The kinds of messages with a payload are upper case. Only a parent and the workers it started speak on it. Who waits
    sleeps at once: to yield for 50 us first (sched_yield) cost a third of the rate on a busy machine, where the kernel
    puts a process that yields behind the others, and gained about a tenth on a free one.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends. The first never blocks for longer than its deadlines; the second may block."""
        (read_one, write_two), (read_two, write_one) = os.pipe(), os.pipe()
        os.set_blocking(read_one, False)
        os.set_blocking(write_one, False)
        return cls(read_one, write_one), cls(read_two, write_two)

    def send(self, kind: bytes, payload: Any = None, deadline: float | None = None) -> None:
        """Raises ChannelClosed, ChannelTimeout, and what pickling raises (before anything is written)."""
        data = kind
        if kind.isupper():
            body = pickle.dumps(payload)
            data = kind + struct.pack("<Q", len(body)) + body
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self.write_fd, left) :]
            except BlockingIOError:
                if not _ready(self.write_fd, select.POLLOUT, deadline):
                    raise ChannelTimeout from None
            except BrokenPipeError:
                raise ChannelClosed from None

    def ready(self, deadline: float) -> bool:
        """Wait until there is something to receive, the other end's death included; False at the deadline."""
        return _ready(self.read_fd, select.POLLIN, deadline)

    def receive(self, deadline: float | None = None) -> tuple[bytes, Any]:
        """The next message's kind and payload. Raises ChannelClosed, ChannelTimeout."""
        kind = self._read(1, deadline)
        if not kind.isupper():
            return kind, None
        (size,) = struct.unpack("<Q", self._read(8, deadline))
        return kind, pickle.loads(self._read(size, deadline))

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = os.read(self.read_fd, size - len(data))
            except BlockingIOError:
                if not _ready(self.read_fd, select.POLLIN, deadline):
                    raise ChannelTimeout from None
                continue
            if not part:
                raise ChannelClosed
            data += part
        return data

    def close(self) -> None:
        for fd in (self.read_fd, self.write_fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self.write_fd = -1

    def __getstate__(self) -> tuple[Any, Any]:
        return DupFd(self.read_fd), DupFd(self.write_fd)

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self.read_fd, self.write_fd = (descriptor.detach() for descriptor in state)


def _ready(fd: int, event: int, deadline: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    left = None if deadline is None else max(deadline - time.monotonic(), 0.0) * 1000
    return bool(poll.poll(left))
