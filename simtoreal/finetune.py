"""Fine-tune a run's policy on a robot, and keep the base unless the new one is better with confidence."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import boschloo_exact

from simtoreal import build
from simtoreal.config import parse_assignments, settings_of
from simtoreal.intervals import Estimate, wilson
from simtoreal.locks import check_unlocked, locked
from simtoreal.policies.checkpoint import TENSORS, save_actor
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.finetuning import FineTuner, FineTuningConfig
from simtoreal.randomization.yaml_files import write_yaml
from simtoreal.robot_env import open_robot
from simtoreal.robot_session import RELABELLED, SIMULATED_STEPS, Budget, CapReached, Caps, Session, simulate
from simtoreal.robots.task import Task
from simtoreal.runs import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    RANDOMIZATION,
    SUMMARY,
    Run,
    RunError,
    claimed_output,
    clear_run,
    output_path,
    versions,
    write_json,
)

LEVEL = 0.05  # of the one test that decides; it is looked at once, at the end
GAMMA = 0.98  # at most: what lies a second ahead can be learned from minutes

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FineTuneResult:
    """A finished fine-tuning. `base` and `tuned` are success rates on the robot; None where it was not judged."""

    run: Path
    accepted: bool
    reason: str
    base: Estimate | None
    tuned: Estimate | None
    p_value: float | None
    robot_seconds: float
    rollouts: int
    falls: int
    stops: int
    violations: int
    rollbacks: int
    wall_seconds: float

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = vars(self) | {"run": str(self.run)}
        return {name: v.to_json() if isinstance(v, Estimate) else v for name, v in plain.items()}


def finetune(
    run: str | os.PathLike[str],
    *,
    target: str | os.PathLike[str],
    robot_seconds: float,
    out: str | os.PathLike[str],
    checkpoint: str = "best",
    seed: int = 0,
    max_falls: int = Caps.falls,
    max_stops: int = Caps.stops,
    max_violations: int = Caps.violations,
    assignments: Sequence[str] = (),
    robot: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FineTuneResult:
    """Fine-tune checkpoint `checkpoint` of a run on a robot and write the run folder `out`, which names its parent.

    The base is judged on the robot first; then critics, trained beforehand on simulated rollouts of the base, learn on
    the robot's; then the actor moves, near to where it starts; at the end the candidate is judged. It is kept if its
    success rate is above the base's by Boschloo's one-sided exact test at 5 %; else `out` holds the base and says why.

    Args:
        target: a target file, whose robot is started in another process, or a link (`tcp://HOST:PORT`, `unix:PATH`).
        robot_seconds: all that the robot may spend: reset routines, learning, judging base and candidate.
        max_falls, max_stops, max_violations: falls, times the robot stopped itself, and control steps beyond a limit,
            after which the session ends and the base is kept.
        assignments: settings of the learner (`FineTuningConfig`), each "name=value". Unless they say otherwise, its
            critics are as wide as the policy, its smoothness is the run's, and its discount too, but at most 0.98.
        robot: the robot file of the run's task, where it lies elsewhere now.
        force: replace an earlier run at `out`.

    Raises:
        ValueError: no such run, or one in training; no such target, robot or setting; a recurrent policy; too few
            seconds; a robot of another task or contract.
        RobotLinkError: the robot is lost. Nothing is written.
    """
    source = Run.load(run, robot=robot)
    source.check_robot()
    source.check_leaves("fine-tuned")
    check_unlocked(source.path)
    actor, meta = source.actor(checkpoint)
    parent = _Parent.of(source, meta["step"])
    if actor.recurrent:
        raise RunError(f"{source.path}: its policy is recurrent; fine-tuning is for policies without a hidden state")
    if actor.choices or actor.image:
        raise RunError(f"{source.path}: fine-tuning is for policies that see vectors and act continuously")
    if actor.encoder:
        raise RunError(f"{source.path}: its policy is a student's; fine-tuning is for policies of one network")
    caps = Caps(max_falls, max_violations, max_stops)
    folder = output_path(out)
    if folder.resolve() == source.path.resolve():
        raise RunError(f"{folder} is the run to start from; choose another folder")
    check_unlocked(folder)
    began = time.perf_counter()
    torch.set_num_threads(source.config.threads)
    gamma = min(float(source.config.agent.get("gamma", GAMMA)), GAMMA)
    base = {"gamma": gamma, "hidden": actor.hidden, "smoothness": source.config.agent.get("smoothness", 0.0)}
    settings = settings_of(FineTuningConfig, base | parse_assignments(assignments), "finetune.")
    with (
        claimed_output(folder, force=force, marker=CONFIG),
        locked(folder),
        open_robot(target, seed, build.task_id(source.config.task)) as env,
    ):
        _check_sizes(source, actor, env.task)
        budget = Budget(robot_seconds, env.episode_seconds)
        copies = 1 + source.config.augment
        new = 1 + max(source.config.augment, RELABELLED)
        kept = {"old": copies * SIMULATED_STEPS, "new": new * int(robot_seconds / env.control_dt + 1)}
        tuner = FineTuner(actor, settings, **kept, seed=seed)
        augment = simulate(source.frozen_config, tuner, seed)
        session = Session(env, tuner, augment, budget, caps)
        trouble = None
        try:
            session.run(None if progress is None else lambda seconds: progress(int(seconds), int(robot_seconds)))
        except CapReached as stop:
            trouble = str(stop)
        verdict = decide(session.outcomes("base"), session.outcomes("candidate"), trouble)
        result = FineTuneResult(
            run=folder,
            robot_seconds=round(env.seconds, 6),
            rollouts=len(session.rollouts),
            falls=session.falls,
            stops=session.stops,
            violations=session.violations,
            rollbacks=session.rollbacks,
            wall_seconds=time.perf_counter() - began,
            **verdict,
        )
        _write(result, source, meta, parent, {"seed": seed, "target": os.fspath(target)}, tuner, session)
    return result


@dataclass(frozen=True)
class _Parent:
    """Of the run to start from what is written at the end, as it is at the beginning: by then it may be another."""

    sha256: str
    ranges: bytes | None

    @classmethod
    def of(cls, source: Run, step: int) -> _Parent:
        weights, ranges = source.path / CHECKPOINTS / str(step) / TENSORS, source.path / RANDOMIZATION
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        return cls(sha256, ranges.read_bytes() if ranges.is_file() else None)


def better(base: list[bool], tuned: list[bool]) -> float:
    """p-value of Boschloo's one-sided exact test that the tuned success rate is no higher than the base's."""
    table = [[sum(tuned), sum(base)], [len(tuned) - sum(tuned), len(base) - sum(base)]]
    if sum(table[0]) in (0, len(base) + len(tuned)):
        return 1.0  # all failed or all succeeded: nothing tells them apart
    return float(boschloo_exact(table, alternative="greater").pvalue)


def _check_sizes(source: Run, actor: DeterministicActor, task: type[Task]) -> None:
    sizes = task.observation_layout.size, task.command_layout.size
    if (actor.observation_size, actor.action_size) != sizes:
        name = source.config.task
        raise RunError(f"{source.path}: its actor maps {actor.observation_size} observations, {name} has {sizes[0]}")


def decide(base: list[bool], tuned: list[bool], trouble: str | None = None) -> dict[str, Any]:
    """The fields of the result that the successes of the two judgements decide; `trouble` is why the session ended
    early."""
    rates = {name: Estimate(sum(o) / len(o), *wilson(sum(o), len(o))) if o else None for name, o in
             (("base", base), ("tuned", tuned))}  # fmt: skip
    if trouble is not None:
        return {"accepted": False, "reason": f"base kept: {trouble}", "p_value": None, **rates}
    p = better(base, tuned)
    counts = f"success {sum(tuned)} of {len(tuned)} against the base's {sum(base)} of {len(base)}, p = {p:.2g}"
    accepted = p <= LEVEL
    reason = f"better than the base: {counts}" if accepted else f"base kept: not better with confidence: {counts}"
    return {"accepted": accepted, "reason": reason, "p_value": p, **rates}


def _write(
    result: FineTuneResult, source: Run, meta: Mapping[str, Any], parent: _Parent, asked: Mapping[str, Any],
    tuner: FineTuner, session: Session,
) -> None:  # fmt: skip
    """The run folder: checkpoint 0 is the base; the tuned policy, if it was accepted, follows under its rollouts."""
    folder = result.run
    clear_run(folder)
    config = source.config.model_copy(update={"curriculum": None})
    write_yaml(folder / CONFIG, config.model_dump(exclude_none=True))
    if parent.ranges is not None:
        (folder / RANDOMIZATION).write_bytes(parent.ranges)
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in session.metrics))
    policies = {0: tuner.base} | ({result.rollouts: tuner.average} if result.accepted else {})
    for step, policy in policies.items():
        about = {"task": source.config.task} | {name: meta[name] for name in ("algorithm", "seed")}
        save_actor(folder / CHECKPOINTS / str(step), policy, about | {"step": step})
    judged = [
        {"step": 0, "success": _value(result.base), "return": session.mean_return("base")},
        {"step": result.rollouts, "success": _value(result.tuned), "return": session.mean_return("candidate")},
    ]
    chosen = judged[1] if result.accepted else judged[0]
    kept = {"step": chosen["step"], "success": chosen["success"], "mean_return": chosen["return"]}
    write_json(
        folder / SUMMARY,
        {
            "task": source.config.task,
            "algorithm": source.config.algorithm,
            "seed": source.config.seed,
            "steps": sum(rollout.length for rollout in session.rollouts),
            "finished": True,
            "best": kept,
            "last": kept,
            "evaluations": judged,
            "training_ranges": source.summary["training_ranges"],
            "wall_seconds": result.wall_seconds,
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "parent": {
                "run": os.path.relpath(source.path.resolve(), folder.resolve()),
                "checkpoint": meta["step"],
                "sha256": parent.sha256,
            },
            "finetune": result.to_json() | {**asked, "settings": asdict(tuner.config)},
        },
    )


def _value(rate: Estimate | None) -> float | None:
    return None if rate is None else rate.value
