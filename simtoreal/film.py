"""Look at it: films of episodes, played live or replayed exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.episodes import Outcome, Policy, PolicySource, find_policies, run_episode
from simtoreal.evaluate import Progress, identity
from simtoreal.export.onboard.folder import SPEC_FILE
from simtoreal.randomization.messages import nearest
from simtoreal.randomization.suites import is_held_out
from simtoreal.records import read_evaluation
from simtoreal.robot_files import name_task, split_task
from simtoreal.robots.engines import DEFAULT_ENGINE, ENGINES
from simtoreal.runs import RunError
from simtoreal.statistics import Episode, base_suite, suite_in
from simtoreal.task_suites import reference_ranges, severity_of
from simtoreal.video import check_display, filming

SAME_SEVERITY = 1e-5  # [range widths] what an engine's read-back may lose of a value that was drawn


class HoldStill:
    """The policy of action 0: what the robot does if nobody asks for anything."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def reset(self) -> None:
        """It keeps no state."""

    def act(self, observation: NDArray[Any]) -> NDArray[np.floating]:
        zero = np.zeros(self._contract.command.size)
        return self._contract.command.command(zero, observation, self._contract.observation)


@dataclass(frozen=True)
class PlayResult:
    """What was seen."""

    task: str
    policy: str
    video: str | None
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def play(
    task: str,
    policy: str | None = None,
    *,
    video: str | os.PathLike[str] | None = None,
    episodes: int = 3,
    seed: int = 0,
    randomization: str | None = "none",
    parameters: Mapping[str, float] | None = None,
    goal: Mapping[str, Sequence[float]] | None = None,
    engine: str = DEFAULT_ENGINE,
    robot: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> PlayResult:
    """Show a task, driven by a bundle or a `module:function` or holding still, in a window or, with `video`, in a file.

    `robot` is the robot file, or an installed robot, that `task` is made of where that is a family. `parameters` and
    `goal` go beyond the randomization: a payload, a push; a command to follow, a point to reach.
    `force` replaces an earlier file. `progress` gets the control steps done and the most there can be.

    Raises:
        ConfigError: no such task, engine or policy, no episodes, a bundle of another task, no display and no `video`.
        ValueError: no such parameter or goal, or a value out of its bounds.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    full = build.task_id(name_task(task, robot))
    source: PolicySource | None = None
    if policy is not None:
        (source,) = find_policies([policy])
        spec = source.spec()
        if spec is not None and not build.same_task(spec.task, full):
            raise ConfigError(f"{policy} is a bundle for {spec.task}, not for {full}")
    path = None if video is None else Path(video)
    if path is None:
        check_display()
    env = build.make_env(full, render_mode="human" if path is None else "rgb_array", engine=engine)
    try:
        contract = Contract.of(full, env)
        if (parameters or goal) and not contract.parameters:
            raise ConfigError(f"{task} is not one of our tasks: it has no parameters and no goal to set")
        randomizer = build.make_randomizer(build.find_randomization(randomization, full), env, full)
        driver: Policy = HoldStill(contract) if source is None else source.open()
        outcomes = []
        if source is not None and spec is not None:
            contract.check(spec, source.text)
        done, most = 0, episodes * build.episode_steps(env)
        with filming(env, path, contract.control_dt, force=force) as take_frame:

            def each_step() -> None:
                nonlocal done
                if take_frame is not None:
                    take_frame()
                if progress is not None:
                    progress(done, most)
                done += 1

            for episode in range(episodes):
                drawn = {} if randomizer is None else randomizer.draw(seed, 0, episode)
                outcome = run_episode(
                    env,
                    contract,
                    driver,
                    seed=seed + episode,
                    parameters=drawn | dict(parameters or {}),
                    goal=goal,
                    each_step=each_step,
                )
                outcomes.append(outcome)
    finally:
        env.close()
    return PlayResult(full, policy or "hold still", None if path is None else str(path), tuple(outcomes))


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
    video: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> ReplayResult:
    """Run one row of an evaluation again, from its recorded parameters and seed.

    What an evaluation's files name is not imported unless the caller names it too.

    Args:
        case: "suite/condition/number", as the report prints it.
        bundle: needed where the evaluation judged several, or a `module:function`.
        task: needed where the task is a `module:Id-v0`.
        video: a file for the film; `force` replaces an earlier one.

    Raises:
        RunError: no such evaluation, case, bundle or engine, or another bundle in its place; SpecError: the bundle was
            changed.
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
    full = _recorded_task(Path(folder), provenance, task)
    source = _recorded_policy(Path(folder), row.bundle, provenance, asked=bundle)
    path = None if video is None else Path(video)
    env = build.make_env(full, render_mode=None if path is None else "rgb_array", engine=row.engine)
    try:
        contract = Contract.of(full, env)
        with filming(env, path, contract.control_dt, force=force) as each_step:
            outcome = run_episode(
                env, contract, source.open(), seed=row.seed, parameters=row.parameters, each_step=each_step
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


def _recorded_task(folder: Path, provenance: Mapping[str, Any], asked: str | None) -> str:
    """The gymnasium id of an evaluation. Raises RunError when `asked` is another, or a module's was not asked for."""
    full = str(provenance["task"])
    if asked is None:
        if ":" not in full or split_task(full):
            return full
        raise RunError(f"{folder} is of {full}: to let it import that module, name it with --task {full}")
    if not build.same_task(found := build.task_id(asked), full):
        raise RunError(f"{folder} is of {full}, not of {asked}")
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
