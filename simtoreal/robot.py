"""A robot in a process of its own: a simulated stand-in for hardware, whose parameters nobody else ever learns.

    python -m simtoreal.robot TARGET --listen tcp://127.0.0.1:7000

It answers with observations, reward signals and what a robot's own monitor gives, in the manner of a real one (see
`robot_link`). One learner at a time; when that hangs up, the robot waits for the next. A target file:

    task: PandaReach                          # or FILE:Reach of a robot file, a path from here
    version: 1
    reset_seconds: 1.0                        # robot time that its reset routine takes
    parameters: {actuator.strength: 0.9}      # as a preset's entries; what is absent stays at nominal
    limits: {slew: [2.0, 2.0]}                # optional: low, high, slew (a second) that its safety layer stops at
    engine: mujoco                            # optional: the physics it lives in, of `ENGINES`
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import contract_digest
from simtoreal.randomization.randomizer import Preset, Randomizer, read_entries, read_header
from simtoreal.randomization.wrapper import RandomizedEnv
from simtoreal.randomization.yaml_files import read_yaml
from simtoreal.robot_files import split_task
from simtoreal.robot_link import MAX_RESET_SECONDS, PROTOCOL, Address, Channel, CommandLimits, RobotLinkError
from simtoreal.robot_making import FAMILIES
from simtoreal.robots.engines import DEFAULT_ENGINE, ENGINES
from simtoreal.robots.task import Task

FIRST_CALL = 60.0  # [s] a robot that was started for one learner waits for it
READY = "listening at"


@dataclass(frozen=True)
class Target:
    """A robot as its file describes it."""

    preset: Preset
    reset_seconds: float  # [s]
    limits: dict[str, tuple[float, ...]]
    engine: str = DEFAULT_ENGINE

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Target:
        """Raises FileNotFoundError, or ConfigFileError naming file and line."""
        file = read_yaml(path)
        required = ("task", "version", "reset_seconds", "parameters")
        data = file.mapping(allowed=(*required, "limits", "engine"), required=required)
        task, version = read_header(file, data)
        if task in FAMILIES:
            raise file.error(f"task: {task} is what a robot file makes of a robot: write FILE:{task}", "task")
        if described := split_task(task):  # a path from this file
            path = (file.path.parent / described[0]).absolute()
            if not path.is_file():
                raise file.error(f"task: {path}: no such robot file", "task")
            task = f"{path}:{described[1]}"
        seconds = data["reset_seconds"]
        if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_RESET_SECONDS:
            raise file.error(f"reset_seconds must be from 0 to {MAX_RESET_SECONDS:g}, got {seconds!r}", "reset_seconds")
        engine = data.get("engine", DEFAULT_ENGINE)
        if engine not in ENGINES:
            raise file.error(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}", "engine")
        limits = file.mapping("limits", allowed=("low", "high", "slew")) if "limits" in data else {}
        for name, values in limits.items():
            if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
                raise file.error(f"{name} must be a list of numbers, got {values!r}", "limits", name)
        preset = Preset(task, version, tuple(read_entries(file, "parameters")), file.path)
        return cls(preset, float(seconds), {name: tuple(map(float, values)) for name, values in limits.items()}, engine)

    def command_limits(self, task: Task) -> CommandLimits:
        """What the safety layer lets through: the command's own limits where the file has none.

        Raises:
            ConfigError: a list of another length than the command, or limits that let nothing through.
        """
        layout = task.command_layout
        own = {"low": tuple(layout.low.tolist()), "high": tuple(layout.high.tolist())}
        for name, values in self.limits.items():
            if len(values) != layout.size:
                raise ConfigError(f"{self.preset.path}: {name} has {len(values)} numbers, a command {layout.size}")
        try:
            return CommandLimits(**(own | self.limits))
        except ValueError as error:
            raise ConfigError(f"{self.preset.path}: {error}") from None


class Robot:
    """Owns the simulation and answers requests; commands that its safety layer does not let through stop it."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        full = build.task_id(target.preset.task)
        env = build.make_env(full, engine=target.engine)
        if not isinstance(env.unwrapped, Task):
            raise ConfigError(f"{target.preset.path}: a robot has a task of ours, {target.preset.task} is none")
        self._task = env.unwrapped
        self._limits = target.command_limits(self._task)
        if build.image_of(env):
            raise ConfigError(f"{target.preset.path}: {target.preset.task} shows images, which no robot link carries")
        randomizer = Randomizer(target.preset, self._task.parameters)
        self._env = RandomizedEnv(env, randomizer, seed)
        self._running = False

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; `{"error": ...}` where it makes no sense now."""
        what = request.get("do")
        if what == "hello":
            return self._hello()
        if what == "reset":
            return self._reset()
        if what == "hold":
            return self.hold()
        if what == "step":
            return self._step(request.get("command")) if self._running else {"error": "the robot holds still: reset it"}
        return {"error": f"no request {what!r}; requests: hello, reset, step, hold"}

    def hold(self) -> dict[str, Any]:
        """Stand still until the next reset."""
        self._running = False
        return {}

    def close(self) -> None:
        self._env.close()

    def _hello(self) -> dict[str, Any]:
        task, limits = self._task, self._limits
        return {
            "protocol": PROTOCOL,
            "task": build.task_id(self._target.preset.task),
            "contract": contract_digest(task),
            "control_dt": task.control_dt,
            "reset_seconds": self._target.reset_seconds,
            "limits": {"low": limits.low, "high": limits.high, "slew": limits.slew},
        }

    def _reset(self) -> dict[str, Any]:
        self._observation, _ = self._env.reset()
        self._command = self._task.last_command
        self._tick, self._running = 0, True
        seconds = self._target.reset_seconds
        return {"observation": self._observation.tolist(), "command": self._command, "seconds": seconds}

    def _step(self, command: Any) -> dict[str, Any]:
        task = self._task
        size = task.command_layout.size
        if not isinstance(command, list) or len(command) != size or not all(type(c) in (int, float) for c in command):
            return {"error": f"a command is {size} numbers, got {command!r}"}
        if not self._limits.allow(command, self._command, task.control_dt):
            self._running = False
            return {"error": "the safety layer stopped the robot: the command leaves its limits"}
        action = task.command_layout.action(np.array(command, float), self._observation, task.observation_layout)
        self._observation, _, fell, _, info = self._env.step(action)
        stopped = bool(info.get("physics_fault", False) or info.get("invalid_action", False))
        self._command = list(command)
        self._tick += 1
        self._running = not (fell or stopped)
        return {
            "tick": self._tick,
            "observation": self._observation.tolist(),
            "signals": {name: [float(v) for v in values] for name, values in info["reward_signals"].items()},
            "fell": bool(fell),
            "violation": bool(info["violation"]),
            "stopped": stopped,
        }


def serve(robot: Robot, listener: socket.socket, *, once: bool) -> None:
    """Answer one learner after another, for ever; with `once`, one. The robot holds still when a learner has gone.

    Raises:
        RobotLinkError: with `once`, the learner speaks no sense; otherwise that is said, and the next one may come.
    """
    while True:
        listener.settimeout(FIRST_CALL if once else None)
        connection, _ = listener.accept()
        try:
            with closing(Channel(connection, "the learner")) as channel, suppress(OSError):
                while (request := channel.receive(None)) is not None:
                    channel.send({"id": request.get("id"), **robot.answer(request)})
        except RobotLinkError as error:
            if once:
                raise
            print(f"simtoreal.robot: {error}", file=sys.stderr)
        finally:
            robot.hold()
        if once:
            return


def listen(address: Address) -> tuple[socket.socket, str]:
    """A socket at an address, and the address it really has (a TCP port 0 becomes a free one).

    Raises:
        ConfigError: the address is taken or not this machine's.
    """
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        if address.family is socket.AF_INET:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address.place)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen at {address.text}: {error.strerror or error}") from None
    if address.family is socket.AF_UNIX:
        return listener, address.text
    host, port = listener.getsockname()
    return listener, f"tcp://{host}:{port}"


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring; 2 on a bad target file or address, 3 when a learner speaks no sense."""
    parser = argparse.ArgumentParser(prog="python -m simtoreal.robot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.add_argument("--listen", required=True, metavar="tcp://HOST:PORT|unix:PATH")
    parser.add_argument("--seed", type=int, default=0, help="of starts, goals and noise")
    parser.add_argument("--once", action="store_true", help="leave after the first learner")
    options = parser.parse_args(arguments)
    try:
        with closing(Robot(Target.load(options.target), options.seed)) as robot:
            listener, address = listen(Address.parse(options.listen))
            with closing(listener):
                print(READY, address, flush=True)
                serve(robot, listener, once=options.once)
    except (ValueError, FileNotFoundError) as error:
        print(f"simtoreal.robot: {error}", file=sys.stderr)
        return 2
    except (RobotLinkError, TimeoutError) as error:
        print(f"simtoreal.robot: {error or 'no learner came'}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
