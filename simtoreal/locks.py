"""One training a run folder: a lock that its holder's death releases."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simtoreal.errors import RunError, SaveError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raises RunError naming the process that holds it, SaveError for a full disk.

    The kernel's lock on the file counts (flock), not the file: one that a dead process left is simply taken over.
    """
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise SaveError(f"{path}: {error.strerror}") from error
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that it is gone
        os.close(descriptor)


def check_unlocked(folder: Path) -> None:
    """Raises RunError when a living process holds `folder`: to say so before any work is done."""
    if (folder / LOCK).is_file():
        os.close(_acquire(folder / LOCK))


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "that has just begun"
            os.close(descriptor)
            raise RunError(
                f"{path.parent} is being trained by process {holder}; stop it or choose another folder"
            ) from None
        if current:
            return descriptor
        os.close(descriptor)  # its holder ended and took the file away between the two calls
