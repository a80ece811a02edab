"""The checkpoints of a run: what is stored so that it can be resumed bit for bit, and what is removed when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from simtoreal.algorithms import complete_stored_config
from simtoreal.config import RunConfig, difference
from simtoreal.judge import Judgement
from simtoreal.learners import Learner
from simtoreal.policies.agent import prefixed
from simtoreal.policies.checkpoint import (
    CheckpointError,
    check_compatible,
    checkpoints,
    load_latest,
    read_meta,
    remove_checkpoint,
    save_checkpoint,
    sweep,
)
from simtoreal.policies.chunks import ChunkStore
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.tensor_files import digest
from simtoreal.randomization.randomizer import Preset
from simtoreal.randomization.yaml_files import dump_yaml
from simtoreal.robot_files import moved
from simtoreal.runs import CHECKPOINTS, CONFIG, RANDOMIZATION, REPLAY


@dataclass
class Standing:
    """What a training knows of itself besides its learner.

    `recent` are the last episodes and `sums` the learner's figures since the last line of metrics; `metrics_bytes` of
    `metrics.jsonl` belong to it; `resumed_at` are the steps from which it went on; `unjudged`: was it stopped in the
    evaluation of this step, or before it?
    """

    step: int = 0
    recent: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    faults: int = 0
    best: Judgement | None = None
    best_step: int = 0
    last: Judgement | None = None
    last_step: int = 0
    unjudged: bool = False
    kept: list[int] = field(default_factory=list)
    metrics_bytes: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    resumed_at: list[int] = field(default_factory=list)
    worker_restarts: int = 0


class Snapshots:
    """Stores and restores a run's learner with its replay and what the recorder knows.

    Two generations stay, each with the best checkpoint it knew of, and those kept for ever. A chunk of the replay
    stays as long as one of them needs it.

    Args:
        preset: what the run's environments draw from, None for nothing.
    """

    def __init__(self, folder: Path, config: RunConfig, device: str, preset: Preset | None) -> None:
        self.folder = folder / CHECKPOINTS
        self._config, self._device = config, device
        self._preset = None if preset is None else digest(dump_yaml(preset.to_data()).encode())
        self._chunks = ChunkStore(folder / REPLAY)
        self._newest: set[int] = set()  # the newest checkpoint and the best it knew of
        self._keep: set[int] = set()
        self._oldest: dict[int, int] = {}  # checkpoint -> the oldest transition it needs

    def save(self, learner: Learner, actor: DeterministicActor, standing: Standing) -> None:
        """Write the checkpoint of `standing.step`, its replay first. Raises OSError, or CheckpointError for NaN."""
        memory = self._chunks.extend(learner.memory()) if self._config.resumable else None
        describe: Any = actor.describe
        meta = {
            **self._identity(),
            "step": standing.step,
            "actor": describe(),
            "numbers": learner.numbers(),
            "memory": memory,
            "standing": asdict(standing),
        }
        tensors = prefixed("actor", actor.state_dict()) | learner.tensors()
        save_checkpoint(self.folder / str(standing.step), tensors, meta, replace=True)
        before, self._newest = self._newest, {standing.step, standing.best_step or standing.step}
        self._keep = before | self._newest | set(standing.kept)
        if memory is not None:
            self._oldest[standing.step] = memory["oldest"]

    def prune(self) -> None:
        """Remove the checkpoints and chunks that are needed no more; call it when nothing on disk refers to them."""
        for path in checkpoints(self.folder):
            if int(path.name) not in self._keep:
                remove_checkpoint(path)
                self._oldest.pop(int(path.name), None)
        if self._oldest:
            self._chunks.prune(min(self._oldest.values()))

    def restore(self, learner: Learner, *, fall_back: bool) -> Standing | None:
        """Bring `learner` to where the newest checkpoint stands (or, with `fall_back`, the newest sound one).

        What is newer than that is removed. None where no checkpoint was ever written.

        Raises:
            CheckpointError: damaged, or of another configuration, seed, device or kind of run.
            ValueError: the learner cannot be brought there.
        """
        if self.folder.is_dir():
            sweep(self.folder)
        found = checkpoints(self.folder)
        if not found:
            return None
        try:
            path, tensors, meta = load_latest(self.folder, fall_back=fall_back, accept=self._check)
        except (CheckpointError, FileNotFoundError) as error:
            hint = "" if fall_back or len(found) < 2 else "; --fall-back resumes from the newest that is sound"
            raise CheckpointError(f"{error}{hint}") from None
        try:
            self._check_identity(meta)
            standing = TypeAdapter(Standing).validate_python(meta["standing"])
            learner.restore(tensors, meta["numbers"])
            self._chunks.restore(meta["memory"], learner.memory())
        except (KeyError, TypeError, ValidationError) as error:
            raise CheckpointError(f"{path}: cannot be resumed from: {' '.join(str(error).split())}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        for newer in found[found.index(path) + 1 :]:
            remove_checkpoint(newer)
        self._chunks.sweep(meta["memory"]["added"])
        self._newest = {standing.step, standing.best_step or standing.step}
        for other in checkpoints(self.folder):
            try:
                memory = read_meta(other).get("memory")
            except (CheckpointError, FileNotFoundError):
                continue  # damaged: nothing can be resumed from it, so it needs nothing
            if memory is not None:
                self._oldest[int(other.name)] = memory["oldest"]
        return standing

    def clear(self) -> None:
        """Remove every checkpoint and chunk of an earlier run in this folder."""
        if self.folder.is_dir():
            sweep(self.folder)
        for path in checkpoints(self.folder):
            remove_checkpoint(path)
        self._chunks.sweep(0)

    def _identity(self) -> dict[str, Any]:
        """What must be alike to go on, but for what `difference` lets differ."""
        return {
            "task": self._config.task,
            "algorithm": self._config.algorithm,
            "seed": self._config.seed,
            "device": self._device,
            "config": self._config.model_dump(mode="json"),
            "preset": self._preset,
        }

    def _check_identity(self, meta: Mapping[str, Any]) -> None:
        identity = self._identity()
        config, preset = identity.pop("config"), identity.pop("preset")
        here = moved(str(meta.get("task")), self._config.task)
        check_compatible({**meta, "task": here}, identity)
        if meta.get("preset", preset) != preset:  # checkpoints of before have none
            raise CheckpointError(f"was written under another {RANDOMIZATION}: the run's was changed since")
        stored = RunConfig.model_validate({**meta["config"], "task": here})
        written = complete_stored_config(stored)  # settings may have been added since
        if found := difference(written.model_dump(mode="json"), config):
            name, theirs, ours = found
            raise CheckpointError(f"was written under {name} {theirs!r}, {CONFIG} says {ours!r}")

    def _check(self, meta: Mapping[str, Any]) -> None:
        if not isinstance(meta.get("memory"), Mapping):
            raise CheckpointError(f"{self.folder / str(meta.get('step'))}: was not stored to be resumed from")
        self._chunks.verify(meta["memory"])
