"""Errors that the command line tells apart by kind, in a module that loads nothing."""

from __future__ import annotations

import signal
from pathlib import Path


class RunError(ValueError):
    """A folder that is not a run, or an output that is in the way."""


class SaveError(RuntimeError):
    """The disk refused what a training had to keep; the message says what is still there."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the last checkpoint is on disk."""

    def __init__(self, signum: int, run: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; checkpoint saved in {run}")
        self.signum = signum
