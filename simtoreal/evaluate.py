"""The verdict: exported policies over fixed suites, in parallel workers, every policy on the same cases and draws."""

from __future__ import annotations

import hashlib
import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.differences import PairedDifference, compare_bundles, compare_engines
from simtoreal.episodes import Outcome, PolicySource, find_policies
from simtoreal.integration import check_borne
from simtoreal.jobs import Job, run_jobs
from simtoreal.randomization.messages import nearest
from simtoreal.randomization.suites import Case, Suite
from simtoreal.records import EPISODES, SUMMARY, write_episodes
from simtoreal.report import write_report
from simtoreal.robot_files import changed, fingerprint, name_task, split_task
from simtoreal.robots.engines import DEFAULT_ENGINE, one_engines
from simtoreal.runs import claimed_output, output_path, versions, write_json
from simtoreal.statistics import Episode, Gate, GateResult, Summary, reports_success, suite_in, summarise
from simtoreal.task_suites import default_suites, load_suite, reference_ranges, severity_of

REPORT = "report.html"
MAX_FAULT_SHARE = 0.01  # of the episodes; beyond it the simulation, not the policy, is on trial
CHUNK = 5  # cases a job
MAX_EPISODES, MAX_WORKERS, MAX_SEED = 100_000, 256, 2**63 - 1

Progress = Callable[[int, int], None]
OneOrMore = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class OtherRobot(UserWarning):
    """A bundle is judged on a later version of the robot file that it was made with."""


class PhysicsFailure(RuntimeError):
    """Too many episodes ended because physics broke: there is no verdict."""


@dataclass(frozen=True)
class Stage:
    """A suite in an engine."""

    suite: Suite
    engine: str

    @property
    def name(self) -> str:
        return suite_in(self.engine, self.suite.name)


