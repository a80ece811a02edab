"""Make a policy of a teacher: what it knows of the robot, the policy tells from what it has seen of late."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simtoreal import build
from simtoreal.config import parse_assignments, settings_of
from simtoreal.judge import Judge, Judgement
from simtoreal.locks import check_unlocked, locked
from simtoreal.policies.checkpoint import save_actor
from simtoreal.policies.distillation import DistillConfig, Distiller
from simtoreal.policies.observations import split_observation
from simtoreal.policies.transitions import copied, finite, stacked
from simtoreal.randomization.yaml_files import write_yaml
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
from simtoreal.training_envs import TrainingEnvs

LOG_EVERY = 1_000  # environment steps between lines of metrics
FRESH = 1 << 21  # added to a seed: the robots a student learns on are none that its teacher learned or was judged on


@dataclass(frozen=True)
class DistillResult:
    """The run of a student, and how it and its teacher did on the same fresh robots."""

    run: Path
    steps: int
    success: float | None
    mean_return: float
    teacher_success: float | None
    teacher_return: float
    wall_seconds: float
    cpu_seconds: float

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"run": str(self.run)}


def distill(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    steps: int = 40_000,
    checkpoint: str = "best",
    seed: int = 0,
    assignments: Sequence[str] = (),
    robot: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DistillResult:
    """Train a student of the teacher in `run` for `steps` environment steps and write its run folder `out`, which can
    be exported and judged.

    The student acts in the environments that the teacher was trained on, on robots that it was not. Its episodes are
    whole, its robots the preset's throughout. What it learns is the encoder (`Distiller`).

    Args:
        checkpoint: the teacher's.
        assignments: settings of the distillation (`DistillConfig`), each "name=value".
        robot: the robot file of the run's task, where it lies elsewhere now.
        force: replace an earlier run at `out`.

    Raises:
        ValueError: no such run, or one that is no teacher's (RunError); no such setting (ConfigError).
    """
    source = Run.load(run, robot=robot)
    source.check_robot()
    if not source.config.teacher:
        raise RunError(f"{source.path} is no teacher's; train one with --set teacher=true --set privileged=true")
    settings = settings_of(DistillConfig, parse_assignments(assignments), "distill.")
    folder = output_path(out)
    if folder.resolve() == source.path.resolve():
        raise RunError(f"{folder} is the run to start from; choose another folder")
    check_unlocked(source.path)
    check_unlocked(folder)
    teacher, meta = source.actor(checkpoint)
    began, used = time.perf_counter(), time.process_time()
    torch.set_num_threads(source.config.threads)
    plain = source.frozen_config.model_copy(
        update={"seed": (seed + FRESH) % 2**31, "episode_steps": None, "randomization_ramp": (0, 0), "curriculum": None}
    )
    with claimed_output(folder, force=force, marker=CONFIG), locked(folder):
        envs = TrainingEnvs(plain)
        try:
            size = int(np.prod(build.policy_space(envs.prototype).shape or ()))
            known = len(build.parameters_of(envs.prototype))
            distiller = Distiller(teacher, size, steps + envs.num_envs, settings, seed)
            lines = list(_learn(envs, distiller, known, steps, plain.seed, progress))
        finally:
            envs.close()
        student = distiller.actor()
        judged = _judged(source, student, teacher)
        result = DistillResult(
            run=folder,
            steps=int(lines[-1]["step"]),
            success=judged[0].success,
            mean_return=judged[0].mean_return,
            teacher_success=judged[1].success,
            teacher_return=judged[1].mean_return,
            wall_seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - used,
        )
        _write(result, source, distiller, lines, meta, seed)
    return result


def _learn(
    envs: TrainingEnvs,
    distiller: Distiller,
    known: int,
    steps: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[dict[str, float]]:
    """Let the student act for so many environment steps and learn from what it came to; a line of metrics now and
    then."""
    config, count = distiller.config, envs.num_envs
    obs = stacked(copied(envs.reset(seed=seed)[0]), config.history)
    credit, step, sums = 0.0, 0, []
    while step < steps:
        stacks, privileged = split_observation(finite(obs))
        assert privileged is not None
        distiller.add(stacks, privileged[:, -known:])
        seen, _, terminated, truncated, _ = envs.step(distiller.act(stacks))
        obs = stacked(copied(seen), config.history, obs, terminated | truncated)
        before, step = step, step + count
        credit += count * config.updates_per_step
        while credit >= 1:
            credit -= 1
            sums.append(distiller.update())
        if sums and (step // LOG_EVERY > before // LOG_EVERY or step >= steps):
            means = {f"train/{name}": float(np.mean([each[name] for each in sums])) for name in sums[0]}
            sums = []
            yield {"step": step, **means}
        if progress is not None:
            progress(min(step, steps), steps)


def _judged(source: Run, student: Any, teacher: Any) -> tuple[Judgement, Judgement]:
    """Both on the same robots."""
    found = []
    for actor, config in (
        (student, source.frozen_config.model_copy(update={"teacher": False})),
        (teacher, source.frozen_config),
    ):
        judge = Judge(config)
        try:
            found.append(judge(actor))
        finally:
            judge.close()
    return found[0], found[1]


def _write(
    result: DistillResult,
    source: Run,
    distiller: Distiller,
    lines: Sequence[Mapping[str, float]],
    meta: Mapping[str, Any],
    seed: int,
) -> None:
    """The student's run folder."""
    folder, step = result.run, result.steps
    clear_run(folder)
    config = source.config.model_copy(
        update={"teacher": False, "curriculum": None, "resumable": False, "seed": seed, "steps": step}
    )
    write_yaml(folder / CONFIG, config.model_dump(exclude_none=True))
    if (source.path / RANDOMIZATION).is_file():
        (folder / RANDOMIZATION).write_bytes((source.path / RANDOMIZATION).read_bytes())
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    about = {"task": config.task, "algorithm": config.algorithm, "seed": seed}
    save_actor(folder / CHECKPOINTS / str(step), distiller.actor(), about | {"step": step})
    kept = {"step": step, "success": result.success, "mean_return": result.mean_return}
    write_json(
        folder / SUMMARY,
        {
            **about,
            "steps": step,
            "finished": True,
            "best": kept,
            "last": kept,
            "evaluations": [{"step": step, "success": result.success, "return": result.mean_return}],
            "training_ranges": source.summary["training_ranges"],
            "wall_seconds": result.wall_seconds,
            "cpu_seconds": result.cpu_seconds,
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "parent": {
                "run": os.path.relpath(source.path.resolve(), folder.resolve()),
                "checkpoint": meta["step"],
                "success": result.teacher_success,
                "mean_return": result.teacher_return,
            },
            "distill": asdict(distiller.config),
        },
    )
