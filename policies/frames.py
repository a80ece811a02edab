"""Replay memory of images that keeps each channel of a picture once.

A stack of the last k frames [C, H, W] shares all but the newest with the stack of the next control step, and with the
next observation of its own: as a row of transitions each frame would be stored 2 k times. Here a row holds numbers of
planes [H, W], one a channel, of a pool in which no plane is there twice. A plane is forgotten with the last row that
names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simtoreal.policies.images import Shape, is_channels_first
from simtoreal.policies.replay import Array, Batch, Replay

IMAGES = ("obs", "next_obs")
FIRST_PLANES = 1024
MOST_PLANES = 2**24  # whose numbers float32 holds
AT_ONCE = 256  # rows whose images are unpacked together


@dataclass(frozen=True)
class FrameRoom:
    """Where a batch is put: rows of the table, and of each of `IMAGES` the planes [B C, H, W] that they name."""

    rows: Tensor
    planes: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.rows)


class FrameReplay(Replay):
    """A `Replay` of observations that are images uint8 [C, H, W] or [H, W, C]."""

    stays = False  # a pool that grows is another tensor

    def __init__(
        self,
        capacity: int,
        image: Shape,
        action_size: int,
        device: str | torch.device = "cpu",
        discounted: bool = False,
    ) -> None:
        self.image, self._channels_first = image, is_channels_first(image)
        channels, *sides = image if self._channels_first else (image[2], image[0], image[1])
        super().__init__(capacity, channels, action_size, device=device, discounted=discounted)
        self._sides = tuple(sides)
        self._forget()

    def _forget(self) -> None:
        """An empty pool."""
        self._pool = torch.zeros(FIRST_PLANES, *self._sides, dtype=torch.uint8, device=self.device)
        self._uses = np.zeros(FIRST_PLANES, dtype=np.int64)  # of each plane, in rows
        self._free = list(range(FIRST_PLANES - 1, -1, -1))
        self._numbers: dict[bytes, int] = {}  # of planes, by their digests
        self._digests: dict[int, bytes] = {}

    @property
    def planes(self) -> int:
        """How many different ones it holds."""
        return len(self._numbers)

    def add(
        self,
        obs: Array,
        action: Array,
        reward: Array,
        next_obs: Array,
        terminated: Array,
        privileged: Array | None = None,
        next_privileged: Array | None = None,
        discount: Array | None = None,
        **more: Array,
    ) -> None:
        """As `Replay.add`. Raises ValueError for images of another shape or kind too, with nothing stored."""
        images = {"obs": self._checked(obs, "obs"), "next_obs": self._checked(next_obs, "next_obs")}
        numbers = {name: self._numbered(planes) for name, planes in images.items()}
        slots = torch.arange(self.added, self.added + len(images["obs"])) % self.capacity
        overwritten = self._uses_of(slots[slots < self.size]) if len(slots) <= self.capacity else np.zeros(0, int)
        try:
            super().add(
                numbers["obs"], action, reward, numbers["next_obs"], terminated, privileged, next_privileged, discount,
                **more,
            )  # fmt: skip
        except ValueError:
            overwritten = np.concatenate([rows.ravel() for rows in numbers.values()])
            raise
        finally:
            self._drop(overwritten)

    def room(self, n: int) -> FrameRoom:
        """As `Replay.room`."""
        shape = n * self._widths["obs"], *self._sides
        return FrameRoom(super().room(n), {name: self._pool.new_zeros(shape) for name in IMAGES})

    def take(self, slots: Tensor, room: FrameRoom) -> None:
        """As `Replay.take`, with the images."""
        super().take(slots, room.rows)
        for name, numbers in self._named(room.rows).items():
            torch.index_select(self._pool, 0, numbers, out=room.planes[name])

    def batch(self, rows: Tensor | FrameRoom) -> Batch:
        """Rows of the table with the images that they name, or what a room holds."""
        if isinstance(rows, FrameRoom):
            planes, rows = rows.planes, rows.rows
        else:
            planes = {name: self._pool.index_select(0, numbers) for name, numbers in self._named(rows).items()}
        columns: dict[str, Any] = self._columns(rows)
        return Batch(**columns | {name: self._shown(found) for name, found in planes.items()})

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """As `Replay.rows`, but obs and next_obs [n, C] are numbers of "planes" [p, H, W], which come along."""
        found = super().rows(first, last)
        named = torch.cat([found[name].long() for name in IMAGES])
        used, local = named.unique(return_inverse=True)
        found["planes"] = self._pool.index_select(0, used.to(self.device)).cpu()
        found["obs"], found["next_obs"] = local.chunk(2)
        return found

    def restore(self, first: int, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """As `Replay.restore`, of what `rows` gave."""
        self._forget()
        self._table.zero_()

        def unpacked() -> Iterator[dict[str, Tensor]]:
            for part in parts:
                if "planes" not in part or part["planes"].shape[1:] != self._sides:
                    raise ValueError(f"a stored part has no planes of {list(self._sides)} pixels")
                for at in range(0, len(part["reward"]), AT_ONCE):
                    rows = {name: value[at : at + AT_ONCE] for name, value in part.items() if name != "planes"}
                    for name in IMAGES:
                        rows[name] = self._arranged(part["planes"][rows[name].long()])
                    yield rows

        super().restore(first, unpacked())

    def _named(self, rows: Tensor) -> dict[str, Tensor]:
        """Of each of `IMAGES` the numbers [B C] of its planes, of rows of the table."""
        columns = self._columns(rows)
        return {name: columns[name].long().flatten() for name in IMAGES}

    def _shown(self, planes: Tensor) -> Tensor:
        """Images uint8 [B, *image] of their planes [B C, H, W]."""
        return self._arranged(planes.unflatten(0, (-1, self._widths["obs"])))

    def _arranged(self, planes: Tensor) -> Tensor:
        """Planes [B, C, H, W] as the images are shown."""
        return planes if self._channels_first else planes.permute(0, 2, 3, 1)

    def _checked(self, images: Array, name: str) -> np.ndarray:
        """As planes uint8 [B, C, H, W]."""
        found = np.asarray(images.cpu() if isinstance(images, Tensor) else images)
        if found.dtype != np.uint8 or found.shape[1:] != self.image:
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, expected uint8 [B, {self.image}]")
        return found if self._channels_first else found.transpose(0, 3, 1, 2)

    def _numbered(self, images: np.ndarray) -> np.ndarray:
        """The planes' numbers [B, C], each counted as used; those that are new are stored."""
        numbers = np.zeros(images.shape[:2], dtype=np.int64)
        for at in np.ndindex(*numbers.shape):
            plane = np.ascontiguousarray(images[at])
            digest = hashlib.blake2b(plane.data, digest_size=16).digest()
            number = self._numbers.get(digest)
            if number is None:
                number = self._stored(plane)
                self._numbers[digest], self._digests[number] = number, digest
            self._uses[number] += 1
            numbers[at] = number
        return numbers

    def _stored(self, plane: np.ndarray) -> int:
        """Its number in the pool, which grows as it must."""
        if not self._free:
            n = len(self._pool)
            if 2 * n > MOST_PLANES:
                raise ValueError(f"more than {n} different planes of images: make buffer_size smaller")
            self._pool = torch.cat([self._pool, torch.zeros_like(self._pool)])
            self._uses = np.concatenate([self._uses, np.zeros_like(self._uses)])
            self._free = list(range(2 * n - 1, n - 1, -1))
        number = self._free.pop()
        self._pool[number] = torch.from_numpy(plane)
        return number

    def _uses_of(self, slots: Tensor) -> np.ndarray:
        """The planes that the rows in `slots` name, as often as they do."""
        named = self._named(self._table.index_select(0, slots.to(self.device)))
        return torch.cat(list(named.values())).cpu().numpy()

    def _drop(self, numbers: np.ndarray) -> None:
        """These uses of planes are no more."""
        np.subtract.at(self._uses, numbers, 1)
        for number in np.unique(numbers[self._uses[numbers] == 0]).tolist():
            del self._numbers[self._digests.pop(number)]
            self._free.append(number)
