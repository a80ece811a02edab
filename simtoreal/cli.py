"""The command line: verbs, exit codes, `--json`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from types import FrameType
from typing import Any, NoReturn

from simtoreal.randomization.messages import nearest
from simtoreal.verbs import ONE_LINE, VERBS

GROUPS = {
    "look": ("tasks", "inspect", "play"),
    "learn": ("train", "finetune", "distill", "import"),
    "leave": ("export", "verify"),
    "judge": ("evaluate", "sensitivity", "replay"),
    "all of it": ("demo", "bench"),
}
PACKAGES = {  # module -> what to install, where the names differ
    "stable_baselines3": "stable-baselines3",
    "pybullet_data": "pybullet",
    "ruamel": "ruamel.yaml",
    "imageio": "imageio[ffmpeg]",
    "imageio_ffmpeg": "imageio[ffmpeg]",
}
BAD_INPUT, FAILURE = 2, 3
PATH_FAULTS = (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EROFS)


class Terminated(KeyboardInterrupt):
    """SIGTERM, where nobody else waits for it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code.

    0 done; 1 the answer is no; 2 bad input or usage; 3 an internal or physics failure; 130/143 interrupted.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.error(f"name a verb: {', '.join(ONE_LINE)}")
    try:
        with _terminable(), _own_warnings_in_a_line(), _apart() if options.json else nullcontext():
            result, code = options.run(options)
        if options.json:
            print(json.dumps(result, allow_nan=False))
        return int(code)
    except Terminated:
        return _say("terminated", 143)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as `cat` ends when `head` has seen enough
    except SystemExit as stop:
        return _say(f"something that was imported ended the program with {stop.code!r}", FAILURE)
    except Exception as error:
        return _failed(error)


@contextmanager
def _own_warnings_in_a_line() -> Iterator[None]:
    """What this package warns of is for who trains, not for who wrote the line of code that it came from."""
    before = warnings.formatwarning

    def said(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        if category.__module__.startswith("simtoreal."):
            return f"simtoreal: {message}\n"
        return before(message, category, *where, **more)

    warnings.formatwarning = said
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the verb as Ctrl-C does, by an exception, so that workers and half-written files go with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _apart() -> Iterator[None]:
    """Whatever is printed meanwhile, by Python, by C or by a child process, goes to stderr: stdout is the result's."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _failed(error: Exception) -> int:
    from simtoreal.errors import Interrupted

    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Interrupted):
        return _say(line, 128 + error.signum)
    if isinstance(error, ValueError | FileNotFoundError | FileExistsError | NotADirectoryError | PermissionError):
        return _say(line, BAD_INPUT)
    if isinstance(error, OSError) and error.errno in PATH_FAULTS:
        return _say(f"{error.filename}: {error.strerror}", BAD_INPUT)
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        return _say(f"{module or line} is not installed; pip install '{PACKAGES.get(module, module)}'", BAD_INPUT)
    if os.environ.get("SIMTOREAL_TRACEBACK"):
        traceback.print_exc()
    return _say(f"{type(error).__name__}: {line} (SIMTOREAL_TRACEBACK=1 shows where)", FAILURE)


def _say(text: str, code: int) -> int:
    print(f"simtoreal: {text}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            said = f"invalid choice: {value!r}; {nearest(str(value), action.choices, 20)}"
            raise argparse.ArgumentError(action, said)


class _VerbParser(_Parser):
    """Takes options and names in any order: argparse would not find a BUNDLE that comes after an option."""

    _within = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if self._within:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; a bad argument exits with 2."""
    epilog = "\n".join(
        f"{group}:\n" + "\n".join(f"  {verb:<13}{ONE_LINE[verb]}" for verb in verbs) for group, verbs in GROUPS.items()
    )
    parser = _Parser(
        prog="simtoreal",
        description="Take a robot controller from simulation to hardware.",
        epilog=epilog + "\n\n'simtoreal VERB --help' says more. Exit codes: 0 done, 1 the answer is no, "
        "2 bad input,\n3 internal or physics failure, 130/143 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="simtoreal VERB ...",
    )
    from simtoreal import __version__

    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", prog="simtoreal", help=argparse.SUPPRESS, parser_class=_VerbParser
    )
    for add in VERBS:
        add(verbs)
    return parser
