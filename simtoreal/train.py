"""Train a policy and leave a run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from simtoreal import build
from simtoreal.config import make_config
from simtoreal.learners import make_learner, pick_device, sac_settings
from simtoreal.recorder import Judge, Recorder, Reporter, TrainResult
from simtoreal.runs import CONFIG, claimed_output


def train(
    task: str,
    *,
    algorithm: str = "sac",
    steps: int,
    seed: int | None = None,
    out: str | os.PathLike[str],
    randomization: str | None = None,
    device: str | None = None,
    envs: int | None = None,
    workers: int | None = None,
    checkpoint_every: int | None = None,
    config_file: str | os.PathLike[str] | None = None,
    assignments: Sequence[str] = (),
    force: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train `algorithm` on `task` for `steps` environment steps and write the run folder `out`.

    Args:
        task: ours by short name ("PandaReach") or any gymnasium id.
        randomization: a shipped preset's name, a YAML file, "none", or None for the task's own preset.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        envs, workers: environments, and processes among which they are dealt (0: all in this one).
        seed, device, envs, workers, checkpoint_every: None leaves it to the configuration.
        config_file: YAML with fields of `RunConfig`; `assignments` are "path=value", e.g. "agent.gamma=0.98".
        force: replace an earlier run at `out`.

    Raises:
        ValueError: bad configuration (ConfigError), preset (ConfigFileError) or output folder (RunError).
        Interrupted: stopped by a signal, after saving a checkpoint.
        NonFiniteError, FaultRateError, WorkerError: learning, physics or a worker process broke; the last good
            checkpoint is kept.
    """
    name = build.short_name(build.task_id(task))
    config = make_config(
        name,
        algorithm=algorithm,
        overrides={
            "steps": steps,
            "seed": seed,
            "randomization": None if randomization is None else build.find_randomization(randomization, name),
            "device": device,
            "envs": envs,
            "workers": workers,
            "checkpoint_every": checkpoint_every,
        },
        defaults={"randomization": build.find_randomization(None, name)},
        config_file=None if config_file is None else Path(config_file),
        assignments=assignments,
    )
    if algorithm == "sac":
        config = config.model_copy(update={"agent": asdict(sac_settings(config))})
    folder = Path(out)
    chosen = pick_device(config.device)
    torch.set_num_threads(config.threads)
    environments = build.TrainingEnvs(config)
    try:
        learner = make_learner(config, environments, chosen)
        judge = Judge(config)
        with claimed_output(folder, force=force, marker=CONFIG):
            return Recorder(folder, config, judge, chosen, environments).follow(learner, reporter)
    finally:
        environments.close()
