"""The parent's side of one worker process: start it, ask it, learn of its death, end it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from simtoreal.shared_memory import Channel, ChannelClosed, ChannelTimeout, SharedBlock
from simtoreal.worker_process import ECHO, ERROR, Seat, parent_ends, serve

LOOK_EVERY = 0.5  # [s] between looks whether a silent worker still lives: its pipe may be held by a child of its own
END_TIMEOUT = 2.0  # [s] for a killed process to be gone


class WorkerError(RuntimeError):
    """A worker failed for good. `worker` and `envs` say which; `traceback` is the original one, if it raised."""

    def __init__(self, message: str, worker: int, envs: Sequence[int], traceback: str = "") -> None:
        super().__init__(message)
        self.worker, self.envs, self.traceback = worker, tuple(envs), traceback
        if traceback:
            self.__cause__ = _Remote(traceback)


class _Remote(Exception):
    """Shows a worker's traceback where the parent's is printed."""

    def __str__(self) -> str:
        return f"in the worker:\n{self.args[0]}"


class WorkerRestart(UserWarning):
    """A worker died and another took its place."""


class Died(Exception):
    """The process is gone; the text says how."""


class Hung(Exception):
    """The process did not answer in time, and was killed."""


class Raised(Exception):
    """An environment raised. `env` counts from the worker's first; `line` and `traceback` are as Python prints them."""

    def __init__(self, env: int, line: str, traceback: str) -> None:
        super().__init__(line)
        self.env, self.line, self.traceback = env, line, traceback


def process_seconds(pid: int) -> float:
    """CPU time [s] of a process so far, all of its threads; 0 when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock's id is made as by clock_getcpuclockid(3)
    except OSError:
        return 0.0


class Worker:
    """One process, its seat and the parent's end of its channel."""

    def __init__(self, seat: Seat, factories: bytes) -> None:
        self.seat, self._factories = seat, factories
        self.restarts = 0
        self.pending = False  # it may owe an answer
        self._echo = 0  # the number of the last one asked for
        self._process: Any = None
        self._channel: Channel | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the process so far; 0 when it is gone."""
        return 0.0 if self.pid is None else process_seconds(self.pid)

    def start(self, context: Any, block: SharedBlock) -> None:
        """Start the process, which answers once when its environments are made. Raises OSError."""
        self._channel, theirs = Channel.pair()
        parent_ends.add(self._channel)
        main_thread = threading.current_thread() is threading.main_thread()
        self._process = context.Process(target=serve, args=(block, theirs, self.seat, self._factories, main_thread))
        try:
            with _signals_blocked():
                self._process.start()
        finally:
            theirs.close()
        self.pending = True

    def ask(self, kind: bytes, payload: Any, deadline: float) -> None:
        """Send a message; that the worker is dead shows when it is to answer. Raises what pickling raises."""
        assert self._channel is not None
        self.pending = True
        with contextlib.suppress(ChannelClosed, ChannelTimeout):
            self._channel.send(kind, payload, deadline)

    def answer(self, deadline: float) -> Any:
        """The payload of its answer. Raises Died, Hung, Raised."""
        payload = self._next(deadline)[1]
        self.pending = False
        return payload

    def settle(self, deadline: float) -> None:
        """Drop what it still owes, if anything: an exception may have cut `ask` or `answer` short before or after its
        message, so it is asked for an echo, before which everything old arrives. Raises Died, Hung, Raised."""
        self._echo += 1
        self.ask(ECHO, self._echo, deadline)
        while self._next(deadline) != (ECHO, self._echo):
            pass
        self.pending = False

    def _next(self, deadline: float) -> tuple[bytes, Any]:
        """The next message's kind and payload. Raises Died, Hung, Raised."""
        assert self._channel is not None
        try:
            while not self._channel.ready(min(time.monotonic() + LOOK_EVERY, deadline)):
                if not self._process.is_alive():
                    raise ChannelClosed
                if time.monotonic() >= deadline:
                    raise ChannelTimeout
            kind, payload = self._channel.receive(deadline)
        except ChannelClosed:
            raise Died(self._how()) from None
        except ChannelTimeout:
            self._process.kill()
            raise Hung from None
        if kind == ERROR:
            self.pending = False
            raise Raised(*payload)
        return kind, payload

    def _how(self) -> str:
        self._process.join(END_TIMEOUT)
        code = self._process.exitcode
        if code is None:
            return "closed its pipe"
        return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"

    def end(self, deadline: float) -> None:
        """Wait for the process until `deadline`, then kill it: it is gone when this returns, whatever its state was."""
        if self.pid is not None:
            self._process.join(max(deadline - time.monotonic(), 0.0))
            if self._process.is_alive():
                self._process.kill()
                self._process.join(END_TIMEOUT)
        if self._channel is not None:
            self._channel.close()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A Ctrl-C in the moment between a worker's start and its first statement would kill it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