@dataclass(frozen=True)
class Evaluation:
    """A verdict and where it is written."""

    out: Path
    summary: Summary
    episodes: tuple[Episode, ...]
    comparisons: tuple[PairedDifference, ...]
    engine_comparisons: tuple[PairedDifference, ...]
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Are all gates met?"""
        return all(gate.passed for gate in self.gates)

    @property
    def report(self) -> Path:
        return self.out / REPORT

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "passed": self.passed,
            "report": str(self.report),
            "gates": [gate.to_json() for gate in self.gates],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "engine_comparisons": [comparison.to_json() for comparison in self.engine_comparisons],
            **self.summary.to_json(),
        }


def evaluate(
    policies: OneOrMore,
    *,
    out: str | os.PathLike[str],
    suites: OneOrMore = (),
    episodes: int = 20,
    seed: int = 0,
    engine: str | Sequence[str] = DEFAULT_ENGINE,
    workers: int = 1,
    gates: str | Sequence[str] = (),
    task: str | None = None,
    robot: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge bundles and `module:function` controllers, and write `episodes.csv`, `summary.json` and `report.html`.

    Where there is one policy, suite, engine or gate, it need not be in a list.

    Args:
        suites: shipped names or YAML files; none means every suite shipped for the task.
        episodes: for each condition. `seed` with a case's name keys its draws, the same for every policy.
        engine: physics engines, of `ENGINES`; each suite is run in all of them, and in any but PyBullet it is called
            "suite@engine". Cases and draws are the same in each.
        gates: "[suite/condition:]metric op number"; they decide `passed`.
        task: needed where only controllers are judged; a bundle names its own.
        robot: the robot file to judge on, where the task is made by one and it is not the bundle's own.

    Raises:
        ValueError: unknown policy, suite, gate, engine; a number that is not whole or out of range; bundles of
            different tasks; a suite with nothing held out.
        PhysicsFailure: more than 1 % of the episodes ended because physics broke.
    """
    out = output_path(out)
    episodes = _whole("episodes", episodes, 1, MAX_EPISODES)
    workers = _whole("workers", workers, 1, MAX_WORKERS)
    seed = _whole("seed", seed, 0, MAX_SEED)
    suites, gates, engines = _each(suites), _each(gates), list(dict.fromkeys(_each(engine)))
    parsed_gates = [Gate.parse(text) for text in gates]
    sources = find_policies(_each(policies))
    if not sources:
        raise ConfigError("nothing to evaluate: name a bundle or a module:function")
    specs = [source.spec() for source in sources]
    full = judged_task(sources, specs, task, robot)
    short = build.family(full)
    robot_now = fingerprint(full)
    tables = []
    for name in engines:
        env = build.make_env(full, engine=name)
        try:
            tables.append(build.parameters_of(env))
            contract = Contract.of(full, env)
        finally:
            env.close()
        for source, spec in zip(sources, specs, strict=True):
            if spec is not None:
                contract.check(spec, source.text)
                if found := changed(spec.provenance.get("robot", robot_now), robot_now):
                    what = f"{source.text} was made with another version of this robot: {found}"
                    warnings.warn(what, OtherRobot, stacklevel=2)
    table = {name: found for name, found in tables[0].items() if all(name in other for other in tables)}
    loaded = [load_suite(short, name, table) for name in suites or default_suites(short)]
    for condition in (condition for suite in loaded for condition in suite.conditions.values()):
        check_borne(env, condition.entries, condition.ranges)
    names = [suite.name for suite in loaded]
    if len(set(names)) < len(names):
        raise ConfigError(f"two suites have the same name: {', '.join(sorted(names))}")
    stages = [Stage(suite, name) for suite in loaded for name in engines]
    _check_gates(parsed_gates, stages)
    ranges = [{} if spec is None else known_ranges(spec.training_ranges, table) for spec in specs]
    held_out = [
        {suite.name: suite.held_out_cases(seed, episodes, known, table) for suite in loaded} for known in ranges
    ]
    jobs = [
        Job(index, stage.suite.name, stage.engine, tuple(chunk))
        for index in range(len(sources))
        for stage in stages
        for chunk in _chunks(list(stage.suite.cases(seed, episodes)), CHUNK)
    ]
    reference = reference_ranges(short, table)
    provenance = {
        "task": full,
        **({"robot": robot_now} if robot_now else {}),
        "seed": seed,
        "episodes_per_condition": episodes,
        "engines": engines,
        "policies": {source.name: identity(source) for source in sources},
        "suites": {suite.name: {"version": suite.version, "sha256": _digest(suite.path)} for suite in loaded},
        "versions": versions(),
    }
    heldout = [stage.name for stage in stages if stage.suite.held_out]
    folder = Path(out)
    with claimed_output(folder, force=force, marker=EPISODES):
        rows: list[Episode] = []
        total = sum(len(job.cases) for job in jobs)
        for job, outcomes in run_jobs(jobs, full, sources, workers):
            for case, outcome in zip(job.cases, outcomes, strict=True):
                far = severity_of(case.parameters, ranges[job.policy], reference, table)
                outside = held_out[job.policy][job.suite][case.name]
                rows.append(_row(sources[job.policy].name, job.suite, job.engine, case, outcome, outside, far))
            if len(rows) == len(job.cases) and not build.is_ours(full) and not reports_success(rows):
                for gate in parsed_gates:  # before hours are spent on it
                    gate.check_metric(told=False)
            if progress is not None:
                progress(len(rows), total)
        broken = sum(row.faults for row in rows)
        if broken > MAX_FAULT_SHARE * len(rows):
            raise PhysicsFailure(f"physics broke in {broken} of {len(rows)} episodes: no verdict")
        units = {name: p.unit for name, p in table.items()}
        return _write(folder, rows, heldout, parsed_gates, provenance, units)


