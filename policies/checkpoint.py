"""Checkpoints: a folder of one safetensors file and one JSON file, written atomically, never pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simtoreal.policies.agent import prefixed, under
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.tensor_files import TEMP, digest, pack, read_bytes, read_tensors, sync_folder, umask, write_new
from simtoreal.policies.tensor_files import CheckpointError as CheckpointError

FORMAT = 2
UNSEALED = 1  # the format before: its JSON carries no hash of itself; still read
TENSORS, META = "agent.safetensors", "checkpoint.json"
ASIDE = ".old-"
MAX_META_BYTES = 4 << 20


def save_checkpoint(
    folder: Path | str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, replace: bool = False
) -> Path:
    """Write `folder` (checkpoints/<step>) whole or not at all; a crash or a full disk leaves what was there before.

    Both files are written and synced in a hidden sibling folder, which is then renamed. `replace` allows an
    existing checkpoint. Raises CheckpointError for an existing folder or a tensor that is not finite, OSError when
    the disk refuses.
    """
    folder = Path(folder)
    replaceable = replace and not folder.is_symlink() and (folder / META).is_file()
    if (folder.is_symlink() or folder.exists()) and not replaceable:
        raise CheckpointError(f"{folder}: already exists; choose another folder")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{folder}: {name} is not finite; a broken policy is not saved")
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    data = pack(tensors)
    body = {
        "sha256": digest(data),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "meta": dict(meta),
    }
    text = json.dumps({"format": FORMAT, **body, "seal": _seal(body)}, indent=1, allow_nan=False).encode()
    if len(text) > MAX_META_BYTES:
        raise CheckpointError(f"{folder / META}: {len(text)} bytes, at most {MAX_META_BYTES} can be read again")
    temp = Path(tempfile.mkdtemp(prefix=f"{TEMP}{folder.name}-", dir=folder.parent))
    try:
        temp.chmod(0o777 & ~umask())
        write_new(temp / TENSORS, data)
        write_new(temp / META, text)
        sync_folder(temp)
        if folder.exists():
            os.replace(folder, folder.parent / (ASIDE + folder.name))
        os.replace(temp, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    finally:
        sweep(folder.parent, temps=False)
    return folder


def load_checkpoint(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and meta of a checkpoint.

    Raises FileNotFoundError when a file is absent; CheckpointError for a truncated, altered, newer or foreign file.
    Nothing is ever unpickled, and no size that a file claims is believed before it is checked against the file.
    """
    folder = Path(folder)
    document = _read_document(folder / META)
    path = folder / TENSORS
    tensors = read_tensors(path, document["sha256"])
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes != document["shapes"]:
        odd = sorted(
            name for name in {*shapes, *document["shapes"]} if shapes.get(name) != document["shapes"].get(name)
        )
        raise CheckpointError(
            f"{path}: {odd[0]} has shape {shapes.get(odd[0])}, {META} says {document['shapes'].get(odd[0])}"
        )
    return tensors, document["meta"]


def read_meta(folder: Path | str) -> dict[str, Any]:
    """The meta of a checkpoint alone, without its tensors. Raises as `load_checkpoint` does."""
    meta: dict[str, Any] = _read_document(Path(folder) / META)["meta"]
    return meta


def check_compatible(meta: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError with both sides' values for each key of `expected` (task, format, …) that differs."""
    wrong = [
        f"{key} {meta.get(key)!r}, expected {value!r}" for key, value in expected.items() if meta.get(key) != value
    ]
    if wrong:
        raise CheckpointError(f"the checkpoint does not fit: {'; '.join(wrong)}")


def save_actor(folder: Path, actor: DeterministicActor, about: Mapping[str, Any]) -> None:
    """Write a policy alone, not what it takes to train on, as checkpoint `folder`; `about` says of what. Raises as
    `save_checkpoint` does."""
    save_checkpoint(folder, prefixed("actor", actor.state_dict()), {**about, "actor": actor.describe()})


def build_actor(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> DeterministicActor:
    """The actor of a checkpoint: `meta["actor"]` is its `describe()`, `actor.*` its weights. Raises CheckpointError."""
    if not isinstance(meta.get("actor"), dict):
        raise CheckpointError("the checkpoint describes no actor")
    weights = under("actor", tensors)
    try:
        with torch.random.fork_rng(devices=[]):
            actor = DeterministicActor.from_description(meta["actor"])
        actor.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint's actor cannot be built: {' '.join(str(error).split())}") from error
    return actor.eval().requires_grad_(False)


def checkpoints(parent: Path | str) -> list[Path]:
    """Checkpoint folders, named by their step, oldest first; temporary ones are not seen.

    A folder gets such a name when it is complete: one in which something is missing is damaged.
    """
    parent = Path(parent)
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def load_latest(
    parent: Path | str, *, fall_back: bool = False, accept: Callable[[Mapping[str, Any]], None] | None = None
) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The newest checkpoint under `parent`; with `fall_back` the newest that is sound.

    `accept` gets the meta of a sound one and may refuse it too, by CheckpointError or FileNotFoundError: for what a
    checkpoint names but does not hold. Raises FileNotFoundError when there is none, CheckpointError when the newest
    (or, falling back, each) is refused.
    """
    found = checkpoints(parent)
    if not found:
        raise FileNotFoundError(f"{parent}: no checkpoint")
    refused: list[str] = []
    for path in reversed(found):
        try:
            tensors, meta = load_checkpoint(path)
            if accept is not None:
                accept(meta)
        except (CheckpointError, FileNotFoundError) as error:
            if not fall_back:
                raise
            refused.append(str(error))
        else:
            return path, tensors, meta
    raise CheckpointError(f"{parent}: no sound checkpoint: {'; '.join(refused)}")


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint so that a crash leaves no half of it behind under its name."""
    doomed = folder.with_name(f"{TEMP}{folder.name}-removed")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def sweep(parent: Path | str, *, temps: bool = True) -> None:
    """Remove what a crash left behind, and put back a checkpoint that was set aside but never replaced."""
    for path in Path(parent).glob(f"{ASIDE}*"):
        home = path.with_name(path.name.removeprefix(ASIDE))
        if home.exists():
            shutil.rmtree(path)
        else:
            os.replace(path, home)
    if temps:
        for path in Path(parent).glob(f"{TEMP}*"):
            shutil.rmtree(path)


def _seal(body: Mapping[str, Any]) -> str:
    """A hash of everything the JSON says but its format, whatever its spaces and the order of its keys."""
    return digest(json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def _read_document(path: Path) -> dict[str, Any]:
    raw = read_bytes(path, MAX_META_BYTES)
    try:
        document = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise CheckpointError(f"{path}: not a checkpoint's description")
    form = document.pop("format")
    if form not in (UNSEALED, FORMAT):
        raise CheckpointError(f"{path}: format {form}, this version reads {UNSEALED} and {FORMAT}")
    kinds = {"sha256": str, "shapes": dict, "meta": dict} | ({"seal": str} if form == FORMAT else {})
    if {key: type(value) for key, value in document.items()} != kinds:
        raise CheckpointError(f"{path}: has {sorted(document)}, expected {sorted(kinds)}")
    if form == FORMAT:
        seal = document.pop("seal")
        if seal != (found := _seal(document)):
            raise CheckpointError(f"{path}: sha256 {found[:12]}… is not the recorded {seal[:12]}…; damaged or altered")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
