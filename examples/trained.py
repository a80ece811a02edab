"""What the other examples share: a training that goes on where it was stopped and is not done twice."""

from __future__ import annotations

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