def known_ranges(
    training_ranges: Mapping[str, tuple[float, float]], table: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """Without those of parameters that another engine alone can set: here they are as if at nominal."""
    return {name: ends for name, ends in training_ranges.items() if name in table or not one_engines(name)}


def _each(given: OneOrMore) -> list[str]:
    """What was given as a list of texts, one alone too."""
    return [os.fspath(one) for one in ([given] if isinstance(given, str | os.PathLike) else given)]


def _whole(what: str, given: int, least: int, most: int) -> int:
    """`given` as a plain int; numpy's will do. Raises ConfigError when it is none or out of range."""
    if isinstance(given, bool) or not isinstance(given, Integral) or not least <= given <= most:
        raise ConfigError(f"--{what} must be a whole number from {least} to {most}, got {given!r}")
    return int(given)


def _row(
    bundle: str, suite: str, engine: str, case: Case, outcome: Outcome, held_out: bool, severity: float
) -> Episode:
    return Episode(
        bundle=bundle,
        suite=suite_in(engine, suite),
        condition=case.condition,
        case=case.name,
        seed=case.seed,
        engine=engine,
        return_=outcome.return_,
        success=outcome.success,
        length=outcome.length,
        falls=outcome.falls,
        violations=outcome.violations,
        held_out=held_out,
        severity=severity,
        faults=outcome.faults,
        action_rate=outcome.action_rate,
        unmet=outcome.unmet,
        parameters=outcome.parameters,
        changes=outcome.changes,
    )


def _write(
    folder: Path,
    rows: list[Episode],
    heldout: Sequence[str],
    gates: Sequence[Gate],
    provenance: Mapping[str, Any],
    units: Mapping[str, str],
) -> Evaluation:
    seed = int(provenance["seed"])
    summary = summarise(rows, heldout=heldout, seed=seed)
    comparisons = compare_bundles(rows, seed, heldout=heldout)
    engines = compare_engines(rows, seed)
    results = tuple(gate.check(summary) for gate in gates)
    write_episodes(folder / EPISODES, rows)
    evaluation = Evaluation(folder, summary, tuple(rows), comparisons, engines, results)
    several = len(summary.bundles) > 1

    def command(e: Episode) -> str:
        known, task = provenance["policies"][e.bundle], provenance["task"]
        extra = f" --bundle {shlex.quote(e.bundle)}" if several or "controller" in known else ""
        extra += f" --task {shlex.quote(task)}" if ":" in task else ""
        film = f"{e.suite}-{e.case}.mp4".replace("/", "-")
        return f"simtoreal replay {shlex.quote(str(folder))} {e.suite}/{e.case}{extra} --video {film}"

    write_report(
        folder / REPORT,
        summary,
        rows,
        title=f"{build.display_name(provenance['task'])}: {' and '.join(summary.bundles)}",
        replay_command=command,
        provenance=provenance,
        comparisons=comparisons,
        engine_comparisons=engines,
        gates=results,
        units=units,
    )
    write_json(folder / SUMMARY, evaluation.to_json() | {"provenance": provenance})
    return evaluation


def judged_task(sources: Sequence[PolicySource], specs: Sequence[Any], task: str | None, robot: str | None) -> str:
    """The id of the one task that all of them are for. Raises ConfigError."""
    tasks = {
        spec.task if robot is None else name_task(spec.task, robot): source.name
        for source, spec in zip(sources, specs, strict=True)
        if spec is not None
    }
    task = task if robot is None or task is None else name_task(task, robot)
    for name, bundle in tasks.items():
        if ":" in name and task != name and not split_task(name):
            raise ConfigError(f"{bundle} is for {name}: to let it import that module, name it with --task {name}")
    if task is not None:
        tasks.setdefault(build.task_id(task), "--task")
    if len(tasks) > 1:
        listed = ", ".join(f"{name} is for {task_name}" for task_name, name in tasks.items())
        raise ConfigError(f"policies of different tasks cannot be judged together: {listed}")
    if not tasks:
        raise ConfigError("a controller does not say its task; name it with --task")
    return next(iter(tasks))


def _check_gates(gates: Sequence[Gate], stages: Sequence[Stage]) -> None:
    """Raises ConfigError for a gate on a condition that is not about to be judged."""
    known = [f"{stage.name}/{condition}" for stage in stages for condition in stage.suite.conditions]
    for gate in gates:
        if gate.suite is not None and (asked := f"{gate.suite}/{gate.condition}") not in known:
            raise ConfigError(f"gate {str(gate)!r}: {asked} is not judged; {nearest(asked, known)}")


def _chunks(cases: list[Case], size: int) -> Iterator[list[Case]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]


def identity(source: PolicySource) -> dict[str, Any]:
    """What tells a judged policy from any other, for the record."""
    if not source.is_bundle:
        return {"controller": source.text}
    path = Path(source.text)
    return {"path": str(path.resolve()), "spec_sha256": _digest(path / "spec.json")}


def _digest(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else ""
