"""What is kept of a training as it goes: metrics, periodic evaluation, checkpoints, summary."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch

from simtoreal.build import display_name
from simtoreal.config import RunConfig
from simtoreal.errors import Interrupted, RunError, SaveError
from simtoreal.judge import BrokenOffError, Judge
from simtoreal.learners import Learner
from simtoreal.metrics import Metrics
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.loop_state import Progress
from simtoreal.randomization.curriculum import Curriculum
from simtoreal.randomization.randomizer import Randomizer
from simtoreal.randomization.yaml_files import write_yaml
from simtoreal.runs import (
    CHECKPOINTS,
    CONFIG,
    RANDOMIZATION,
    REPORT,
    SUMMARY,
    UNFINISHED,
    clear_run,
    versions,
    write_json,
)
from simtoreal.snapshots import Snapshots, Standing
from simtoreal.training_envs import TrainingEnvs

LOG_EVERY = 1_000  # environment steps between lines of metrics


class Reporter(Protocol):
    """Sees a training as it goes; `update` gets the step and the latest figures, and as `steps` those of the whole."""

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
    resumed_at: tuple[int, ...] = ()  # the steps from which it went on after a break
    was_finished: bool = False  # before it was asked for: nothing was trained

    def to_json(self) -> dict[str, Any]:
        return {name: str(v) if isinstance(v, Path) else v for name, v in vars(self).items()}


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


class Recorder:
    """Follows a learner: metrics, TensorBoard, periodic evaluation, checkpoints, summary.

    Args:
        folder: the run's, which this process holds.
        config: the run's.
        randomizer: what its environments draw from.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        learner: Learner,
        judge: Judge,
        envs: TrainingEnvs,
        *,
        randomizer: Randomizer | None,
        device: str,
    ) -> None:
        self.folder, self.config, self.device = folder, config, device
        self._learner, self._judge, self._envs, self._randomizer = learner, judge, envs, randomizer
        self._snapshots = Snapshots(folder, config, device, None if randomizer is None else randomizer.preset)
        self._now = Standing()
        self._saved: int | None = None
        self._restarts = 0  # of workers, before this process went on
        self._clocks: tuple[float, float] | None = None  # wall and CPU [s] when `wall_seconds` was last brought up

    def begin(self) -> None:
        """Make the folder a new run's: nothing stays of an earlier one. Killed at any point, it can be done again.

        Raises SaveError.
        """
        with self._disk():
            for name in (SUMMARY, REPORT):
                (self.folder / name).unlink(missing_ok=True)
            for path in self.folder.glob(UNFINISHED):
                path.unlink()
            self._snapshots.clear()
            (self.folder / RANDOMIZATION).unlink(missing_ok=True)
            write_yaml(self.folder / CONFIG, self.config.model_dump(exclude_none=True))
            if self._randomizer is not None:
                write_yaml(self.folder / RANDOMIZATION, self._randomizer.preset.to_data())

    def abandon(self) -> None:
        """Remove what `begin` and all later wrote, unless there is a checkpoint: without one it is worth nothing."""
        if self._saved is not None or checkpoints(self.folder / CHECKPOINTS):
            return
        clear_run(self.folder)
        (self.folder / CONFIG).unlink(missing_ok=True)

    def resume(self, *, fall_back: bool) -> None:
        """Go back to the run's newest checkpoint (or, with `fall_back`, the newest sound one), to the beginning where
        none was ever written. Raises RunError where one was and is gone, SaveError, and as `Snapshots.restore` does.
        """
        found = self._snapshots.restore(self._learner, fall_back=fall_back)
        if found is None:
            if (self.folder / SUMMARY).is_file():  # it is written after a checkpoint
                raise RunError(
                    f"{self.folder} has a {SUMMARY} but nothing in {CHECKPOINTS}/ to resume from; --force trains anew"
                )
            self.begin()
            return
        self._now, self._saved, self._restarts = found, found.step, found.worker_restarts
        if not self.finished:
            found.resumed_at.append(found.step)
            (self.folder / REPORT).unlink(missing_ok=True)
        with self._disk():
            write_yaml(self.folder / CONFIG, self.config.model_dump(exclude_none=True))  # there may be more steps now
            self._summarise()
        if self.finished and not (self.folder / REPORT).is_file():
            self._write_page()  # it was killed before that

    def follow(self, reporter: Reporter | None) -> TrainResult:
        """Run the learner to its end. See `train` for what is raised."""
        with self._disk():
            metrics = Metrics(self.folder, keep=self._now.metrics_bytes, seconds=self._now.wall_seconds)
        self._start_clocks()
        try:
            with stop_requests() as stops:
                if self._now.unjudged:
                    self._checkpoint(metrics, stops)
                for progress in self._learner.run():
                    before, step = self._now.step, progress.step
                    finished = step >= self.config.steps
                    self._take(progress)
                    if _crossed(before, step, LOG_EVERY) or finished:
                        self._log(metrics)
                    keep = _crossed(before, step, self.config.checkpoint_every)
                    if keep:
                        self._now.kept.append(step)
                    self._now.unjudged = keep or finished or _crossed(before, step, self.config.evaluate_every)
                    if self._now.unjudged or stops or _crossed(before, step, self.config.save_every):
                        self._checkpoint(metrics, stops)
                    if reporter is not None:
                        reporter.update(step, {"steps": self.config.steps, **self.figures()})
        finally:
            with self._disk():
                metrics.close()
        self._write_page()
        return self.result()

    def _checkpoint(self, metrics: Metrics, stops: Sequence[int]) -> None:
        """Evaluate, where that is due, and save. Raises Interrupted, once it is saved, where it is asked to stop."""
        actor = self._actor()
        if self._now.unjudged and not stops:
            with suppress(BrokenOffError):  # whoever goes on begins with it
                self._evaluate(actor, metrics, stops)
        stop = stops[:1]  # one that comes from here on is answered at the next look, after a checkpoint
        self._save(actor, metrics)
        if stop:
            raise Interrupted(stop[0], self.folder)

    def _write_page(self) -> None:
        """Of a curriculum, at the end of a training."""
        if self._envs.curriculum is None:
            return
        from simtoreal.training_report import write_training_report

        with self._disk():
            title = f"{display_name(self.config.task)}, {self.config.algorithm}, seed {self.config.seed}"
            settings = {"randomization": self.config.randomization, **asdict(self._envs.curriculum.settings)}
            write_training_report(self.folder, title=title, settings=settings)

    def result(self) -> TrainResult:
        """What came of a training that has been evaluated."""
        now = self._now
        assert now.best is not None
        assert now.last is not None
        return TrainResult(
            run=self.folder,
            steps=now.step,
            best_step=now.best_step,
            best_success=now.best.success,
            best_return=now.best.mean_return,
            last_success=now.last.success,
            last_return=now.last.mean_return,
            wall_seconds=self._seconds(),
            cpu_seconds=self._cpu_seconds(),
            resumed_at=tuple(now.resumed_at),
            was_finished=self._clocks is None,
        )

    @property
    def finished(self) -> bool:
        """Has it made all its steps, and was it judged after them?"""
        return self._now.step >= self.config.steps and not self._now.unjudged

    def figures(self) -> dict[str, float]:
        """Mean return and success of the last 100 training episodes, and the latest evaluation."""
        now = self._now
        out: dict[str, float] = {}
        if now.recent:
            out["return"] = float(np.mean([episode["r"] for episode in now.recent]))
            known = [episode["is_success"] for episode in now.recent if episode["is_success"] is not None]
            if known:
                out["success"] = float(np.mean(known))
        if now.last is not None:
            out["evaluation_return"] = now.last.mean_return
            if now.last.success is not None:
                out["evaluation_success"] = now.last.success
        return out

    def _start_clocks(self) -> None:
        self._clocks = time.perf_counter(), self._cpu()

    def _cpu(self) -> float:
        return time.process_time() + self._envs.cpu_seconds

    def _seconds(self) -> float:
        return self._now.wall_seconds + (time.perf_counter() - self._clocks[0] if self._clocks else 0.0)

    def _cpu_seconds(self) -> float:
        return self._now.cpu_seconds + (self._cpu() - self._clocks[1] if self._clocks else 0.0)

    def _actor(self) -> DeterministicActor:
        return self._learner.actor().cpu().eval()

    def _take(self, progress: Progress) -> None:
        now = self._now
        now.step, now.faults = progress.step, progress.faults
        now.worker_restarts = self._restarts + self._envs.restarts
        now.recent = (now.recent + progress.episodes)[-100:]
        for name, value in progress.metrics.items():
            if math.isfinite(value):
                now.sums.setdefault(name, []).append(value)

    def _log(self, metrics: Metrics) -> None:
        now, figures = self._now, self.figures()
        tags = {"time/fps": now.step / self._seconds()}
        tags |= {f"train/{name}": float(np.mean(values)) for name, values in now.sums.items()}
        if "return" in figures:
            tags["rollout/ep_rew_mean"] = figures["return"]
            tags["rollout/ep_len_mean"] = float(np.mean([episode["l"] for episode in now.recent]))
        if "success" in figures:
            tags["rollout/success_rate"] = figures["success"]
        now.sums = {}
        if self._envs.curriculum is not None:
            tags |= _boundaries(self._envs.curriculum)
        with self._disk():
            metrics.write(now.step, self._seconds(), tags)

    def _evaluate(self, actor: DeterministicActor, metrics: Metrics, stops: Sequence[int]) -> None:
        """Raises BrokenOffError, as the judge does."""
        now = self._now
        judgement = now.last = self._judge(actor, stops)
        now.last_step, now.unjudged = now.step, False
        if judgement.better_than(now.best):
            now.best, now.best_step = judgement, now.step
        now.evaluations.append({"step": now.step, "success": judgement.success, "return": judgement.mean_return})
        tags = {"eval/mean_reward": judgement.mean_return}
        if judgement.success is not None:
            tags["eval/success_rate"] = judgement.success
        with self._disk():
            metrics.write(now.step, self._seconds(), tags)

    def _save(self, actor: DeterministicActor, metrics: Metrics) -> None:
        """Checkpoint, then the summary that speaks of it, then away with what neither needs."""
        now = self._now
        with self._disk():
            now.metrics_bytes = metrics.sync()
            now.wall_seconds, now.cpu_seconds = self._seconds(), self._cpu_seconds()
            self._start_clocks()
            self._snapshots.save(self._learner, actor, now)
            self._saved = now.step
            self._summarise()
            self._snapshots.prune()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Raises SaveError, which says what is still there, where the disk refuses."""
        try:
            yield
        except OSError as error:
            left = "no checkpoint had been written yet"
            if self._saved is not None:
                left = f"the checkpoint of step {self._saved} is intact and --resume goes on from it"
            raise SaveError(f"{error.filename or self.folder}: {error.strerror or error}; {left}") from error

    def _ranges(self) -> Mapping[str, tuple[float, float]]:
        """What was drawn from, where ranges move their widest."""
        if self._randomizer is None:
            return {}
        curriculum = self._envs.curriculum
        return (self._randomizer if curriculum is None else curriculum.drawn_from).ranges

    def _curriculum(self) -> dict[str, Any]:
        """Where the boundaries stand and how they came there: [environment step, which one, its new extent]."""
        curriculum = self._envs.curriculum
        if curriculum is None:
            return {}
        return {
            "curriculum": {
                "boundaries": dict(
                    zip(map(str, curriculum.ranges.boundaries), curriculum.extents.tolist(), strict=True)
                ),
                "entropy": curriculum.entropy,
                "moves": [list(move) for move in curriculum.moves],
            }
        }

    def _summarise(self) -> None:
        now = self._now
        last = now.last if now.last_step == now.step else None  # a checkpoint need not have been evaluated
        best = now.best or last
        unknown = {"success": None, "mean_return": None}
        write_json(
            self.folder / SUMMARY,
            {
                "task": self.config.task,
                "algorithm": self.config.algorithm,
                "seed": self.config.seed,
                "steps": now.step,
                "finished": self.finished,
                "best": {"step": now.best_step or now.step, **(vars(best) if best else unknown)},
                "last": {"step": now.step, **(vars(last) if last else unknown)},
                "evaluations": now.evaluations,
                "physics_faults": now.faults,
                "worker_restarts": now.worker_restarts,
                "training_ranges": self._ranges(),
                **self._curriculum(),
                "wall_seconds": now.wall_seconds,
                "cpu_seconds": now.cpu_seconds,
                "resumed_at": now.resumed_at,
                "device": self.device,
                "threads": torch.get_num_threads(),
                "versions": versions(),
                "parent": None,
            },
        )


def _boundaries(curriculum: Curriculum) -> dict[str, float]:
    extents = zip(curriculum.ranges.boundaries, curriculum.extents.tolist(), strict=True)
    return {"curriculum/entropy": curriculum.entropy, **{f"curriculum/{boundary}": e for boundary, e in extents}}


def _crossed(before: int, now: int, every: int | None) -> bool:
    """Did a count that rose from `before` to `now` pass a multiple of `every`? Never where that is None."""
    return every is not None and now // every > before // every
