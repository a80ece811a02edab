"""Work of one shape as machine code: torch's compiler (AOTInductor) makes a library of it once, which is kept.

A gradient step of small networks is some three hundred calls of torch, most of which take longer to make than to do.
The compiler joins what lies between the matrix products to a few loops and calls the products without Python. The
numbers are those of the calls one by one, to rounding.

Work is known by the calls of torch that it makes: which, with which constants, on which tensors of which shapes. Two
that make the same calls are the same library. It takes half a minute to make, milliseconds to load.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

from simtoreal.policies import libraries
from simtoreal.policies.libraries import WITHOUT, CompilerError
from simtoreal.policies.operators import C_FUNCTIONS

Draw = Callable[[], Tensor]
OPTIONS = {
    "aot_inductor.custom_ops_to_c_shims": C_FUNCTIONS,
    "cpp.vec_isa_ok": True,  # a compiler that is new enough for torch's headers knows the vectors; trying costs 8 s
}


class Compiling(UserWarning):
    """Something is compiled for the first time on this machine."""


class Compiled:
    """`work()` without arguments, which reads and writes tensors that stay where they are. It may draw random numbers
    if what it asks for does not depend on what it computes; these are drawn by torch before each run, in its order."""

    def __init__(self, work: Callable[[], None], put_back: Callable[[], None]) -> None:
        """`put_back` undoes whatever of `work`'s doing goes on counting: it is done once to see what it calls. Raises
        CompilerError."""
        calls = _Calls()
        with calls:
            work()
        put_back()
        self._draws = calls.draws
        self._tensors = [tensor.detach() for tensor in calls.read]
        self._weights = [tensor for tensor in calls.read if isinstance(tensor, nn.Parameter)]
        if why := libraries.why_not():
            raise CompilerError(why)
        self._library = libraries.loaded(calls.key(), lambda place: _make(place, work, calls))

    def __call__(self) -> None:
        self._library.run([*self._tensors, *(draw() for draw in self._draws)])
        increment_version(self._weights)  # which a library does not do


class _Calls(TorchFunctionMode):
    """Writes down the calls of torch within the block: what they read that was there before, what they draw, and what
    else tells them from other calls."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Tensor] = []
        self.draws: list[Draw] = []
        self.drawn: list[Tensor] = []
        self._numbers: dict[int, int] = {}  # of tensors, by id
        self._kept: list[Tensor] = []  # so that no id is given twice
        self._lines: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, spec = pytree.tree_flatten((args, kwargs))
        self._lines.append([_name(func), str(spec), [self._said(leaf) for leaf in leaves]])
        found = func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            self.draws.append(_again(func, args, kwargs))
            self.drawn.append(found.clone())
        for leaf in pytree.tree_leaves(found):
            if isinstance(leaf, Tensor) and id(leaf) not in self._numbers:
                self._number(leaf)
        return found

    def key(self) -> str:
        """Of these calls on this machine."""
        about = [torch.__version__, *libraries.made_for(), torch.get_num_threads(), _sources(), self._lines]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def _said(self, x: Any) -> Any:
        if isinstance(x, torch.Generator):
            return "generator"
        if not isinstance(x, Tensor):
            return repr(x)
        if id(x) in self._numbers:
            return self._numbers[id(x)]
        self.read.append(x)
        return [self._number(x), str(x.dtype), list(x.shape), list(x.stride())]

    def _number(self, x: Tensor) -> int:
        self._numbers[id(x)] = len(self._kept)
        self._kept.append(x)
        return self._numbers[id(x)]


def _name(func: Any) -> str:
    """As torch calls it; some of its own it does not know, and says where they lie in memory."""
    name: str = resolve_name(func) or func.__name__
    return name if " at 0x" not in name else func.__name__


def _again(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Draw:
    """The same random numbers' successors: by a function, or by a tensor's method that fills it."""
    if not (args and isinstance(args[0], Tensor)):
        return partial(func, *args, **kwargs)
    if not func.__name__.endswith("_"):
        raise CompilerError(f"{_name(func)} draws from what was computed before, which is not done here")
    shape, dtype = args[0].shape, args[0].dtype
    return lambda: func(torch.empty(shape, dtype=dtype), *args[1:], **kwargs)


class _Instead(TorchFunctionMode):
    """Within the block, calls of torch get other tensors for those that they name, and for random numbers."""

    def __init__(self, named: Sequence[Tensor], given: Sequence[Tensor], drawn: Sequence[Tensor]) -> None:
        super().__init__()
        self._given = {id(name): tensor for name, tensor in zip(named, given, strict=True)}
        self._named = {id(tensor): name for name, tensor in zip(named, given, strict=True)}
        self._drawn = iter(drawn)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:
            return next(self._drawn)
        args, kwargs = pytree.tree_map_only(Tensor, lambda x: self._given.get(id(x), x), (args, kwargs))
        found = func(*args, **kwargs)
        # who keeps what a call wrote to goes on keeping the tensor that he named
        return self._named.get(id(found), found) if isinstance(found, Tensor) else found


class _Step(nn.Module):
    """Work as what torch exports: a function of all that it reads."""

    def __init__(self, work: Callable[[], None], named: Sequence[Tensor]) -> None:
        super().__init__()
        self._work, self._names = work, tuple(named)

    def forward(self, given: list[Tensor], drawn: list[Tensor]) -> Tensor:
        with torch.no_grad(), _Instead(self._names, given, drawn):
            self._work()
        return torch.zeros(())  # a library gives something


def _make(place: Path, work: Callable[[], None], calls: _Calls) -> None:
    """Compile it into a folder. Raises CompilerError."""
    text = "compiling the gradient step for networks of these sizes (once on this machine, some 40 CPU seconds)"
    warnings.warn(text, Compiling, stacklevel=2)
    given = [tensor.detach() for tensor in calls.read]
    with tempfile.TemporaryDirectory(dir=place) as within, _works_in(within), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's of itself
        package = Path(within) / "package.pt2"
        try:
            exported = torch.export.export(_Step(work, calls.read), (given, calls.drawn), strict=False)
            torch._inductor.aoti_compile_and_package(exported, package_path=str(package), inductor_configs=OPTIONS)
        except Exception as error:
            what = str(error).strip().partition("\n")[0]
            raise CompilerError(f"the gradient step was not compiled ({what}); {WITHOUT}") from error
        with zipfile.ZipFile(package) as archive:
            for member in archive.namelist():  # beside a library may lie what it needs to call torch by name
                if member.endswith((".wrapper.json", ".wrapper.so")):
                    part = Path(archive.extract(member, within))
                    part.replace(place / f"library{part.suffix}")


@contextmanager
def _works_in(place: str) -> Iterator[None]:
    """Within the block torch's compiler leaves its files there, not in a folder that others may write to; and a Ctrl-C
    at the terminal ends no compiler that this thread starts."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = place
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # a new process inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@cache
def _sources() -> str:
    """Of how calls become a library: what is said only while it is made is in no call."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()
