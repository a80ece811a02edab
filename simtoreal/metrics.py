"""Figures as a training goes: one JSON object a line, and the same in TensorBoard."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simtoreal.errors import RunError
from simtoreal.runs import EVENTS, METRICS


class Metrics:
    """`metrics.jsonl` and the TensorBoard events of a run, from the beginning or from where a checkpoint stood.

    Lines after the checkpoint's are dropped; the events are written anew from the lines that stay, so the two always
    say the same.

    Args:
        folder: the run's.
        keep: bytes of `metrics.jsonl` that stay.
        seconds: how long the run has trained.

    Raises:
        RunError: the file is shorter than `keep` or its lines are no figures.
    """

    def __init__(self, folder: Path, *, keep: int = 0, seconds: float = 0.0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS
        lines = _lines(path, keep) if keep else []
        shutil.rmtree(folder / EVENTS, ignore_errors=True)
        self._file = path.open("ab" if keep else "wb")
        if keep:
            self._file.truncate(keep)
        self._writer = SummaryWriter(str(folder / EVENTS))
        began = time.time() - seconds
        for line in lines:
            step, when = line.pop("step"), began + line.pop("seconds")
            self._add(step, when, line)

    def write(self, step: int, seconds: float, tags: Mapping[str, float]) -> None:
        """One line at environment step `step`; a figure that is not finite is left out. Raises OSError."""
        finite = {name: value for name, value in tags.items() if math.isfinite(value)}
        self._add(step, None, finite)
        self._file.write(json.dumps({"step": step, "seconds": seconds, **finite}).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Bring the lines to the disk; how many bytes they are. Raises OSError."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()
        self._writer.close()

    def _add(self, step: int, when: float | None, tags: Mapping[str, float]) -> None:
        for name, value in tags.items():
            self._writer.add_scalar(name, value, step, walltime=when)


def _lines(path: Path, keep: int) -> list[dict[str, Any]]:
    if not path.is_file() or path.stat().st_size < keep:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "nothing"
        raise RunError(f"{path}: {found}, but the checkpoint was written after {keep} bytes of it")
    with path.open("rb") as file:
        text = file.read(keep)
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise RunError(f"{path}: not what a training wrote ({error})") from None
