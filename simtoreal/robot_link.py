"""The line between a learner and a robot: JSON objects, one a line, over a socket. Nothing is ever unpickled.

Each request has a number, which the answer repeats; `{"error": TEXT}` answers what cannot be done.

| request | answer |
|---|---|
| hello | protocol, task, contract (sha256), control_dt [s], reset_seconds [s], limits of commands |
| reset | observation [n], command [m] in force, seconds that the reset routine took |
| step, command [m] SI | tick, observation [n], signals (name -> numbers), fell, violation, stopped |
| hold | nothing: the robot holds still until the next reset |

A robot is addressed as `tcp://HOST:PORT` or `unix:PATH`.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from simtoreal.config import ConfigError

PROTOCOL = 1
MAX_RESET_SECONDS = 3600.0
MAX_DIGITS = 18  # of a whole number
LARGEST = 1e30  # of a number on the line: what is larger is no measurement, and near to what float32 cannot hold
MAX_LINE = 1 << 16  # bytes: a hundred times what any robot here says at once
CHUNK = 1 << 14


class RobotLinkError(RuntimeError):
    """The robot is gone, does not answer in time, or answers what it must not."""


@dataclass(frozen=True)
class Address:
    """Where a robot listens."""

    family: socket.AddressFamily
    place: Any
    text: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ConfigError unless `text` is `tcp://HOST:PORT` or `unix:PATH`."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(socket.AF_UNIX, rest, text)
        host, colon, port = rest.removeprefix("//").rpartition(":")
        if kind == "tcp" and rest.startswith("//") and host and colon and port.isdigit() and int(port) < 1 << 16:
            return cls(socket.AF_INET, (host, int(port)), text)
        raise ConfigError(f"{text!r} is no robot's address; expected tcp://HOST:PORT or unix:PATH")


class Channel:
    """Sends and receives JSON objects over a connected socket."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._socket, self._name = connection, name
        self._buffer = b""

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises ValueError for a number that is not finite, OSError when the other side is gone."""
        self._socket.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")

    def receive(self, timeout: float | None) -> dict[str, Any] | None:
        """The next message within `timeout` [s]; None when the other side has closed.

        Raises:
            TimeoutError: nothing came in time.
            RobotLinkError: what came is no JSON object with finite numbers, or longer than a line may be.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise RobotLinkError(f"{self._name} sent a line longer than {MAX_LINE} bytes")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(CHUNK)
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
        except (ValueError, RecursionError) as error:
            raise RobotLinkError(f"{self._name} sent what is no message: {error}") from None
        if not isinstance(message, dict):
            raise RobotLinkError(f"{self._name} sent what is no message: {line[:80]!r}")
        return message

    def close(self) -> None:
        self._socket.close()


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) <= LARGEST:
        raise ValueError(f"{text[:30]} is not a number that can be measured or commanded")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:30]} has more than {MAX_DIGITS} digits")
    return int(text)


@dataclass(frozen=True)
class CommandLimits:
    """What a robot's safety layer lets through: `low`, `high` [m] in the command's units and `slew` [m] in them a
    second. Raises ValueError for limits that let nothing through, or of several lengths."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    slew: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        sizes = {len(values) for values in (self.low, self.high, self.slew) if values is not None}
        if len(sizes) > 1:
            raise ValueError(f"limits of several lengths: {', '.join(map(str, sorted(sizes)))}")
        for low, high in zip(self.low, self.high, strict=True):
            if not low <= high:
                raise ValueError(f"a lower limit of {low} above an upper one of {high}")
        for rate in self.slew or ():
            if not rate > 0:
                raise ValueError(f"a slew limit must be above 0, got {rate}")

    def clip(self, command: Sequence[float], last: Sequence[float], dt: float) -> list[float]:
        """The nearest command that may follow `last` after `dt` [s]."""
        steps = [math.inf] * len(command) if self.slew is None else [rate * dt for rate in self.slew]
        return [
            min(max(min(max(c, before - step), before + step), low), high)
            for c, before, step, low, high in zip(command, last, steps, self.low, self.high, strict=True)
        ]

    def allow(self, command: Sequence[float], last: Sequence[float], dt: float) -> bool:
        """Is `command` within the limits, but for rounding?"""
        nearest = self.clip(command, last, dt)
        return all(
            math.isfinite(a) and abs(a - b) <= 1e-6 * max(1.0, abs(b)) for a, b in zip(command, nearest, strict=True)
        )


@dataclass(frozen=True)
class Hello:
    """What a robot says of itself."""

    task: str
    contract: str
    control_dt: float  # [s]
    reset_seconds: float  # [s] its reset routine takes
    limits: CommandLimits


@dataclass(frozen=True)
class Start:
    """An episode's beginning: observation [n], the command [m] in force, and the robot time [s] it took."""

    observation: list[float]
    command: list[float]
    seconds: float


