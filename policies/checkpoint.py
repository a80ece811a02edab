"""Checkpoints: a folder of one safetensors file and one JSON file, written atomically, never pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

from simtoreal.policies.agent import under
from simtoreal.policies.networks import DeterministicActor

FORMAT = 1
TENSORS, META = "agent.safetensors", "checkpoint.json"
TEMP = ".tmp-"
ASIDE = ".old-"
MAX_META_BYTES = 4 << 20
MAX_HEADER_BYTES = 16 << 20
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class CheckpointError(ValueError):
    """A checkpoint that is damaged, foreign, unsafe or does not fit; the message names the file."""


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
    data = pack_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    document = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "meta": dict(meta),
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    temp = Path(tempfile.mkdtemp(prefix=f"{TEMP}{folder.name}-", dir=folder.parent))
    try:
        temp.chmod(0o777 & ~_umask())
        _write(temp / TENSORS, data)
        _write(temp / META, text.encode())
        _sync(temp)
        if folder.exists():
            os.replace(folder, folder.parent / (ASIDE + folder.name))
        os.replace(temp, folder)
        _sync(folder.parent)
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
    document = _read_meta(folder / META)
    path = folder / TENSORS
    data = _read(path)
    if data.startswith(PICKLE_STARTS) and not _begins_as_safetensors(data):
        raise CheckpointError(f"{path}: a pickle or zip archive, not safetensors; refused without reading it")
    digest = hashlib.sha256(data).hexdigest()
    if digest != document["sha256"]:
        raise CheckpointError(
            f"{path}: sha256 {digest[:12]}… is not the recorded {document['sha256'][:12]}…; damaged or altered"
        )
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(len(data) - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"{path}: claims a header of {header} bytes in a file of {len(data)}")
    try:
        tensors = parse_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes != document["shapes"]:
        odd = sorted(
            name for name in {*shapes, *document["shapes"]} if shapes.get(name) != document["shapes"].get(name)
        )
        raise CheckpointError(
            f"{path}: {odd[0]} has shape {shapes.get(odd[0])}, {META} says {document['shapes'].get(odd[0])}"
        )
    return tensors, document["meta"]


def _begins_as_safetensors(data: bytes) -> bool:
    """A header size below 16 MiB and an opening brace: a size of 640 bytes begins as a pickle of protocol 2 does."""
    return data[3:8] == bytes(5) and data[8:9] == b"{"


def check_compatible(meta: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError with both sides' values for each key of `expected` (task, format, …) that differs."""
    wrong = [
        f"{key} {meta.get(key)!r}, expected {value!r}" for key, value in expected.items() if meta.get(key) != value
    ]
    if wrong:
        raise CheckpointError(f"the checkpoint does not fit: {'; '.join(wrong)}")


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
    """Complete checkpoint folders named by their step, oldest first; temporary ones are not seen."""
    parent = Path(parent)
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if path.name.isdigit() and (path / META).is_file()]
    return sorted(found, key=lambda path: int(path.name))


def load_latest(parent: Path | str, *, fall_back: bool = False) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The newest checkpoint under `parent`; with `fall_back` the newest that is sound.

    Raises FileNotFoundError when there is none, CheckpointError when the newest (or, falling back, each) is refused.
    """
    found = checkpoints(parent)
    if not found:
        raise FileNotFoundError(f"{parent}: no checkpoint")
    refused: list[str] = []
    for path in reversed(found):
        try:
            return path, *load_checkpoint(path)
        except (CheckpointError, FileNotFoundError) as error:
            if not fall_back:
                raise
            refused.append(str(error))
    raise CheckpointError(f"{parent}: no sound checkpoint: {'; '.join(refused)}")


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


def _read_meta(path: Path) -> dict[str, Any]:
    raw = _read(path, MAX_META_BYTES)
    try:
        document = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise CheckpointError(f"{path}: not a checkpoint's description")
    if document["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {document['format']}, this version reads {FORMAT}")
    kinds = {"format": int, "sha256": str, "shapes": dict, "meta": dict}
    if {key: type(value) for key, value in document.items()} != kinds:
        raise CheckpointError(f"{path}: has {sorted(document)}, expected {sorted(kinds)}")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _read(path: Path, limit: float = math.inf) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > limit:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes, at most {limit:.0f} expected")
    return path.read_bytes()


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
