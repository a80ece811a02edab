"""What is kept of a training as it goes: metrics, periodic evaluation, checkpoints, summary."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from simtoreal import build
from simtoreal.config import RunConfig
from simtoreal.errors import Interrupted
from simtoreal.learners import Learner
from simtoreal.policies.agent import NonFiniteError, act_alone
from simtoreal.policies.checkpoint import save_checkpoint
from simtoreal.policies.loops import Progress
from simtoreal.randomization.yaml_files import write_yaml
from simtoreal.runs import CHECKPOINTS, CONFIG, EVENTS, METRICS, RANDOMIZATION, SUMMARY, versions, write_json

LOG_EVERY = 1_000  # environment steps between lines of metrics


class Reporter(Protocol):
    """Sees a training as it goes; `update` gets the step and the latest figures."""

    def update(self, step: int, figures: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class TrainResult:
    """A finished training: its folder and what its periodic evaluation said (training conditions, unseen episodes)."""

    run: Path
    steps: int
    best_step: int
    best_success: float | None
    best_return: float
    last_success: float | None
    last_return: float
    wall_seconds: float
    cpu_seconds: float

    def to_json(self) -> dict[str, Any]:
        return {name: str(v) if isinstance(v, Path) else v for name, v in vars(self).items()}


@dataclass(frozen=True)
class Judgement:
    """A deterministic evaluation in mid-training. `success` is None where the task does not report `is_success`."""

    success: float | None
    mean_return: float

    def better_than(self, other: Judgement | None) -> bool:
        return other is None or (self.success or 0.0, self.mean_return) >= (other.success or 0.0, other.mean_return)


class Judge:
    """Plays the same episodes, of the training distribution but none that is trained on, each time it is asked."""

    def __init__(self, config: RunConfig) -> None:
        self._env = build.make_training_env(config, 0, config.seed + build.EVALUATION_SEED)
        self._seed = config.seed + build.EVALUATION_SEED
        self._episodes = config.evaluate_episodes

    def __call__(self, actor: nn.Module) -> Judgement:
        returns, successes = [], []
        for episode in range(self._episodes):
            obs, _ = self._env.reset(seed=self._seed if episode == 0 else None)
            total, ended = 0.0, False
            info: dict[str, Any] = {}
            while not ended:
                action = act_alone(actor, build.policy_part(obs))
                obs, reward, terminated, truncated, info = self._env.step(action)
                total += float(reward)
                ended = terminated or truncated
            returns.append(total)
            successes.append(info.get("is_success"))
        if not np.isfinite(returns).all():
            raise NonFiniteError(f"an evaluation returned {next(r for r in returns if not math.isfinite(r))}")
        known = [s for s in successes if s is not None]
        return Judgement(float(np.mean(known)) if known else None, float(np.mean(returns)))

    @property
    def env(self) -> gym.Env[Any, Any]:
        """Its environment, to read the task's contract from."""
        return self._env

    def close(self) -> None:
        self._env.close()


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them (in the main thread; elsewhere nothing is collected)."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@dataclass
class Recorder:
    """Follows a learner: metrics, TensorBoard, periodic evaluation, checkpoints, summary."""

    folder: Path
    config: RunConfig
    judge: Judge
    device: str
    envs: build.TrainingEnvs
    _recent: list[dict[str, Any]] = field(default_factory=list)
    _evaluations: list[dict[str, Any]] = field(default_factory=list)
    _sums: dict[str, list[float]] = field(default_factory=dict)
    _faults: int = 0

    def follow(self, learner: Learner, reporter: Reporter | None) -> TrainResult:
        """Run the learner to its end. See `train` for what is raised."""
        from torch.utils.tensorboard import SummaryWriter

        (self.folder / SUMMARY).unlink(missing_ok=True)
        for name in (CHECKPOINTS, EVENTS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        write_yaml(self.folder / CONFIG, self.config.model_dump(exclude_none=True))
        self._began, self._cpu_began = time.perf_counter(), self._cpu()
        randomizer = build.make_randomizer(self.config.randomization, self.judge.env, self.config.task)
        self._ranges = {} if randomizer is None else randomizer.ranges
        (self.folder / RANDOMIZATION).unlink(missing_ok=True)
        if randomizer is not None:
            write_yaml(self.folder / RANDOMIZATION, randomizer.preset.to_data())
        self._best: Judgement | None = None
        self._last: Judgement | None = None
        self._best_step = self._step = 0
        due = {
            "log": LOG_EVERY,
            "evaluate": self.config.evaluate_every,
            "checkpoint": self.config.checkpoint_every or 0,
        }
        writer = SummaryWriter(str(self.folder / EVENTS))
        try:
            with stop_requests() as stops, (self.folder / METRICS).open("w") as metrics:
                for progress in learner.run():
                    self._step, finished = progress.step, progress.step >= self.config.steps
                    self._take(progress)
                    if progress.step >= due["log"] or finished:
                        due["log"] += LOG_EVERY
                        self._log(metrics, writer)
                    keep = due["checkpoint"] and progress.step >= due["checkpoint"]
                    if keep:
                        due["checkpoint"] += self.config.checkpoint_every or 0
                    stop = stops[:1]  # one that comes from here on is answered at the next look, after a checkpoint
                    if progress.step >= due["evaluate"] or finished or stop or keep:
                        due["evaluate"] += self.config.evaluate_every
                        self._evaluate(learner, metrics, writer, keep=bool(keep), finished=finished)
                    if reporter is not None:
                        reporter.update(progress.step, self.figures())
                    if stop:
                        raise Interrupted(stop[0], self.folder)
        finally:
            writer.close()
            self.judge.close()
        assert self._best is not None
        assert self._last is not None
        return TrainResult(
            run=self.folder,
            steps=self._step,
            best_step=self._best_step,
            best_success=self._best.success,
            best_return=self._best.mean_return,
            last_success=self._last.success,
            last_return=self._last.mean_return,
            wall_seconds=time.perf_counter() - self._began,
            cpu_seconds=self._cpu() - self._cpu_began,
        )

    def figures(self) -> dict[str, float]:
        """Mean return and success of the last 100 training episodes, and the latest evaluation."""
        out: dict[str, float] = {}
        if self._recent:
            out["return"] = float(np.mean([episode["r"] for episode in self._recent]))
            known = [episode["is_success"] for episode in self._recent if episode["is_success"] is not None]
            if known:
                out["success"] = float(np.mean(known))
        if self._last is not None:
            out["evaluation_return"] = self._last.mean_return
            if self._last.success is not None:
                out["evaluation_success"] = self._last.success
        return out

    def _cpu(self) -> float:
        return time.process_time() + self.envs.cpu_seconds

    def _take(self, progress: Progress) -> None:
        self._recent = (self._recent + progress.episodes)[-100:]
        self._faults = progress.faults
        for name, value in progress.metrics.items():
            self._sums.setdefault(name, []).append(value)

    def _log(self, metrics: Any, writer: Any) -> None:
        seconds = time.perf_counter() - self._began
        figures = self.figures()
        tags = {"time/fps": self._step / seconds}
        tags |= {f"train/{name}": float(np.mean(values)) for name, values in self._sums.items()}
        if "return" in figures:
            tags["rollout/ep_rew_mean"] = figures["return"]
            tags["rollout/ep_len_mean"] = float(np.mean([episode["l"] for episode in self._recent]))
        if "success" in figures:
            tags["rollout/success_rate"] = figures["success"]
        self._sums = {}
        self._write(metrics, writer, tags)

    def _write(self, metrics: Any, writer: Any, tags: Mapping[str, float]) -> None:
        finite = {name: value for name, value in tags.items() if math.isfinite(value)}
        for name, value in finite.items():
            writer.add_scalar(name, value, self._step)
        line = {"step": self._step, "seconds": time.perf_counter() - self._began, **finite}
        metrics.write(json.dumps(line) + "\n")
        metrics.flush()

    def _evaluate(self, learner: Learner, metrics: Any, writer: Any, *, keep: bool, finished: bool) -> None:
        actor = learner.actor().cpu().eval()
        judgement = self._last = self.judge(actor)
        best_before = self._best_step
        if judgement.better_than(self._best):
            self._best, self._best_step = judgement, self._step
        entry = {"step": self._step, "success": judgement.success, "return": judgement.mean_return}
        self._evaluations.append(entry)
        tags = {"eval/mean_reward": judgement.mean_return}
        if judgement.success is not None:
            tags["eval/success_rate"] = judgement.success
        self._write(metrics, writer, tags)
        previous = self._saved
        self._save(learner, actor)
        if keep:
            self._kept.add(self._step)
        self._saved = self._step
        self._summarise(finished)
        for step in {previous, best_before} - {self._best_step, self._step, 0} - self._kept:
            shutil.rmtree(self.folder / CHECKPOINTS / str(step))

    _saved: int = 0
    _kept: set[int] = field(default_factory=set)

    def _save(self, learner: Learner, actor: nn.Module) -> None:
        weights = {f"actor.{name}": tensor for name, tensor in actor.state_dict().items()}
        own = {f"agent.{name}": tensor for name, tensor in learner.tensors().items()}
        describe: Any = actor.describe
        meta = {
            "task": self.config.task,
            "algorithm": self.config.algorithm,
            "step": self._step,
            "seed": self.config.seed,
            "actor": describe(),
        }
        save_checkpoint(self.folder / CHECKPOINTS / str(self._step), weights | own, meta, replace=True)

    def _summarise(self, finished: bool) -> None:
        assert self._best is not None
        assert self._last is not None
        write_json(
            self.folder / SUMMARY,
            {
                "task": self.config.task,
                "algorithm": self.config.algorithm,
                "seed": self.config.seed,
                "steps": self._step,
                "finished": finished,
                "best": {"step": self._best_step, **vars(self._best)},
                "last": {"step": self._step, **vars(self._last)},
                "evaluations": self._evaluations,
                "physics_faults": self._faults,
                "worker_restarts": self.envs.restarts,
                "training_ranges": self._ranges,
                "wall_seconds": time.perf_counter() - self._began,
                "cpu_seconds": self._cpu() - self._cpu_began,
                "device": self.device,
                "threads": torch.get_num_threads(),
                "versions": versions(),
                "parent": None,
            },
        )
