"""What the other examples share: trainings that go on where they were stopped, and tables that are done in parts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

import simtoreal
from simtoreal.intervals import bootstrap_interval
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.runs import CHECKPOINTS, is_finished

RESULTS = Path(__file__).parent.parent / "docs" / "results"


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


def has_row(rows: list[dict[str, Any]], **key: Any) -> bool:
    """Whether a table, read or just made, has a row of these values."""
    return any(all(str(row[name]) == str(value) for name, value in key.items()) for row in rows)


def judged(bundle: Path, out: Path, episodes: dict[str, int]) -> list[dict[str, Any]]:
    """A row a suite: what a bundle succeeds in there, by so many episodes a condition; verdicts at out-SUITE."""
    assert simtoreal.verify(bundle).passed, bundle
    rows = []
    for suite, count in episodes.items():
        verdict = simtoreal.evaluate(
            bundle, out=out.with_name(f"{out.name}-{suite}"), suites=[suite], episodes=count, force=True
        )
        done = [bool(episode.success) for episode in verdict.episodes]
        rows.append({"suite": suite, "episodes": len(done), "success": round(sum(done) / len(done), 4)})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """The table as it stands; its header is every key, in the order in which they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def print_success(rows: list[dict[str, Any]], name: str) -> None:
    """Of every `name` (a column) and suite the mean over seeds with its interval, and each seed's."""
    for of, suite in dict.fromkeys((row[name], row["suite"]) for row in rows):
        found = [float(row["success"]) for row in rows if (row[name], row["suite"]) == (of, suite)]
        low, high = bootstrap_interval(found, np.mean, 0) if len(found) > 1 else (np.nan, np.nan)
        print(f"{of:24} {suite:8} {np.mean(found):.3f} [{low:.3f}, {high:.3f}] of seeds {found}")
