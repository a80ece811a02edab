"""Where machine code is kept that a user's own trainings made: who may write there, and what can make it.

    ~/.cache/simtoreal/compiled/KEY.so    (XDG_CACHE_HOME instead of ~/.cache)

A library runs unasked, so it is loaded from a folder that is the user's alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

KEPT = 90 * 86_400.0  # [s] since it was last loaded
PATIENCE = 180.0  # [s] with another process that makes the same one
MAKING = "making-"
WITHOUT = "set agent.compile=false"
PROBE = "#include <omp.h>\n#include <vector>\nint probe() { return std::vector<int>(omp_get_max_threads()).size(); }\n"


class CompilerError(RuntimeError):
    """There is no compiler, or it did not make a library of the work."""


def loaded(key: str, make: Callable[[Path], None]) -> Any:
    """The library `key`, which `make` writes into a folder, as a file of any name, where there is none yet or a broken
    one. Processes that want the same one wait for the first to make it. Raises CompilerError."""
    path = folder() / f"{key}.so"
    if not _is_whole(path):
        with _one_at_a_time(path):
            if not _is_whole(path):
                _put(path, make)
                _forget_old(path.parent)
    try:
        return _load(path)
    except (OSError, RuntimeError) as error:
        what = str(error).strip().partition("\n")[0]
        raise CompilerError(f"{path} does not load ({what}); delete it, or {WITHOUT}") from error


def _load(path: Path) -> Any:
    """Raises RuntimeError."""
    from torch._C import _aoti  # what `torch._inductor.aoti_load_package` comes to, which takes a second to import

    found = _aoti.AOTIModelContainerRunnerCpu(str(path), 1)
    with suppress(FileNotFoundError):  # another process has just forgotten it
        os.utime(path)
    return found


def _put(path: Path, make: Callable[[Path], None]) -> None:
    """Make a library and put it there, whole or not at all, with what it needs beside it; itself last."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=MAKING) as place:
        make(Path(place))
        (made,) = Path(place).glob("*.so")
        whole = made.with_suffix(".sha256")
        whole.write_text(_sum(made))
        for part in sorted(Path(place).iterdir(), key=lambda part: part.suffix == ".so"):
            part.chmod(0o600)
            part.replace(path.with_suffix(part.suffix))


def _is_whole(path: Path) -> bool:
    """Is it there as it was made? One that is cut off would end the process that loads it, whatever that is doing.
    Raises CompilerError where another may have written it."""
    try:
        if not _is_mine(path):
            raise CompilerError(f"{path} is not yours alone to write to; delete it, and it is made again")
        return _sum(path) == path.with_suffix(".sha256").read_text()
    except FileNotFoundError:
        return False


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Processes that make `path` come after each other; the system frees the lock of one that dies. Who has waited for
    longer than it takes makes it himself."""
    lock = path.with_suffix(".lock")
    with lock.open("w") as file:
        until, told = time.monotonic() + PATIENCE, False
        while time.monotonic() < until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    warnings.warn("another process is compiling what this one needs; waiting for it", stacklevel=2)
                told = True
                time.sleep(0.1)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it finds the library, or makes it himself


def _forget_old(place: Path) -> None:
    """Libraries that nobody has loaded for months."""
    for library in place.glob("*.so"):
        with suppress(FileNotFoundError):  # another process does the same
            if time.time() - library.stat().st_mtime > KEPT:
                for part in place.glob(f"{library.stem}.*"):
                    part.unlink(missing_ok=True)
    for left in place.glob(f"{MAKING}*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > 10 * PATIENCE:
            shutil.rmtree(left, ignore_errors=True)


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
        place.parent.parent.mkdir(parents=True, exist_ok=True)
        for mine in (place.parent, place):  # with `parents` only the last would be the user's alone
            mine.mkdir(exist_ok=True, mode=0o700)
    except RuntimeError as error:
        return f"there is no place for what is compiled ({error}); {instead}"
    except OSError as error:
        return f"{place} cannot be made ({error.strerror}); {instead}"
    for mine in (place.parent, place):
        if not (_is_mine(mine) and os.access(mine, os.W_OK)):
            return f"{mine} is not yours alone to write to; chmod go-w {mine}, {instead}"
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
        return "", f"{program or 'CXX, which is empty,'} is not found"
    try:
        with tempfile.TemporaryDirectory() as place:
            source, library = Path(place) / "probe.cpp", Path(place) / "probe.so"
            source.write_text(PROBE)
            version = _said([program, "--version"]).partition("\n")[0]
            _said([program, "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(library)])
            return (version, None) if library.exists() else ("", f"{program} compiles nothing")
    except (OSError, subprocess.SubprocessError) as error:
        return "", f"{program} fails: {_why(error)}"


def _said(command: list[str]) -> str:
    """Raises OSError or SubprocessError."""
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout


def _why(error: Exception) -> str:
    """The first line of what a compiler complains of, or what kept it from running."""
    said = (getattr(error, "stderr", None) or "").splitlines()
    return next((line for line in said if "error" in line), said[0] if said else str(error))
