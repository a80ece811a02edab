"""Tensors on a disk that may fill and a machine that may die: written whole or not at all, read without trust."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

TEMP = ".tmp-"  # begins the name of what is not complete yet; a crash leaves it behind, the next start sweeps it
MAX_HEADER_BYTES = 16 << 20
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class CheckpointError(ValueError):
    """A checkpoint that is damaged, foreign, unsafe or does not fit; the message names the file."""


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file."""
    data: bytes = pack_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    return data


def digest(data: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _begins_as_safetensors(data: bytes) -> bool:
    """A header size below 16 MiB and an opening brace: a size of 640 bytes begins as a pickle of protocol 2 does."""
    return data[3:8] == bytes(5) and data[8:9] == b"{"


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises FileNotFoundError when it is absent, CheckpointError when it is not what `sha256` says. Nothing is ever
    unpickled, and no size that the file claims is believed before it is checked against the file.
    """
    data = read_bytes(path)
    if data.startswith(PICKLE_STARTS) and not _begins_as_safetensors(data):
        raise CheckpointError(f"{path}: a pickle or zip archive, not safetensors; refused without reading it")
    check_digest(path, data, sha256)
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > min(len(data) - 8, MAX_HEADER_BYTES):
        raise CheckpointError(f"{path}: claims a header of {header} bytes in a file of {len(data)}")
    try:
        tensors: dict[str, Tensor] = parse_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    return tensors


def check_digest(path: Path, data: bytes, sha256: str) -> None:
    """Raises CheckpointError when `data`, read from `path`, is not what was recorded."""
    if digest(data) != sha256:
        raise CheckpointError(
            f"{path}: sha256 {digest(data)[:12]}… is not the recorded {sha256[:12]}…; damaged or altered"
        )


def read_bytes(path: Path, limit: float = math.inf) -> bytes:
    """A file's content. Raises FileNotFoundError, or CheckpointError when it is longer than `limit` bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > limit:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes, at most {limit:.0f} expected")
    return path.read_bytes()


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist and bring it to the disk. Raises OSError."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in place of what is there, whole or not at all, and bring it to the disk. Raises OSError."""
    handle, temporary = tempfile.mkstemp(prefix=f"{TEMP}{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: a rename is durable only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """This process's mask of permissions; reading it means setting it for an instant."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
