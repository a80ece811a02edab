"""The evaluation folder's table: one row an episode, written and read in full."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from simtoreal.randomization.messages import shown
from simtoreal.randomization.schedules import RecordedChanges
from simtoreal.runs import RunError, read_json
from simtoreal.statistics import Episode

Number = TypeVar("Number", int, float)

EPISODES, SUMMARY = "episodes.csv", "summary.json"
COLUMNS = (
    "bundle", "suite", "condition", "case", "seed", "engine", "return", "success", "length", "falls", "violations",
    "held_out", "severity", "faults", "action_rate", "unmet",
)  # fmt: skip
CHANGES = "changes"  # a column where parameters change within episodes


def write_episodes(path: Path, rows: Sequence[Episode]) -> None:
    """One row an episode, one column a parameter; numbers in full, so that a row can be replayed bit for bit."""
    names = sorted({name for row in rows for name in row.parameters})
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        changing = [CHANGES] if any(row.changes for row in rows) else []
        writer.writerow([*COLUMNS, *changing, *names])
        for r in rows:
            success = "" if r.success is None else int(r.success)
            numbers = (r.falls, r.violations, int(r.held_out), repr(r.severity), r.faults, repr(r.action_rate), r.unmet)
            drawn = (repr(r.parameters[name]) if name in r.parameters else "" for name in names)
            key = (r.bundle, r.suite, r.condition, r.case, r.seed, r.engine)
            changes = [r.changes] if changing else []
            writer.writerow([*key, repr(r.return_), success, r.length, *numbers, *changes, *drawn])
    os.replace(partial, path)


def read_episodes(path: Path) -> list[Episode]:
    """The rows of an `episodes.csv`. Raises RunError naming the file, and the line where one is at fault."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise RunError(f"{path}: no column {', '.join(sorted(missing))}")
            rows = []
            for line, row in enumerate(reader, 2):
                try:
                    rows.append(_episode(row))
                except ValueError as error:
                    raise RunError(f"{path}:{line}: {error}") from None
            return rows
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: not a table in UTF-8: {error}") from None


def _episode(row: Mapping[str, str]) -> Episode:
    """The episode of one row. Raises ValueError naming the column that is at fault."""
    for name, value in row.items():
        if name is None:
            raise ValueError(f"{len(value)} more values than columns")
        if value is None:
            raise ValueError(f"the row ends before column {name}")
        if "\0" in value:
            raise ValueError(f"column {name} holds a NUL byte")

    def number(name: str, kind: Callable[[str], Number]) -> Number:
        try:
            return kind(row[name])
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"column {name} must be {what}, got {shown(row[name])}") from None

    def flag(name: str) -> bool:
        if row[name] not in ("0", "1"):
            raise ValueError(f"column {name} must be 0 or 1, got {shown(row[name])}")
        return row[name] == "1"

    known = (*COLUMNS, CHANGES)
    if number("seed", int) < 0:
        raise ValueError(f"column seed must be 0 or more, got {row['seed']}")
    return Episode(
        bundle=row["bundle"],
        suite=row["suite"],
        condition=row["condition"],
        case=row["case"],
        seed=number("seed", int),
        engine=row["engine"],
        return_=number("return", float),
        success=None if row["success"] == "" else flag("success"),
        length=number("length", int),
        falls=number("falls", int),
        violations=number("violations", int),
        held_out=flag("held_out"),
        severity=number("severity", float),
        faults=number("faults", int),
        action_rate=number("action_rate", float),
        unmet=row["unmet"],
        parameters={name: number(name, float) for name, value in row.items() if name not in known and value != ""},
        changes=_changes(row.get(CHANGES, "")),
    )


def _changes(text: str) -> str:
    try:
        RecordedChanges.read(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {CHANGES}: {error}") from None
    return text


def read_evaluation(folder: Path) -> tuple[list[Episode], dict[str, Any]]:
    """The episodes and the provenance of an evaluation folder. Raises RunError when it is none."""
    if not (folder / SUMMARY).is_file() or not (folder / EPISODES).is_file():
        raise RunError(f"{folder} is not an evaluation: no {EPISODES} and {SUMMARY} in it")
    provenance = read_json(folder / SUMMARY).get("provenance")
    said = provenance if isinstance(provenance, dict) else {}
    for name, kind, expected in (("task", str, "a gymnasium id"), ("policies", dict, "a mapping")):
        if not isinstance(found := said.get(name), kind):
            raise RunError(f"{folder / SUMMARY}: no provenance of its {name}: expected {expected}, got {shown(found)}")
    return read_episodes(folder / EPISODES), said
