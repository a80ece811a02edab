"""What the other examples share: trainings that go on where they were stopped, and tables that are done in parts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import simtoreal
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.runs import CHECKPOINTS, is_finished


def trained(task: str, run: Path, **settings: Any) -> Path:
    """The finished run of `task` at `run`; `settings` are those of `simtoreal.train`.

    Raises:
        RunError: what was begun there has other settings.
    """
    if not is_finished(run):
        begun = any(checkpoints(run / CHECKPOINTS))
        simtoreal.train(task, out=run, **settings, **{"resume" if begun else "force": True})
    return run


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a table written before, so that it can be done a part at a time; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
