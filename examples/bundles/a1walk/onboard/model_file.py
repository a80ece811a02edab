"""Read of an ONNX file what must be known before a session opens it: its metadata, and whether it is self-contained.

A walk over the protobuf wire format, with the field numbers of onnx.proto3 (onnx/onnx.proto, IR version 3 and later).
"""

from __future__ import annotations

from collections.abc import Iterator

from .checks import SpecError

MAX_MODEL_BYTES = 512_000_000
MAX_DEPTH = 64
# message -> field number -> message: every way from a model down to a tensor
CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
GRAPH_OF_MODEL, METADATA_OF_MODEL = 7, 14
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a tensor


def read_metadata(model: bytes, path: str) -> dict[str, str]:
    """The metadata of an ONNX model; SpecError naming `path` where it is empty, truncated or keeps data outside."""
    if not model:
        raise SpecError(f"{path} is empty")
    view = memoryview(model)
    try:
        top = list(_fields(view))
        _refuse_external(view, "model", 0)
        pairs = [dict(_fields(_view(value))) for number, value in top if number == METADATA_OF_MODEL]
        if not any(number == GRAPH_OF_MODEL for number, _ in top):
            raise ValueError("it has no graph")
        return {_text(pair[1]): _text(pair[2]) for pair in pairs}
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except (ValueError, IndexError, KeyError) as error:
        raise SpecError(f"{path} is no ONNX model, or a truncated one: {error}") from None


def _refuse_external(message: memoryview, kind: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise SpecError(f"graphs lie more than {MAX_DEPTH} deep")
    for number, value in _fields(message):
        if kind == "tensor" and number in (EXTERNAL_DATA, DATA_LOCATION) and value != 0:
            raise SpecError("a tensor keeps its data outside the file; a bundle's model must be self-contained")
        child = CHILDREN[kind].get(number)
        if child is not None:
            _refuse_external(_view(value), child, depth + 1)


def _view(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError(f"{value} stands in place of a message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_view(value)).decode("utf-8")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value of each field of a message: an int, or a view of its bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if wire == 2:
            length, position = _varint(message, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(message):
            raise ValueError(f"a field of {length} bytes at byte {position} runs past the end")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {position} is too long")
