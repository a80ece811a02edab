"""Where machine code is kept that a user's own trainings made: who may write there, and what can make it.

    ~/.cache/simtoreal/compiled/KEY.so    (XDG_CACHE_HOME instead of ~/.cache)

A library runs unasked, so it is loaded from a folder that is the user's alone.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

KEPT = 90 * 86_400.0  # [s] since it was last loaded
WITHOUT = "set agent.compile=false"
PROBE = "#include <omp.h>\n#include <vector>\nint probe() { return std::vector<int>(omp_get_max_threads()).size(); }\n"


class CompilerError(RuntimeError):
    """There is no compiler, or it did not make a library of the work."""


def loaded(key: str, make: Callable[[Path], None]) -> Any:
    """The library `key`, which `make` writes, whole or not at all, where there is none yet or a broken one. Processes
    that want the same one wait for the first to make it. Raises CompilerError."""
    path = folder() / f"{key}.so"
    for last in (False, True):
        with _one_at_a_time(path):
            if not path.exists():
                make(path)
                _forget_old(path.parent)
        if not _is_mine(path):
            raise CompilerError(f"{path} is not yours alone to write to; delete it, and it is made again")
        try:
            return _load(path)
        except RuntimeError as error:
            if last:
                what = str(error).strip().partition("\n")[0]
                raise CompilerError(f"{path} is no library that this machine loads ({what}); {WITHOUT}") from error
            path.unlink(missing_ok=True)  # a full disk, a cut file
    raise AssertionError


def _load(path: Path) -> Any:
    """Raises RuntimeError."""
    from torch._C import _aoti  # what `torch._inductor.aoti_load_package` comes to, which takes a second to import

    found = _aoti.AOTIModelContainerRunnerCpu(str(path), 1)
    with suppress(FileNotFoundError):  # another process has just forgotten it
        os.utime(path)
    return found


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Processes that make `path` come after each other; the system frees the lock of one that dies."""
    if path.exists():
        yield
        return
    lock = path.with_suffix(".lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it finds the library, or makes it himself


def _forget_old(place: Path) -> None:
    """Libraries that nobody has loaded for months."""
    for library in place.glob("*.so"):
        with suppress(FileNotFoundError):  # another process does the same
            if time.time() - library.stat().st_mtime > KEPT:
                library.unlink()
                library.with_suffix(".json").unlink(missing_ok=True)


def folder() -> Path:
    """Where libraries are kept. Raises RuntimeError where nobody knows the user's home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simtoreal" / "compiled"


def why_not() -> str | None:
    """Why nothing can be compiled here: there is no C++ compiler that works, the one that torch would take, or no
    folder for what it makes."""
    if fault := _compiler()[1]:
        return f"no C++ compiler works here ({fault}); install one (g++, or CXX in the environment), or {WITHOUT}"
    instead = f"set XDG_CACHE_HOME to a folder of yours, or {WITHOUT}"
    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except RuntimeError as error:
        return f"there is no place for what is compiled ({error}); {instead}"
    except OSError as error:
        return f"{place} cannot be made ({error.strerror}); {instead}"
    if not (_is_mine(place.parent) and _is_mine(place) and os.access(place, os.W_OK)):
        return f"{place} is not yours alone to write to; {instead}"
    return None


def _is_mine(path: Path) -> bool:
    """No link, the user's own, and nobody else may write to it."""
    found = path.lstat()
    return not path.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o022


def made_for() -> list[str]:
    """What else than the work a library depends on: the compiler, the C library, and the processor that it is made
    on."""
    info = Path("/proc/cpuinfo")
    flags = (
        [line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))][:1]
        if info.exists()
        else []
    )
    return [_compiler()[0], *platform.libc_ver(), platform.machine(), *flags]


def _compiler() -> tuple[str, str | None]:
    """What the C++ compiler that torch would take says of itself, and what is wrong with it, if anything."""
    return _tried(os.environ.get("CXX", "g++"))


@cache
def _tried(program: str) -> tuple[str, str | None]:
    if shutil.which(program) is None:
        return "", f"{program} is not found"
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "probe.cpp"
        source.write_text(PROBE)
        arguments = ["-shared", "-fPIC", "-fopenmp", str(source), "-o", str(source.with_suffix(".so"))]
        for given in (["--version"], arguments):
            done = subprocess.run([program, *given], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                complaint = [line for line in done.stderr.splitlines() if "error" in line] or [""]
                return "", f"{program} fails: {complaint[0]}".rstrip(": ")
            if given[0] == "--version":
                version = done.stdout.partition("\n")[0]
    return version, None
