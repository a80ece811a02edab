"""The run folder: what a training leaves behind, and how it is read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simtoreal.config import RunConfig, load_config
from simtoreal.errors import RunError as RunError
from simtoreal.export.onboard.folder import MODEL_FILE, SPEC_FILE
from simtoreal.locks import LOCK
from simtoreal.robot_files import check_version, moved, name_task, split_task

if TYPE_CHECKING:
    from simtoreal.policies.deterministic import DeterministicActor

CONFIG, METRICS, SUMMARY, CHECKPOINTS, EVENTS, REPLAY = (
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
    "tensorboard",
    "replay",
)
RANDOMIZATION = "randomization.yaml"
REPORT = "report.html"  # of a curriculum
UNFINISHED = ".*.tmp"  # what `write_yaml` leaves when it is killed
LIBRARIES = ("torch", "numpy", "gymnasium", "pybullet", "stable-baselines3", "onnx", "onnxruntime")


def versions(*, installed_only: bool = False) -> dict[str, str]:
    """Versions of this package and of what its results depend on; benchmarks of learners do without some of it."""
    from simtoreal import __version__

    found = {"simtoreal": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if not installed_only:
                raise
    return found


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` in place of `path`, whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            json.dump(data, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises RunError when it is not one."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise RunError(f"{path}: a JSON object is expected")
    return data


def output_path(out: str | os.PathLike[str]) -> Path:
    """Where a user wants something written. Raises RunError for an empty one, which would mean the working folder, and
    for one within a bundle, which holds nothing but what its contract lists."""
    if not os.fspath(out):
        raise RunError("--out is an empty path; name the folder to write")
    for folder in Path(out).absolute().parents:
        if (folder / SPEC_FILE).is_file() and (folder / MODEL_FILE).is_file():
            raise RunError(f"{out} lies in the bundle {folder}, which holds nothing but its own; choose another place")
    return Path(out)


@contextmanager
def claimed_output(out: Path, *, force: bool, marker: str) -> Iterator[None]:
    """The folder `out`, ready to be written; what was made for it goes again if it is left empty by an exception.

    Raises:
        RunError: it exists and `force` is False, or holds something else than what `marker` (a file's name) marks, or
            cannot be made.
    """
    try:
        made = _make_output(out, force=force, marker=marker)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror}") from None
    try:
        yield
    except BaseException:
        for folder in made:
            if any(folder.iterdir()):
                break
            folder.rmdir()
        raise


def _make_output(out: Path, *, force: bool, marker: str) -> list[Path]:
    """The folders that had to be made, deepest first."""
    if out.is_symlink() and not out.exists():
        raise RunError(f"{out} is a dangling symbolic link")
    if out.exists():
        if not out.is_dir():
            raise RunError(f"{out} is a file; a folder is written there")
        if any(path.name != LOCK and not path.match(UNFINISHED) for path in out.iterdir()):
            if not force:
                raise RunError(f"{out} exists; choose another folder or pass --force")
            if not (out / marker).is_file():
                raise RunError(f"{out} holds no {marker}, so --force will not write over it")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass
    return made


def clear_run(folder: Path) -> None:
    """Take away what an earlier run left, but what the next one will write over."""
    for name in (SUMMARY, RANDOMIZATION, METRICS, REPORT):
        (folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, EVENTS, REPLAY):
        shutil.rmtree(folder / name, ignore_errors=True)


def frozen(config: RunConfig, folder: Path) -> RunConfig:
    """A run's configuration with the preset that was kept beside it, if any."""
    kept = folder / RANDOMIZATION
    return config.model_copy(update={"randomization": str(kept)}) if kept.is_file() else config


def is_finished(folder: Path) -> bool:
    """Is there a run that came to its end?"""
    summary = folder / SUMMARY
    return summary.is_file() and bool(json.loads(summary.read_text())["finished"])


@dataclass(frozen=True)
class Run:
    """A training's folder, read; the task of its configuration is called by where its robot file lies now."""

    path: Path
    config: RunConfig
    summary: dict[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, robot: str | None = None) -> Run:
        """Raises RunError or ConfigFileError when `path` is not a run folder.

        Args:
            robot: the robot file of its task, where it lies elsewhere now. Raises ValueError when its task is of none.
        """
        folder = Path(path)
        if not (folder / CONFIG).is_file() or not (folder / SUMMARY).is_file():
            raise RunError(f"{folder} is not a run: no {CONFIG} and {SUMMARY} in it")
        summary = read_json(folder / SUMMARY)
        try:
            for which in ("best", "last"):
                int(summary[which]["step"])
            {name: (float(low), float(high)) for name, (low, high) in summary["training_ranges"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RunError(f"{folder / SUMMARY}: no steps of best and last, or no training_ranges") from None
        config = load_config(folder / CONFIG)
        if robot is not None:
            config = config.model_copy(update={"task": name_task(config.task, robot)})
        return cls(folder, config, summary)

    def check_robot(self) -> None:
        """Raises ValueError where the robot file of its task is no longer the one that it was trained on, and
        FileNotFoundError where it is not there."""
        if split_task(self.config.task):
            check_version(self.config.task, self.config.robot, f"{self.path} was trained on")

    def check_leaves(self, how: str) -> None:
        """Raises RunError where its policy is a teacher, which cannot leave (`how`) by itself."""
        if self.config.teacher:
            raise RunError(
                f"{self.path} is a teacher's: it sees what no sensor gives, so it cannot be {how}; simtoreal distill "
                "makes a policy of it that can"
            )

    @property
    def frozen_config(self) -> RunConfig:
        """The configuration with the preset as it was when the run began, whatever became of the original since."""
        return frozen(self.config, self.path)

    def checkpoint(self, which: str = "best") -> Path:
        """The folder of checkpoint `best`, `last` or a step. Raises RunError naming the choices."""
        step = str(self.summary[which]["step"]) if which in ("best", "last") else which
        folder = self.path / CHECKPOINTS / step
        if not step.isdigit() or not folder.is_dir():
            found = sorted(int(p.name) for p in (self.path / CHECKPOINTS).glob("*") if p.name.isdigit())
            raise RunError(
                f"{self.path} has no checkpoint {which!r}; checkpoints: best, last, {', '.join(map(str, found))}"
            )
        return folder

    def actor(self, which: str = "best") -> tuple[DeterministicActor, dict[str, Any]]:
        """The deterministic actor of a checkpoint and the checkpoint's meta.

        Raises:
            CheckpointError: damaged, foreign, or of another task or algorithm than this run.
        """
        from simtoreal.policies.checkpoint import build_actor, check_compatible, load_checkpoint

        tensors, meta = load_checkpoint(self.checkpoint(which))
        meta = meta | {"task": moved(str(meta.get("task")), self.config.task)}
        check_compatible(meta, {"task": self.config.task, "algorithm": self.config.algorithm})
        return build_actor(meta, tensors), meta
