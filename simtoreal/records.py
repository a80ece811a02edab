"""The evaluation folder's table: one row an episode, written and read in full."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simtoreal.runs import RunError, read_json
from simtoreal.statistics import Episode

EPISODES, SUMMARY = "episodes.csv", "summary.json"
COLUMNS = (
    "bundle", "suite", "condition", "case", "seed", "engine", "return", "success", "length", "falls", "violations",
    "held_out", "severity", "faults", "action_rate",
)  # fmt: skip


def write_episodes(path: Path, rows: Sequence[Episode]) -> None:
    """One row an episode, one column a parameter; numbers in full, so that a row can be replayed bit for bit."""
    names = sorted({name for row in rows for name in row.parameters})
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *names])
        for r in rows:
            success = "" if r.success is None else int(r.success)
            numbers = (r.falls, r.violations, int(r.held_out), repr(r.severity), r.faults, repr(r.action_rate))
            drawn = (repr(r.parameters[name]) if name in r.parameters else "" for name in names)
            key = (r.bundle, r.suite, r.condition, r.case, r.seed, r.engine)
            writer.writerow([*key, repr(r.return_), success, r.length, *numbers, *drawn])
    os.replace(partial, path)


def read_episodes(path: Path) -> list[Episode]:
    """The rows of an `episodes.csv`. Raises RunError naming the file and line."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise RunError(f"{path}: no column {', '.join(sorted(missing))}")
            rows = []
            for line, row in enumerate(reader, 2):
                try:
                    rows.append(_episode(row))
                except (TypeError, ValueError) as error:
                    raise RunError(f"{path}:{line}: {error}") from None
            return rows
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None


def _episode(row: Mapping[str, str]) -> Episode:
    if int(row["seed"]) < 0:
        raise ValueError(f"seed must be 0 or more, got {row['seed']}")
    return Episode(
        bundle=row["bundle"],
        suite=row["suite"],
        condition=row["condition"],
        case=row["case"],
        seed=int(row["seed"]),
        engine=row["engine"],
        return_=float(row["return"]),
        success=None if row["success"] == "" else row["success"] == "1",
        length=int(row["length"]),
        falls=int(row["falls"]),
        violations=int(row["violations"]),
        held_out=row["held_out"] == "1",
        severity=float(row["severity"]),
        faults=int(row["faults"]),
        action_rate=float(row["action_rate"]),
        parameters={name: float(v) for name, v in row.items() if name not in COLUMNS and v not in ("", None)},
    )


def read_evaluation(folder: Path) -> tuple[list[Episode], dict[str, Any]]:
    """The episodes and the provenance of an evaluation folder. Raises RunError when it is none."""
    if not (folder / SUMMARY).is_file() or not (folder / EPISODES).is_file():
        raise RunError(f"{folder} is not an evaluation: no {EPISODES} and {SUMMARY} in it")
    provenance = read_json(folder / SUMMARY).get("provenance")
    if not isinstance(provenance, dict) or not isinstance(provenance.get("policies"), dict):
        raise RunError(f"{folder / SUMMARY}: no provenance of its policies")
    return read_episodes(folder / EPISODES), provenance
