"""Bring in a policy that somebody trained elsewhere, as a run that can be exported and judged like our own."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from simtoreal import build
from simtoreal.config import ConfigError, RunConfig
from simtoreal.contract import Contract
from simtoreal.locks import check_unlocked, locked
from simtoreal.policies.checkpoint import save_actor
from simtoreal.policies.sb3_zip import Sb3Policy, read_sb3
from simtoreal.randomization.yaml_files import write_yaml
from simtoreal.robot_files import fingerprint, name_task
from simtoreal.runs import CHECKPOINTS, CONFIG, SUMMARY, claimed_output, clear_run, output_path, versions, write_json


@dataclass(frozen=True)
class ImportResult:
    """The run that was made of a file."""

    run: Path
    algorithm: str
    steps: int  # environment steps it was trained for, as the file says

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"run": str(self.run)}


def import_policy(
    model: str | os.PathLike[str],
    *,
    task: str,
    robot: str | None = None,
    out: str | os.PathLike[str],
    force: bool = False,
) -> ImportResult:
    """Make the run folder `out` of a zip that Stable-Baselines3's `model.save` wrote: SAC, TD3, PPO or DQN with its
    MlpPolicy. Nothing in it is unpickled, so nothing in it runs.

    The run holds the policy alone: it can be exported, judged and fine-tuned, not resumed. Statistics that
    `VecNormalize` keeps in a file of their own are not part of a zip; a policy that needs them does not work without.

    Args:
        task: that it was trained on; robot: the robot file, where that is a family (Walk, Reach, Balance).

    Raises:
        ValueError: no such task (ConfigError), no such zip or policy (Sb3ZipError), a policy of other observations or
            actions than the task's (ConfigError), or an output folder in the way (RunError).
        OSError: the file cannot be read.
    """
    path, name, folder = Path(model), build.short_name(build.task_id(name_task(task, robot))), output_path(out)
    found = read_sb3(path)
    _check(found, path, name)
    check_unlocked(folder)
    algorithm = f"sb3-{found.algorithm}"
    about = {"task": name, "robot": fingerprint(name) or None, "algorithm": algorithm, "seed": 0}
    config = RunConfig.model_validate(about | {"steps": max(found.steps, 1), "resumable": False})
    with claimed_output(folder, force=force, marker=CONFIG), locked(folder):
        clear_run(folder)
        write_yaml(folder / CONFIG, config.model_dump(exclude_none=True))
        save_actor(folder / CHECKPOINTS / str(found.steps), found.actor, about | {"step": found.steps})
        kept = {"step": found.steps, "success": None, "mean_return": None}
        write_json(
            folder / SUMMARY,
            {
                **about,
                "steps": found.steps,
                "finished": True,
                "best": kept,
                "last": kept,
                "evaluations": [],
                "training_ranges": {},
                "versions": versions(),
                "parent": {
                    "model": path.name,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "stable_baselines3": found.version,
                },
            },
        )
    return ImportResult(folder, algorithm, found.steps)


def _check(found: Sb3Policy, path: Path, task: str) -> None:
    """Raises ConfigError where the policy's observations or actions are not the task's."""
    env = build.make_env(build.task_id(task))
    try:
        contract, choices = Contract.of(task, env), build.choices_of(env)
        space = env.unwrapped.action_space
        seen = contract.image or contract.observation.size
    finally:
        env.close()
    if found.actor.observation_size != seen:
        raise ConfigError(f"{path} sees {found.actor.observation_size} numbers, {task} shows {seen}")
    if found.choices != choices:
        theirs, ours = (f"one of {n} choices" if n else "continuous" for n in (found.choices, choices))
        raise ConfigError(f"{path}: its actions are {theirs}, those of {task} {ours}")
    if choices:
        return
    assert isinstance(space, spaces.Box)
    low, high = space.low.astype(float).ravel(), space.high.astype(float).ravel()
    if len(found.low) != len(low):
        raise ConfigError(f"{path} gives {len(found.low)} actions, {task} takes {len(low)}")
    if not (np.allclose(found.low, low, rtol=1e-5) and np.allclose(found.high, high, rtol=1e-5)):
        raise ConfigError(f"{path} acts within {found.low} to {found.high}, {task} within {low} to {high}")
