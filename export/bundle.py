"""Write a bundle: the policy as ONNX, its contract, the golden vectors, and the code that runs it on a robot."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from simtoreal.export.onboard.folder import GOLDEN_FILE, MODEL_FILE, SPEC_FILE
from simtoreal.export.onboard.layout import Image, slices
from simtoreal.export.onboard.runtime import (
    CONTRACT_KEY,
    NEXT,
    OUTPUT_NAME,
    inputs_of,
    open_session,
    relative_error,
)
from simtoreal.export.onboard.spec import Spec
from simtoreal.export.onnx import BATCHES, ExportError, PolicyGraph, export_onnx

RANDOM_ROWS = 1000
MAX_RECORDED_ROWS = 2000
RANDOM_IMAGES, MAX_RECORDED_IMAGES = 16, 64  # each is as large as some thousand rows
EXTREME_STDS = 10.0
EXTREME_VALUE = 1e3
STD_FLOOR = 1e-6  # a recorded element below it never moved; 1 stands for its unknown spread


def write_bundle(
    out: str | os.PathLike[str], *, actor: nn.Module, spec: Spec, recorded_observations: np.ndarray, force: bool = False
) -> Path:
    """Export `actor` under the contract `spec` into the new folder `out`, whole or not at all, and return its path.

    `actor`: raw SI observation [B, n] -> action [B, m] in [-1, 1]. `recorded_observations` [N, n]: what the policy saw
    in its task. With a history of k both are stacks of so many, [B, k n] and [N, k n], oldest first; under a contract
    of images they are these, uint8. A recurrent actor also takes and gives its hidden state [B, h], and what it saw
    are observations behind it, [N, h + n]. With random and extreme ones they become the golden vectors, of choices but
    for those where two are worth the same to rounding (`PolicyGraph.alternatives`). ExportError when `out` exists
    (`force` replaces a bundle, and nothing else), when the policy holds NaN or infinity, when onnxruntime differs from
    torch on any golden vector by more than `spec.tolerance` of the command's range, or when the disk refuses.
    """
    path = Path(out)
    _check_target(path, force)
    golden = golden_observations(recorded_observations, spec)
    graph = PolicyGraph(actor, spec)
    answers = graph.answers(golden)
    _check_finite(answers)
    if spec.choices:
        error = relative_error(graph.alternatives(golden), answers[:, : spec.command_size], spec)
        decided = (error <= spec.tolerance).all(axis=(0, 2))
        if decided.any():
            golden, answers = golden[decided], answers[decided]
    model = export_onnx(graph, {CONTRACT_KEY: spec.contract_sha256(), "task": spec.task, "algorithm": spec.algorithm})
    _check_parity(model, golden, answers, spec)
    contents = {MODEL_FILE: model, GOLDEN_FILE: _npz(golden, answers, spec), **_onboard_files()}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    text = json.dumps(replace(spec, files=hashes).to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    contents[SPEC_FILE] = (text + "\n").encode("utf-8")
    try:
        _write_folder(path, contents)
    except OSError as error:
        raise ExportError(f"cannot write the bundle {path}: {error.strerror or error}") from error
    return path


def golden_observations(recorded: np.ndarray, spec: Spec) -> np.ndarray:
    """The rows [R, k n] float32 on which ONNX is held against torch: recorded, random, and extreme.

    At most 2,000 recorded rows, evenly spaced; 1,000 normal draws with their mean and standard deviation; each field at
    the mean +- 10 standard deviations throughout the history, alone and all together; zeros and +-1,000 everywhere.
    The hidden state before the observation of a recurrent policy, [R, h + n], stays within [-1, 1]. For images see
    `golden_images`.
    """
    if spec.image is not None:
        return golden_images(recorded, spec.image)
    rows, width = np.asarray(recorded), spec.memory[1] + spec.observation_size
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise ExportError(f"recorded observations must be [N, {width}], got {list(rows.shape)}")
    if rows.dtype.kind != "f" or not np.isfinite(rows).all():
        raise ExportError(f"recorded observations must be finite floats, got {rows.dtype} with NaN or infinity")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_RECORDED_ROWS)).round().astype(int)].astype(np.float64)
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    std = np.where(std > STD_FLOOR, std, 1.0)
    random = np.random.default_rng(0).normal(mean, std, size=(RANDOM_ROWS, len(mean)))
    extreme = [np.zeros_like(mean), np.full_like(mean, EXTREME_VALUE), np.full_like(mean, -EXTREME_VALUE)]
    for part in (*slices(spec.observation).values(), slice(None)):
        for sign in (EXTREME_STDS, -EXTREME_STDS):
            row, moved = mean.copy(), (std * sign)[spec.recurrent :].reshape(spec.history, -1)
            row[spec.recurrent :].reshape(moved.shape)[:, part] += moved[:, part]
            extreme.append(row)
    golden = np.concatenate([rows, random, np.stack(extreme)]).astype(np.float32)
    golden[:, : spec.recurrent] = golden[:, : spec.recurrent].clip(-1.0, 1.0)
    return golden


def golden_images(recorded: np.ndarray, image: Image) -> np.ndarray:
    """The images uint8 [R, *shape] on which ONNX is held against torch: at most 64 of those recorded, evenly spaced; 16
    of random pixels; all black, all white, and each channel white alone."""
    if recorded.dtype != image.dtype or recorded.shape[1:] != image.shape or not len(recorded):
        found = f"{recorded.dtype} {list(recorded.shape)}"
        raise ExportError(f"recorded observations must be images of {image.dtype} {list(image.shape)}, got {found}")
    count = min(len(recorded), MAX_RECORDED_IMAGES)
    rows = recorded[np.linspace(0, len(recorded) - 1, count).round().astype(int)]
    random = np.random.default_rng(0).integers(image.low, image.high + 1, (RANDOM_IMAGES, *image.shape), rows.dtype)
    axis = image.layout.index("C")
    white = np.moveaxis(np.zeros((image.shape[axis] + 2, *image.shape), rows.dtype), axis + 1, 1)
    white[-1] = image.high
    for channel in range(image.shape[axis]):
        white[channel, channel] = image.high
    return np.concatenate([rows, random, np.moveaxis(white, 1, axis + 1)])


def _check_target(path: Path, force: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() and not path.exists():
        raise ExportError(f"{path} is a dangling symbolic link to {os.readlink(path)}")
    if not force:
        raise ExportError(f"{path} exists; choose another folder, or pass --force (force=True) to replace a bundle")
    if path.is_symlink() or not (path / SPEC_FILE).is_file() or not (path / MODEL_FILE).is_file():
        raise ExportError(f"{path} exists and is no bundle folder; it is not replaced")


def _check_finite(answers: np.ndarray) -> None:
    if not np.isfinite(answers).all():
        row = int(np.argwhere(~np.isfinite(answers))[0][0])
        raise ExportError(f"the policy's command for golden vector {row} of {len(answers)} is not finite")


def _check_parity(model: bytes, golden: np.ndarray, answers: np.ndarray, spec: Spec) -> None:
    session = open_session(model, "the exported model")
    for batch in (len(answers), *BATCHES):
        found, *remembered = session.run(None, inputs_of(golden[:batch], spec))
        if spec.recurrent:
            found = np.concatenate([found, *remembered], axis=1)
        elif remembered and not np.array_equal(remembered[0], golden[:batch, spec.observation_size :]):
            raise ExportError(f"the exported model's {NEXT}history is not its inputs without the oldest frame")
        error = relative_error(found, answers[:batch], spec)
        worst = float(error.max())
        if not worst <= spec.tolerance:
            row = int(np.argmax(error.max(axis=1)))
            raise ExportError(
                f"onnxruntime differs from torch by {worst:.2e} of the command's range at golden vector {row} of "
                f"{len(answers)}, in a batch of {batch}; the contract tolerates {spec.tolerance:.0e}"
            )


def _npz(golden: np.ndarray, answers: np.ndarray, spec: Spec) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {**inputs_of(golden, spec), OUTPUT_NAME: answers[:, : spec.command_size]}
    if spec.recurrent:
        arrays[NEXT + spec.memory[0]] = answers[:, spec.command_size :]
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _onboard_files() -> dict[str, bytes]:
    folder = Path(__file__).parent / "onboard"
    return {f"onboard/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}


def _write_folder(path: Path, contents: dict[str, bytes]) -> None:
    """Write a sibling folder, flush it to the disk, then put it in place of `path` by one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    fresh, old = path.with_name(f".{path.name}.{token}.new"), path.with_name(f".{path.name}.{token}.old")
    try:
        (fresh / "onboard").mkdir(parents=True)
        for name, data in contents.items():
            with open(fresh / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(fresh / "onboard")
        _sync_folder(fresh)
        if path.exists():
            os.rename(path, old)
        os.rename(fresh, path)
        _sync_folder(path.parent)
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for leftover in (fresh, old):
            if leftover.exists():
                shutil.rmtree(leftover)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
