"""Errors that the command line tells apart by kind, in a module that loads nothing."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class RunError(ValueError):
    """A folder that is not a run, or an output that is in the way."""


class SaveError(RuntimeError):
    """The disk refused what a training had to keep; the message says what is still there."""


class EnvError(RuntimeError):
    """An environment raised; what it raised is the cause."""


def in_one_line(error: BaseException) -> str:
    """Kind and words of an exception, as Python prints them."""
    return " ".join("".join(traceback.format_exception_only(error)).split())


@contextmanager
def blamed(who: Callable[[], str]) -> Iterator[None]:
    """What an environment raises meanwhile is raised as an EnvError that says who it was."""
    try:
        yield
    except Exception as error:
        raise EnvError(f"{who()} raised {in_one_line(error)}") from error


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the last checkpoint is on disk."""

    def __init__(self, signum: int, run: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; checkpoint saved in {run}")
        self.signum = signum
