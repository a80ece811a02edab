"""One evaluated episode again, exactly, and its film."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from simtoreal import build
from simtoreal.contract import Contract
from simtoreal.episodes import Outcome, PolicySource, run_episode
from simtoreal.evaluate import identity
from simtoreal.export.onboard.folder import SPEC_FILE
from simtoreal.randomization.messages import nearest
from simtoreal.randomization.schedules import RecordedChanges
from simtoreal.randomization.suites import is_held_out
from simtoreal.records import read_evaluation
from simtoreal.robot_files import check_version, name_task, same_task, split_task
from simtoreal.robots.engines import ENGINES
from simtoreal.runs import RunError
from simtoreal.statistics import Episode, base_suite, suite_in
from simtoreal.task_suites import reference_ranges, severity_of
from simtoreal.video import filming

SAME_SEVERITY = 1e-5  # [range widths] what an engine's read-back may lose of a value that was drawn


@dataclass(frozen=True)
class ReplayResult:
    """A recorded episode beside the same episode again; `identical` only if every figure and label of it is equal,
    `differing` are the columns in which it is not."""

    case: str
    bundle: str
    recorded_return: float
    replayed_return: float
    identical: bool
    differing: tuple[str, ...]
    success: bool | None
    length: int
    video: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def replay(
    folder: str | os.PathLike[str],
    case: str,
    *,
    bundle: str | None = None,
    task: str | None = None,
    robot: str | None = None,
    video: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> ReplayResult:
    """Run one row of an evaluation again, from its recorded parameters and seed.

    What an evaluation's files name is not imported unless the caller names it too.

    Args:
        case: "suite/condition/number", as the report prints it.
        bundle: needed where the evaluation judged several, or a `module:function`.
        task: needed where the task is a `module:Id-v0`.
        robot: the robot file that the task is made of, where it lies elsewhere now.
        video: a file for the film; `force` replaces an earlier one.

    Raises:
        RunError: no such evaluation, case, bundle or engine, or another bundle in its place; SpecError: the bundle was
            changed; ValueError: the robot file is no longer the one that was judged.
    """
    rows, provenance = read_evaluation(Path(folder))
    here = [row for row in rows if f"{row.suite}/{row.case}" == case and bundle in (None, row.bundle)]
    if not here:
        names = {row.bundle for row in rows}
        if bundle is not None and bundle not in names:
            raise RunError(f"{folder} judged no {bundle!r}; {nearest(bundle, names)}")
        raise RunError(
            f"{folder} has no case {case!r}; {nearest(case, dict.fromkeys(f'{r.suite}/{r.case}' for r in rows))}"
        )
    if len(here) > 1:
        raise RunError(f"case {case} was run by {', '.join(r.bundle for r in here)}; choose one with --bundle")
    (row,) = here
    if row.engine not in ENGINES:
        raise RunError(f"{folder}: case {case} is of engine {row.engine!r}; engines: {', '.join(ENGINES)}")
    if (called := suite_in(row.engine, base_suite(row.suite))) != row.suite:
        raise RunError(f"{folder}: case {case} is of engine {row.engine}, whose suite would be called {called}")
    full = _recorded_task(Path(folder), provenance, task, robot)
    source = _recorded_policy(Path(folder), row.bundle, provenance, asked=bundle)
    path = None if video is None else Path(video)
    env = build.make_env(full, render_mode=None if path is None else "rgb_array", engine=row.engine)
    try:
        contract = Contract.of(full, env)
        with filming(env, path, contract.control_dt, force=force) as each_step:
            outcome = run_episode(
                env,
                contract,
                source.open(),
                seed=row.seed,
                parameters=row.parameters,
                each_step=each_step,
                schedule=RecordedChanges.read(row.changes),
            )
        differing = _differing(row, outcome, _labels(full, build.parameters_of(env), source, outcome))
    finally:
        env.close()
    return ReplayResult(
        case,
        row.bundle,
        row.return_,
        outcome.return_,
        not differing,
        differing,
        outcome.success,
        outcome.length,
        None if path is None else str(path),
    )


def _labels(task: str, table: Mapping[str, Any], source: PolicySource, outcome: Outcome) -> tuple[bool, float]:
    """Whether an episode was held out for its policy, and its severity: as `evaluate` has them of the case it drew, of
    which there is left what differs from nominal."""
    spec = source.spec()
    training = {} if spec is None else dict(spec.training_ranges)
    applied = {name: value for name, value in outcome.parameters.items() if name in table}
    drawn = {name: value for name, value in applied.items() if value != table[name].nominal}
    reference = reference_ranges(build.family(task), table)
    return is_held_out(applied, training, table), severity_of(drawn, training, reference, table)


def _differing(row: Episode, outcome: Outcome, labels: tuple[bool, float]) -> tuple[str, ...]:
    """The columns in which a recorded row is not what its episode gives again."""
    held_out, severity = labels
    again = {field.name: getattr(outcome, field.name) for field in fields(Outcome)}
    again |= {"condition": row.case.rpartition("/")[0], "held_out": held_out}
    found = [name.rstrip("_") for name, value in again.items() if getattr(row, name) != value]
    if not math.isclose(row.severity, severity, rel_tol=SAME_SEVERITY, abs_tol=SAME_SEVERITY):
        found.append("severity")
    return tuple(found)


def _recorded_task(folder: Path, provenance: Mapping[str, Any], asked: str | None, robot: str | None) -> str:
    """The gymnasium id of an evaluation. Raises RunError when `asked` is another, or a module's was not asked for, and
    ValueError when the robot of a robot file is no longer the one that was judged."""
    full = str(provenance["task"])
    if asked is None and ":" in full and not split_task(full):
        raise RunError(f"{folder} is of {full}: to let it import that module, name it with --task {full}")
    found = full if asked is None else build.task_id(asked)
    if not same_task(found, full):
        raise RunError(f"{folder} is of {full}, not of {asked}")
    if robot is not None:
        found = name_task(found, robot)
    if split_task(found):
        check_version(found, provenance.get("robot"), f"{folder} was judged on")
    return found


def _recorded_policy(folder: Path, name: str, provenance: Mapping[str, Any], asked: str | None) -> PolicySource:
    """What an evaluation judged under `name`. Raises RunError when it is not known, or no longer the same, or is a
    `module:function` that was not `asked` for."""
    known = provenance["policies"].get(name)
    if not isinstance(known, dict) or not isinstance(text := known.get("path", known.get("controller")), str):
        raise RunError(f"{folder}: no record of what {name!r} was")
    source = PolicySource(text, name, "path" in known)
    if not source.is_bundle and not (asked or "").startswith(text):
        raise RunError(f"{folder} judged {text}: to let it import that module, name it with --bundle {name}")
    if source.is_bundle and not (Path(text) / SPEC_FILE).is_file():
        raise RunError(f"the bundle that {folder} judged is no longer at {text}")
    if identity(source) != known:
        raise RunError(f"{text} is not the bundle that {folder} judged: its spec.json has another sha256")
    return source
