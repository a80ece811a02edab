"""Read torch's `.pth` files of tensors without unpickling anything: a pickle runs whatever it says.

Such a file is a zip of raw numbers and of a pickle that says which tensor is which. The pickle's opcodes are read here
as data: a call stands for itself and is never made, and only what describes tensors is understood.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_BYTES = 256_000_000  # of each file in a zip, unpacked
MAX_OPCODES = 1_000_000
REBUILD = "torch._utils _rebuild_tensor_v2"
DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


class PthError(ValueError):
    """A file that is no table of tensors; the message says why."""


def member(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    """The file `name` of a zip called `where`. Raises PthError where it is missing or larger than 256 MB."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise PthError(f"{where} holds no {name}") from None
    with archive.open(info) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise PthError(f"{where}: {name} is larger than {MAX_BYTES:,} bytes")
    return data


def tensors_of(data: bytes, where: str) -> dict[str, Tensor]:
    """The state dict of a `.pth` file, called `where`, by reading its pickle's opcodes. Raises PthError."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:
        raise PthError(f"{where} is no zip; torch before 1.6 wrote it") from None
    with archive:
        inner = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(inner) != 1:
            raise PthError(f"{where} holds {len(inner)} descriptions, expected 1")
        folder = inner[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and member(archive, order, where).strip() != b"little":
            raise PthError(f"{where} was written on a big-endian machine")
        described = _described(member(archive, inner[0], where), where)
        tensors = {}
        for name, value in described.items():
            match value:
                case _Call(
                    name=found, arguments=(_Stored(kind, key), int() as offset, tuple() as shape, tuple() as stride, *_)
                ) if isinstance(name, str) and found == REBUILD and kind in DTYPES:
                    stored, dtype = member(archive, f"{folder}data/{key}", where), np.dtype(DTYPES[kind])
                    if len(stored) % dtype.itemsize:
                        raise PthError(f"{where}: {len(stored)} bytes of {name} are no whole number of {dtype}")
                    numbers = np.frombuffer(stored, dtype)
                    tensors[name] = _strided(numbers, offset, shape, stride, f"{where}: {name}")
                case _:
                    raise PthError(f"{where} holds something at {name!r} that is no tensor")
    return tensors


@dataclass(frozen=True)
class _Call:
    """A call that the pickle asks for and nobody makes."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class _Stored:
    kind: str
    key: str


def _described(pickled: bytes, where: str) -> dict[Any, Any]:
    """What the pickle says, with every call as a `_Call`. Raises PthError for what no state dict needs."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        found = stack[marks[-1] :]
        del stack[marks.pop() :]
        return found

    def popped(n: int) -> list[Any]:
        if n > len(stack):
            raise IndexError
        found = stack[len(stack) - n :]
        del stack[len(stack) - n :]
        return found

    try:
        for count, (op, given, _) in enumerate(pickletools.genops(pickled)):
            if count > MAX_OPCODES:
                raise PthError(f"{where} describes more than {MAX_OPCODES:,} things")
            argument: Any = given
            match op.name:
                case "PROTO" | "FRAME":
                    pass
                case "MARK":
                    marks.append(len(stack))
                case "GLOBAL":
                    if argument not in (REBUILD, "collections OrderedDict") and not argument.startswith("torch "):
                        raise PthError(f"{where} asks to call {argument!r}; it was not called")
                    stack.append(_Call(argument, ()))
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                    stack.append(argument)
                case "NEWTRUE" | "NEWFALSE" | "NONE":
                    stack.append({"NEWTRUE": True, "NEWFALSE": False, "NONE": None}[op.name])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_DICT":
                    stack.append({})
                case "TUPLE":
                    stack.append(tuple(marked()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(popped(int(op.name[-1]))))
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "BINPERSID":
                    match popped(1)[0]:
                        case ("storage", _Call(name=kind), str() as key, str(), int()):
                            stack.append(_Stored(kind.removeprefix("torch "), key))
                        case other:
                            raise PthError(f"{where} refers to {type(other).__name__}, not to numbers")
                case "REDUCE":
                    call, arguments = popped(2)
                    ordered = call.name == "collections OrderedDict" and arguments == ()
                    stack.append({} if ordered else _Call(call.name, arguments))
                case "SETITEM":
                    key, value = popped(2)
                    stack[-1][key] = value
                case "SETITEMS":
                    pairs = marked()
                    stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
                case "BUILD":
                    popped(1)  # the state dict's versions
                case "STOP":
                    break
                case _:
                    raise PthError(f"{where} uses {op.name}, which no state dict needs")
        (found,) = stack
    except (IndexError, KeyError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, PthError):
            raise
        raise PthError(f"{where} is damaged: {type(error).__name__} {error}") from None
    if not isinstance(found, dict):
        raise PthError(f"{where} holds no state dict")
    return found


def _strided(numbers: np.ndarray, offset: int, shape: Any, stride: Any, where: str) -> Tensor:
    """A copy of a view of `numbers`. Raises PthError where it reaches beyond them."""
    sizes = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(n) is int and 0 <= n <= MAX_BYTES for n in sizes):
        raise PthError(f"{where} has shape {shape} and strides {stride}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if math.prod(shape) == 0 or last >= len(numbers) or math.prod(shape) > len(numbers):
        raise PthError(f"{where} of shape {shape} reaches beyond its {len(numbers)} numbers")
    return torch.from_numpy(numbers.copy()).as_strided(shape, stride, offset).clone()
