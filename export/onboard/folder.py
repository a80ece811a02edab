"""A bundle's folder: what lies in it, its contract read with caution, and its files held against their hashes.

The hashes find damage and careless edits; they are no signature against someone who rewrites the whole folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import Any

from .checks import SpecError
from .spec import Spec, spec_from_dict

SPEC_FILE = "spec.json"
MODEL_FILE = "policy.onnx"
GOLDEN_FILE = "golden.npz"
MAX_SPEC_BYTES = 4_000_000


def read_spec(bundle: str | os.PathLike[str]) -> Spec:
    """The contract in `bundle`/spec.json; SpecError naming the file on anything strange, or FileNotFoundError."""
    path = os.path.join(os.fspath(bundle), SPEC_FILE)
    raw = read_regular(path, MAX_SPEC_BYTES)
    try:
        return spec_from_dict(json.loads(raw, object_pairs_hook=_no_duplicates, parse_constant=_no_constant))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path} is not readable JSON: {error}") from None


def _no_duplicates(pairs: Any) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        keys = [key for key, _ in pairs]
        raise SpecError(f'the key "{next(key for key in keys if keys.count(key) > 1)}" occurs twice')
    return data


def _no_constant(name: str) -> float:
    raise SpecError(f"{name} is not a finite number")


def read_regular(path: str, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; SpecError for anything else, or FileNotFoundError."""
    try:
        mode = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} does not exist; is this a bundle?") from None
    if not stat.S_ISREG(mode.st_mode):
        raise SpecError(f"{path} is {'a symbolic link' if stat.S_ISLNK(mode.st_mode) else 'no regular file'}")
    if mode.st_size > limit:
        raise SpecError(f"{path} has {mode.st_size} bytes, at most {limit} are read")
    with open(path, "rb") as file:
        return file.read(limit + 1)


def sha256_file(path: str) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _refuse(error: OSError) -> None:
    raise error


def check_files(bundle: str | os.PathLike[str], spec: Spec) -> None:
    """Hold the folder against `spec.files`; SpecError for a missing, changed, unlisted or linked file.

    Nothing unlisted may lie in a bundle (external tensor data, a module that shadows another). The exception is what
    the interpreter compiled of a listed module and left in `__pycache__`; `python BUNDLE/onboard` never reads that.
    """
    root = os.fspath(bundle)
    for name in (MODEL_FILE, GOLDEN_FILE):
        if name not in spec.files:
            raise SpecError(f"{os.path.join(root, SPEC_FILE)}: files does not list {name}")
    present: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=_refuse):
        for name in folders + names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                raise SpecError(f"{path} is a symbolic link; a bundle holds plain files only")
        if os.path.basename(folder) == "__pycache__":
            module = os.path.relpath(os.path.dirname(folder), root).replace(os.sep, "/")
            names = [n for n in names if not (n.endswith(".pyc") and f"{module}/{n.split('.')[0]}.py" in spec.files)]
        present.update(os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/") for name in names)
    for name in sorted(present - set(spec.files) - {SPEC_FILE}):
        raise SpecError(f"{os.path.join(root, name)} is not listed in the contract; a bundle holds nothing else")
    for name, expected in sorted(spec.files.items()):
        path = os.path.join(root, *name.split("/"))
        if name not in present:
            raise SpecError(f"{path} is missing; the contract lists it")
        if not os.path.isfile(path):
            raise SpecError(f"{path} is no regular file")
        found = sha256_file(path)
        if found != expected:
            raise SpecError(f"{path} has changed: sha256 {found[:12]}…, the contract says {expected[:12]}…")
