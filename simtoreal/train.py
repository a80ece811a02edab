"""Train a policy and leave a run folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from simtoreal import build
from simtoreal.algorithms import complete_config, complete_stored_config, image_defaults, pick_device
from simtoreal.config import (
    MAY_DIFFER,
    ConfigError,
    RunConfig,
    amended_config,
    default_algorithm,
    difference,
    load_config,
    make_config,
)
from simtoreal.judge import Judge
from simtoreal.learners import make_learner
from simtoreal.locks import check_unlocked, locked
from simtoreal.recorder import Recorder, Reporter, TrainResult
from simtoreal.robot_files import check_version, fingerprint, moved, name_task, split_task
from simtoreal.robot_making import FAMILIES
from simtoreal.runs import CONFIG, RunError, claimed_output, frozen, output_path
from simtoreal.training_envs import TrainingEnvs
from simtoreal.trial import TrialWarning, trial


def train(
    task: str,
    *,
    algorithm: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    out: str | os.PathLike[str],
    randomization: str | None = None,
    curriculum: str | None = None,
    engine: str | None = None,
    robot: str | None = None,
    device: str | None = None,
    envs: int | None = None,
    workers: int | None = None,
    checkpoint_every: int | None = None,
    config_file: str | os.PathLike[str] | None = None,
    assignments: Sequence[str] = (),
    force: bool = False,
    resume: bool = False,
    fall_back: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train `algorithm` on `task` for `steps` environment steps and write the run folder `out`.

    Args:
        task: ours by short name ("PandaReach") or any gymnasium id.
        algorithm: None is the first of the task's recipe (`default_algorithm`), "sac" where it has none.
        steps: None are those that the recipe is known to need, or what a configuration says.
        engine: the physics engine of a task of ours; None for PyBullet, or what a configuration says.
        robot: the robot file, or an installed robot, that `task` is made of where that is a family (Walk, Reach,
            Balance); with `resume` where it lies now, if elsewhere.
        randomization: a shipped preset's name, a YAML file, "none", or None for the task's own preset.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        envs, workers: environments, and processes among which they are dealt (0: all in this one).
        curriculum: "adr" or "success": the preset's ranges begin at nominal and widen as they are mastered.
        seed, device, envs, workers, checkpoint_every: None leaves it to the configuration.
        config_file: YAML with fields of `RunConfig`; `assignments` are "path=value", e.g. "agent.gamma=0.98".
        force: replace an earlier run at `out`.
        resume: go on with the run at `out` from its newest checkpoint, under its own configuration; on a CPU all that
            comes of it is what an undisturbed run would have given, bit for bit. What is given besides must agree
            with that configuration; only `steps` may be larger, None leaves it, and `workers` and the setting
            `step_timeout` may differ. A finished run is left as it is.
        fall_back: where the newest checkpoint is damaged, resume from the newest sound one.

    Raises:
        ValueError: bad configuration (ConfigError), preset (ConfigFileError), output folder, or run to resume
            (RunError, CheckpointError).
        Interrupted: stopped by a signal, after saving a checkpoint.
        NonFiniteError, FaultRateError, EnvError, WorkerError: learning, physics, an environment or a worker process
            broke; the last good checkpoint is kept.
        SaveError: the disk refused; the last good checkpoint is kept.

    Where there is no checkpoint yet, an exception leaves nothing behind of a run that was not resumed.
    """
    folder = output_path(out)
    if resume and robot is None and task in FAMILIES:
        task = _robots_task(folder, task)
    name = build.short_name(build.task_id(name_task(task, robot)))
    overrides = {
        "steps": steps,
        "seed": seed,
        "engine": engine,
        "curriculum": None if curriculum is None else {"kind": curriculum},
        "randomization": None if randomization is None else build.find_randomization(randomization, name),
        "device": device,
        "envs": envs,
        "workers": workers,
        "checkpoint_every": checkpoint_every,
    }
    arguments: dict[str, Any] = {
        "overrides": overrides,
        "config_file": None if config_file is None else Path(config_file),
        "assignments": assignments,
    }
    if resume:
        if force:
            raise ConfigError("--resume goes on with a run, --force replaces it: choose one")
        config = _config_to_resume(folder, name, algorithm, arguments)
        check_version(config.task, config.robot, f"{folder} was trained on")
        used = frozen(config, folder)
    else:
        if fall_back:
            raise ConfigError("--fall-back is for --resume")
        algorithm = algorithm or default_algorithm(name)
        defaults = {"randomization": build.find_randomization(None, name)}
        defaults |= image_defaults(build.task_id(name), algorithm)
        config = complete_config(make_config(name, algorithm=algorithm, defaults=defaults, **arguments))
        config = used = config.model_copy(update={"robot": fingerprint(name) or None})
    check_unlocked(folder)
    if config.robot and not resume and not (tried := trial(build.task_id(name))).sound:
        warnings.warn(f"{name}: {tried.said}", TrialWarning, stacklevel=2)
    chosen = pick_device(config.device)
    torch.set_num_threads(config.threads)
    environments = TrainingEnvs(used)
    try:
        learner = make_learner(used, environments, chosen)
        judge = Judge(used)
        try:
            randomizer = build.make_randomizer(used.randomization, judge.env, config.task)
            with claimed_output(folder, force=force or resume, marker=CONFIG), locked(folder):
                recorder = Recorder(folder, config, learner, judge, environments, randomizer=randomizer, device=chosen)
                try:
                    if resume:
                        recorder.resume(fall_back=fall_back)
                    else:
                        recorder.begin()
                    return recorder.result() if recorder.finished else recorder.follow(reporter)
                except BaseException:
                    if not resume:
                        recorder.abandon()
                    raise
        finally:
            judge.close()
    finally:
        environments.close()


def _robots_task(folder: Path, family: str) -> str:
    """The task of a run whose robot is described by a file, where it is of that family; else `family`."""
    found = load_config(folder / CONFIG).task if (folder / CONFIG).is_file() else family
    split = split_task(found)
    return found if split is not None and split[1] == family else family


def _config_to_resume(folder: Path, task: str, algorithm: str | None, arguments: Mapping[str, Any]) -> RunConfig:
    """The configuration of the run at `folder`, its steps perhaps more, its workers perhaps others.

    Raises:
        RunError: there is none, it was not stored to be resumed, or what is asked for contradicts it.
    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder} holds no run to resume: no {CONFIG} in it")
    config = complete_stored_config(load_config(folder / CONFIG))
    config = config.model_copy(update={"task": moved(config.task, task)})
    for what, asked, theirs in (("task", task, config.task), ("algorithm", algorithm, config.algorithm)):
        if asked not in (None, theirs):
            raise RunError(f"{folder} is a run of {what} {theirs}, not {asked}")
    wanted = complete_config(amended_config(config, **arguments))
    if found := difference(config.model_dump(mode="json"), wanted.model_dump(mode="json")):
        setting, theirs, asked = found
        can = ", ".join(MAY_DIFFER)
        raise RunError(f"{folder} was begun with {setting} {theirs!r}, not {asked!r}; only {can} can change")
    if wanted.steps < config.steps:
        raise RunError(f"{folder} is a run of {config.steps} steps; {wanted.steps} are fewer")
    if not config.resumable:
        raise RunError(f"{folder} was trained with resumable false, so its replay was not stored")
    return wanted
