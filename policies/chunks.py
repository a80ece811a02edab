"""A replay on disk, by what was added: chunk files that are written once and shared by all later checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from simtoreal.policies.tensor_files import (
    TEMP,
    CheckpointError,
    check_digest,
    digest,
    pack,
    read_bytes,
    read_tensors,
    write_whole,
)

CHUNK_BYTES = 64 << 20  # a file holds about this much at most: as much memory as writing one takes twice over
NAME = re.compile(r"(\d+)-(\d+)\.safetensors")


class Memory(Protocol):
    """A ring of rows, numbered from 0 in the order in which they were ever added."""

    @property
    def added(self) -> int:
        """How many were ever added: the next one's number."""
        ...

    @property
    def oldest(self) -> int:
        """The number of the oldest that it still holds."""
        ...

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """Rows `first` to `last` - 1, each tensor [last - first, ...]."""
        ...

    def restore(self, first: int, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """Replace what it holds by `parts`, whose rows follow each other from number `first`. Raises ValueError."""
        ...


class NoMemory:
    """Of a learner that keeps no transitions."""

    added = oldest = 0

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """None there are."""
        return {}

    def restore(self, first: int, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """Raises ValueError for any row."""
        if any(len(tensor) for part in parts for tensor in part.values()):
            raise ValueError("a learner that keeps no transitions was given some")


@dataclass(frozen=True)
class Chunk:
    """Rows `first` to `last` - 1 in a file of their own."""

    first: int
    last: int
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.first}-{self.last}.safetensors"


class ChunkStore:
    """The chunk files of one run.

    A chunk is on the disk before a checkpoint names it, so a crash leaves at most chunks that nobody names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._chunks: list[Chunk] = []

    def extend(self, memory: Memory) -> dict[str, Any]:
        """Write what was added since the last call; what a checkpoint has to say to have the memory again.

        Raises OSError when the disk refuses; no half of a file is left then.
        """
        first = max(self._chunks[-1].last if self._chunks else 0, memory.oldest)
        if first < memory.added:
            self.folder.mkdir(exist_ok=True)
            row_bytes = sum(part.nbytes for part in memory.rows(first, first + 1).values())
            stride = max(1, CHUNK_BYTES // max(1, row_bytes))
            for start in range(first, memory.added, stride):
                end = min(start + stride, memory.added)
                data = pack(memory.rows(start, end))
                chunk = Chunk(start, end, digest(data))
                write_whole(self.folder / chunk.name, data)
                self._chunks.append(chunk)
        self._chunks = [chunk for chunk in self._chunks if chunk.last > memory.oldest]
        chunks = [[chunk.first, chunk.last, chunk.sha256] for chunk in self._chunks]
        return {"added": memory.added, "oldest": memory.oldest, "chunks": chunks}

    def verify(self, said: Mapping[str, Any]) -> None:
        """Check every file that a checkpoint names. Raises CheckpointError naming the one that is not as it was."""
        for chunk in _chunks(said):
            path = self.folder / chunk.name
            try:
                check_digest(path, read_bytes(path), chunk.sha256)
            except FileNotFoundError as error:
                raise CheckpointError(f"{error}; a checkpoint needs it") from None

    def restore(self, said: Mapping[str, Any], memory: Memory) -> None:
        """Fill `memory` with what a checkpoint names and go on from there. Raises CheckpointError or ValueError."""
        chunks = _chunks(said)

        def parts() -> Iterator[dict[str, Tensor]]:
            for chunk in chunks:
                yield read_tensors(self.folder / chunk.name, chunk.sha256)

        memory.restore(chunks[0].first if chunks else 0, parts())
        if (memory.added, memory.oldest) != (said["added"], said["oldest"]):
            raise CheckpointError(
                f"{self.folder}: rows {memory.oldest} to {memory.added} came back, {said['oldest']} to {said['added']} "
                "were stored"
            )
        self._chunks = chunks

    def prune(self, oldest: int) -> None:
        """Remove the files that only hold rows before number `oldest`."""
        for path, _, last in self._files():
            if last <= oldest:
                path.unlink()

    def sweep(self, added: int) -> None:
        """Remove what a crash left: files of rows from number `added` on, and half-written ones."""
        for path, first, _ in self._files():
            if first >= added:
                path.unlink()
        for path in self.folder.glob(f"{TEMP}*"):
            path.unlink()

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if found := NAME.fullmatch(path.name):
                    yield path, int(found[1]), int(found[2])


def _chunks(said: Mapping[str, Any]) -> list[Chunk]:
    """The chunks a checkpoint names. Raises CheckpointError when they do not follow each other."""
    listed: Sequence[Any] = said["chunks"] if isinstance(said.get("chunks"), list) else [None]
    try:
        chunks = [Chunk(int(first), int(last), str(sha256)) for first, last, sha256 in listed]
    except (TypeError, ValueError):
        raise CheckpointError("the checkpoint names no chunks of a replay") from None
    ends = [chunk.last for chunk in chunks[:-1]]
    if ends != [chunk.first for chunk in chunks[1:]] or any(not 0 <= c.first < c.last for c in chunks):
        raise CheckpointError("the checkpoint's chunks of the replay do not follow each other")
    return chunks