@dataclass(frozen=True)
class Tick:
    """A control step's end: observation [n], reward signals, and what the robot's own monitor says."""

    observation: list[float]
    signals: dict[str, list[float]]
    fell: bool
    violation: bool
    stopped: bool


class RobotLink:
    """The learner's end. Every call waits for the answer and raises RobotLinkError when there is none in time.

    Args:
        address: where the robot listens.
        timeout: [s] for an answer; a reset may take `reset_timeout`.
    """

    def __init__(self, address: str, *, timeout: float = 5.0, reset_timeout: float = 120.0) -> None:
        self.name = f"robot at {address}"
        self._timeout, self._reset_timeout = timeout, reset_timeout
        place = Address.parse(address)
        connection = socket.socket(place.family, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(place.place)
        except OSError as error:
            connection.close()
            raise ConfigError(f"no {self.name}: {error.strerror or error}") from None
        self._channel = Channel(connection, self.name)
        self._number = 0
        self._tick = 0

    def hello(self) -> Hello:
        """Who is there. Raises ConfigError for a robot of another protocol."""
        answer = self._ask("hello", self._timeout)
        if answer.get("protocol") != PROTOCOL:
            raise ConfigError(f"{self.name} speaks protocol {answer.get('protocol')!r}, this is {PROTOCOL}")
        limits = self._part(answer, "limits", dict)
        low, high = self._numbers(limits, "low"), self._numbers(limits, "high")
        slew = None if limits.get("slew") is None else tuple(self._numbers(limits, "slew"))
        dt, seconds = self._part(answer, "control_dt", float), self._seconds(answer, "reset_seconds")
        task, contract = (self._part(answer, key, str) for key in ("task", "contract"))
        try:
            allowed = CommandLimits(tuple(low), tuple(high), slew)
        except ValueError as error:
            raise RobotLinkError(f"{self.name} has {error}") from None
        return Hello(task, contract, dt, seconds, allowed)

    def reset(self) -> Start:
        """Let the robot run its reset routine."""
        self._tick = 0
        answer = self._ask("reset", self._reset_timeout)
        seconds = self._seconds(answer, "seconds")
        return Start(self._numbers(answer, "observation"), self._numbers(answer, "command"), seconds)

    def step(self, command: Sequence[float]) -> Tick:
        """Give a command [m] and wait for the end of the control step."""
        answer = self._ask("step", self._timeout, command=list(command))
        self._tick += 1
        if answer.get("tick") != self._tick:
            raise RobotLinkError(f"{self.name} answered tick {answer.get('tick')!r} where {self._tick} was due")
        signals = self._part(answer, "signals", dict)
        fell, violation, stopped = (self._part(answer, key, bool) for key in ("fell", "violation", "stopped"))
        measured = {str(name): self._numbers(signals, name) for name in signals}
        return Tick(self._numbers(answer, "observation"), measured, fell, violation, stopped)

    def hold(self) -> None:
        """Let the robot hold still until the next reset."""
        self._ask("hold", self._timeout)

    def close(self) -> None:
        """Hang up: a robot that nobody commands holds still."""
        self._channel.close()

    def _ask(self, what: str, timeout: float, **more: Any) -> dict[str, Any]:
        self._number += 1
        during = f"{what} {self._tick + 1}" if what == "step" else what
        try:
            self._channel.send({"id": self._number, "do": what, **more})
            answer = self._channel.receive(timeout)
        except TimeoutError:
            raise RobotLinkError(f"{self.name} did not answer {during} within {timeout:g} s") from None
        except OSError as error:
            raise RobotLinkError(f"{self.name} is gone, in {during}: {error.strerror or error}") from None
        if answer is None:
            raise RobotLinkError(f"{self.name} is gone: it hung up in {during}")
        if "error" in answer:
            raise RobotLinkError(f"{self.name} refused {during}: {answer['error']}")
        if answer.get("id") != self._number:
            raise RobotLinkError(f"{self.name} answered request {answer.get('id')!r}, not {self._number}")
        return answer

    def _part(self, answer: Mapping[str, Any], key: str, kind: type) -> Any:
        value = answer.get(key)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise RobotLinkError(f"{self.name} answered {key} = {value!r}, expected a {kind.__name__}")
        return value

    def _seconds(self, answer: Mapping[str, Any], key: str) -> float:
        seconds: float = self._part(answer, key, float)
        if not 0 <= seconds <= MAX_RESET_SECONDS:
            raise RobotLinkError(f"{self.name} answered {key} = {seconds:g}, expected 0 to {MAX_RESET_SECONDS:g} s")
        return seconds

    def _numbers(self, answer: Mapping[str, Any], key: str) -> list[float]:
        values = self._part(answer, key, list)
        if not all(type(value) in (int, float) for value in values):
            raise RobotLinkError(f"{self.name} answered {key} with what is no number")
        return [float(value) for value in values]
